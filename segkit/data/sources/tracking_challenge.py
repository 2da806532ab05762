"""Data sets of the Cell Tracking Challenge."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field
from scipy import ndimage

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX, Mode
from segkit.data.layout.splits import Divided, Fraction, split_by_ratio
from segkit.data.sources.base import SPLITS, DataSource, Sample, Split
from segkit.images.raster import convert_channels
from segkit.images.reading import count_pages, read_image, read_mask, wrap_errors

Truth = Literal["gold", "silver"]
# YAML reads 02 as a number
SequenceName = Annotated[str, BeforeValidator(lambda v: f"{v:02d}" if isinstance(v, int) else v)]

Ids = NDArray[np.integer[Any]]
"""Outlined cells or markers, (H, W); 0 is none."""

UNLABELLED = -1
"""Mask value of pixels that are not labelled; the files use all 16 bits for ids."""

_MARGIN = 1.25
"""The largest cells may be among those without an outline."""
_REACH_FRAMES = 24
"""Maximum number of frames of a sequence from which the extent of cells is measured."""
_FOLDER: dict[Truth, str] = {"gold": "GT", "silver": "ST"}
_LAYOUT = """
Training sets of the Cell Tracking Challenge, such as DIC-C2DH-HeLa and PhC-C2DH-U373, are available
at https://celltrackingchallenge.net/2d-datasets/. data.root=DIR is the folder of an unpacked one:
    DIR/01/t000.tif                   images; likewise 02/ ...
    DIR/01_GT/SEG/man_seg000.tif      outlines: ids of cells, in some of the frames (gold truth)
    DIR/01_GT/TRA/man_track000.tif    markers: ids of all cells, in every frame
    DIR/01_ST/SEG/man_seg000.tif      computed outlines (silver truth), in some data sets"""


class TrackingChallengeSource(DataSource, name="tracking_challenge"):
    """A two-dimensional training set of the Cell Tracking Challenge, as unpacked.

    The frames with outlines are the samples; their masks hold the ids of cells. In many of them
    only some cells are outlined, while all have a marker for tracking. Wherever a cell with a
    marker but no outline may be, the mask is :data:`UNLABELLED`: no gradient, no metric. A marker
    has no outline if at most half of it lies on outlined cells. Its cell may be wherever no other
    cell is outlined, up to a quarter farther than any outlined cell of the sequence extends from
    its own marker; if no outlined cell has a marker, everywhere.

    Neighbouring frames are alike, and the same cells occur throughout a sequence:
    ``val_sequences`` gives the strict split, otherwise the last frames of each sequence are held
    out.

    Args:
        mode: The head's mode.
        root: The folder with 01, 01_GT ..., or its parent. The data sets are available at
            https://celltrackingchallenge.net/2d-datasets/.
        truth: "gold", outlines drawn by people in some frames, or "silver", computed outlines that
            some data sets have.
        val_sequences: Sequences for validation, such as ["02"]; null takes the last frames of each
            sequence, ``val_fraction``.
        test_sequences: Sequences for testing; null takes ``test_fraction`` of each.
        val_fraction: Fraction of frames for validation if ``val_sequences`` is null.
        test_fraction: Fraction of frames for testing if ``test_sequences`` is null.
        unoutlined: What happens to cells with a marker but no outline: "ignore" leaves the pixels
            where they may be unlabelled, "background" counts them as background.
        border: Width in pixels of the border zone whose background is not labelled, because cells
            outside the challenge's field of interest need not be outlined or marked; 50 for
            DIC-C2DH-HeLa and PhC-C2DH-U373.
        channels: "auto" keeps the channels of the images; 1 converts all images to grey, 3 to RGB.
    """

    instances = True
    class_names = ("background", "cell")

    def __init__(
        self,
        mode: Mode,
        root: Path,
        truth: Truth = "gold",
        val_sequences: tuple[SequenceName, ...] | None = None,
        test_sequences: tuple[SequenceName, ...] | None = None,
        val_fraction: Fraction = 0.2,
        test_fraction: Fraction = 0.0,
        unoutlined: Literal["ignore", "background"] = "ignore",
        border: Annotated[int, Field(ge=0)] = 0,
        channels: Literal["auto", 1, 3] = "auto",
    ) -> None:
        both = set(val_sequences or ()) & set(test_sequences or ())
        if both:
            raise SegkitError(
                f"data.val_sequences and data.test_sequences both contain '{min(both)}': a sequence"
                " belongs to one split."
            )
        self.root, self.truth = root, truth
        self.held_out: dict[Split, tuple[str, ...] | None] = {
            "val": val_sequences,
            "test": test_sequences,
        }
        self.fractions: dict[Split, float] = {"val": val_fraction, "test": test_fraction}
        self.unoutlined, self.border, self.channels = unoutlined, border, channels
        self.label_map = {UNLABELLED: IGNORE_INDEX}
        self._reaches: dict[str, float] = {}

    def splits(self) -> dict[Split, list[Sample]]:
        """The frames with outlines, by split.

        Raises:
            SegkitError: The data set or such outlines do not exist, it is three-dimensional, or a
                given sequence does not exist.
        """
        given = {name: split for split, names in self.held_out.items() for name in names or ()}
        known = [sequence.name for sequence in self._sequences]
        unknown = sorted(given.keys() - set(known))
        if unknown:
            raise SegkitError(
                f"data.{given[unknown[0]]}_sequences: there is no sequence '{unknown[0]}' with"
                f" {self.truth} outlines in {self.root}, only {', '.join(known)}."
            )
        val, test = (
            self.fractions[split] if self.held_out[split] is None else 0.0
            for split in ("val", "test")
        )
        divided: Divided = {split: [] for split in SPLITS}
        for sequence in self._sequences:
            if sequence.name in given:
                divided[given[sequence.name]] += sequence.samples
            else:
                for split, samples in split_by_ratio(sequence.samples, val, test, None).items():
                    divided[split] += samples
        return divided

    def problems(self) -> list[str]:
        """Outlines without an image, and without markers if those are needed."""
        found = []
        for sequence in self._sequences:
            found += sequence.problems
            if self.unoutlined == "ignore":
                found += [
                    f"{sample.name} has outlines but no markers, so cells without an outline cannot"
                    f" be found: there is no {sequence.name}_GT/TRA/man_track"
                    f"{sample.name.rpartition('/t')[2]}.tif. If all cells are outlined, set"
                    " data.unoutlined=background"
                    for sample in sequence.samples
                    if sample.name not in sequence.markers
                ]
        return found

    def read_image(self, sample: Sample) -> NDArray[Any]:
        """(H, W, C) as stored, or converted to ``channels``."""
        assert sample.image is not None
        image = read_image(sample.image)
        with wrap_errors(sample.image):
            return convert_channels(image, self.channels)

    def read_mask(self, sample: Sample) -> NDArray[np.integer[Any]]:
        """(H, W) int32: ids of cells, 0 for background, :data:`UNLABELLED` where either may be."""
        assert sample.mask is not None
        ids = _read_ids(sample.mask)
        mask = ids.copy()
        size = f"{ids.shape[0]} x {ids.shape[1]} pixels"
        markers = self.read_markers(sample) if self.unoutlined == "ignore" else None
        if markers is not None:
            if markers.shape != ids.shape:
                raise SegkitError(
                    f"{sample.mask} has {size}, but its markers have {markers.shape[0]} x"
                    f" {markers.shape[1]}: both must have the same size."
                )
            alone = find_unoutlined_markers(ids, markers)
            if alone.any():
                mask[find_uncertain_pixels(ids, alone, self._measure_reach(sample))] = UNLABELLED
        if self.border:
            if 2 * self.border >= min(ids.shape):
                raise SegkitError(
                    f"{sample.mask} has {size}: nothing is left inside data.border={self.border}."
                )
            outer = np.ones(ids.shape, np.bool_)
            outer[self.border : -self.border, self.border : -self.border] = False
            mask[outer & (ids == 0)] = UNLABELLED
        return mask

    def read_markers(self, sample: Sample) -> NDArray[np.integer[Any]] | None:
        """(H, W) int32: ids of all cells of the frame at their markers, or None."""
        path = self._find_sequence(sample).markers.get(sample.name)
        return None if path is None else _read_ids(path)

    def _find_sequence(self, sample: Sample) -> Sequence:
        name = sample.name.partition("/")[0]
        return next(sequence for sequence in self._sequences if sequence.name == name)

    def _measure_reach(self, sample: Sample) -> float:
        """How far cells may extend from their markers in the sequence of a sample, in pixels."""
        sequence = self._find_sequence(sample)
        if sequence.name not in self._reaches:
            known = [s for s in sequence.samples if s.name in sequence.markers]
            found = []
            for frame in known[:: -(-len(known) // _REACH_FRAMES)]:
                markers = self.read_markers(frame)
                assert frame.mask is not None
                assert markers is not None
                ids = _read_ids(frame.mask)
                if ids.shape == markers.shape:  # otherwise reported for that frame
                    found.append(measure_reach(ids, markers))
            seen = [distance for distance in found if distance is not None]
            self._reaches[sequence.name] = _MARGIN * max(seen) if seen else np.inf
        return self._reaches[sequence.name]

    @cached_property
    def _sequences(self) -> list[Sequence]:
        home, folder = _find_home(self.root), _FOLDER[self.truth]
        found = [_read_layout(seg) for seg in sorted(home.glob(f"[0-9][0-9]_{folder}/SEG"))]
        found = [sequence for sequence in found if sequence.samples or sequence.problems]
        if not found:
            silver = self.truth == "silver"
            hint = " Use data.truth=gold for outlines by people." if silver else ""
            raise _layout_error(
                f"{home.resolve()} has no outlines, no 01_{folder}/SEG/man_seg000.tif or the"
                f" like.{hint}"
            )
        return found


@dataclass(frozen=True)
class Sequence:
    """The frames of a time-lapse sequence that have outlines.

    Attributes:
        name: Such as "01".
        samples: The frames in order, named "01/t000".
        markers: Marker files by the names of the frames.
        problems: Outlines without an image.
    """

    name: str
    samples: list[Sample]
    markers: dict[str, Path]
    problems: list[str]


def _find_home(root: Path) -> Path:
    """The folder with the sequences: the given one, or the only suitable one inside."""
    if not root.is_dir():
        raise _layout_error(f"there is no folder {root.resolve()}.")
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    homes = [path for path in folders if any(path.glob("[0-9][0-9]_[GS]T"))]
    if homes and (homes[0] == root or len(homes) == 1):
        return homes[0]
    if homes:
        names = ", ".join(path.name for path in homes)
        raise _layout_error(f"{root.resolve()} contains several data sets, {names}: choose one.")
    if any(path.is_dir() for folder in folders for path in folder.glob("[0-9][0-9]")):
        raise _layout_error(
            f"{root.resolve()} has sequences, but no reference, no folder 01_GT: it is a test set."
        )
    content = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
    raise _layout_error(f"{root.resolve()} has no folders 01 and 01_GT. It contains: {content}.")


def _read_layout(outlines: Path) -> Sequence:
    """The sequence whose outlines are in a folder such as 01_GT/SEG."""
    home, name = outlines.parents[1], outlines.parent.name[:2]
    images, masks = _list_frames(home / name, "t"), _list_frames(outlines, "man_seg")
    markers = _list_frames(home / f"{name}_GT" / "TRA", "man_track")
    names = {frame: f"{name}/{image.stem}" for frame, image in images.items()}
    paired = [frame for frame in sorted(masks) if frame in images]
    is_3d = any(outlines.glob("man_seg_*_*.tif"))
    with suppress(SegkitError):  # the check reports all files that cannot be read
        is_3d = is_3d or (bool(paired) and count_pages(images[paired[0]]) > 1)
    if is_3d:
        raise _layout_error(
            f"{outlines.resolve()} is three-dimensional, which segkit does not support."
        )
    return Sequence(
        name,
        [Sample(names[frame], images[frame], masks[frame]) for frame in paired],
        {names[frame]: path for frame, path in markers.items() if frame in names},
        [
            f"{mask.relative_to(home).as_posix()} has no image: there is no {name}/t"
            f"{mask.stem.removeprefix('man_seg')}.tif"
            for frame, mask in masks.items()
            if frame not in images
        ],
    )


def _list_frames(folder: Path, prefix: str) -> dict[int, Path]:
    """The files of a folder with this prefix by frame number."""
    pattern = re.compile(re.escape(prefix) + r"(\d{3,})\.tif")
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return {int(match[1]): path for path in files if (match := pattern.fullmatch(path.name))}


def _layout_error(message: str) -> SegkitError:
    return SegkitError(f"data.root: {message}{_LAYOUT}")


def _read_ids(path: Path) -> NDArray[np.int32]:
    ids = read_mask(path)
    if ids.ndim != 2:
        raise SegkitError(f"{path}: masks of cell ids have one channel, not {ids.shape[2]}.")
    return ids.astype(np.int32)


# --- cells that are marked but not outlined -------------------------------------------------------


def find_unoutlined_markers(ids: Ids, markers: Ids) -> NDArray[np.bool_]:
    """The markers, (H, W), without an outline: at most half of such a marker lies on objects."""
    inverse, alone = _match_markers(ids, markers)
    return alone[inverse]


def measure_reach(ids: Ids, markers: Ids) -> float | None:
    """The largest distance in pixels of any object's pixel from the object's marker.

    The marker of an object is the one with most pixels on it; objects without any are left out.

    Returns:
        0 if markers are as large as their objects, None if no outlined object has one.
    """
    inverse, alone = _match_markers(ids, markers)
    owned = np.where(alone[inverse], 0, markers)
    _, compact = np.unique(np.append(0, ids.ravel()), return_inverse=True)
    objects = compact[1:].reshape(ids.shape).astype(np.int32)
    farthest: float | None = None
    for number, box in enumerate(ndimage.find_objects(objects), start=1):
        inside = objects[box] == number
        names, counts = np.unique(owned[box][inside & (owned[box] != 0)], return_counts=True)
        if len(names):
            marker = inside & (owned[box] == names[counts.argmax()])
            distance = ndimage.distance_transform_edt(~marker)
            farthest = max(farthest or 0.0, float(distance[inside].max()))
    return farthest


def find_uncertain_pixels(ids: Ids, alone: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """The pixels, (H, W), that may belong to an object that is marked but not outlined.

    They belong to no outlined object, are at most ``radius`` from such a marker, and connected to
    it: an object is in one piece and does not run through another.

    ``alone`` are the markers of :func:`find_unoutlined_markers`; ``radius`` is infinite if unknown.
    """
    if not alone.any():
        return np.zeros_like(alone)
    zone = ids == 0
    if np.isfinite(radius):
        zone &= ndimage.distance_transform_edt(~alone) <= radius
    pieces, _ = ndimage.label(zone, np.ones((3, 3), np.int8))
    near: NDArray[np.bool_] = zone & np.isin(pieces, np.unique(pieces[alone & zone]))
    return near


def _match_markers(ids: Ids, markers: Ids) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The index of the marker at each pixel, and which of the markers have no outline."""
    names, inverse = np.unique(markers, return_inverse=True)
    inverse = inverse.reshape(markers.shape)  # numpy 2.0 alone keeps the shape
    pixels = np.bincount(inverse.ravel(), minlength=len(names))
    covered = np.bincount(inverse[ids != 0], minlength=len(names))
    return inverse, (names != 0) & (2 * covered <= pixels)
