from __future__ import annotations

from pathlib import Path

import numpy as np

from segkit.images.reading import read_image
from segkit.images.windows import WindowedImage, open_windows


def noise(*shape: int, dtype: str = "uint8") -> np.ndarray:
    rng = np.random.default_rng(sum(shape))
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if np.dtype(dtype).kind == "f":
        return rng.integers(0, 60_000, shape).astype(dtype)
    return rng.integers(0, min(np.iinfo(dtype).max, 2**20), shape).astype(dtype)


def same(got: np.ndarray, wanted: np.ndarray) -> None:
    assert got.dtype == wanted.dtype
    np.testing.assert_array_equal(got, wanted, strict=True)
    assert got.flags.c_contiguous
    assert got.flags.writeable


def cut(image: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def pick_windows(height: int, width: int, count: int = 12) -> list[tuple[int, int, int, int]]:
    """Corners, single pixels, whole rows and columns, the whole image, and some in between."""
    rng = np.random.default_rng(0)
    picked = [(0, 0, height, width), (height - 1, width - 1, 1, 1), (0, 0, 1, 1)]
    picked += [(height // 2, 0, 1, width), (0, width // 2, height, 1)]
    for _ in range(count):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        below, beside = height - top, width - left
        picked.append((top, left, int(rng.integers(below)) + 1, int(rng.integers(beside)) + 1))
    return picked


def check_windows(path: Path, page: int | None = None) -> WindowedImage:
    """The file opens, and its windows are parts of the whole."""
    whole = read_image(path, page)
    image = open_windows(path, page)
    assert image is not None
    with image:
        assert (image.shape, image.dtype) == (whole.shape, whole.dtype)
        for window in pick_windows(*whole.shape[:2]):
            same(image.read(*window), cut(whole, *window))
    return image
