"""The built-in data set: microscope-like images of cells, drawn by a seeded generator.

The ground truth is exact and nothing has to be downloaded. Two kinds of cells lie on an unevenly
lit, textured background with debris: 1, round and granular, and 2, elongated with a nucleus. Their
grey values overlap with each other and with the background, so a threshold separates neither cells
nor kinds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from segkit.core.labels import Mode
from segkit.data.sources.base import SPLITS, DataSource, Sample, Split

MIN_PIXELS = 24
"""Cells with a smaller visible area are left out of the image and the ground truth."""

_FAR = -99.0  # depth of a pixel that is not near any cell
_REACH = 6  # width in pixels of the fringe around a cell

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Count = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=16, le=4096)]


class CellsSource(DataSource, name="cells"):
    """Microscope-like images of cells, drawn on demand; the same seed gives the same images.

    With a binary head all cells are foreground. With the others the two kinds of cells are two
    classes.

    Args:
        mode: The head's mode.
        train: Number of training images.
        val: Number of validation images.
        test: Number of test images.
        size: Height and width of the images in pixels.
        channels: 1 draws grey images, 3 stained RGB images.
        seed: Seed of the generator; another seed draws other images.
        instances: Whether masks hold the ids of cells instead of their classes.
    """

    def __init__(
        self,
        mode: Mode,
        train: Annotated[int, Field(ge=1)] = 160,
        val: Count = 40,
        test: Count = 40,
        size: tuple[Side, Side] = (128, 128),
        channels: Literal[1, 3] = 1,
        seed: Annotated[int, Field(ge=0)] = 0,
        instances: bool = False,
    ) -> None:
        self.mode, self.size, self.channels, self.seed = mode, size, channels, seed
        self.instances = instances
        self.counts = dict(zip(SPLITS, (train, val, test), strict=True))
        kinds = ("cell",) if mode == "binary" or instances else ("round cell", "long cell")
        self.class_names = ("background", *kinds)

    def splits(self) -> dict[Split, list[Sample]]:
        """Samples named after their split; no image occurs twice."""
        return {
            split: [
                Sample(f"{split}-{i:04d}", index=1_000_000 * number + i)
                for i in range(self.counts[split])
            ]
            for number, split in enumerate(SPLITS)
        }

    def read_image(self, sample: Sample) -> NDArray[Any]:
        """(H, W, channels), uint8."""
        return self._draw(sample).image.copy()

    def read_mask(self, sample: Sample) -> NDArray[np.integer[Any]]:
        """(H, W): ids of cells; or 0 and 1 with a binary head, else 0, 1 and 2."""
        cells = self._draw(sample)
        if self.instances:
            return cells.instances.copy()
        return cells.binary if self.mode == "binary" else cells.classes.copy()

    def _draw(self, sample: Sample) -> Cells:
        return _draw_cached(self.seed * 10_000_000 + sample.index, self.size, self.channels)


@dataclass(frozen=True, eq=False)
class Cells:
    """One drawn image and its ground truth.

    Attributes:
        image: (H, W, C) uint8; RGB where C is 3.
        instances: (H, W) int32, 0 is background and 1..N are the cells, each in one piece.
        classes: (H, W) uint8, 0 is background, 1 the round and 2 the elongated cells.
    """

    image: Bytes
    instances: NDArray[np.int32]
    classes: Bytes

    @property
    def binary(self) -> Bytes:
        """(H, W) uint8: 1 inside cells, else 0."""
        return (self.instances > 0).astype(np.uint8)


def draw(
    seed: int,
    size: tuple[int, int] = (128, 128),
    channels: Literal[1, 3] = 1,
    n_cells: tuple[int, int] = (8, 20),
) -> Cells:
    """Draw one image; the same arguments give the same arrays.

    The random numbers are the same everywhere, but other builds of NumPy or OpenCV may round
    differently.

    Args:
        seed: Any integer >= 0.
        size: (H, W), each at least 16.
        channels: 1 for a grey, phase-contrast-like image; 3 for a stained RGB image, in which the
            kinds also differ in hue.
        n_cells: Minimum and maximum number of cells per 128 x 128 pixels. At least one is placed;
            a cell that finds no room is left out.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    scene, kinds = _keep_largest_pieces(_rasterize(_place_cells(rng, size, n_cells), size))
    render = _render_grey if channels == 1 else _render_stained
    return Cells(render(rng, scene, kinds), scene.owner, kinds[scene.owner])


# A module-level function, because a cache cannot be sent to another process. Drawing an image takes
# ten milliseconds and would otherwise be repeated in every epoch.
@lru_cache(maxsize=256)
def _draw_cached(seed: int, size: tuple[int, int], channels: Literal[1, 3]) -> Cells:
    return draw(seed, size, channels)


