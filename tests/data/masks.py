"""Sets whose masks say the same in different ways."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.core.errors import SegkitError
from segkit.data.checks.summary import DataSummary, check
from segkit.data.sources.folder import FolderSource

H, W = 24, 32
BLACK, WHITE, RED, GREEN, BLUE = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)


def draw(number: int) -> np.ndarray:
    """Classes 0, 1 and 2."""
    labels = np.zeros((H, W), np.uint8)
    labels[2 + number : 12 + number, 3:20] = 1
    labels[8 : 15 + number, 16:30] = 2
    return labels


def put(root: Path, masks: list[Image.Image | np.ndarray], kind: str = "png", **save) -> Path:
    for number, mask in enumerate(masks):
        for folder in ("images", "masks"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        image = draw(number) * 100
        Image.fromarray(image).save(root / f"images/{number}.png")
        picture = Image.fromarray(mask) if isinstance(mask, np.ndarray) else mask
        picture.save(root / f"masks/{number}.{kind}", **save)
    return root


def paint(labels: np.ndarray, *colors: tuple[int, int, int]) -> np.ndarray:
    return np.array(colors, np.uint8)[labels]


def index(labels: np.ndarray, order: list[int], *colors: tuple[int, int, int]) -> Image.Image:
    """A picture with a palette whose index for each label is given."""
    picture = Image.fromarray(np.array(order, np.uint8)[labels]).convert("P")
    palette = np.zeros((max(order) + 1, 3), np.uint8)
    palette[order] = colors
    picture.putpalette(palette.tobytes())
    return picture


def run(root: Path, mode: str = "multiclass", **options) -> DataSummary:
    source = FolderSource(mode, root=root, **options)
    summary = check(source, mode, needed=("train",))
    for samples in summary.splits.values():
        for sample in samples:
            labels = summary.coding.encode(source.read_mask(sample))
            expected = draw(int(Path(sample.name).stem))
            if mode == "binary":
                expected = (expected > 0).astype(np.uint8)
            np.testing.assert_array_equal(labels, expected)
    return summary


def find_problems(root: Path, mode: str = "multiclass", **options) -> str:
    with pytest.raises(SegkitError) as caught:
        check(FolderSource(mode, root=root, **options), mode, needed=("train",))
    return str(caught.value)


def encode_all(source: FolderSource, mode: str = "multiclass") -> tuple[DataSummary, list]:
    summary = check(source, mode, needed=())
    samples = sorted((s for part in summary.splits.values() for s in part), key=lambda s: s.name)
    return summary, [summary.coding.encode(source.read_mask(sample)) for sample in samples]
