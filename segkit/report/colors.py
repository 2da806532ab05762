"""Class colours: distinct, the same in every run, colour-blind-safe where classes are few."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Color = tuple[int, int, int]
"""Red, green, blue, each 0 ... 255."""

# Okabe and Ito, "Color Universal Design" (2008), without black. The order keeps neighbours far
# apart and gives class 1, often the only foreground, the orange that stands out on grey images.
_OKABE_ITO: tuple[Color, ...] = (
    (0, 114, 178),  # blue
    (230, 159, 0),  # orange
    (0, 158, 115),  # bluish green
    (213, 94, 0),  # vermilion
    (86, 180, 233),  # sky blue
    (204, 121, 167),  # reddish purple
    (240, 228, 66),  # yellow
)
# Chosen by eye to go with them, for the dozen classes of street scenes and the like.
_FURTHER: tuple[Color, ...] = (
    (128, 62, 204),  # violet
    (150, 214, 66),  # lime
    (188, 24, 62),  # crimson
    (70, 226, 226),  # cyan
    (134, 90, 40),  # brown
)
_LEVELS = np.linspace(0, 255, 18).astype(np.uint8)  # 18^3 candidates for the colours after those


def palette(n: int) -> list[Color]:
    """The colours of `n` classes; a longer palette begins with the shorter one.

    The first seven are Okabe and Ito's colour-blind-safe set. From the thirteenth on, each is the
    candidate farthest from all before it, measured in OKLab, where distance is about perceived
    difference. Colours repeat only after some thousands.

    Example:
        >>> palette(2)
        [(0, 114, 178), (230, 159, 0)]
    """
    colors = [*_OKABE_ITO, *_FURTHER][: max(n, 0)]
    if n <= len(colors):
        return colors
    candidates = _candidates()
    positions = _oklab(candidates)
    distance = np.full(len(candidates), np.inf)
    for taken in _oklab(np.array(colors, dtype=np.uint8)):
        distance = np.minimum(distance, np.linalg.norm(positions - taken, axis=1))
    while len(colors) < n:
        farthest = int(distance.argmax())
        red, green, blue = (int(value) for value in candidates[farthest])
        colors.append((red, green, blue))
        gap = np.linalg.norm(positions - positions[farthest], axis=1)
        distance = np.minimum(distance, gap)
    return colors


def _candidates() -> NDArray[np.uint8]:
    """RGB colours (K, 3) that show on an image: neither near black or white nor greyish."""
    grid = np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness, a, b = _oklab(grid).T
    visible = (lightness > 0.48) & (lightness < 0.9) & (np.hypot(a, b) > 0.08)
    chosen: NDArray[np.uint8] = grid[visible]
    return chosen


def _oklab(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """sRGB (K, 3) to OKLab (K, 3): lightness, green-red, blue-yellow (Ottosson, 2020)."""
    srgb = rgb / 255.0
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    lab: NDArray[np.float64] = np.cbrt(cones) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )
    return lab
