"""Optimizers: fused steps against plain ones of torch, and the groups of parameters."""

from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from segkit.models.fast import to_channels_last
from segkit.models.heads import Head
from segkit.models.segmenter import create_model
from segkit.optim.optimizers import Optimizer


@pytest.mark.parametrize(
    ("name", "options", "plain"),
    [
        ("adamw", {"weight_decay": 0.1}, torch.optim.AdamW),
        ("sgd", {"momentum": 0.99, "nesterov": True}, torch.optim.SGD),
    ],
)
def test_steps_are_those_of_torch(name: str, options: dict[str, Any], plain: Any) -> None:
    model = create_model({"name": "unet", "depth": 3, "width": 8}, "fpn", in_channels=1)
    optimizer = Optimizer.build(name, lr=0.01, **options).for_model(model)
    assert all(group["fused"] for group in optimizer.param_groups)
    ours = [p for group in optimizer.param_groups for p in group["params"]]
    groups = [
        {
            "params": [p.detach().clone().requires_grad_() for p in group["params"]],
            "weight_decay": group["weight_decay"],
        }
        for group in optimizer.param_groups
    ]
    theirs = [p for group in groups for p in group["params"]]
    reference = plain(groups, lr=0.01, **{k: v for k, v in options.items() if k != "weight_decay"})
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        optimizer.step()
        reference.step()
    assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("neck", ["unet", "fpn"])
def test_gradients_have_the_memory_layout_of_the_weights(neck: str) -> None:
    """A fused step walks through both as they are in memory."""
    model = create_model({"name": "resnet18", "pretrained": False}, neck)
    to_channels_last(model)
    image = torch.rand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    model(image).square().mean().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        strides = zip(parameter.shape, parameter.stride(), parameter.grad.stride(), strict=True)
        assert all(own == gradient for side, own, gradient in strides if side > 1)


def test_the_encoder_has_its_own_learning_rate_and_norms_do_not_decay() -> None:
    model = create_model({"name": "resnet18", "pretrained": False, "freeze": 1}, "fpn")
    optimizer = Optimizer.build("adamw", lr=0.1, weight_decay=0.5, encoder_lr_factor=0.01)
    groups = optimizer.for_model(model).param_groups
    encoder = {id(p) for p in model.encoder.parameters()}
    seen = 0
    for group in groups:
        for parameter in group["params"]:
            seen += 1
            assert parameter.requires_grad
            assert group["lr"] == pytest.approx(0.001 if id(parameter) in encoder else 0.1)
            assert group["weight_decay"] == (0.5 if parameter.ndim > 1 else 0)
    assert seen == sum(p.requires_grad for p in model.parameters()) < len(list(model.parameters()))


@pytest.mark.parametrize(
    ("neck", "width", "factor"), [("unet", 16, 8.0), ("unet", 48, 8 / 3), ("fpn", None, 1.0)]
)
def test_a_step_moves_the_logits_of_narrow_heads_as_far(
    neck: str, width: int | None, factor: float
) -> None:
    model = create_model(
        {"name": "resnet18", "pretrained": False}, {"name": neck, "width": width} if width else neck
    )
    for given, expected in (("auto", factor), (3.0, 3.0), (1.0, 1.0)):
        optimizer = Optimizer.build("adamw", lr=0.1, head_lr_factor=given).for_model(model)
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert [rates.pop(id(p)) for p in model.head.parameters()] == [
            pytest.approx(0.1 * expected)
        ] * 2
        assert set(rates.values()) == {0.1}


def test_auxiliary_heads_have_rates_of_their_own_width() -> None:
    model = create_model({"name": "unet", "width": 16}, "unet", auxiliary=2)
    groups = Optimizer.build("adamw", lr=0.1).for_model(model).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    heads = [model.head, *model.auxiliary]
    assert [rates[id(head.conv.bias)] for head in heads] == [
        pytest.approx(r) for r in (0.8, 0.4, 0.2)
    ]


