"""Random crops and augmentation; the only code that knows albumentations.

The crop comes first: nothing here reads more of an image than its crop, so that images can be
memory-mapped files, or files of which only windows are read.
"""

from __future__ import annotations

import inspect
import os
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Annotated, Any, Literal, Protocol

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else importing it accesses the network

import albumentations as A
import cv2
import numpy as np
from albumentations.core.transforms_interface import BaseTransformInitSchema
from albumentations.core.type_definitions import Targets
from numpy.typing import NDArray
from pydantic import Field
from scipy.interpolate import CubicSpline

from segkit.core.errors import did_you_mean
from segkit.core.labels import GUESS, IGNORE_INDEX
from segkit.data.layout.blocks import list_bands

cv2.setNumThreads(0)  # the workers are the parallelism; OpenCV's threads would compete with them

TURNS = {"D4", "RandomRotate90", "SquareSymmetry", "Transpose"}
"""Transforms that may exchange height and width."""
MIRRORS = TURNS | {"HorizontalFlip"}
"""Transforms that may exchange left and right."""
Window = tuple[slice, slice]
"""Rows and columns of an image, or of an image with context around it."""
_COUNTERS = 2**22
"""Maximum number of counters in memory at once."""
_CHANNELS_AT_ONCE = 4
"""Maximum number of channels that OpenCV warps in one call."""


