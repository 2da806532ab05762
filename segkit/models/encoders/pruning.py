"""Taking out of a backbone what none of its maps depends on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segkit.models.encoders.freezing import in_eval_mode, parameters_of


def drop_unused(backbone: nn.Module, x: Tensor) -> None:
    """Replace the modules without influence on the maps by nothing, if the maps stay as they are.

    Some families of timm compute all their stages however few are taken, in time, memory and
    parameters that no gradient reaches, which distributed training takes for an error.

    Args:
        backbone: Gives a list of maps for x.
        x: An input (B, C, H, W).
    """
    parameters = list(backbone.parameters())
    with in_eval_mode(backbone), torch.no_grad():
        maps = backbone(x)
        used = set(parameters_of(backbone, x, parameters, len(maps)))
        for name, module in _unused(backbone, used):
            parent = backbone.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], nn.Identity())
            if not _same(backbone, x, maps):
                setattr(parent, name.rpartition(".")[2], module)


def _unused(backbone: nn.Module, used: set[nn.Parameter]) -> list[tuple[str, nn.Module]]:
    """The largest modules with parameters of which none is used, the last one first."""
    found: dict[str, nn.Module] = {}
    for name, module in backbone.named_modules():
        parameters = list(module.parameters())
        inner = any(name.startswith(f"{outer}.") for outer in found)
        if name and parameters and not inner and used.isdisjoint(parameters):
            found[name] = module
    return list(reversed(found.items()))


def _same(backbone: nn.Module, x: Tensor, maps: list[Tensor]) -> bool:
    try:
        now = backbone(x)
    except Exception:  # whatever a module that is not there leads to
        return False
    return len(now) == len(maps) and all(torch.equal(a, b) for a, b in zip(now, maps, strict=True))
