"""Features of a frozen encoder: computed once for each image, with the same training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import train_quick
from torch import Tensor

from segkit.checkpoint import reading as checkpoint
from segkit.core.errors import SegkitError
from segkit.data.loading import ArrayCache
from segkit.models.encoders.timm import TimmEncoder
from segkit.models.segmenter import create_model
from segkit.report.table import read_csv
from segkit.training.features import FeatureCache

FROZEN = [
    *("encoder=timm", "encoder.name=test_vit", "encoder.pretrained=false"),
    "encoder.freeze=all",
    *("augment=none", "neck=fpn"),
    *("trainer.max_epochs=3", "data.train=5", "data.batch_size=2", "data.crop_size=[64,96]"),
]
QUICK = ["experiment=quick", "trainer.progress_bar=false", "trainer.accelerator=cpu"]


def test_each_image_is_encoded_once_and_the_training_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pyramid that follows a frozen transformer is trained all the same."""
    counts: Counter[str] = Counter()
    extract = TimmEncoder.extract
    cache = ""

    def count(self: Any, x: Tensor) -> list[Tensor]:
        counts[cache] += len(x)
        return extract(self, x)

    monkeypatch.setattr(TimmEncoder, "extract", count)
    runs = []
    for cache in ("true", "features"):
        run = train_quick(tmp_path / cache, *FROZEN, f"data.cache={cache}", quick=QUICK)
        runs.append((checkpoint.read_raw(run.folder / "checkpoints/last.ckpt"), run.folder))
    # 3 epochs of 4 of 5 training images, and 4 of validation
    assert counts["true"] - counts["features"] == 3 * (4 + 4) - (5 + 4)
    rows = [read_csv(folder / "metrics.csv") for _, folder in runs]
    (plain, _), (cached, _) = runs
    for key, value in plain["state_dict"].items():
        torch.testing.assert_close(cached["state_dict"][key], value, rtol=1e-3, atol=1e-5)
    for key in ("train/loss", "val/loss", "val/iou"):
        assert [r[key] for r in rows[0]] == pytest.approx([r[key] for r in rows[1]], abs=1e-4)


def test_the_features_of_an_image_depend_on_nothing_but_the_image(tmp_path: Path) -> None:
    model = create_model({"name": "resnet18", "pretrained": False}, "fpn").eval()
    images = torch.randn(4, 3, 45, 70).contiguous(memory_format=torch.channels_last)
    calls: list[int] = []

    def extract(x: Tensor) -> list[Tensor]:
        calls.append(len(x))
        return [level.bfloat16() if i else level for i, level in enumerate(model.extract(x))]

    arrays = ArrayCache()
    first = FeatureCache(extract, arrays, torch.channels_last)
    first.fetch_each(images[:3], torch.tensor([0, 1, 2]))
    together = first.fetch_each(images[[3, 1]], torch.tensor([3, 1]))
    others = ArrayCache()
    alone = FeatureCache(extract, others, torch.channels_last).fetch_each(
        images[[3, 1]], torch.tensor([3, 1])
    )
    assert calls == [1] * 6
    for level, again in zip(together, alone, strict=True):
        assert torch.equal(level, again)
        assert level.dtype == again.dtype
        assert level.is_contiguous(memory_format=torch.channels_last)
    assert (together[0].dtype, together[1].dtype) == (torch.float32, torch.bfloat16)
    expected = model(images[[3, 1]])
    found = model(images[[3, 1]], [level.float() for level in together])
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    # another process finds them, even if it has computed none itself
    reader = FeatureCache(lambda x: pytest.fail("computed again"), ArrayCache(arrays.folder))
    assert torch.equal(reader.fetch_each(images[[3, 1]], torch.tensor([3, 1]))[1], together[1])
    arrays.close()
    others.close()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encoder.freeze=none"], "use encoder.freeze=all"),
        (["encoder.freeze=none", "encoder.adapter=lora"], "leave encoder.adapter out"),
        (["augment=light"], "use augment=none"),
        (["data.crop_size=[64,32]"], r"use data.crop_size=\[64,64\]"),
        (
            ["encoder.blocks=plain", "encoder.query_blocks=1", "neck=upscale", "head=queries"],
            "use encoder.query_blocks=0",
        ),
        (["trainer.strategy=fsdp"], "leave trainer.strategy=fsdp out"),
    ],
)
def test_what_changes_them_is_refused(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SegkitError, match=message):
        train_quick(tmp_path, *FROZEN, "data.cache=features", *overrides, quick=QUICK)
    assert not (tmp_path / "checkpoints").exists()
