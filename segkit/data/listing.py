"""The samples of a data set of files: found, paired, opened for their pages, and divided."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from segkit.core.errors import SegkitError
from segkit.core.labels import Mode
from segkit.data.labels.base import is_annotation
from segkit.data.labels.masks import AnnotatedMasks, choose_masks, find_annotations
from segkit.data.layout.blocks import Shares, divide_samples
from segkit.data.layout.class_files import propose_classes
from segkit.data.layout.folders import find_pairs, find_plain_mask
from segkit.data.layout.pairs import Layout, Names, Pair
from segkit.data.layout.splits import (
    Divided,
    describe_named_splits,
    find_lists,
    list_shared_folders,
    natural_key,
    split_by_lists,
    split_by_ratio,
)
from segkit.data.layout.table import read_pairs
from segkit.data.mask_files import Palettes, compare_palettes
from segkit.data.sources.base import SPLITS, Sample, Split
from segkit.images.formats.base import may_have_pages, strip_ending
from segkit.images.place import find_shift
from segkit.images.reading import ImageReader

NAMED = 3
"""Files that a note names."""
FARTHEST = 0.5
"""How many pixels image and mask may lie apart: headers are rounded."""
DividedBy = Literal["", "folders", "table", "lists"]
"""What of a set says which samples are for validation; empty if nothing does."""


@dataclass(frozen=True)
class Rules:
    """How samples are found and divided; see the options of `FolderSource`."""

    mode: Mode
    roots: tuple[Path, ...]
    pairs: Path | None
    labels: str
    names: Names
    split: Literal["random", "blocks", "lists", "tiles"]
    tile_size: int | None
    fractions: tuple[float, float]
    lists: dict[Split, Path]
    seed: int
    upright: bool
    instances: bool
    resize_masks: bool
    class_names: tuple[str, ...] | None
    class_colors: tuple[tuple[int, int, int], ...] | None

    @property
    def are_files(self) -> bool:
        """Whether masks are files whatever else lies beside them."""
        has_patterns = self.names.image_pattern is not None
        return self.labels == "masks" or self.pairs is not None or has_patterns

    @property
    def layers(self) -> bool:
        """Whether the pages of a mask may be the classes of one image."""
        return self.mode == "multilabel"

    def choose_pages(self, sample: Sample, count: int) -> list[int | None]:
        """The pages of a mask that belong to a sample: one, or one for each class."""
        if self.layers and sample.page is None and count > 1:
            return list(range(count))
        return [sample.page]

    def read_size(self, sample: Sample) -> tuple[int, int]:
        """Height and width of the whole image of a sample, as it is read."""
        assert sample.image is not None
        with ImageReader(sample.image, self.upright) as reader:
            return reader.read_size(sample.page)


class Found(NamedTuple):
    """The samples by split, what is wrong with files, and what the user should know."""

    divided: Divided
    problems: list[str]
    notes: list[str]
    palettes: Palettes
    drawn: AnnotatedMasks | None
    divided_by: DividedBy
    channels: tuple[str, ...]


def list_samples(rules: Rules) -> Found:
    """List and divide the samples of a data set.

    Raises:
        SegkitError: The folders, the table or the lists do not exist or cannot be read.
    """
    return _Lister(rules).find_all()


@dataclass
class _Lister:
    """Lists samples and collects what is wrong and what the user should know.

    Attributes:
        guesses: Images and masks that name no axes, by how these are read: number and the first.
        realigned: Names of masks of volumes whose axes lead elsewhere than the image's, by both.
    """

    rules: Rules
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    guesses: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    realigned: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def find_all(self) -> Found:
        """List, pair and divide; call it once."""
        rules = self.rules
        drawn = self._find_annotations()
        given: dict[Split | None, list[Sample]] = {}
        palettes, channels = Palettes(), tuple[str, ...]()
        if drawn is not None:
            self.notes += drawn.notes
            for name, image in drawn.images.items():
                sample = Sample(name, image.file, page=image.page)
                given.setdefault(image.split, []).append(sample)
        else:
            pairs, channels = self._list_pairs()
            for pair in pairs:
                given.setdefault(pair.split, []).extend(self._list_pages(pair))
            palettes = compare_palettes([pair.mask for pair in pairs])
            if rules.class_names is None and rules.class_colors is None:
                stems = {strip_ending(pair.image).name for pair in pairs}
                folder = rules.roots[0] if rules.pairs is None else rules.pairs.parent
                samples = [sample for part in given.values() for sample in part]
                train = given.get("train", samples)  # Roboflow names the classes in each split
                places = [
                    *list_shared_folders(folder, samples),
                    *list_shared_folders(folder, train),
                ]
                places = [place for place in dict.fromkeys(places) if place.is_dir()]
                proposals = (propose_classes(place, stems) for place in places)
                self.notes += next((proposal for proposal in proposals if proposal), [])
        rest = given.pop(None, [])
        divided_by: DividedBy = ""
        if "val" in given:
            divided_by = "folders" if rules.pairs is None else "table"
        else:
            rest += given.pop("train", [])
        if rest and rules.split == "random" and not any(given.values()):
            listed = find_lists(rules.roots, rest)
            if listed is not None:
                self.notes.append(
                    f"the samples are divided by {', '.join(map(str, listed.values()))}"
                )
                parts = split_by_lists(rest, listed, self.problems)
                given, rest = dict[Split | None, list[Sample]](parts.items()), []
                divided_by = "lists"
        if rest and rules.split != "lists" and not any(given.values()):
            self.notes += describe_named_splits(rest)
        divided = self._divide({s: given.get(s, []) for s in SPLITS}, rest)
        return Found(
            divided,
            self.problems,
            [*self.notes, *self._describe_files()],
            palettes,
            drawn,
            divided_by,
            channels,
        )

    def _find_annotations(self) -> AnnotatedMasks | None:
        """The annotations below the root, unless there are masks."""
        rules = self.rules
        if rules.are_files:
            return None
        if rules.names.channel_files:
            if rules.labels == "auto":
                return None
            raise SegkitError(
                f"data.channel_files is for masks in files, and not for data.labels={rules.labels}:"
                " write the channels of each image into one file."
            )
        if len(rules.roots) > 1:
            if rules.labels == "auto":
                return None
            raise SegkitError(
                f"data.labels={rules.labels} takes one folder as data.root, not several."
            )
        if rules.labels == "auto":
            mask = find_plain_mask(rules.roots[0], rules.names)
            if mask is not None and not is_annotation(mask):
                return None
        found = find_annotations(rules.roots[0], rules.labels, rules.names)
        if found is None:
            return None
        drawn = choose_masks(*found, rules.mode, rules.instances, rules.class_names)
        self.problems += drawn.problems
        return drawn

    def _list_pairs(self) -> tuple[list[Pair], tuple[str, ...]]:
        """The pairs, and the channels that lie in files of their own."""
        layouts: list[tuple[str, Layout]] = []
        if self.rules.pairs is not None:
            layouts.append(("", read_pairs(self.rules.pairs)))
        for root in self.rules.roots:
            before = f"{root.name}/" if len(self.rules.roots) > 1 else ""
            layouts.append((before, find_pairs(root, self.rules.names)))
        for _, layout in layouts:
            self.problems += layout.problems
            self.notes += [note for note in layout.notes if note not in self.notes]
        channels = dict.fromkeys(layout.channels for _, layout in layouts)
        wanted = self.rules.names.channel_files
        if self.rules.pairs is not None and wanted:
            channels.setdefault(wanted)
        if len(channels) > 1:
            sets = " and ".join(", ".join(each) or "none" for each in channels)
            self.problems.append(f"the channels in files of their own differ: {sets}")
        pairs = [
            pair._replace(name=before + pair.name)
            for before, layout in layouts
            for pair in layout.pairs
        ]
        return pairs, next(iter(channels))

    def _divide(self, divided: Divided, rest: list[Sample]) -> Divided:
        """Add the samples without a split to those that have one."""
        divided = {split: sorted(part, key=natural_key) for split, part in divided.items()}
        if not rest:
            if self.rules.split == "lists" and any(divided.values()):
                self.problems.append("data.split=lists is not used: the data are already divided")
            return divided
        val, test = self.rules.fractions
        if self.rules.split == "lists":
            parts = split_by_lists(rest, self.rules.lists, self.problems)
        elif self.rules.split == "tiles":
            shares = Shares(val, 0 if divided["test"] else test, self.rules.seed)
            parts = self._divide_images(rest, shares)
        else:
            seed = self.rules.seed if self.rules.split == "random" else None
            parts = split_by_ratio(rest, val, 0 if divided["test"] else test, seed)
        return {split: divided[split] + parts[split] for split in SPLITS}

    def _divide_images(self, whole: list[Sample], shares: Shares) -> Divided:
        """Divide images into blocks."""
        samples, sizes = list[Sample](), list[tuple[int, int]]()
        for sample in whole:
            try:
                size = own = self.rules.read_size(sample)
                if sample.mask is not None and not self.rules.resize_masks:
                    with ImageReader(sample.mask, self.rules.upright) as reader:
                        page = self.rules.choose_pages(sample, len(reader))[0]
                        own = reader.read_size(page)
            except SegkitError as error:
                self.problems.append(str(error).rstrip("."))
                continue
            if own == size:
                samples.append(sample)
                sizes.append(size)
                continue
            self.problems.append(
                f"{sample.name}: the image has {size[0]} x {size[1]} pixels (height x width), its"
                f" mask {own[0]} x {own[1]}: both must have the same size (data.resize_masks=true"
                " resizes masks)"
            )
        return divide_samples(samples, sizes, self.rules.tile_size, shares, self.problems)

    def _list_pages(self, pair: Pair) -> list[Sample]:
        """One sample, or one for each page of a stack."""
        name, image, mask, _ = pair
        pages, mask_pages = 1, 1
        try:
            with_pages = may_have_pages(image), may_have_pages(mask)
            with ExitStack() as stack:
                readers = [
                    stack.enter_context(ImageReader(file, self.rules.upright)) if may else None
                    for file, may in zip((image, mask), with_pages, strict=True)
                ]
                for reader, side in zip(readers, ("images", "masks"), strict=True):
                    if reader is not None:
                        self._note_guess(reader, side)
                pages, mask_pages = (len(reader) if reader else 1 for reader in readers)
                if readers[0] and readers[1] and pages and mask_pages:
                    ways = readers[0].directions, readers[1].directions
                    if all(ways) and ways[0] != ways[1]:
                        self.realigned.setdefault(ways, []).append(name)
                    shift = self._measure_shift(readers[0], readers[1])
                    if shift >= FARTHEST:
                        apart = "in other coordinate systems"
                        if math.isfinite(shift):
                            apart = f"up to {shift:.3g} pixels apart"
                        self.problems.append(
                            f"{name} and its mask {mask} lie at different places by their headers,"
                            f" {apart}: write the mask on the grid of the image, with the same"
                            " affine or georeferencing"
                        )
                        return []
        except SegkitError:  # the check reports all files that cannot be read
            return [Sample(name, image, mask)]
        if pages == 1 and (mask_pages == 1 or self.rules.layers):
            return [Sample(name, image, mask)]
        if pages != mask_pages:
            self.problems.append(
                f"{name} has {pages} page(s), but its mask {mask} has {mask_pages}: write both with"
                " as many, a page for each slice"
            )
            return []
        return [Sample(f"{name}#{page:04d}", image, mask, page) for page in range(pages)]

    def _note_guess(self, reader: ImageReader, side: str) -> None:
        """Keep for the notes how the axes of a file are read that does not name them."""
        if reader.guess is not None:
            axes, shape = reader.guess
            first = f"{Path(str(reader.file)).name} is {shape}"
            count, first = self.guesses.get((side, axes), (0, first))
            self.guesses[side, axes] = count + 1, first

    def _measure_shift(self, image: ImageReader, mask: ImageReader) -> float:
        """How many pixels image and mask lie apart, as far as both files say so."""
        shifts = [0.0]
        for page in {0, min(len(image), len(mask)) - 1}:
            places = image.read_place(page), mask.read_place(page)
            sizes = image.read_size(page), mask.read_size(page)
            if places[0] and places[1] and (sizes[0] == sizes[1] or self.rules.resize_masks):
                shifts.append(find_shift((places[0], places[1]), sizes) or 0.0)
        return max(shifts)

    def _describe_files(self) -> list[str]:
        """Notes of what the headers of files say."""
        notes = []
        if self.guesses:
            read = (
                f"as {axes} in {count} {side} ({first})"
                for (side, axes), (count, first) in self.guesses.items()
            )
            notes.append(
                f"axes of arrays that their files do not name are read {', '.join(read)}. If they"
                " mean something else, name them (HDF5, zarr, OME-TIFF), or save arrays as (pages,"
                " H, W, C)"
            )
        for (image, mask), names in self.realigned.items():
            notes.append(
                f"{len(names)} masks are turned to their images by the headers, as a viewer does:"
                f" the axes of masks lead to {mask}, those of images to {image}:"
                f" {', '.join(names[:NAMED])}{' ...' * (len(names) > NAMED)}"
            )
        return notes
