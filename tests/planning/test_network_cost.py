"""What a network costs: the same numbers as a real training, without its memory and its draws."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from segkit.config.compose import compose
from segkit.config.validation import validate
from segkit.models.conv import plain_joins
from segkit.models.cost import gflops
from segkit.models.encoders import Encoder
from segkit.models.segmenter import create_model
from segkit.planning.network import Network, measure_network


class DependsOnValues(Encoder, name="depends_on_values"):
    channels, strides = (8,), (2,)

    def __init__(self, in_channels: int = 3, depth: int = 1, pretrained: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 8, 3, 2, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.conv(x) * (2 if float(x.mean()) > 0 else 1)]


def measure(*overrides: str) -> Network:
    return measure_network(validate(compose(list(overrides))), 3, 2)


def test_it_is_what_a_real_step_keeps_and_computes():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    found = measure()
    assert torch.equal(torch.rand(3), expected)  # the training's random numbers stay the same
    model = create_model({"name": "resnet18", "pretrained": False}, "unet", "binary").train()
    own = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    # the plain architecture: the CPU keeps less of upsampled maps
    with plain_joins(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.zeros(2, 3, 64, 64))
    assert found.kept_bytes((64, 64)) == pytest.approx(sum(kept.values()) / 2, rel=0.02)
    expected_flops = 3e9 * gflops(model, 3, (64, 64))
    assert found.training_flops((64, 64)) == pytest.approx(expected_flops, rel=0.01)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.fixed_bytes == 20 * found.parameters
    assert (found.multiple, found.layer_norm, found.largest) == (32, False, None)


def test_heavier_networks_cost_more():
    small, large = measure("encoder=resnet18"), measure("encoder=resnet50")
    assert large.bytes_per_pixel > 1.5 * small.bytes_per_pixel
    assert large.flops_per_pixel > 1.5 * small.flops_per_pixel
    half = measure("encoder=resnet18", "trainer.precision=bf16-mixed")
    assert half.bytes_per_pixel == small.bytes_per_pixel / 2
    assert measure("encoder=resnet18", "auxiliary=[0.5]").parameters > small.parameters
    assert measure("encoder=convnext_tiny").layer_norm


def test_an_unpadded_network_is_measured_by_its_output():
    options = ["encoder=unet", "encoder.width=4", "encoder.depth=3"]
    padded, unpadded = (measure(*options, f"encoder.padding={kind}") for kind in ("same", "valid"))
    assert unpadded.flops_per_pixel > padded.flops_per_pixel


@pytest.mark.parametrize(
    ("name", "size", "largest"), [("mobilevit_xxs", "null", None), ("levit_128s", "112", 112)]
)
def test_a_backbone_of_one_size(name, size, largest):
    found = measure("encoder=timm", f"encoder.name={name}", f"encoder.img_size={size}")
    assert found.bytes_per_pixel > 0
    assert found.largest == largest


def test_an_encoder_that_depends_on_values():
    config = compose(["neck=fpn"])
    OmegaConf.set_struct(config, False)
    config.encoder = {"name": "depends_on_values", "pretrained": False}
    found = measure_network(validate(config), 1, 2)
    assert found.flops_per_pixel > 0
    assert found.bytes_per_pixel > 0
