"""Low-rank adapters: few weights that are trained beside those of a frozen encoder."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from segkit.core.errors import SegkitError

Adapter = Literal["none", "lora"]
Targets = Literal["attention", "mlp", "all"]
NAMES: dict[Targets, tuple[str, ...]] = {
    "attention": ("attn",),
    "mlp": ("mlp",),
    "all": ("attn", "mlp"),
}
"""What timm calls the modules that hold the linear layers."""


class LowRank(nn.Module):
    """A weight W becomes W + alpha / rank B A (Hu et al. 2022, "LoRA", equation 3).

    A starts with random values and B with zeros, so that the network starts as it is.

    Args:
        weight: The weight (out, in) of a linear layer.
        rank: Rows of A and columns of B.
        alpha: Scale of their product, which is divided by the rank.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        self.down = nn.Parameter(weight.new_empty(rank, inputs))
        self.up = nn.Parameter(weight.new_zeros(outputs, rank))
        self.scale = alpha / rank
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as a linear layer

    def forward(self, weight: Tensor) -> Tensor:
        """(out, in) -> (out, in)."""
        return torch.addmm(weight, self.up, self.down, alpha=self.scale)


def add_adapters(encoder: nn.Module, targets: Targets, rank: int, alpha: float) -> None:
    """Give the linear layers of the attention or MLPs of an encoder a low-rank part each.

    Raises:
        SegkitError: It has no such layers.
    """
    found = [
        module
        for name, module in encoder.named_modules()
        if type(module) is nn.Linear
        and any(part.endswith(NAMES[targets]) for part in name.split(".")[:-1])
    ]
    if not found:
        raise SegkitError(
            f"encoder.adapter=lora: the encoder '{getattr(encoder, 'name', '')}' has no linear"
            f" layers in {' or '.join(NAMES[targets])}. Use it with a transformer of timm, or leave"
            " it out."
        )
    for layer in found:
        part = LowRank(layer.weight, rank, alpha)
        parametrize.register_parametrization(layer, "weight", part, unsafe=True)


def merge_adapters(module: nn.Module) -> None:
    """Replace layers with low-rank parts by plain ones that have the sums as weights, in place."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, nn.Linear) and parametrize.is_parametrized(layer, "weight"):
            # remove_parametrizations() would take the weight from copies of the layer as well
            merged = nn.Linear(layer.in_features, layer.out_features, device="meta")
            merged.weight = nn.Parameter(layer.weight.detach())
            merged.bias = layer.bias
            module.set_submodule(name, merged)
