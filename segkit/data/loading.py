"""Samples to training items: the datasets, and the cache of decoded arrays.

Crops travel to the device as bytes and become the network's input there, see :func:`as_item`.
"""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info
from typing_extensions import TypedDict

from segkit.checkpoint.on_device import standardize
from segkit.checkpoint.values import LabelCoding, Normalization, find_empty, find_missing
from segkit.core.errors import SegkitError
from segkit.core.labels import GUESS, IGNORE_INDEX
from segkit.core.owners import Owner, is_abandoned
from segkit.data.augment import Sliceable, TrainTransform, count_by_row
from segkit.data.draws import Draw
from segkit.data.layout.blocks import Block, list_bands, take_part
from segkit.data.mixing.mixes import Marked, Mix, cover, find_objects
from segkit.data.sources.base import DataSource, Large, Sample
from segkit.data.unlabeled import UnlabeledImages
from segkit.data.windowed import WindowedArray
from segkit.targets.base import Target
from segkit.targets.objects import number_objects, number_regions

CACHE = "segkit-cache-"
"""What the names of cache folders begin with; their owner and random letters follow."""
READING, CROPPING, MIXING, TARGET = "reading", "cropping", "mixing", "target"
"""The stages of making a training item besides the transforms."""
SMALL = frozenset({"counts", "values"})
"""What is cached of images of which only parts are read."""


class Truth(TypedDict):
    """The ground truth of a batch of samples, or of a single one.

    ``target`` (B, H, W) int64, or (B, N, H, W) for overlapping classes; ``index`` (B,), the numbers
    of the samples in their split. Optionally ``weight`` (B, H, W) float32, the weight of each pixel
    in the loss, ``ids`` (B, H, W) int32 of objects, and ``markers`` likewise if the source has its
    own. ``guess``, bool and of the shape of ``target``, is true where there is no label and a
    pseudo-label is wanted.
    """

    target: Tensor
    index: Tensor
    weight: NotRequired[Tensor]
    ids: NotRequired[Tensor]
    markers: NotRequired[Tensor]
    guess: NotRequired[Tensor]


class Item(Truth):
    """A batch or a single item: also ``image`` (B, C, H, W) float32, normalized."""

    image: Tensor


class Crop(TypedDict):
    """A batch of augmented crops, or a single one, on its way to the device.

    As few bytes as possible: ``unit`` (B, H, W, C) as :meth:`Normalization.to_unit` returns it,
    uint8 or float32; ``labels`` uint8, otherwise like ``target`` of :class:`Truth`; ``index``,
    ``weight``, ``ids`` and ``guess`` as there.
    """

    unit: Tensor
    labels: Tensor
    index: Tensor
    weight: NotRequired[Tensor]
    ids: NotRequired[Tensor]
    guess: NotRequired[Tensor]


def as_item(crops: Crop, normalization: Normalization) -> Item:
    """Convert a batch of crops to the network's input, on the device of the batch."""
    item: Item = {
        "image": standardize(crops["unit"].permute(0, 3, 1, 2), normalization),
        "target": crops["labels"].long(),
        "index": crops["index"],
    }
    if "weight" in crops:
        item["weight"] = crops["weight"]
    if "ids" in crops:
        item["ids"] = crops["ids"]
    if "guess" in crops:
        item["guess"] = crops["guess"]
    return item


# --- datasets ------------------------------------------------------------------------------------


