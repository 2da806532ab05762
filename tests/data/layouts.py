"""Sets in different layouts, and what is found in them."""

from pathlib import Path

import numpy as np

from segkit.data.sources.base import SPLITS
from segkit.data.sources.folder import FolderSource
from segkit.images.writing import write_image, write_mask

LABELS = np.eye(6, 5, dtype=np.uint8)


def put(root: Path, *names: str) -> None:
    """Images end in .jpg, masks in .png; an empty file is neither."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            write_mask(path, LABELS)
        elif path.suffix in (".jpg", ".tif"):
            write_image(path, LABELS * 200)
        else:
            path.write_text("no image")


def found(root: Path, **options) -> dict[str, list[str]]:
    source = FolderSource("binary", root=root, **options)
    divided = source.splits()
    assert source.problems() == []
    for samples in divided.values():
        for sample in samples:
            np.testing.assert_array_equal(source.read_mask(sample), LABELS)
    return {split: [sample.name for sample in divided[split]] for split in SPLITS}


def notes(root: Path, **options) -> list[str]:
    source = FolderSource("binary", root=root, **options)
    source.splits()
    return source.notes()
