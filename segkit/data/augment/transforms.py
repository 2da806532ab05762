"""Random crops and augmentation; with elastic.py the only code that knows albumentations.

The crop comes first: nothing here reads more of an image than its crop, so that images can be
memory-mapped files.
"""

from __future__ import annotations

import inspect
import os
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else importing it accesses the network

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import did_you_mean
from segkit.core.labels import IGNORE_INDEX
from segkit.data.augment.elastic import ElasticGrid

cv2.setNumThreads(0)  # the workers are the parallelism; OpenCV's threads would compete with them

TURNS = {"D4", "RandomRotate90", "SquareSymmetry", "Transpose"}
"""Transforms that may exchange height and width."""
Window = tuple[slice, slice]
"""Rows and columns of an image, or of an image with context around it."""
_CROP_SEED = 1
"""Which of an item's seeds places the crop; the following ones are those of the transforms."""
_COUNTERS = 2**22
"""Maximum number of counters in memory at once."""


class TrainTransform:
    """Random crop and augmentation of an image and its labels.

    Pixels from outside the image that padding and warping bring in are IGNORE_INDEX in the labels.

    Args:
        crop: Height and width of the result; smaller images are padded.
        augment: Transforms of albumentations and ElasticGrid, each a mapping of ``name`` and
            options.
        context: Width of the mirrored border for unpadded networks: the resulting image is larger
            by it on each side, the labels are not.
        foreground_share: Fraction of the crops that are placed on the foreground. A class (or in a
            map of ids an object) is drawn uniformly from those of the image. Augmentation may move
            it out of the crop again.
        background: The label that is not foreground, None if every label is.
    """

    def __init__(
        self,
        crop: tuple[int, int],
        augment: list[dict[str, Any]],
        context: int = 0,
        foreground_share: float = 0.0,
        background: int | None = 0,
    ) -> None:
        self.context, self._augment = context, augment
        self.foreground_share, self.background = foreground_share, background
        self._size = size = crop[0] + 2 * context, crop[1] + 2 * context
        # a crop that may be turned is cut square, so that nothing is lost
        turns = any(options["name"] in TURNS for options in augment)
        self._cut = (max(size), max(size)) if turns else size
        # what remains of the cut in every orientation
        kept = (min(crop), min(crop)) if turns else crop
        self._margin = (self._cut[0] - kept[0]) // 2, (self._cut[1] - kept[1]) // 2
        self._steps = [_build_transform(options) for options in augment]
        self._pad, self._fit = _pad_to(self._cut), [_pad_to(size), A.CenterCrop(*size)]

    @property
    def names(self) -> list[str]:
        """The names of the transforms."""
        return [str(options["name"]) for options in self._augment]

    def __call__(
        self, image: NDArray[Any], labels: NDArray[Any], seed: int
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """(H, W, C) and (H, W) or (H, W, N) to the crop's size, of the same types.

        The same seed gives the same result in every process.
        """
        return self.augment(*self.cut(image, labels, seed), seed)

    def cut(
        self,
        image: NDArray[Any],
        labels: NDArray[Any],
        seed: int,
        counts: NDArray[np.int32] | None = None,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Cut out the part of an image and its labels that :meth:`augment` needs.

        ``counts`` is the :func:`count_by_row` of the labels. Without it, crops on the foreground
        read all labels.
        """
        c = self.context
        window = None
        if self.foreground_share:
            rng = np.random.default_rng((seed, 1))
            if rng.random() < self.foreground_share:
                window = draw_foreground_window(
                    labels, self._cut, self._margin, self.background, rng, c, counts
                )
        if window is None:
            draws = random.Random(_spawn_seeds(seed, _CROP_SEED + 1)[_CROP_SEED])
            rows, columns = (
                _draw_stretch(length + 2 * c, side, draws)
                for length, side in zip(image.shape[:2], self._cut, strict=True)
            )
            window = rows, columns
        return cut_out(image, window, c), cut_out(labels, window, c, IGNORE_INDEX)

    def augment(
        self,
        image: NDArray[Any],
        labels: NDArray[Any],
        seed: int,
        after_each: Callable[[], None] = lambda: None,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Pad and augment the result of :meth:`cut` to the crop's size.

        Images are uint8 or float32. ``after_each`` is called after each transform, applied or not,
        to measure its time.
        """
        data = {"image": image}
        if labels.ndim == 2:
            data["mask"] = labels
        else:  # one by one: albumentations fills only the first layer of several
            data["masks"] = np.ascontiguousarray(labels.transpose(2, 0, 1))
        with _without_warnings():
            if image.shape[:2] != self._cut:
                data = self._pad(**data)
            seeds = _spawn_seeds(seed, _CROP_SEED + 1 + len(self._steps))[_CROP_SEED + 1 :]
            for step, own in zip(self._steps, seeds, strict=True):
                data = _apply(step, own, data)
                after_each()
            if data["image"].shape[:2] != self._size:  # a transform may have changed it
                for step in self._fit:
                    data = step(**data)
        image = data["image"]
        labels = data["mask"] if labels.ndim == 2 else np.stack(list(data["masks"]), axis=2)
        c = self.context
        return image, labels[c : labels.shape[0] - c, c : labels.shape[1] - c]

    def find_unsuitable(self, channels: int, dtype: Any) -> list[str]:
        """Problems with transforms that do not support images with these channels and type."""
        rng = np.random.default_rng(0)
        image = (255 * rng.random((*self._cut, channels), np.float32)).astype(np.uint8)
        image = image if dtype == np.uint8 else (image / 255).astype(dtype)
        labels = np.zeros(self._cut, np.uint8)
        problems = []
        for number, options in enumerate(self._augment):
            step = _build_transform({**options, "p": 1.0})
            step.set_random_seed(0)
            try:
                with _without_warnings():
                    result = step(image=image, mask=labels)["image"]
            except Exception as error:  # transforms raise errors of any type
                reason = str(error) or type(error).__name__
            else:
                if (result.dtype, result.shape[2:]) == (image.dtype, image.shape[2:]):
                    continue
                reason = f"it turns them into {result.dtype} of the shape {result.shape}"
            problems.append(
                f"augment.transforms[{number}]: {options['name']} cannot be applied to images with"
                f" {channels} channels, {image.dtype}: {reason.rstrip('.')}. Remove it"
            )
        return problems


def check_augment(augment: list[dict[str, Any]]) -> list[str]:
    """Find unknown names, unknown options and refused values in a list of transforms."""
    problems = []
    for number, options in enumerate(augment):
        where = f"augment.transforms[{number}]"
        name = str(options.get("name", ""))
        transform = _list_transforms().get(name)
        if transform is None:
            problems.append(
                f"{where}: albumentations has no transform '{name}'."
                f"{did_you_mean(name, _list_transforms())}"
            )
            continue
        known = list(inspect.signature(transform).parameters)
        unknown = [key for key in options if key not in known and key != "name"]
        problems += [
            f"{where}: {name} has no option '{key}'.{did_you_mean(key, known)}"
            f" Known: {', '.join(known)}."
            for key in unknown
        ]
        if not unknown:
            try:
                _build_transform(options)
            except Exception as error:  # transforms raise errors of any type
                problems.append(f"{where}: {name} refuses its options: {error}")
    return problems


# --- crops ---------------------------------------------------------------------------------------


def cut_out(
    array: NDArray[Any], window: Window, context: int = 0, fill: int | None = None
) -> NDArray[Any]:
    """Copy a window of an image or a map, with a context on each side.

    Args:
        array: (H, W) or (H, W, C).
        window: Rows and columns of (H + 2 context, W + 2 context).
        context: Width of the context in pixels.
        fill: Value of the context; None mirrors the image, for any H and W.
    """
    height, width = array.shape[:2]
    rows, columns = (slice(s.start - context, s.stop - context) for s in window)
    if rows.start >= 0 and columns.start >= 0 and rows.stop <= height and columns.stop <= width:
        # not np.copy, which keeps the memory order
        return np.array(array[rows, columns], order="C")
    if fill is None:
        return array[np.ix_(_mirror(rows, height), _mirror(columns, width))]
    shape = (rows.stop - rows.start, columns.stop - columns.start, *array.shape[2:])
    piece = np.full(shape, fill, array.dtype)
    (to_rows, from_rows), (to_columns, from_columns) = (
        _overlap(places, length) for places, length in ((rows, height), (columns, width))
    )
    piece[to_rows, to_columns] = array[from_rows, from_columns]
    return piece


def count_by_row(labels: NDArray[Any]) -> NDArray[np.int32]:
    """Count the pixels of each value in each row, to draw pixels without reading all labels.

    Args:
        labels: (H, W) classes or ids; (H, W, N) of 0 and 1, in which each layer is a class.

    Returns:
        (3, n): value (or layer), row, and the number of such pixels, at least one; sorted by value
        and row.
    """
    if labels.ndim == 3:
        layer, row = np.nonzero((counts := (labels == 1).sum(axis=1)).T)
        return np.stack([layer, row, counts[row, layer]]).astype(np.int32)
    pixels = np.bincount(labels.ravel())
    present = np.flatnonzero(pixels)
    values = max(1, len(present))
    position = np.zeros(len(pixels), np.int64)  # of a value among those present
    position[present] = np.arange(len(present))
    height = max(1, _COUNTERS // values)
    parts = [np.zeros((3, 0), np.int64)]
    for top in range(0, labels.shape[0], height):
        block = position[labels[top : top + height]]
        block += values * np.arange(len(block))[:, None]
        row, value = divmod(np.flatnonzero(found := np.bincount(block.ravel())), values)
        parts.append(np.stack([present[value], row + top, found[found > 0]]))
    together = np.concatenate(parts, axis=1)
    return together[:, np.lexsort(together[1::-1])].astype(np.int32)


def draw_foreground_window(
    labels: NDArray[Any],
    size: tuple[int, int],
    margin: tuple[int, int],
    background: int | None,
    rng: np.random.Generator,
    context: int = 0,
    counts: NDArray[np.int32] | None = None,
) -> Window | None:
    """Draw a random window that contains a foreground pixel.

    First one of the classes in the image (or of the objects in a map of ids) is drawn uniformly, so
    that rare classes come as often as frequent ones; then one of its pixels; then a position of the
    window around the pixel.

    Args:
        labels: (H, W) classes or ids; (H, W, N) of 0 and 1, in which each layer is a class.
        size: Height and width of the window; at most those of the labels.
        margin: Minimum distance in rows and columns of the pixel from the edge of the window, as
            far as the edge of the labels allows.
        background: The label that is not foreground, None if every label is.
        rng: The random generator.
        context: Width of the border around the labels that the window may reach into.
        counts: The :func:`count_by_row` of the labels if known: then only one row is read.

    Returns:
        The window in (H + 2 context, W + 2 context), or None if there is no foreground.
    """
    value, row, count = count_by_row(labels) if counts is None else counts
    present = value[np.diff(value, prepend=-1) > 0]
    if labels.ndim == 2:
        present = present[(present != IGNORE_INDEX) & (present != background)]
    if not len(present):
        return None
    chosen = rng.choice(present)
    first, last = np.searchsorted(value, chosen), np.searchsorted(value, chosen, side="right")
    up_to = np.cumsum(count[first:last], dtype=np.int64)
    drawn = int(rng.integers(up_to[-1]))  # the number of the pixel among those of the class
    at = int(np.searchsorted(up_to, drawn, side="right"))
    before = int(up_to[at - 1]) if at else 0
    y = int(row[first + at])
    line = labels[y] == chosen if labels.ndim == 2 else labels[y, :, chosen] == 1
    x = int(np.flatnonzero(line)[drawn - before])
    rows, columns = (
        _draw_around(p + context, length + 2 * context, side, inner, rng)
        for p, length, side, inner in zip((y, x), labels.shape[:2], size, margin, strict=True)
    )
    return rows, columns


def _overlap(places: slice, length: int) -> Window:
    """Which of the places lie inside ``length``, as a slice of the places and of the array."""
    first, end = max(0, places.start), max(0, places.start, min(places.stop, length))
    return slice(first - places.start, end - places.start), slice(first, end)


def _mirror(places: slice, length: int) -> NDArray[np.intp]:
    """The rows (or columns) of an image that its mirrored continuation shows at these places."""
    beyond = np.arange(places.start, places.stop) % (2 * length)
    return np.minimum(beyond, 2 * length - 1 - beyond)


def _draw_around(
    position: int, length: int, side: int, margin: int, rng: np.random.Generator
) -> slice:
    """A random stretch of at most ``side`` inside ``length`` that contains a position."""
    if length <= side:
        return slice(0, length)
    first, last = max(0, position - side + 1 + margin), min(length - side, position - margin)
    if first > last:  # too close to the edge for the margin
        start = 0 if position < length // 2 else length - side
    else:
        start = int(rng.integers(first, last + 1))
    return slice(start, start + side)


def _draw_stretch(length: int, side: int, draws: random.Random) -> slice:
    """A random stretch of at most ``side`` inside ``length``."""
    share = draws.random()
    start = int((length - side + 1) * share) if length > side else 0
    return slice(start, min(length, start + side))


# --- transforms of albumentations ----------------------------------------------------------------


@lru_cache(maxsize=1)
def _list_transforms() -> dict[str, type[Any]]:
    bases = (A.BasicTransform, A.DualTransform, A.ImageOnlyTransform)
    known = {
        name: member
        for name, member in vars(A).items()
        if inspect.isclass(member)
        and issubclass(member, A.BasicTransform)
        and member not in bases
        and not issubclass(member, A.Transform3D)
    }
    return {**known, "ElasticGrid": ElasticGrid}


def _build_transform(options: dict[str, Any]) -> A.BasicTransform:
    options = dict(options)
    transform = _list_transforms()[options.pop("name")]
    known = inspect.signature(transform).parameters
    # a default of None means that the image loses pixels and the labels stay
    if "fill_mask" in known and known["fill_mask"].default is not None:
        options.setdefault("fill_mask", IGNORE_INDEX)
    if "border_mode" in known:
        options.setdefault("border_mode", cv2.BORDER_CONSTANT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # albumentations only warns of unknown options
        return transform(**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})


def _apply(
    step: A.BasicTransform, seed: int, data: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Apply a step, if it is drawn, with random numbers of its own.

    Compose gives all steps the same seed, so that steps with the same probability are applied
    together or not at all.
    """
    draws = random.Random(seed)
    # asked here, because making the generators takes most of the time of a step that is skipped
    if step.p < 1 and draws.random() >= step.p:
        return data
    step.set_random_state(np.random.default_rng(seed), draws)
    return step(force_apply=True, **data)


def _pad_to(size: tuple[int, int]) -> A.BasicTransform:
    """Padding to at least this size, evenly on both sides."""
    return A.PadIfNeeded(*size, border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=IGNORE_INDEX)


def _spawn_seeds(seed: int, count: int) -> list[int]:
    return [int(own) for own in np.random.SeedSequence(seed).generate_state(count)]


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence colour transforms, which warn about every grey image that they leave unchanged."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="albu")
        yield
