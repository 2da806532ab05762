"""The values of predicted masks are those of the training's masks."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest

from segkit.data.checks.summary import check
from segkit.data.sources.folder import FolderSource
from segkit.training.record import choose_mask_values


@pytest.mark.parametrize(
    ("found", "mode", "options", "written"),
    [
        ((0, 255), "binary", {}, (0, 255)),
        ((0, 1), "binary", {}, (0, 255)),
        ((0, 1, 255), "binary", {}, (0, 1)),  # 255 is not labelled
        ((0, 1, 2, 255), "multiclass", {}, (0, 1, 2)),
        # no mask has class 1, whose number stands for class 2
        ((0, 1), "multiclass", {"label_map": {1: 2}, "class_names": "abc"}, (0, 3, 1)),
    ],
)
def test_no_value_has_two_meanings(tmp_path, found, mode, options, written):
    mask = np.resize(np.repeat(np.uint8(found), 20), (24, 32))
    for number in range(6):
        for folder, array in (("images", mask * 50), ("masks", mask)):
            (tmp_path / folder).mkdir(exist_ok=True)
            PIL.Image.fromarray(array).save(tmp_path / folder / f"{number}.png")
    summary = check(FolderSource(mode, root=tmp_path, **options), mode)
    assert choose_mask_values(summary, mode) == written
