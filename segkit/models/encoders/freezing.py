"""Which parameters and modules belong to the first stages of a network, found by running it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from segkit.models.contract import eval_mode


def find_parameters(
    encoder: nn.Module, x: Tensor, among: list[nn.Parameter], stages: int | None = None
) -> list[nn.Parameter]:
    """Find the parameters that the first ``stages`` maps of ``encoder(x)``, or all, depend on.

    They are chosen from ``among``, which all need a gradient.
    """
    with torch.enable_grad(), eval_mode(encoder):
        maps = encoder(x)
        total = torch.stack([m.float().sum() for m in maps[:stages]]).sum()
        if not total.requires_grad:
            return []
        gradients = torch.autograd.grad(total, among, allow_unused=True)
    return [p for p, gradient in zip(among, gradients, strict=True) if gradient is not None]


def find_frozen_modules(encoder: nn.Module, x: Tensor) -> list[nn.Module]:
    """Find the modules in which nothing is trained, those without parameters included.

    A dropout or a batch norm without parameters counts if none of its outputs carries a gradient:
    then everything before it is frozen as well.
    """
    carries: dict[nn.Module, bool] = {}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        trained = not isinstance(output, Tensor) or output.requires_grad
        carries[module] = carries.get(module, False) or trained

    leaves = [m for m in encoder.modules() if not [*m.children()]]
    hooks = [leaf.register_forward_hook(note) for leaf in leaves]
    try:
        with torch.enable_grad(), eval_mode(encoder):
            encoder(x)
    finally:
        for hook in hooks:
            hook.remove()
    found = [m for m, trained in carries.items() if not trained]
    for module in encoder.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            found += module.modules()
    return list(dict.fromkeys(found))
