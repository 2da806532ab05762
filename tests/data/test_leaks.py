"""Images that are in several splits: whoever reads the set says so."""

import numpy as np
import pytest
import tifffile

from segkit.data import file_reading
from segkit.data.checks.summary import DataSummary, check
from segkit.data.sources.folder import FolderSource

RNG = np.random.default_rng(0)
MASK = np.eye(20, 30, dtype=np.uint8)


def put(root, images: dict[str, np.ndarray]) -> None:
    for name, image in images.items():
        split, name = name.split("/")
        for side, array in (("images", image), ("masks", MASK)):
            path = root / split / side / f"{name}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, array, photometric="minisblack", tile=(16, 16), metadata=None)


def noise() -> np.ndarray:
    return RNG.integers(0, 256, MASK.shape).astype(np.uint8)


def find(root) -> list[str]:
    summary: DataSummary = check(FolderSource("binary", root=root), "binary")
    return [note for note in summary.notes if "several splits, pixel" in note]


@pytest.mark.parametrize("large", [False, True])
def test_a_training_is_told_of_images_in_several_splits(tmp_path, monkeypatch, large):
    monkeypatch.setattr(file_reading, "LARGE", 0 if large else 2**20)
    same, blank = noise(), np.zeros_like(MASK)
    put(tmp_path, {f"train/{n}": noise() for n in "abc"} | {f"val/{n}": noise() for n in "de"})
    put(tmp_path, {"train/blank": blank, "val/blank": blank, "train/e": same[::-1]})
    assert not find(tmp_path)
    put(tmp_path, {"train/a": same, "val/x": same})
    assert find(tmp_path) == [
        "1 image is in several splits, pixel for pixel, so the scores will be too good:"
        " train/images/a.tif = val/images/x.tif. Remove the copies"
    ]