class Sliceable(Protocol):
    """An array, or an image or a map that is read where it is sliced."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) or (H, W, C)."""

    @property
    def ndim(self) -> int:
        """Number of axes."""

    def __getitem__(self, window: Window, /) -> Any:
        """The array of these rows and columns."""


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
        guesses: Whether unlabelled pixels of the image get the mark GUESS, unlike those outside.
    """

    def __init__(
        self,
        crop: tuple[int, int],
        augment: list[dict[str, Any]],
        context: int = 0,
        foreground_share: float = 0.0,
        background: int | None = 0,
        guesses: bool = False,
    ) -> None:
        self.guesses = guesses
        self.context, self._augment = context, augment
        self.names = [str(options["name"]) for options in augment]
        self.foreground_share, self.background = foreground_share, background
        self._size = size = crop[0] + 2 * context, crop[1] + 2 * context
        # a crop that may be turned is cut square, so that nothing is lost
        turns = any(options["name"] in TURNS for options in augment)
        self._cut = (max(size), max(size)) if turns else size
        # the part of the cut that is kept in every orientation
        kept = (min(crop), min(crop)) if turns else crop
        self._margin = (self._cut[0] - kept[0]) // 2, (self._cut[1] - kept[1]) // 2
        self._steps = [_build_transform(options) for options in augment]
        self._pad, self._fit = _pad_to(self._cut), [_pad_to(size), A.CenterCrop(*size)]

    def __call__(
        self, image: NDArray[Any], labels: NDArray[Any], seed: int
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """(H, W, C) and (H, W) or (H, W, N) to the crop's size, of the same types.

        The same seed gives the same result in every process.
        """
        return self.augment(*self.cut(image, labels, seed), seed)

    def cut(
        self,
        image: Sliceable,
        labels: Sliceable,
        seed: int,
        counts: NDArray[np.int32] | None = None,
        wanted: int | None = None,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Cut out the part of an image and its labels that :meth:`augment` needs.

        ``counts`` is the :func:`count_by_row` of the labels. Without it, crops on the foreground
        read all labels. ``wanted`` is the class on which a crop on the foreground is placed, if the
        image has it.
        """
        c = self.context
        window = None
        if self.foreground_share:
            rng = np.random.default_rng((seed, 1))
            if rng.random() < self.foreground_share:
                window = self._draw_foreground_window(labels, rng, counts, wanted)
        if window is None:
            draws = random.Random(self._spawn_seeds(seed)[0])
            rows, columns = (
                _draw_stretch(length + 2 * c, side, draws)
                for length, side in zip(image.shape[:2], self._cut, strict=True)
            )
            window = rows, columns
        marks = cut_out(labels, window, c, IGNORE_INDEX)
        if self.guesses:
            inside = cut_out(np.broadcast_to(np.True_, image.shape[:2]), window, c, fill=0)
            unknown = (marks == IGNORE_INDEX) & (inside if marks.ndim == 2 else inside[..., None])
            marks[unknown] = GUESS[str(marks.dtype)]
        return cut_out(image, window, c), marks

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
            for step, own in zip(self._steps, self._spawn_seeds(seed)[1:], strict=True):
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
        """Problems with transforms: channels and types that they do not take, invented labels."""
        rng = np.random.default_rng(0)
        image = (255 * rng.random((*self._cut, channels), np.float32)).astype(np.uint8)
        image = image if dtype == np.uint8 else (image / 255).astype(dtype)
        blocks = np.indices(self._cut).sum(axis=0) // 3 % 2
        labels = (blocks * 200).astype(np.uint8)
        problems = []
        for number, options in enumerate(self._augment):
            step = _build_transform({**options, "p": 1.0})
            step.set_random_seed(0)
            try:
                with _without_warnings():
                    both = step(image=image, mask=labels)
                result, invented = both["image"], set(np.unique(both["mask"])) - {0, 200, 255}
            except Exception as error:  # transforms raise errors of any type
                reason = str(error) or type(error).__name__
            else:
                if invented:
                    problems.append(
                        f"augment.transforms[{number}]: {options['name']} mixes the labels of"
                        " neighbours, so that new ones arise: leave mask_interpolation out"
                    )
                    continue
                if (result.dtype, result.shape[2:]) == (image.dtype, image.shape[2:]):
                    continue
                reason = f"it turns them into {result.dtype} of the shape {result.shape}"
            problems.append(
                f"augment.transforms[{number}]: {options['name']} cannot be applied to images with"
                f" {channels} channels, {image.dtype}: {reason.rstrip('.')}. Remove it"
            )
        return problems

    def _draw_foreground_window(
        self,
        labels: Sliceable,
        rng: np.random.Generator,
        counts: NDArray[np.int32] | None,
        wanted: int | None,
    ) -> Window | None:
        """Draw a window of an image with context that contains a foreground pixel, if there is one.

        First one of the classes in the image (or of the objects in a map of ids) is drawn
        uniformly, so that rare classes come as often as frequent ones; then one of its pixels; then
        a position of the window around the pixel. If the counts are known, only one row is read.
        """
        value, row, count = count_by_row(labels) if counts is None else counts
        present = value[np.diff(value, prepend=-1) > 0]
        if labels.ndim == 2:
            present = present[(present != IGNORE_INDEX) & (present != self.background)]
        if wanted is not None:
            present = present[present == wanted]
        if not len(present):
            return None
        chosen = rng.choice(present)
        first, last = np.searchsorted(value, chosen), np.searchsorted(value, chosen, side="right")
        up_to = np.cumsum(count[first:last], dtype=np.int64)
        drawn = int(rng.integers(up_to[-1]))  # the number of the pixel among those of the class
        at = int(np.searchsorted(up_to, drawn, side="right"))
        before = int(up_to[at - 1]) if at else 0
        y = int(row[first + at])
        whole_row = labels[y : y + 1, : labels.shape[1]][0]
        line = whole_row == chosen if labels.ndim == 2 else whole_row[:, chosen] == 1
        x = int(np.flatnonzero(line)[drawn - before])
        c = self.context
        rows, columns = (
            _draw_around(p + c, length + 2 * c, side, inner, rng)
            for p, length, side, inner in zip(
                (y, x), labels.shape[:2], self._cut, self._margin, strict=True
            )
        )
        return rows, columns

    def _spawn_seeds(self, seed: int) -> list[int]:
        """The seed of the crop, and those of the transforms."""
        _, *own = np.random.SeedSequence(seed).generate_state(2 + len(self._steps))
        return [int(number) for number in own]


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
    array: Sliceable, window: Window, context: int = 0, fill: int | None = None
) -> NDArray[Any]:
    """Copy a window of an image or a map, with a context on each side.

    Args:
        array: (H, W) or (H, W, C).
        window: Rows and columns of (H + 2 context, W + 2 context).
        context: Width of the context in pixels.
        fill: Value of the context; None mirrors the image, for any H and W.
    """
    height, width = array.shape[:2]
    top, bottom, left, right = (
        edge - context for places in window for edge in (places.start, places.stop)
    )
    if top >= 0 and left >= 0 and bottom <= height and right <= width:
        # not np.copy, which keeps the memory order
        return np.array(array[top:bottom, left:right], order="C")
    rows, columns = np.arange(top, bottom), np.arange(left, right)
    ys, xs = _mirror(rows, height), _mirror(columns, width)
    y, x = int(ys.min()), int(xs.min())
    part = array[y : int(ys.max()) + 1, x : int(xs.max()) + 1]
    piece: NDArray[Any] = part[np.ix_(ys - y, xs - x)]
    if fill is not None:
        piece[(rows < 0) | (rows >= height)] = fill
        piece[:, (columns < 0) | (columns >= width)] = fill
    return piece


def count_by_row(labels: Sliceable) -> NDArray[np.int32]:
    """Count the pixels of each value in each row, to draw pixels without reading all labels.

    Args:
        labels: (H, W) classes or ids; (H, W, N) of 0 and 1, in which each layer is a class.

    Returns:
        (3, n): value (or layer), row, and the number of such pixels, at least one; sorted by value
        and row.
    """
    if not isinstance(labels, np.ndarray):
        bands = []
        for top, height in list_bands(labels.shape):
            bands.append(count_by_row(labels[top : top + height, : labels.shape[1]]))
            bands[-1][1] += top
        return _sort_counts(np.concatenate(bands, axis=1))
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
    return _sort_counts(np.concatenate(parts, axis=1))


