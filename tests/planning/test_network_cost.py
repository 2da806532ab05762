"""What a network costs: the same numbers as a real training, without its memory and its draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segkit.config.compose import compose
from segkit.config.validation import validate
from segkit.models.conv import plain_joins
from segkit.models.cost import gflops
from segkit.models.encoders import Encoder
from segkit.models.segmenter import create_model
from segkit.planning.network import Network, measure_network


class Looking(Encoder, name="looks_at_its_numbers"):
    """An encoder that cannot run without numbers."""

    channels, strides = (8,), (2,)

    def __init__(self, in_channels: int = 3, depth: int = 1, pretrained: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 8, 3, 2, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.conv(x) * (2 if float(x.mean()) > 0 else 1)]


def measured(*overrides: str, channels: int = 3) -> Network:
    return measure_network(validate(compose(list(overrides))), channels, 2)


def test_it_is_what_a_real_step_keeps_and_computes() -> None:
    found = measured()
    model = create_model({"name": "resnet18", "pretrained": False}, "unet", "binary").train()
    image = torch.zeros(2, 3, 64, 64)
    own = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    # as the architecture says it: the CPU keeps less of upsampled maps
    with plain_joins(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = model(image)
    assert result.requires_grad
    assert found.kept_bytes((64, 64)) == pytest.approx(sum(kept.values()) / 2, rel=0.02)
    expected = 1e9 * gflops(model, 3, (64, 64))
    assert found.training_flops((64, 64)) == pytest.approx(3 * expected, rel=0.01)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.fixed_bytes == 20 * found.parameters
    assert (found.multiple, found.layer_norm, found.largest) == (32, False, None)


@pytest.mark.parametrize("seed", [3])
def test_the_random_numbers_of_the_training_stay_the_same(seed: int) -> None:
    torch.manual_seed(seed)
    expected = torch.rand(3)
    torch.manual_seed(seed)
    measured()
    assert torch.equal(torch.rand(3), expected)


def test_heavier_networks_cost_more() -> None:
    small, large = measured("encoder=resnet18"), measured("encoder=resnet50")
    assert large.bytes_per_pixel > 1.5 * small.bytes_per_pixel
    assert large.flops_per_pixel > 1.5 * small.flops_per_pixel
    half = measured("encoder=resnet18", "trainer.precision=bf16-mixed")
    assert half.bytes_per_pixel == small.bytes_per_pixel / 2
    deep = measured("encoder=resnet18", "auxiliary=[0.5]")
    assert deep.parameters > small.parameters


def test_layer_norm_is_seen() -> None:
    assert measured("encoder=convnext_tiny").layer_norm


def test_an_unpadded_network_is_measured_by_what_it_gives() -> None:
    options = ["encoder=unet", "encoder.width=4", "encoder.depth=3"]
    padded, unpadded = (
        measured(*options, f"encoder.padding={padding}") for padding in ("same", "valid")
    )
    assert unpadded.flops_per_pixel > padded.flops_per_pixel


@pytest.mark.parametrize(("size", "largest"), [("null", None), ("112", 112)])
def test_a_backbone_of_one_size(size: str, largest: int | None) -> None:
    name = "encoder.name=mobilevit_xxs" if largest is None else "encoder.name=levit_128s"
    found = measured("encoder=timm", name, f"encoder.img_size={size}")
    assert found.bytes_per_pixel > 0
    assert found.largest == largest


def test_an_encoder_that_looks_at_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose(["neck=fpn"])
    given: Any = {"name": "looks_at_its_numbers", "pretrained": False}
    from omegaconf import OmegaConf

    OmegaConf.set_struct(config, False)
    config.encoder = given
    found = measure_network(validate(config), 1, 2)
    assert found.flops_per_pixel > 0
    assert found.bytes_per_pixel > 0
