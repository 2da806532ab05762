from __future__ import annotations

import numpy as np


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
