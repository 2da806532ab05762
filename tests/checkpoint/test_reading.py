"""Loading a checkpoint: nothing is run, and old cards are measured."""

import numpy as np
import pytest
import torch
from conftest import QUICK, train_quick
from torch import nn

import segkit
from segkit.checkpoint import reading as checkpoint
from segkit.core.errors import SegkitError


@pytest.fixture(scope="module")
def timm_run(tmp_path_factory):
    """A run with a backbone of timm, frozen in part and without its coarsest levels."""
    encoder = ("name=test_resnet", "pretrained=false", "depth=3", "freeze=1")
    options = ["encoder=resnet18", *(f"encoder.{option}" for option in encoder)]
    return train_quick(tmp_path_factory.mktemp("timm"), *options, quick=QUICK[:3])


@pytest.fixture
def runs():
    """The modules that are called while a test runs."""
    called: list[nn.Module] = []
    hook = nn.modules.module.register_module_forward_pre_hook(lambda m, _: called.append(m))
    yield called
    hook.remove()


def test_loading_runs_nothing(timm_run, runs):
    predictor = segkit.load(timm_run.checkpoint, device="cpu")
    assert runs == []
    predictor(np.zeros((40, 50), np.uint8))
    assert runs


def test_a_card_without_a_layout_gives_the_same_network(timm_run, runs, tmp_path):
    stored = torch.load(timm_run.checkpoint, weights_only=True)
    assert stored["segkit"]["layout"]["strides"] == (2, 4, 8)
    assert stored["segkit"]["bytes_per_pixel"] > 0
    del stored["segkit"]["layout"], stored["segkit"]["bytes_per_pixel"]  # as in version 0.1.0
    torch.save(stored, tmp_path / "old.ckpt")
    old, _ = checkpoint.read(tmp_path / "old.ckpt")
    assert runs  # it was measured
    new, _ = checkpoint.read(timm_run.checkpoint)
    x = torch.rand(1, new.encoder.in_channels, 33, 50)
    with torch.no_grad():
        assert torch.equal(old(x), new(x))


def test_a_layout_of_another_backbone_is_refused(timm_run, tmp_path):
    stored = torch.load(timm_run.checkpoint, weights_only=True)
    stored["segkit"]["layout"]["strides"] = (1, 2, 4)
    torch.save(stored, tmp_path / "edited.ckpt")
    with pytest.raises(SegkitError, match=r"edited\.ckpt: the layout of the encoder"):
        checkpoint.read(tmp_path / "edited.ckpt")