# --- geometry ------------------------------------------------------------------------------------


class _Cell(NamedTuple):
    """The shape and position of a cell."""

    kind: int  # 1 round, 2 elongated
    center: complex  # x + iy
    axes: tuple[float, float]  # half axes, pixels
    turn: complex  # unit length, the direction of the first axis
    waves: NDArray[Any]  # Fourier coefficients 2, 3, ... of the outline
    nucleus: complex  # its center, in units of the axes

    def radius(self, direction: complex) -> float:
        """Distance in pixels from the center to the ellipse along a unit direction."""
        along = direction * self.turn.conjugate()
        return 1 / float(np.hypot(along.real / self.axes[0], along.imag / self.axes[1]))


class _Scene(NamedTuple):
    """The rasterized cells; every field is (H, W)."""

    owner: NDArray[np.int32]  # 0, or 1 + the index of the cell
    kind: Bytes  # the owner's kind
    depth: Floats  # pixels to the nearest outline, also between two cells; < 0 outside
    nucleus: Floats  # 1 in the middle of the owner's nucleus, 0 at its edge, < 0 outside


def _draw_direction(rng: Generator) -> complex:
    """A complex number of unit length."""
    return complex(np.exp(2j * np.pi * rng.random()))


def _draw_cell(rng: Generator) -> _Cell:
    """A cell of either kind, not placed yet."""
    kind = int(rng.integers(1, 3))
    if kind == 1:
        size, aspect = rng.uniform(7.5, 12.0), rng.uniform(1.0, 1.25)
    else:
        size, aspect = rng.uniform(8.0, 11.5), rng.uniform(1.7, 2.6)
    waves = (rng.normal(0, 0.11, 4) + 1j * rng.normal(0, 0.11, 4)) / np.arange(2, 6)
    stretch = float(np.sqrt(aspect))
    nucleus = complex(rng.uniform(-0.25, 0.25), rng.uniform(-0.12, 0.12))
    axes = (size * stretch, size / stretch)
    return _Cell(kind, 0j, axes, _draw_direction(rng), waves, nucleus)


def _place_cells(rng: Generator, size: tuple[int, int], n_cells: tuple[int, int]) -> list[_Cell]:
    """Place cells that overlap only slightly; every other one leans on a neighbour."""
    height, width = size
    wanted = rng.integers(n_cells[0], n_cells[1] + 1) * height * width / 128**2
    cells: list[_Cell] = []
    for _ in range(max(1, round(float(wanted)))):
        cell = _draw_cell(rng)
        for _ in range(12):
            if cells and rng.random() < 0.5:
                neighbour, direction = cells[rng.integers(len(cells))], _draw_direction(rng)
                gap = neighbour.radius(direction) + cell.radius(direction)
                center = neighbour.center + 0.93 * gap * direction
            else:
                center = complex(rng.uniform(0, width), rng.uniform(0, height))
            inside = -3 < center.real < width + 3 and -3 < center.imag < height + 3
            cell = cell._replace(center=center)
            if inside and all(_are_apart(cell, other) for other in cells):
                cells.append(cell)
                break
    return cells


def _are_apart(one: _Cell, two: _Cell) -> bool:
    between = two.center - one.center
    distance = abs(between)
    if distance > one.axes[0] + two.axes[0]:
        return True
    if distance < 1:
        return False
    direction = between / distance
    return distance > 0.9 * (one.radius(direction) + two.radius(direction))


def _rasterize(cells: list[_Cell], size: tuple[int, int]) -> _Scene:
    """Draw the cells; where two overlap, a pixel belongs to the one that it lies deeper in."""
    height, width = size
    owner, kind = np.zeros(size, np.int32), np.zeros(size, np.uint8)
    deepest = np.full(size, _FAR, np.float32)
    second = deepest.copy()
    nucleus = np.full(size, -1, np.float32)
    for index, cell in enumerate(cells, start=1):
        reach = 1.3 * cell.axes[0] + _REACH
        x, y = cell.center.real, cell.center.imag
        rows = slice(max(0, int(y - reach)), max(0, min(height, int(y + reach) + 1)))
        columns = slice(max(0, int(x - reach)), max(0, min(width, int(x + reach) + 1)))
        depth, core = _measure_depth(cell, rows, columns)
        here = (rows, columns)
        wins = depth > deepest[here]
        second[here] = np.where(wins, deepest[here], np.maximum(second[here], depth))
        deepest[here][wins] = depth[wins]
        owner[here][wins] = index
        kind[here][wins] = cell.kind
        nucleus[here][wins] = core[wins]
    # Half the difference is the distance to the seam of two cells, where both are equally deep.
    depth = np.where(deepest > 0, np.minimum(deepest, (deepest - second) / 2), deepest)
    return _Scene(np.where(deepest > 0, owner, 0).astype(np.int32), kind, depth, nucleus)


