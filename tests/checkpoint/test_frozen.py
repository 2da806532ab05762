"""Checkpoints without the weights of a frozen encoder, and finding these again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from conftest import train_quick

from segkit.checkpoint.reading import read, read_raw
from segkit.config.compose import compose
from segkit.core.errors import SegkitError
from segkit.hub.command import push

QUICK = [
    *("experiment=quick", "trainer.progress_bar=false", "trainer.accelerator=cpu"),
    *("trainer.save_frozen=false", "encoder=timm", "encoder.pretrained=true", "neck=fpn"),
]


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The files in the cache of the hub by the names of their repositories; there is no network."""
    files: dict[str, Path] = {}
    torch.manual_seed(1)
    for name in ("test_vit", "test_resnet"):
        path = files[f"timm/{name}.r160_in1k"] = tmp_path / f"{name}.safetensors"
        safetensors.torch.save_file(timm.create_model(name).state_dict(), path)

    def find(repository: str, name: str, local_files_only: bool) -> str:
        assert local_files_only
        if repository not in files:
            raise huggingface_hub.utils.LocalEntryNotFoundError(repository)
        return str(files[repository])

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", find)
    return files


@pytest.mark.parametrize(
    "encoder",
    [
        ["encoder.name=test_vit", "encoder.adapter=lora", "trainer.ema=0.9"],
        ["encoder.name=test_resnet", "encoder.freeze=2"],
    ],
)
def test_the_network_is_whole_again_when_it_is_read(
    encoder: list[str], cached: dict[str, Path], tmp_path: Path
) -> None:
    run = train_quick(tmp_path / "run", *encoder, quick=QUICK)
    best, last = (run.folder / f"checkpoints/{name}.ckpt" for name in ("best", "last"))
    held, whole = read_raw(best)["state_dict"], read_raw(last)
    assert whole["frozen"]
    assert held.keys() == whole["state_dict"].keys() - set(whole["frozen"])
    assert best.stat().st_size < last.stat().st_size / 2
    (found, card), (expected, _) = read(best), read(last)
    for name, weight in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight), name
    assert card.frozen_sha256 is None  # what is read is whole, and so are exports of it
    assert run.evaluation is not None

    other = dict(torch.load(best, weights_only=True))
    other["segkit"] = {**other["segkit"], "frozen_sha256": "0" * 64}
    torch.save(other, tmp_path / "other.ckpt")
    with pytest.raises(SegkitError, match="the weights that it leaves out are not those in"):
        read(tmp_path / "other.ckpt")
    push(compose([f"push='{best}'", f"folder='{tmp_path}/published'"], "hub"))
    cached.clear()
    # who takes the published model needs no file of timm
    for name, weight in read(tmp_path / "published/model.safetensors")[0].state_dict().items():
        assert torch.equal(expected.state_dict()[name], weight), name
    with pytest.raises(SegkitError, match=r"save_frozen=false.*Download them once: python -c"):
        read(best)


def test_a_card_cannot_make_the_encoder_far_larger_than_the_file(
    cached: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_quick(tmp_path, "encoder.name=test_vit", "encoder.freeze=all", quick=QUICK)
    stored: Any = read_raw(run.checkpoint)
    stored["segkit"]["encoder"]["timm_args"] = {"depth": 90}
    torch.save(stored, tmp_path / "huge.ckpt")
    monkeypatch.setattr("segkit.checkpoint.limits.MOST_ELEMENTS", 0)
    with pytest.raises(SegkitError, match="far larger than its weights"):
        read(tmp_path / "huge.ckpt")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encoder.name=test_vit"], "no weights of the encoder are frozen"),
        (
            ["encoder.name=test_vit", "encoder.freeze=all", "encoder.pretrained=false"],
            "use the pretrained weights of a timm model",
        ),
        (
            ["encoder.name=test_vit", "encoder.freeze=all", "encoder.pretrained='{file}'"],
            r"are not \(.*test_vit.safetensors\)",
        ),
    ],
)
def test_what_is_not_found_again_is_refused(
    overrides: list[str], message: str, cached: dict[str, Path], tmp_path: Path
) -> None:
    file = cached["timm/test_vit.r160_in1k"]
    with pytest.raises(SegkitError, match=message):
        train_quick(tmp_path / "run", *(o.format(file=file) for o in overrides), quick=QUICK)
