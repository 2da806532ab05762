"""Building networks that a file describes, which may be larger than anything that it holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from segkit.core.errors import SegkitError

MOST_TENSORS, MOST_ELEMENTS = 20_000, 200_000_000
"""By how much a network may be larger than its weights: timm builds levels that are dropped."""


@contextmanager
def limit_weights(tensors: int, elements: int, with_memory: bool) -> Iterator[None]:
    """Stop at a network that is far larger than weights of so many tensors and elements.

    Without memory, the weights of all networks that are built meanwhile are on the meta device, and
    only their number counts.

    Raises:
        SegkitError: A network is too large.
    """
    tensors, elements = tensors + MOST_TENSORS, 10 * elements + MOST_ELEMENTS
    thread = get_ident()  # others may build networks at the same time

    def register(module: nn.Module, name: str, weight: nn.Parameter | None) -> Any:
        nonlocal tensors, elements
        if weight is None or get_ident() != thread:
            return None
        tensors -= 1
        elements -= weight.numel() if with_memory else 0
        if min(tensors, elements) < 0:
            raise SegkitError("the network that its card describes is far larger than its weights.")
        return None if with_memory else nn.Parameter(weight.to("meta"), weight.requires_grad)

    hook = register_module_parameter_registration_hook(register)
    try:
        yield
    finally:
        hook.remove()