class TrainDataset(Dataset[Crop]):
    """Augmented crops; an item is identified by its draw, so all workers make the same one."""

    def __init__(
        self,
        source: DataSource,
        samples: list[Sample],
        coding: LabelCoding,
        normalization: Normalization,
        transform: TrainTransform,
        target: Target,
        cache: ArrayCache | None = None,
        workers: int = 0,
        with_empty: frozenset[str] = frozenset(),
        mixes: Sequence[Mix] = (),
        unlabeled: UnlabeledImages | None = None,
    ) -> None:
        self.unlabeled, self.guesses = unlabeled, unlabeled is not None or transform.guesses
        self.samples, self.normalization = samples, normalization
        self.transform, self.target, self.mixes = transform, target, mixes
        self.reader = SampleReader(source, coding, normalization, target, cache, with_empty)
        mixing = [MIXING] if mixes else []
        self.times = StageTimes([READING, CROPPING, *transform.names, *mixing, TARGET], workers)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> Crop:
        index, seed, *label = draw
        ticks = [time.perf_counter()]

        def tick() -> None:
            ticks.append(time.perf_counter())

        image, marks = self._make_crop(index, seed, tick, *label)
        if self.mixes:
            if index < len(self.samples):
                image, marks = self._mix((image, marks), seed)
            tick()
        is_unknown = self._find_guesses(marks)
        marks = np.where(is_unknown, marks.dtype.type(IGNORE_INDEX), marks)
        labels, weight = self.target.encode(marks)
        crop: Crop = {
            "unit": torch.from_numpy(np.ascontiguousarray(image)),
            "labels": _move_labels_first(labels),
            "index": torch.tensor(index),
        }
        if weight is not None:
            crop["weight"] = torch.from_numpy(weight)  # (H, W)
        if self.guesses:
            crop["guess"] = _move_labels_first(is_unknown)
        if self.target.for_queries:
            ids = marks if self.target.from_ids else number_regions(marks)
            crop["ids"] = torch.from_numpy(ids.astype(np.int32))  # (H, W)
        tick()
        self.times.add(ticks)
        return crop

    def _make_crop(
        self, index: int, seed: int, tick: Callable[[], None], label: int | None = None
    ) -> Marked:
        """Read, cut and augment a crop and its marks; ``tick`` is called after each stage."""
        if index >= len(self.samples):
            return self._make_unlabeled(index - len(self.samples), seed, tick)
        sample = self.samples[index]
        whole, all_marks = self.reader.read_image(sample), self.reader.read_marks(sample)
        counts = self.reader.read_counts(sample) if self.transform.foreground_share else None
        tick()
        wanted = None if self.target.from_ids else label  # any object is one of its class
        image, marks = self.transform.cut(whole, all_marks, seed, counts, wanted)
        image = self.normalization.to_unit(image)
        tick()
        return self.transform.augment(image, marks, seed, tick)

    def _make_unlabeled(self, number: int, seed: int, tick: Callable[[], None]) -> Marked:
        """As :meth:`_make_crop`, of an image without labels."""
        assert self.unlabeled is not None
        sample, read = self.unlabeled.samples[number], self.unlabeled.read
        cache = self.reader.cache
        whole = read(sample) if cache is None else cache.fetch(sample, "bare", lambda: read(sample))
        kind = np.dtype(np.uint16 if self.target.from_ids else np.uint8)
        marks = np.full((*whole.shape[:2], *self._layers), GUESS[str(kind)], kind)
        tick()
        nowhere = np.zeros((3, 0), np.int32)  # the foreground
        image, marks = self.transform.cut(whole, marks, seed, nowhere)
        image = self.normalization.to_unit(image)
        tick()
        return self.transform.augment(image, marks, seed, tick)

    @cached_property
    def _layers(self) -> tuple[int, ...]:
        """(N,) for overlapping classes, of which each mask has a layer; else nothing."""
        return self.reader.read_marks(self.samples[0]).shape[2:]

    def _find_guesses(self, marks: NDArray[Any]) -> NDArray[np.bool_]:
        """Where marks wait for a pseudo-label; without such, GUESS is a label like others."""
        if not self.guesses:
            return np.zeros(marks.shape, np.bool_)
        return marks == GUESS[str(marks.dtype)]

    def _mix(self, crop: Marked, seed: int) -> Marked:
        """Cover parts of a crop with parts of other ones, as each mix chooses."""
        rng, from_ids = np.random.default_rng((seed, 2)), self.target.from_ids
        for mix in self.mixes:
            if rng.random() >= mix.p:
                continue
            indices = rng.integers(len(self.samples), size=mix.others).tolist()
            seeds = rng.integers(2**31, size=mix.others).tolist()
            others = [
                self._make_crop(*draw, lambda: None) for draw in zip(indices, seeds, strict=True)
            ]
            known = (
                np.where(self._find_guesses(m), m.dtype.type(IGNORE_INDEX), m) for _, m in others
            )
            objects = [find_objects(m, from_ids, self.transform.background) for m in known]
            for other, where in zip(others, mix.choose(objects, rng), strict=True):
                crop = cover(crop, other, where, from_ids)
        return crop