def _measure_depth(cell: _Cell, rows: slice, columns: slice) -> tuple[Floats, Floats]:
    """Depth and nucleus of one cell in a window, as in `_Scene`."""
    y = np.arange(rows.start, rows.stop, dtype=np.float64)[:, None]
    x = np.arange(columns.start, columns.stop, dtype=np.float64)
    along = ((x + 1j * y) - cell.center) * cell.turn.conjugate()
    u, v = along.real / cell.axes[0], along.imag / cell.axes[1]
    norm = np.sqrt(u * u + v * v) + 1e-6
    phase = (u + 1j * v) / norm
    outline, power = np.ones_like(norm), phase
    for wave in cell.waves:  # r(t) = 1 + sum of Re(w_k e^ikt)
        power = power * phase
        outline += wave.real * power.real - wave.imag * power.imag
    # (1 - s) / |grad s| is the distance to the outline s = 1, to first order.
    pixels = norm / np.sqrt((u / cell.axes[0]) ** 2 + (v / cell.axes[1]) ** 2 + 1e-12)
    depth = (1 - norm / outline) * pixels
    core = 1 - np.hypot(u - cell.nucleus.real, v - cell.nucleus.imag) / 0.45
    return depth.astype(np.float32), core.astype(np.float32)


def _keep_largest_pieces(scene: _Scene) -> tuple[_Scene, Bytes]:
    """Keep the largest piece of each cell, drop slivers, renumber to 1..N.

    Returns:
        The scene, and the kinds of the owners 0..N.
    """
    kinds, owner = [0], np.zeros_like(scene.owner)
    for index, window in enumerate(ndimage.find_objects(scene.owner), start=1):
        if window is None:  # completely covered by its neighbours
            continue
        count, pieces, stats, _ = cv2.connectedComponentsWithStats(
            (scene.owner[window] == index).astype(np.uint8), connectivity=4
        )
        areas = stats[1:count, cv2.CC_STAT_AREA]
        if areas.max() < MIN_PIXELS:
            continue
        piece = pieces == 1 + int(areas.argmax())
        owner[window][piece] = len(kinds)
        kinds.append(int(scene.kind[window][piece][0]))
    lost = (scene.owner > 0) & (owner == 0)
    depth = np.where(lost, np.float32(-_REACH), scene.depth)
    return scene._replace(owner=owner, depth=depth), np.array(kinds, np.uint8)


# --- appearance ----------------------------------------------------------------------------------


def _draw_texture(rng: Generator, size: tuple[int, int], grain: float) -> Floats:
    """Smooth noise with mean 0, standard deviation about 1 and spots of about `grain` pixels."""
    step = max(1.0, grain / 1.5)  # coarse noise is drawn small and enlarged
    shape = [int(np.ceil(side / step)) + 4 for side in size]
    blur = max(0.6, grain / step)
    noise: NDArray[Any] = rng.standard_normal(shape, np.float32)
    noise = 2 * np.sqrt(np.pi) * blur * cv2.GaussianBlur(noise, (0, 0), blur)
    if step > 1:
        target = (int(shape[1] * step), int(shape[0] * step))
        noise = cv2.resize(noise, target, interpolation=cv2.INTER_CUBIC)
    return np.asarray(noise[: size[0], : size[1]], np.float32)


def _draw_light(rng: Generator, size: tuple[int, int]) -> Floats:
    """Uneven illumination, (H, W), about 1: a slope and an off-center vignette."""
    y = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, size[1], dtype=np.float32)
    slope = rng.uniform(0.12, 0.32) * _draw_direction(rng)
    middle = 0.4 * rng.random() * _draw_direction(rng)
    dark = rng.uniform(0.08, 0.22)
    light = 1 + slope.real * x + slope.imag * y
    light = light - dark * ((x - middle.real) ** 2 + (y - middle.imag) ** 2)
    return np.asarray(light, np.float32)