def _sort_counts(counts: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """By value, then by row."""
    return counts[:, np.lexsort(counts[1::-1])].astype(np.int32)


def _mirror(places: NDArray[np.intp], length: int) -> NDArray[np.intp]:
    """The rows (or columns) of an image that its mirrored continuation shows at these places."""
    beyond = places % (2 * length)
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
    """Apply a step, if it is drawn, with its own random numbers.

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


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence colour transforms, which warn about every grey image that they leave unchanged."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="albu")
        yield


# --- elastic deformation --------------------------------------------------------------------------


def interpolate_grid(
    nodes: NDArray[np.floating[Any]], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Interpolate the displacements of a coarse grid to every pixel.

    The outermost nodes lie on the centers of the outermost pixels, the others are evenly spaced.
    The interpolant is the tensor product of natural cubic splines, S_y D S_x^T: it passes through
    every node, has continuous second derivatives and reproduces planes.

    From (..., G, G') displacements in pixels, at least 2 each way, to (..., H, W).
    """
    rows, columns = (_spline(n, m) for n, m in zip(nodes.shape[-2:], size, strict=True))
    field: NDArray[np.float32] = rows @ nodes.astype(np.float32) @ columns.T
    return field


class ElasticGrid(A.DualTransform):  # type: ignore[misc]  # albumentations has no types
    """Random displacements of the nodes of a coarse grid, interpolated bicubically.

    U-Net (Ronneberger et al. 2015, section 3.1) draws them on 3 by 3 nodes from a Gaussian with a
    standard deviation of 10 pixels. Such a grid spans the crop, so the same ``std`` bends a small
    crop more strongly than a large one; with a ``spacing`` crops of all sizes are bent alike.
    Images are interpolated bilinearly, masks by nearest neighbour. The rotation is part of the same
    step, so that images and masks are resampled only once.

    Args:
        grid: Number of nodes along each side if there is no spacing.
        spacing: Approximate distance between two nodes in pixels.
        std: Standard deviation of each coordinate of the displacements, in pixels.
        rotate: Maximum rotation about the center in degrees, either way.
        border: What the image shows beyond its border: "mirror" or "constant" (0). Masks are
            IGNORE_INDEX there.
        p: Probability.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]  # likewise
        """The options as albumentations checks them."""

        grid: Annotated[int, Field(ge=2)]
        spacing: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None
        std: Annotated[float, Field(ge=0, allow_inf_nan=False)]
        rotate: Annotated[float, Field(ge=0, le=180)]
        border: Literal["mirror", "constant"]

    def __init__(
        self,
        grid: int = 3,
        spacing: float | None = None,
        std: float = 10.0,
        rotate: float = 0.0,
        border: Literal["mirror", "constant"] = "mirror",
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        self.grid, self.spacing, self.std = grid, spacing, std
        self.rotate, self.border = rotate, border

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """``x`` and ``y``, (H, W): the source column and row of each pixel of the result."""
        height, width = params["shape"][:2]
        counts = [
            max(2, round((side - 1) / self.spacing) + 1) if self.spacing else self.grid
            for side in (height, width)
        ]
        nodes = self.random_generator.normal(0, self.std, (2, *counts))
        x, y = interpolate_grid(nodes, (height, width))
        angle = np.deg2rad(self.random_generator.uniform(-self.rotate, self.rotate))
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        center_x, center_y = np.float32((width - 1) / 2), np.float32((height - 1) / 2)
        columns = np.arange(width, dtype=np.float32) - center_x
        rows = np.arange(height, dtype=np.float32)[:, None] - center_y
        x += center_x + (cos * columns - sin * rows)
        y += center_y + (sin * columns + cos * rows)
        return {"x": x, "y": y}

    def apply(
        self, img: NDArray[Any], x: NDArray[np.float32], y: NDArray[np.float32], **params: Any
    ) -> NDArray[Any]:
        """Warp (H, W) or (H, W, C), uint8 or float32."""
        mirrored = self.border == "mirror"
        border = cv2.BORDER_REFLECT_101 if mirrored else cv2.BORDER_CONSTANT
        return _warp(img, x, y, cv2.INTER_LINEAR, border, 0)

    def apply_to_mask(
        self, mask: NDArray[Any], x: NDArray[np.float32], y: NDArray[np.float32], **params: Any
    ) -> NDArray[Any]:
        """Warp labels or ids, (H, W) or (H, W, N), uint8, uint16 or float32."""
        return _warp(mask, x, y, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT, IGNORE_INDEX)


@lru_cache(maxsize=16)
def _spline(nodes: int, length: int) -> NDArray[np.float32]:
    """(length, nodes): the weight of each node at each pixel, by natural cubic splines."""
    # the splines through 1 at one node and 0 at the others
    spline = CubicSpline(np.arange(nodes), np.eye(nodes), bc_type="natural")
    weights: NDArray[np.float32] = spline(np.linspace(0, nodes - 1, length)).astype(np.float32)
    return weights


def _warp(
    values: NDArray[Any],
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    interpolation: int,
    border: int,
    fill: int,
) -> NDArray[Any]:
    channels = values[..., None] if values.ndim == 2 else values
    parts = [
        cv2.remap(
            np.ascontiguousarray(channels[..., first : first + _CHANNELS_AT_ONCE]),
            x,
            y,
            interpolation,
            borderMode=border,
            borderValue=(fill,) * _CHANNELS_AT_ONCE,
        )
        for first in range(0, channels.shape[2], _CHANNELS_AT_ONCE)
    ]
    return np.dstack(parts).reshape(values.shape)