def test_a_head_may_have_no_weights() -> None:
    model = create_model({"name": "resnet18", "pretrained": False}, "fpn")
    model.head = cast("Head", nn.Identity())
    assert len(Optimizer.build("adamw").for_model(model).param_groups) == 2


def list_factors(encoder: dict[str, Any], **options: Any) -> tuple[Any, dict[str, tuple]]:
    """The network, and the factor and weight decay of each of its parameters."""
    model = create_model({"pretrained": False, **encoder}, "fpn")
    optimizer = Optimizer.build("adamw", weight_decay=0.1, **options).for_model(model)
    names = {id(p): name for name, p in model.named_parameters()}
    return model, {
        names[id(p)]: (group["lr_factor"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }


def test_embeddings_and_vectors_have_no_weight_decay() -> None:
    _, factors = list_factors({"name": "test_vit"})
    free = {name for name, (_, decay) in factors.items() if decay == 0}
    assert {"encoder.backbone.model.pos_embed", "encoder.backbone.model.cls_token"} <= free
    kinds = {name.rpartition(".")[2] for name in free}
    assert kinds == {"pos_embed", "cls_token", "weight", "bias"}
    assert "encoder.backbone.model.blocks.0.attn.qkv.weight" not in free


def test_queries_have_no_weight_decay() -> None:
    encoder = {"name": "test_resnet", "pretrained": False}
    model = create_model(encoder, "mask2former", "queries", num_classes=2)
    groups = Optimizer.build("adamw").for_model(model).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    free = {name for name, p in model.named_parameters() if decay[id(p)] == 0}
    assert {"head.start.weight", "head.place.weight", "neck.level.weight"} <= free
    assert "head.classify.weight" not in free


def test_layers_of_a_transformer_learn_the_slower_the_nearer_they_are_to_the_image() -> None:
    model, factors = list_factors(
        {"name": "test_vit"}, layer_decay=0.5, encoder_lr_factor=0.2, head_lr_factor=1.0
    )
    inside = "encoder.backbone.model"
    assert factors[f"{inside}.pos_embed"][0] == pytest.approx(0.2 * 0.5**7)
    for block in range(6):
        factor = factors[f"{inside}.blocks.{block}.mlp.fc1.weight"][0]
        assert factor == pytest.approx(0.2 * 0.5 ** (6 - block))
    assert {factors[n][0] for n in factors if n.startswith("encoder.pyramid")} == {0.2}
    assert {factors[n][0] for n in factors if n.startswith(("neck", "head"))} == {1.0}
    assert len(factors) == len(list(model.parameters()))


def test_stages_of_a_convolutional_encoder_are_its_layers() -> None:
    model, factors = list_factors({"name": "resnet18"}, layer_decay=0.5, head_lr_factor=1.0)
    inside = "encoder.backbone"
    for name, stage in {"conv1": 0, "layer1.0.conv1": 1, "layer4.1.conv2": 4}.items():
        assert factors[f"{inside}.{name}.weight"][0] == pytest.approx(0.5 ** (5 - stage))
    parameters = [p for layer in model.encoder.layers() for p in layer]
    assert {id(p) for p in parameters} == {id(p) for p in model.encoder.parameters()}
    assert len(parameters) == len({id(p) for p in parameters})


def test_frozen_stages_take_no_part_in_the_decay() -> None:
    model, factors = list_factors(
        {"name": "resnet18", "freeze": 3}, layer_decay=0.5, head_lr_factor=1.0
    )
    assert [len(layer) > 0 for layer in model.encoder.layers()] == [False] * 3 + [True] * 2
    assert factors["encoder.backbone.layer3.0.conv1.weight"][0] == pytest.approx(0.25)
    _, frozen = list_factors({"name": "resnet18", "freeze": "all"}, layer_decay=0.5)
    assert not any(name.startswith("encoder") for name in frozen)