class WholeDataset(Dataset[Item]):
    """Unchanged whole images for validation and evaluation, on request with the ids of objects."""

    def __init__(
        self,
        source: DataSource,
        samples: list[Sample],
        coding: LabelCoding,
        normalization: Normalization,
        target: Target,
        objects: bool = False,
        cache: ArrayCache | None = None,
        with_empty: frozenset[str] = frozenset(),
    ) -> None:
        self.source, self.samples = source, samples
        self.normalization, self.target = normalization, target
        self.objects = objects or target.for_queries
        self.reader = SampleReader(source, coding, normalization, target, cache, with_empty)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        sample = self.samples[index]
        image = self.reader.read_image(sample)[:, :]
        with _naming(sample):
            image = self.normalization(image)
        channels_first = np.ascontiguousarray(image.transpose(2, 0, 1))
        return {"image": torch.from_numpy(channels_first), **self.truth(index)}

    def take_part(self, index: int, block: Block | None = None) -> WholeDataset:
        """The data set of nothing but a sample, or a part of it."""
        part, sample = copy.copy(self), self.samples[index]
        part.samples = [sample if block is None else take_part(sample, block)]
        return part

    def truth(self, index: int) -> Truth:
        """Return the ground truth of a sample without reading its image."""
        sample = self.samples[index]
        labels, weight = self.target.encode(self.reader.read_marks(sample)[:, :])
        truth: Truth = {
            "target": _move_labels_first(labels).long(),
            "index": torch.tensor(index),
        }
        if weight is not None:
            truth["weight"] = torch.from_numpy(weight)  # (H, W)
        if self.objects:
            ids = self.reader.read_ids(sample)[:, :]
            truth["ids"] = torch.from_numpy(ids.astype(np.int32))
            if type(self.source).read_markers is not DataSource.read_markers:
                markers = self.source.read_markers(sample)
                if markers is None:  # the outlines of this image are all there is
                    markers = np.where(ids == IGNORE_INDEX, 0, ids)
                truth["markers"] = torch.from_numpy(markers.astype(np.int32))
        return truth


