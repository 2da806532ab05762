"""Freezing: what belongs to a stage, what is still trained, and that it lasts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segkit.core.errors import SegkitError
from segkit.models.encoders import Encoder
from segkit.models.encoders.freezing import find_frozen_modules


def trained(encoder: Encoder) -> set[str]:
    """The names of the children of the backbone that are trained."""
    inner = getattr(encoder, "backbone", encoder)
    return {n.partition(".")[0] for n, p in inner.named_parameters() if p.requires_grad}


def test_the_stages_of_a_resnet():
    encoder = Encoder.build("resnet18", pretrained=False, freeze=1)
    assert trained(encoder) == {"layer1", "layer2", "layer3", "layer4"}
    encoder.freeze(3)
    assert trained(encoder) == {"layer3", "layer4"}
    assert [encoder.backbone.bn1.training, encoder.backbone.layer3[0].bn1.training] == [False, True]
    encoder.freeze("none")
    assert all(p.requires_grad for p in encoder.parameters())
    assert all(m.training for m in encoder.modules())


@pytest.mark.parametrize("freeze", ["all", 5])
def test_all_stages_of_the_unet_and_its_dropout(freeze):
    encoder = Encoder.build("unet", width=4, freeze=freeze).train()
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder.dropout.training


def test_some_stages_of_the_unpadded_unet():
    encoder = Encoder.build("unet", width=4, padding="valid", freeze=2)
    frozen = {n for n, p in encoder.named_parameters() if not p.requires_grad}
    assert {name.split(".")[1] for name in frozen} == {"0", "1"}
    assert encoder.train().dropout.training


@pytest.mark.parametrize(("given", "meant"), [("2", 2), ("0", 0), ("none", "none"), ("all", "all")])
def test_a_command_line_may_give_a_string(given, meant):
    encoder = Encoder.build("test_resnet", pretrained=False, freeze=given)
    other = Encoder.build("test_resnet", pretrained=False, freeze=meant)
    assert [p.requires_grad for p in encoder.parameters()] == [
        p.requires_grad for p in other.parameters()
    ]


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (-1, "freeze is -1, .* has 5 stages"),
        (6, "freeze is 6, .* has 5 stages"),
        *((wrong, "option 'freeze' is") for wrong in ("some", True, 1.5, None)),
    ],
)
def test_wrong_values_of_freeze(freeze, message):
    with pytest.raises(SegkitError, match=message):
        Encoder.build("test_resnet", pretrained=False, freeze=freeze)


def test_eval_and_train_of_a_parent_keep_it():
    encoder = Encoder.build("test_resnet", pretrained=False, freeze=2)
    still = {n for n, m in encoder.named_modules() if not m.training}
    assert still
    parent = nn.Sequential(encoder)
    parent.eval()
    assert not any(m.training for m in encoder.modules())
    parent.train()
    assert {n for n, m in encoder.named_modules() if not m.training} == still


def test_parts_without_parameters_are_frozen_with_what_comes_before_them():
    class Stages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)
            self.norm = nn.BatchNorm2d(2, affine=False)
            self.dropout, self.last = nn.Dropout(0.5), nn.Dropout(0.5)

        def forward(self, x):
            fine = self.dropout(self.norm(self.first(x)))
            return [fine, self.last(self.second(fine))]

    model = Stages()
    model.first.requires_grad_(False)
    assert set(find_frozen_modules(model, torch.zeros(1, 1, 4, 4))) == {
        model.first,
        model.norm,
        model.dropout,
    }
    assert all(part.training for part in model.modules())  # as it was before


def count_kept(encoder: Encoder) -> int:
    """Bytes that a forward pass of an encoder keeps for the backward pass."""
    kept = []

    def pack(tensor):
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        encoder.train()(torch.rand(1, 3, *encoder.example_size))
    return sum(kept)


@pytest.mark.parametrize("name", ["test_vit", "resnet18"])
def test_a_frozen_encoder_keeps_nothing_for_the_backward_pass(name):
    options = {"pretrained": False, "blocks": "plain"}
    assert count_kept(Encoder.build(name, **options)) > 1e5
    assert count_kept(Encoder.build(name, freeze="all", **options)) == 0