def _draw_debris(rng: Generator, size: tuple[int, int]) -> Floats:
    """Specks, a few fibres and blurred objects out of focus; (H, W)."""
    height, width = size
    area = height * width / 128**2

    def somewhere() -> tuple[int, int]:
        return int(rng.integers(width)), int(rng.integers(height))

    sharp = np.zeros(size, np.float32)
    for _ in range(rng.poisson(9 * area)):
        strength = rng.choice((-1, 1)) * rng.uniform(0.6, 1.5)
        cv2.circle(sharp, somewhere(), int(rng.integers(1, 3)), strength, -1)
    for _ in range(rng.poisson(0.7 * area)):
        bends = np.cumsum(rng.normal(0, 11, (5, 2)), axis=0) + somewhere()
        cv2.polylines(
            sharp, [bends.astype(np.int32)], False, rng.choice((-1, 1)) * rng.uniform(0.6, 1.3), 1
        )
    blurred = np.zeros(size, np.float32)
    for _ in range(rng.poisson(3.5 * area)):
        strength = rng.choice((-1, 1)) * rng.uniform(0.5, 1.0)
        cv2.circle(blurred, somewhere(), int(rng.integers(5, 13)), strength, -1)
    both = cv2.GaussianBlur(sharp, (0, 0), 0.7) + cv2.GaussianBlur(blurred, (0, 0), 4.5)
    return np.asarray(both, np.float32)


def _band(depth: Floats, middle: float, width: float) -> Floats:
    """1 along a line `middle` pixels inside the outline, fading over `width` pixels."""
    return np.asarray(np.exp(-(((depth - middle) / width) ** 2)), np.float32)


def _expose(rng: Generator, picture: NDArray[Any]) -> Bytes:
    """Simulate the camera: defocus, shot and read noise; (H, W, C) of about 0..1 to uint8."""
    sharp = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.45, 0.85)).reshape(picture.shape)
    noise = rng.standard_normal(picture.shape, np.float32)
    photons, read = rng.uniform(500, 2500), rng.uniform(0.005, 0.015)
    seen = sharp + noise * np.sqrt(np.maximum(sharp, 0) / photons + read**2)
    return np.asarray(np.clip(np.rint(seen * 255), 0, 255), np.uint8)


def _render_grey(rng: Generator, scene: _Scene, kinds: Bytes) -> Bytes:
    """A phase-contrast-like image, (H, W, 1): dark outlines with a bright fringe."""
    size, depth = scene.owner.shape, scene.depth
    cover = np.clip(depth + 0.5, 0, 1)
    level = np.where(kinds == 1, rng.normal(0.07, 0.05, len(kinds)), 0)
    level += np.where(kinds == 2, rng.normal(-0.01, 0.05, len(kinds)), 0)
    body = level.astype(np.float32)[scene.owner]
    body += np.where(scene.kind == 1, 0.085, 0.02) * _draw_texture(rng, size, 0.9)
    nucleus = np.clip(scene.nucleus * 4, 0, 1) * (scene.kind == 2)
    body += nucleus * (0.12 * scene.nucleus - 0.17)
    edge = 0.2 * _band(depth, 0.8, 1.1) - 0.1 * _band(depth, -2.0, 1.5)
    ground = 0.03 * _draw_texture(rng, size, 9) + 0.02 * _draw_texture(rng, size, 1.5)
    contrast = rng.uniform(0.75, 1.2)
    signal = cover * body - edge + 0.22 * (1 - cover) * _draw_debris(rng, size)
    picture = (rng.uniform(0.42, 0.58) + ground + contrast * signal) * _draw_light(rng, size)
    return _expose(rng, picture[..., None].astype(np.float32))


def _render_stained(rng: Generator, scene: _Scene, kinds: Bytes) -> Bytes:
    """A stained section, (H, W, 3) RGB: two dyes that absorb light in their own hues."""
    size, depth = scene.owner.shape, scene.depth
    cover = np.clip(depth + 0.5, 0, 1)
    strength = rng.uniform(0.7, 1.3, len(kinds)).astype(np.float32)[scene.owner]
    granules = np.maximum(0.35 + 0.35 * _draw_texture(rng, size, 0.9), 0)
    nucleus = np.clip(scene.nucleus * 4, 0, 1) * (scene.kind == 2)
    debris = (1 - cover) * _draw_debris(rng, size)
    edge = _band(depth, 0.8, 1.1)
    ground = 0.30 + 0.09 * _draw_texture(rng, size, 9) + 0.06 * _draw_texture(rng, size, 1.5)
    pink = np.where(scene.kind == 2, 0.28, 0.10) * strength + 0.3 * edge
    pink = cover * pink + (1 - cover * 0.6) * ground + 0.25 * debris
    violet = np.where(scene.kind == 1, granules, 0.8 * nucleus) * strength * 0.55
    violet = cover * (violet + 0.25 * edge) + 0.15 * np.abs(debris)
    hues = np.array([[0.10, 0.75, 0.35], [0.80, 0.85, 0.30]]) + rng.normal(0, 0.04, (2, 3))
    density = np.stack([pink, violet], axis=-1) * rng.uniform(0.8, 1.25)
    picture = (
        np.exp(-np.maximum(density, 0) @ np.maximum(hues, 0)) * _draw_light(rng, size)[..., None]
    )
    return _expose(rng, (rng.uniform(0.85, 0.98) * picture).astype(np.float32))
