"""Activations that are computed again for the backward pass instead of being kept for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef


@contextmanager
def recomputed_activations(model: nn.Module) -> Iterator[None]:
    """A forward pass inside keeps fewer maps: what norms and ReLUs give is computed twice.

    A convolution, a norm and a ReLU keep two maps for the backward pass: the norm what it was
    given, the next convolution what came out of the ReLU. The second one follows from the first,
    by the same operations and so equal to the bit; they cost little beside a convolution (as in
    "In-Place Activated BatchNorm", Rota Bulo et al. 2018, which inverts them instead).

    Of batch norms with the statistics of the batch, group norms, and ReLUs in place behind them;
    all else is kept as ever.
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
        kept.forget()
        for hook in hooks:
            hook.remove()


@dataclass
class _Recipe:
    """How a map is made from what a norm was given.

    Attributes:
        storage: The map's memory while it lives; other maps come to lie there later.
        layout: The map's type, shape and strides: there are views that begin at the same place.
        version: The map's, counted by torch with each operation in place.
        given: (B, C, H, W), what the norm was given. The norm keeps it anyway.
        norm: The norm.
        rectified: Whether a ReLU follows.
        uses: For how many operations of the backward pass the map was asked to be kept.
        shared: The map between the two uses that a chain of layers has, one right after the other.
    """

    storage: StorageWeakRef
    layout: tuple[object, ...]
    version: int
    given: Tensor
    norm: nn.BatchNorm2d | nn.GroupNorm
    rectified: bool = False
    uses: int = 0
    shared: Tensor | None = None

    def makes(self, x: Tensor) -> bool:
        """Whether it makes this tensor."""
        # torch gives it no types
        alive = not self.storage.expired()  # type: ignore[no-untyped-call]
        return alive and x._version == self.version and _layout(x) == self.layout

    def again(self) -> Tensor:
        """The map, for one of its uses."""
        made, self.shared = self.shared, None
        if made is None:
            made = self.make()
            if self.uses == 2:
                self.shared = made
        return made

    @torch.no_grad()
    def make(self) -> Tensor:
        """The map, by the operations of the forward pass; running statistics stay as they are."""
        norm, weight, bias = self.norm, self.norm.weight, self.norm.bias
        if isinstance(norm, nn.GroupNorm):
            x = F.group_norm(self.given, norm.num_groups, weight, bias, norm.eps)
        else:
            x = F.batch_norm(self.given, None, None, weight, bias, training=True, eps=norm.eps)
        return x.relu_() if self.rectified else x


_Packed = tuple[_Recipe | None, Tensor, int]
"""How a map is made if it is not kept, what is kept, and its version."""


class _Kept:
    """The maps of one forward pass that need not be kept, by where they lie in memory."""

    def __init__(self) -> None:
        self._recipes: dict[int, _Recipe] = {}

    def after_norm(self, norm: Any, args: tuple[Tensor], output: Tensor) -> None:
        if isinstance(norm, nn.BatchNorm2d) and not norm.training:
            return  # by running statistics, which may change until the backward pass
        given = args[0].detach()
        if output.dtype != given.dtype:
            return  # of mixed precision, which is over in the backward pass
        # torch gives it no types
        storage = StorageWeakRef(output.untyped_storage())  # type: ignore[no-untyped-call]
        recipe = _Recipe(storage, _layout(output), output._version, given, norm)
        self._recipes[output.data_ptr()] = recipe

    def before_relu(self, relu: nn.Module, args: tuple[Tensor]) -> None:
        place = args[0].data_ptr()
        recipe = self._recipes.get(place)
        if recipe is not None and not recipe.rectified and recipe.makes(args[0]):
            # another one: what came before the ReLU may have been asked for already
            after = replace(recipe, version=recipe.version + 1, rectified=True, uses=0)
            self._recipes[place] = after

    def pack(self, x: Tensor) -> _Packed:
        recipe = self._recipes.get(x.data_ptr())
        if recipe is not None and recipe.makes(x):
            recipe.uses += 1
            return recipe, recipe.given, recipe.given._version
        return None, x, x._version

    def forget(self) -> None:
        """From here on only the graph holds maps, each until it is done with it."""
        self._recipes.clear()


def _unpack(packed: _Packed) -> Tensor:
    recipe, kept, version = packed
    if kept._version != version:  # torch does not look where there are hooks
        raise RuntimeError(
            f"a map of {tuple(kept.shape)} that the backward pass needs was changed in place after"
            " the operation that needs it: write that operation of the network without 'inplace'"
            " or '_'."
        )
    return kept if recipe is None else recipe.again()


def _layout(x: Tensor) -> tuple[object, ...]:
    return x.dtype, x.shape, x.stride()
