"""Small sets that are checked, and what the check says of them."""

import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from segkit.core.errors import SegkitError
from segkit.data.checks.summary import DataSummary, check
from segkit.data.sources.folder import FolderSource
from segkit.images.writing import write_image, write_mask

H, W = 7, 5
NOISE = np.random.default_rng(0).integers(0, 256, (H, W)).astype(np.uint8)
HALF = np.zeros((H, W), np.uint8)
HALF[:, 2:] = 1
THREE = HALF.copy()
THREE[0] = 2


def write(path: Path, values: np.ndarray) -> None:
    if path.suffix == ".tif":
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"planarconfig": "contig"} if values.shape[2:] > (1,) else {}
        tifffile.imwrite(path, values, photometric="minisblack", **options)
    elif path.parent.name == "masks" and values.ndim == 2:
        write_mask(path, values)
    else:
        write_image(path, values)


def put(root: Path, *masks: np.ndarray, pixels: Any = NOISE, kind: str = ".png") -> Path:
    """Write images a, b, ... with these masks; the pixels are repeated to the size of the mask."""
    for number, (name, labels) in enumerate(zip(string.ascii_lowercase, masks, strict=False)):
        image = np.resize(pixels, labels.shape[:2] + pixels.shape[2:])
        write(root / f"images/{name}{kind}", np.roll(image, number, 1))  # else they would be leaks
        write(root / f"masks/{name}{kind}", labels)
    return root


def run_check(
    root: Path, mode: Any = "binary", num_classes: int | None = None, **options: Any
) -> DataSummary:
    options = {"split": "blocks", "val_fraction": 0.4, **options}
    return check(FolderSource(mode, root=root, **options), mode, num_classes)


def find_problems(root: Path, *args: Any, **options: Any) -> list[str]:
    with pytest.raises(SegkitError) as caught:
        run_check(root, *args, **options)
    title, *lines = str(caught.value).split("\n")
    assert all(line.startswith("  - ") for line in lines)
    assert title.startswith(f"the data set has {len(lines)} problem")
    return [line[4:] for line in lines]
