"""Where the drawn cells lie: their outlines, their places, and what is seen of each."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from scipy import ndimage

MIN_PIXELS = 24
"""A cell of which less is seen is left out, of the picture and of the truth."""

_FAR = -99.0  # depth of a pixel that no cell comes near
_REACH = 6  # pixels around a cell that its fringe still changes

Bytes = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float32]


class Cell(NamedTuple):
    """A cell's outline and place."""

    kind: int  # 1 round, 2 elongated
    centre: complex  # x + iy
    axes: tuple[float, float]  # half axes, pixels
    turn: complex  # of length 1, the direction of the first axis
    waves: npt.NDArray[Any]  # Fourier coefficients 2, 3, ... of the outline
    nucleus: complex  # its centre, in units of the axes

    def radius(self, direction: complex) -> float:
        """From the centre to the ellipse, along a direction of length 1; pixels."""
        along = direction * self.turn.conjugate()
        return 1 / float(np.hypot(along.real / self.axes[0], along.imag / self.axes[1]))


class Scene(NamedTuple):
    """What `paint` leaves of the cells; every field is (H, W)."""

    owner: npt.NDArray[np.int32]  # 0, or 1 + the index of the cell
    kind: Bytes  # the owner's kind
    depth: Field  # pixels to the nearest outline, also that between two cells; < 0 outside
    nucleus: Field  # 1 in the middle of the owner's nucleus, 0 at its edge, < 0 outside


def unit(rng: Generator) -> complex:
    """A direction: a complex number of length 1."""
    return complex(np.exp(2j * np.pi * rng.random()))


def _shape(rng: Generator) -> Cell:
    """A cell of either kind at no place yet."""
    kind = int(rng.integers(1, 3))
    if kind == 1:
        size, aspect = rng.uniform(7.5, 12.0), rng.uniform(1.0, 1.25)
    else:
        size, aspect = rng.uniform(8.0, 11.5), rng.uniform(1.7, 2.6)
    waves = (rng.normal(0, 0.11, 4) + 1j * rng.normal(0, 0.11, 4)) / np.arange(2, 6)
    stretch = float(np.sqrt(aspect))
    nucleus = complex(rng.uniform(-0.25, 0.25), rng.uniform(-0.12, 0.12))
    return Cell(kind, 0j, (size * stretch, size / stretch), unit(rng), waves, nucleus)


def place(rng: Generator, size: tuple[int, int], n_cells: tuple[int, int]) -> list[Cell]:
    """Cells that overlap by a little at most; every other one leans on a neighbour."""
    height, width = size
    asked = rng.integers(n_cells[0], n_cells[1] + 1) * height * width / 128**2
    cells: list[Cell] = []
    for _ in range(max(1, round(float(asked)))):
        cell = _shape(rng)
        for _ in range(12):
            if cells and rng.random() < 0.5:
                beside, direction = cells[rng.integers(len(cells))], unit(rng)
                gap = beside.radius(direction) + cell.radius(direction)
                centre = beside.centre + 0.93 * gap * direction
            else:
                centre = complex(rng.uniform(0, width), rng.uniform(0, height))
            inside = -3 < centre.real < width + 3 and -3 < centre.imag < height + 3
            cell = cell._replace(centre=centre)
            if inside and all(_apart(cell, other) for other in cells):
                cells.append(cell)
                break
    return cells


def _apart(one: Cell, two: Cell) -> bool:
    between = two.centre - one.centre
    distance = abs(between)
    if distance > one.axes[0] + two.axes[0]:
        return True
    if distance < 1:
        return False
    direction = between / distance
    return distance > 0.9 * (one.radius(direction) + two.radius(direction))


def paint(cells: list[Cell], size: tuple[int, int]) -> Scene:
    """Where two cells overlap, a pixel is of the one that it is deeper in."""
    height, width = size
    owner, kind = np.zeros(size, np.int32), np.zeros(size, np.uint8)
    deepest = np.full(size, _FAR, np.float32)
    second = deepest.copy()
    nucleus = np.full(size, -1, np.float32)
    for index, cell in enumerate(cells, start=1):
        reach = 1.3 * cell.axes[0] + _REACH
        x, y = cell.centre.real, cell.centre.imag
        rows = slice(max(0, int(y - reach)), max(0, min(height, int(y + reach) + 1)))
        columns = slice(max(0, int(x - reach)), max(0, min(width, int(x + reach) + 1)))
        depth, core = _distance(cell, rows, columns)
        here = (rows, columns)
        wins = depth > deepest[here]
        second[here] = np.where(wins, deepest[here], np.maximum(second[here], depth))
        deepest[here][wins] = depth[wins]
        owner[here][wins] = index
        kind[here][wins] = cell.kind
        nucleus[here][wins] = core[wins]
    # Half the difference is how far it is to where both are equally deep: the seam of two cells.
    depth = np.where(deepest > 0, np.minimum(deepest, (deepest - second) / 2), deepest)
    return Scene(np.where(deepest > 0, owner, 0).astype(np.int32), kind, depth, nucleus)


def _distance(cell: Cell, rows: slice, columns: slice) -> tuple[Field, Field]:
    """(depth, nucleus) of one cell in a window: see `Scene`."""
    y = np.arange(rows.start, rows.stop, dtype=np.float64)[:, None]
    x = np.arange(columns.start, columns.stop, dtype=np.float64)
    along = ((x + 1j * y) - cell.centre) * cell.turn.conjugate()
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


def clean(scene: Scene) -> tuple[Scene, Bytes]:
    """Largest pieces only, no slivers, numbered 1..N; also the kinds of the owners 0..N."""
    kinds, owner = [0], np.zeros_like(scene.owner)
    for index, window in enumerate(ndimage.find_objects(scene.owner), start=1):
        if window is None:  # wholly covered by its neighbours
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