class SampleReader:
    """Reads images and masks as arrays, from their files or from the cache of the run.

    The arrays may be memory-mapped and must not be written to. Large images and their masks are
    read where they are sliced, with the same values. Reading a mask raises a SegkitError if it has
    a value that is neither a label nor an id. Pixels without data are not labelled; ``with_empty``
    names the samples that have any.
    """

    def __init__(
        self,
        source: DataSource,
        coding: LabelCoding,
        normalization: Normalization,
        target: Target,
        cache: ArrayCache | None,
        with_empty: frozenset[str],
    ) -> None:
        self.source, self.coding, self.normalization = source, coding, normalization
        self.target, self.cache, self.with_empty = target, cache, with_empty

    def read_image(self, sample: Sample) -> Sliceable:
        """(H, W, C), uint8, uint16 or float32, as the source returns it.

        Missing values are replaced by the mean, which the network sees as 0.
        """
        large = self.source.measure_large(sample)
        if large is None:
            return self._fetch(sample, "image", lambda: self._fill_image(sample))
        return WindowedArray(sample, large.shape, large.dtype, self._fill_image)

    def read_marks(self, sample: Sample) -> Sliceable:
        """The map that is augmented: ids of objects if the target needs them, otherwise labels."""
        return self.read_ids(sample) if self.target.from_ids else self.read_labels(sample)

    def read_counts(self, sample: Sample) -> NDArray[np.int32] | None:
        """The :func:`count_by_row` of the marks, for crops on the foreground; None if not cached.

        Counting takes as long as looking for the foreground once.
        """
        if self.cache is None or not self.cache.keeps("counts"):
            return None
        return self._fetch(sample, "counts", lambda: count_by_row(self.read_marks(sample)))

    def read_labels(self, sample: Sample) -> Sliceable:
        """(H, W) or (H, W, N) labels, uint8."""
        large = self.source.measure_large(sample)
        if large is None or large.mask_shape is None:
            return self._fetch(sample, "labels", lambda: self._encode_mask(sample, large))
        return WindowedArray(sample, large.mask_shape, np.uint8, self._encode_mask)

    def read_ids(self, sample: Sample) -> Sliceable:
        """(H, W) ids of objects, uint16; without ids in the masks, the regions of the foreground.

        Regions are found in the whole mask.
        """
        large = self.source.measure_large(sample)
        if not self.source.instances:
            return self._fetch(
                sample, "ids", lambda: number_regions(self.read_labels(sample)[:, :])
            )
        if large is None or large.mask_shape is None:
            return self._fetch(sample, "ids", lambda: self._number_mask(sample, large))
        shape = large.mask_shape
        values = self._fetch(sample, "values", lambda: self._list_values(sample, shape))
        with _naming(sample):
            ids = number_objects(values[None], self.coding.to_label)[0]

        def number_part(part: Sample) -> NDArray[np.uint16]:
            mask, empty = self._read_mask(part)
            found: NDArray[np.uint16] = ids[np.searchsorted(values, mask)]
            if empty is not None:
                found[empty] = IGNORE_INDEX
            return found

        return WindowedArray(sample, shape, np.uint16, number_part)

    def _fill_image(self, sample: Sample) -> NDArray[Any]:
        image = self.source.read_image(sample)
        if find_missing(image) is None:
            return np.ma.getdata(image)
        with _naming(sample):
            return self.normalization.convert(image)

    def _encode_mask(self, sample: Sample, large: Large | None = None) -> NDArray[np.uint8]:
        mask, empty = self._read_mask(sample, large)
        with _naming(sample):
            labels = self.coding.encode(mask)
        if empty is not None:
            labels[empty] = IGNORE_INDEX
        return labels

    def _number_mask(self, sample: Sample, large: Large | None) -> NDArray[np.uint16]:
        mask, empty = self._read_mask(sample, large)
        with _naming(sample):
            ids = number_objects(mask, self.coding.to_label)
        if empty is not None:
            ids[empty] = IGNORE_INDEX
        return ids

    def _list_values(self, sample: Sample, shape: tuple[int, ...]) -> NDArray[Any]:
        """The values of a mask that is read by parts, in ascending order."""
        found: list[NDArray[Any]] = []
        for top, height in list_bands(shape):
            mask, _ = self._read_mask(take_part(sample, (top, 0, height, shape[1])))
            found = [np.unique(np.concatenate([*found, np.unique(mask)]))]
        return found[0]

    def _read_mask(
        self, sample: Sample, large: Large | None = None
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """The mask, and where the image has no data; there the mask's values do not count.

        ``large`` is given for a whole mask of an image that is read by parts.
        """
        mask, empty = self.source.read_mask(sample), None
        if sample.name in self.with_empty and large is not None:
            empty = np.zeros(large.shape[:2], np.bool_)
            for top, height in list_bands(large.shape):
                part = take_part(sample, (top, 0, height, large.shape[1]))
                missing = find_empty(self.source.read_image(part))
                if missing is not None:
                    empty[top : top + height] = missing
        elif sample.name in self.with_empty:
            empty = find_empty(self.source.read_image(sample))
        if empty is not None:
            mask = mask.copy()
            mask[empty] = 0
        return mask, empty

    def _fetch(self, sample: Sample, kind: str, read: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        if self.cache is None:
            return read()
        return self.cache.fetch(sample, kind, read)


class StageTimes:
    """Seconds per stage of making an item, summed in memory shared with the worker processes.

    Each worker adds to its own row, so that none waits for another. Names of stages may repeat.
    """

    def __init__(self, stages: Sequence[str], workers: int) -> None:
        self.stages = tuple(stages)
        self._table = torch.zeros(max(1, workers), 1 + len(stages), dtype=torch.float64)
        if workers:
            self._table.share_memory_()  # type: ignore[no-untyped-call]  # torch has no types of it

    def add(self, ticks: Sequence[float]) -> None:
        """Add an item: its start and the end of each stage, in seconds of one clock."""
        worker = get_worker_info()
        row = self._table[worker.id % len(self._table) if worker else 0].numpy()
        row[0] += 1
        row[1:] += [after - before for before, after in pairwise(ticks)]

    def totals(self) -> tuple[int, tuple[float, ...]]:
        """The number of items so far, and the total seconds of each stage."""
        items, *seconds = self._table.sum(0).tolist()
        return int(items), tuple(seconds)


@contextlib.contextmanager
def _naming(sample: Sample) -> Iterator[None]:
    """Name the sample in errors about its values."""
    try:
        yield
    except SegkitError as error:
        raise SegkitError(f"{sample.name}: {error}") from error


def _move_labels_first(labels: NDArray[Any]) -> Tensor:
    """(H, W) unchanged, (H, W, N) to (N, H, W)."""
    moved = labels if labels.ndim == 2 else labels.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(moved))


# --- the cache -----------------------------------------------------------------------------------


class ArrayCache:
    """Decoded images and masks in memory-mapped files, shared by all processes of a run.

    An array is one .npy file. Whichever process reads it first writes it under another name and
    then renames it: a file is complete or absent, and two processes that write the same array at
    once write the same bytes. Reading goes through the page cache of the system, and a crop touches
    only its own pages.

    The folder is new, so that nothing in it is older than the run. It is removed by :meth:`close`,
    or when the process that made it ends other than by a kill. If the disk is full or the folder is
    gone, arrays are computed each time. Copies in other processes (it is picklable) read and write,
    but never remove the folder.

    Args:
        folder: A folder that another process made. None: a new temporary one.
        kinds: The kinds of arrays that are cached; None: all.

    Raises:
        OSError: The folder cannot be made.
    """

    def __init__(self, folder: Path | None = None, kinds: frozenset[str] | None = None) -> None:
        self._writes, self._remove, self._kinds = True, None, kinds
        if folder is None:
            _remove_abandoned()
            folder = Path(tempfile.mkdtemp(prefix=f"{CACHE}{Owner.current()}-"))
            self._remove = weakref.finalize(self, _remove, folder, os.getpid())
        self.folder = folder
        # keeps files mapped: mapping one takes 0.3 ms
        self._map = lru_cache(_limit_open_files())(_map)

    def keeps(self, kind: str) -> bool:
        """Whether arrays of a kind are cached."""
        return self._kinds is None or kind in self._kinds

    def fetch(self, of: Any, kind: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return an array of a sample, read-only; ``kind`` tells its arrays apart.

        ``of`` is anything whose repr stands for the sample in all processes.

        Errors of ``make``, which computes an array that is not cached yet, are passed on.
        """
        if not self.keeps(kind):
            return make()
        # a hash of all fields, so that every process finds the same name and samples never clash
        path = self.folder / f"{kind}-{blake2b(repr(of).encode(), digest_size=16).hexdigest()}"
        try:
            return self._map(path)
        except OSError:
            array = make()
            if self._writes:
                self._write(path, array)
            return array

    def close(self) -> None:
        """Remove the folder if this process made it; arrays are then computed each time."""
        self._map.cache_clear()
        if self._remove is not None:
            self._remove()

    def _write(self, path: Path, array: NDArray[Any]) -> None:
        part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
        try:
            with part.open("wb") as file:
                np.save(file, array, allow_pickle=False)
            part.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            if path.is_file():  # Windows cannot replace a file that another process has open
                return
            self._writes = False
            try:
                (self.folder / "full").touch(exist_ok=False)
            except (FileExistsError, FileNotFoundError):  # another process has warned; it is closed
                return
            except OSError:
                pass  # there is no room even for that
            warnings.warn(
                f"decoded images cannot be cached in {self.folder}: {error.strerror or error}."
                " The remaining ones are read from their files each time. The environment variable"
                " TMPDIR moves the cache to another disk, data.cache=false turns it off.",
                RuntimeWarning,
                stacklevel=3,
            )

    def __reduce__(self) -> tuple[type[ArrayCache], tuple[Path, frozenset[str] | None]]:
        return ArrayCache, (self.folder, self._kinds)


def _map(path: Path) -> NDArray[Any]:
    return np.asarray(np.load(path, mmap_mode="r"))


def _limit_open_files() -> int:
    """Maximum number of files that a process keeps mapped; each takes a file descriptor."""
    if sys.platform == "win32":  # has no such limit
        return 4096
    import resource

    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 4096 if allowed == resource.RLIM_INFINITY else max(16, min(4096, allowed // 4))


def _remove_abandoned() -> None:
    """Remove the caches of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{CACHE}*"):
        if is_abandoned(folder, folder.name.removeprefix(CACHE).rpartition("-")[0]):
            shutil.rmtree(folder, ignore_errors=True)


def _remove(folder: Path, owner: int) -> None:
    """Remove a folder, but only in the process that made it and not in its forks."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
