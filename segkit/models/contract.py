"""Checks that an encoder, neck or head of a plugin gives maps of the shapes that it declares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from segkit.core.errors import SegkitError
from segkit.models.heads.queries import QueriesHead

if TYPE_CHECKING:
    from segkit.models.encoders.base import Encoder
    from segkit.models.heads import Head
    from segkit.models.necks import Neck
    from segkit.models.segmenter import Segmenter

Maps = list[Tensor]


def is_foreign(part: nn.Module) -> bool:
    """Whether a part is not one of segkit, whose own are tested."""
    return not type(part).__module__.startswith("segkit.")


def check_encoder(encoder: Encoder) -> Maps:
    """Run an encoder and return its maps.

    Raises:
        SegkitError: Its channels and strides are no pyramid, or its maps do not have them.
    """
    channels, strides = (_read_attribute(encoder, key) for key in ("channels", "strides"))
    declared = f"channels={channels} and strides={strides}"
    if (
        not all(isinstance(values, list | tuple) for values in (channels, strides))
        or not 0 < len(channels) == len(strides)
        or not all(isinstance(number, int) and number > 0 for number in (*channels, *strides))
        or any(coarse % fine or coarse == fine for fine, coarse in pairwise(strides))
    ):
        raise SegkitError(
            f"{_name(encoder)} declares {declared}: give one of each for every map, finest first,"
            " with growing strides that each divide the next."
        )
    size = encoder.example_size
    expected = _shapes(channels, strides, size, padded=encoder.padding == "same")
    image = torch.zeros(1, encoder.in_channels, *size)
    return _run(encoder, encoder, image, expected, declared)


def check_neck(encoder: Encoder, neck: Neck) -> Maps:
    """Run a neck behind an encoder and return its levels.

    Raises:
        SegkitError: They do not have the channels and strides that the neck declares.
    """
    for key in ("out_channels", "out_stride"):
        _read_attribute(neck, key)
    channels, strides = neck.level_channels, neck.level_strides
    first = channels[0], strides[0]
    if first != (neck.out_channels, neck.out_stride):
        raise SegkitError(
            f"{_name(neck)} declares out_channels={neck.out_channels} and"
            f" out_stride={neck.out_stride}, but its first level has {first[0]} channels and the"
            f" stride {first[1]}: that level is the map of forward(), so both must be the same."
        )
    padded = encoder.padding == "same"
    expected = _shapes(channels, strides, encoder.example_size, padded)
    declared = f"level_channels={channels} and level_strides={strides}"
    if channels == (neck.out_channels,):
        declared = f"out_channels={neck.out_channels} and out_stride={neck.out_stride}"
    maps = check_encoder(encoder)
    levels = _run(neck, neck.levels, maps, expected, declared)
    (result,) = _run(neck, lambda given: [neck(given)], maps, expected[:1], declared)
    if not torch.allclose(result, levels[0], rtol=1e-3, atol=1e-5):
        raise SegkitError(
            f"{_name(neck)} gives another map in forward() than first in levels(). Let forward()"
            " return self.levels(maps)[0]."
        )
    return levels


def check_head(head: Head, level: Tensor) -> None:
    """Run a head on a map (B, C, h, w).

    Raises:
        SegkitError: The logits do not have the shape (B, num_logits, h, w).
    """
    for key in ("num_classes", "num_logits"):
        _read_attribute(head, key)
    expected = [(len(level), head.num_logits, *level.shape[2:])]
    _run(head, lambda x: [head(x)], level, expected, f"num_logits={head.num_logits}")


def _shapes(
    channels: Sequence[int], strides: Sequence[int], size: tuple[int, int], padded: bool
) -> list[tuple[int | None, ...]]:
    """The shapes of maps for one image; None is any size, as an unpadded network has."""
    return [
        (1, c, *(side // s if padded else None for side in size))
        for c, s in zip(channels, strides, strict=True)
    ]


def _run(
    part: nn.Module,
    function: Callable[[Any], Any],
    given: Tensor | Maps,
    expected: list[tuple[int | None, ...]],
    declared: str,
) -> Maps:
    shown = _describe(given if isinstance(given, list) else [given])
    try:
        with torch.no_grad(), eval_mode(part):
            result = function(given)
    except Exception as error:  # a plugin may do anything
        raise SegkitError(
            f"{_name(part)} fails for an input of the shape {shown}: {error!r}. Correct its"
            " forward(); SEGKIT_DEBUG=1 shows the whole trace."
        ) from error
    found = [tuple(m.shape) for m in result] if _are_maps(result) else []
    if len(found) != len(expected) or not all(
        len(a) == len(b) and all(e in (None, f) for f, e in zip(a, b, strict=True))
        for a, b in zip(found, expected, strict=True)
    ):
        wanted = ", ".join(map(str, expected)).replace("None", "any")
        raise SegkitError(
            f"{_name(part)} turns {shown} into {_describe(result)}, but it declares {declared},"
            f" which is {wanted}. Correct its forward() or what it declares; maps are listed finest"
            " first."
        )
    maps: Maps = result
    return maps


def _are_maps(result: object) -> bool:
    return isinstance(result, list | tuple) and all(isinstance(m, Tensor) for m in result)


def _describe(result: Any) -> str:
    if not isinstance(result, list | tuple):
        return f"a {type(result).__name__} instead of a list"
    parts = [tuple(m.shape) if isinstance(m, Tensor) else type(m).__name__ for m in result]
    return ", ".join(map(str, parts)) or "an empty list"


def _read_attribute(part: Any, key: str) -> Any:
    try:
        return getattr(part, key)
    except AttributeError:
        raise SegkitError(f"{_name(part)} has no attribute '{key}': set it in __init__.") from None


def _name(part: Any) -> str:
    return f"{part.family} '{part.name}' ({type(part).__qualname__})"


def find_unused(model: Segmenter) -> list[nn.Parameter]:
    """The trainable parameters that no logits depend on, so that they never get a gradient."""
    parameters = [each for each in model.parameters() if each.requires_grad]
    image = torch.zeros(1, model.encoder.in_channels, *model.example_size)
    with torch.enable_grad(), eval_mode(model):
        found = [model(image)] if isinstance(model.head, QueriesHead) else model.all_logits(image)
        total = torch.stack([each.sum() for each in found]).sum()
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    return [p for p, found in zip(parameters, gradients, strict=True) if found is None]


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Inside, every part is in eval mode; afterwards each is in its former mode again."""
    modes = {part: part.training for part in module.modules()}
    for part in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
