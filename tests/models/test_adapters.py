"""Low-rank adapters: what is trained, what is stored, and what predicts."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from segkit.core.errors import SegkitError
from segkit.models.encoders import Encoder
from segkit.models.encoders.adapters import LowRank, merge_adapters
from segkit.models.fast import for_inference
from segkit.models.segmenter import create_model

X = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def build(**options):
    torch.manual_seed(0)
    encoder = {"name": "test_vit", "pretrained": False, "blocks": "plain", "adapter": "lora"}
    return create_model({**encoder, **options}, "linear")


def train_a_step(model) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # B starts with zeros, so A moves from the second step on
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()


def test_the_weight_is_the_sum_of_the_paper():
    part = LowRank(torch.zeros(6, 4), rank=2, alpha=8.0)
    assert torch.equal(part(torch.ones(6, 4)), torch.ones(6, 4))
    nn.init.normal_(part.up)
    expected = torch.ones(6, 4) + 8.0 / 2 * part.up @ part.down
    torch.testing.assert_close(part(torch.ones(6, 4)), expected)


@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        ("attention", {"attn.qkv", "attn.proj"}),
        ("mlp", {"mlp.fc1", "mlp.fc2"}),
        ("all", {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}),
    ],
)
def test_a_network_starts_as_it_is_and_only_adapters_and_decoder_are_trained(targets, layers):
    plain = build(adapter="none").eval()
    model = build(adapter_targets=targets, adapter_rank=3).eval()
    theirs, own = dict(plain.named_parameters()), {}
    for name, parameter in model.named_parameters():
        key = name.replace("parametrizations.weight.original", "weight")
        if key in theirs:
            own[key] = parameter
            with torch.no_grad():
                parameter.copy_(theirs[key])
    with torch.no_grad():
        torch.testing.assert_close(model(X), plain(X))
    trained = {n for n, p in model.encoder.named_parameters() if p.requires_grad}
    backbone = {n for n in trained if n.startswith("backbone")}
    assert {n.partition(".parametrizations")[0].split(".", 4)[-1] for n in backbone} == layers
    assert all(n.rpartition(".")[2] in ("down", "up") for n in backbone)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    train_a_step(model.train())
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == (parameter.requires_grad), name


def test_merged_and_fast_copies_give_the_same():
    model = build(adapter_targets="all")
    train_a_step(model)
    model.eval()
    with torch.no_grad():
        expected = model(X)
        merged = copy.deepcopy(model)
        merge_adapters(merged)
        torch.testing.assert_close(merged(X), expected, rtol=1e-4, atol=1e-5)
        assert not [m for m in merged.modules() if isinstance(m, LowRank)]
        plain = build(adapter="none")
        assert merged.state_dict().keys() == plain.state_dict().keys()
        fast = for_inference(model)
        torch.testing.assert_close(fast(X), expected, rtol=1e-3, atol=1e-4)
        assert not [m for m in fast.modules() if isinstance(m, LowRank)]
    assert [m for m in model.modules() if isinstance(m, LowRank)]


def test_an_encoder_with_adapters_is_rebuilt():
    options = {"adapter": "lora", "adapter_rank": 2}
    encoder = Encoder.build("test_vit", pretrained=False, **options)
    again = Encoder.rebuild("test_vit", encoder.layout(), **options)
    again.load_state_dict(encoder.state_dict())


def test_adapters_and_some_frozen_stages_exclude_each_other():
    with pytest.raises(SegkitError, match=r"freeze is 2, but .*adapter=lora freezes all"):
        build(freeze=2)


def test_encoders_without_attention_cannot_have_adapters():
    with pytest.raises(SegkitError, match="adapter=lora: the encoder 'timm' has no linear layers"):
        Encoder.build("test_resnet", pretrained=False, adapter="lora")
