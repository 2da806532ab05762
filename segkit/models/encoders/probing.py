"""How a backbone of timm must be built to be an encoder, found by building and running it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from segkit.core.errors import SegkitError
from segkit.models.encoders.pyramid import pyramid_strides

Blocks = Literal["several", "last"]


@dataclass(frozen=True)
class Probe:
    """A backbone that was built and run with random weights, and what its maps are.

    Attributes:
        backbone: The backbone, giving a list of maps, finest first.
        arguments: What ``timm.create_model`` was given besides the model's name.
        channels: Channels of each map.
        strides: Stride of each map, in pixels of the input.
        plain: Whether all maps have the one stride of a plain transformer.
        channels_last: Whether the maps are (B, h, w, C).
        exact: Whether each map is exactly 1 / stride of the input; unpadded convolutions give less.
        multiple: What height and width of the input must be multiples of.
        fixed_size: The one input size that the backbone takes, None for any.
    """

    backbone: nn.Module
    arguments: dict[str, Any]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    plain: bool
    channels_last: bool
    exact: bool
    multiple: int
    fixed_size: tuple[int, int] | None


class _UnfitError(Exception):
    """Built in this way the model is no encoder; another way may do."""


def probe(
    model: str,
    arguments: dict[str, Any],
    *,
    depth: int | None,
    blocks: Blocks,
    img_size: int | None,
    own_size: int,
) -> Probe:
    """Build a timm model for any input size or, where it takes one size only, for that size.

    Args:
        model: Name of the timm model.
        arguments: What ``timm.create_model`` is to be given, ``in_chans`` among it.
        depth: Number of levels to keep, finest first; None for all.
        blocks: Whether a plain transformer gives several blocks or the last one.
        img_size: The size to build a model of one size for; None for ``own_size``.
        own_size: The size that timm gives for the model.

    Raises:
        SegkitError: It cannot be an encoder; the message says why.
    """
    size = img_size or own_size
    attempts: list[tuple[dict[str, Any], int | None]] = [
        ({}, None),
        ({"dynamic_img_size": True}, None),  # transformers that resample their position embedding
        ({"strict_img_size": False}, None),  # the same in older versions of timm
        ({"img_size": size}, size),
        ({}, size),
    ]
    reasons: dict[str, str] = {}
    for extra, fixed in attempts:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of builds that are only tried
                return _attempt(model, arguments | extra, depth, blocks, own_size, fixed)
        except SegkitError:
            raise
        except Exception as error:  # each family of timm has its own
            foreign = any(f"keyword argument '{key}'" in str(error) for key in extra)
            if not foreign:  # else the model has no such option, which explains nothing
                goal = "any size" if fixed is None else f"{fixed} x {fixed} pixels"
                reasons.setdefault(goal, (str(error) or repr(error)).strip().rstrip("."))
    given = {k: v for k, v in arguments.items() if k not in ("features_only", "in_chans")}
    called = f"'{model}'" + (f" with timm_args={given}" if given else "")
    raise SegkitError(
        f"the timm model {called} cannot be an encoder"
        + "".join(f"; for {goal}: {why}" for goal, why in reasons.items())
        + ". Choose another model"
        + (", or another size with encoder.img_size." if img_size is None else ".")
    )


def _attempt(
    model: str,
    arguments: dict[str, Any],
    depth: int | None,
    blocks: Blocks,
    own_size: int,
    fixed: int | None,
) -> Probe:
    backbone: Any = timm.create_model(model, pretrained=False, **arguments)
    reductions = [int(r) for r in backbone.feature_info.reduction()]
    full = max(reductions)
    plain = len(reductions) > 1 and len(set(reductions)) == 1
    wanted = _levels(backbone, model, plain, depth, blocks)
    if wanted != _indices(backbone):
        arguments = {**arguments, "out_indices": wanted}
        backbone = timm.create_model(model, pretrained=False, **arguments)
        reductions = [int(r) for r in backbone.feature_info.reduction()]
    coarsest = max(reductions)
    if plain:
        coarsest = max(coarsest, pyramid_strides(coarsest)[:depth][-1])
    if fixed is not None:
        side = -(-fixed // coarsest) * coarsest
        if "img_size" in arguments:
            arguments = {**arguments, "img_size": side}
            backbone = timm.create_model(model, pretrained=False, **arguments)
        return _measure(backbone, arguments, reductions, plain, coarsest, [(side, side)])
    return _measure_any(backbone, arguments, reductions, plain, own_size, max(coarsest, full))


def _measure_any(
    backbone: nn.Module,
    arguments: dict[str, Any],
    reductions: list[int],
    plain: bool,
    own_size: int,
    full: int,
) -> Probe:
    """Measure a backbone of any input size, and what the size must be a multiple of.

    Some merge 2 x 2 pixels of their coarsest map, and some compute coarser maps than are taken.
    """
    coarsest = full if plain else max(reductions)
    inexact: Probe | None = None
    reason: Exception | None = None
    for multiple in sorted({coarsest, 2 * coarsest, full}):
        # The smallest input that a segmenter gives, one of odd maps, and one that is longer than
        # what the model was made for: was the first good luck?
        beyond = (own_size // multiple + 1) * multiple
        sizes = [(2 * multiple,) * 2, (3 * multiple, 5 * multiple), (2 * multiple, beyond)]
        try:
            found = _measure(backbone, arguments, reductions, plain, multiple, sizes)
        except Exception as error:  # each family of timm has its own
            reason = reason or error
            continue
        if found.exact:
            return found
        inexact = inexact or found
    if inexact is None:
        try:
            raise reason or _UnfitError("it gives no maps")
        finally:
            del reason  # else it and this frame, with the network, would keep each other alive
    return inexact


def _levels(backbone: Any, model: str, plain: bool, depth: int | None, blocks: Blocks) -> list[int]:
    """Indices of the maps to take: none that would be computed for nothing."""
    indices, info = _indices(backbone), backbone.feature_info.info
    reductions = [int(info[i]["reduction"]) for i in indices]
    if plain:
        candidates = [i for i, item in enumerate(info) if item["reduction"] == reductions[0]]
        levels = len(pyramid_strides(reductions[0]))
        count = min(levels, len(candidates)) if blocks == "several" else 1
        taken = [candidates[round(len(candidates) * (i + 1) / count) - 1] for i in range(count)]
        unused = levels - (depth or levels)
        taken = taken[: max(1, count - unused)]
    else:  # of maps that share a stride the last one
        after = [*reductions[1:], None]
        taken = [i for i, r, other in zip(indices, reductions, after, strict=True) if r != other]
        levels = len(taken)
        taken = taken[:depth]
    if depth is not None and depth > levels:
        raise SegkitError(f"encoder.depth is {depth}, but '{model}' has {levels} levels.")
    return taken


def _indices(backbone: Any) -> list[int]:
    """The indices of the maps that a backbone gives, counted from the first."""
    info = backbone.feature_info
    return [i if i >= 0 else len(info.info) + i for i in info.out_indices]


def _measure(
    backbone: nn.Module,
    arguments: dict[str, Any],
    reductions: list[int],
    plain: bool,
    multiple: int,
    sizes: list[tuple[int, int]],
) -> Probe:
    """Run the backbone on images of these sizes, and look what its maps are."""
    backbone.eval()
    runs: list[list[Tensor]] = []
    with torch.no_grad():
        for size in sizes:
            runs.append(backbone(torch.zeros(1, arguments["in_chans"], *size)))
    backbone.train()
    middle = len(sizes) // 2  # if there are several, this one is not square: the axes tell apart
    maps, pixels = runs[middle], sizes[middle]
    if any(m.ndim != 4 for m in maps):
        raise _UnfitError(f"its maps have the shapes {[tuple(m.shape) for m in maps]}")
    feature_info: Any = backbone.feature_info
    told = [int(c) for c in feature_info.channels()]
    channels_last = told == [m.shape[-1] for m in maps] and told != [m.shape[1] for m in maps]
    if channels_last:
        runs = [[m.permute(0, 3, 1, 2) for m in run] for run in runs]
        maps = runs[middle]
    strides = _strides(runs, sizes, reductions)
    exact = strides is not None
    strides = strides or tuple(reductions)
    if not plain and any(b % a or b == a for a, b in pairwise(strides)):
        raise _UnfitError(
            f"its maps have the strides {strides}, no pyramid in which each divides the next"
        )
    for m, stride in zip(maps, strides, strict=True):
        if not stride / 2 < pixels[1] / m.shape[3] < stride * 2:
            raise _UnfitError(
                f"its maps of {pixels} pixels have the shapes {[tuple(m.shape) for m in maps]},"
                f" which are not of the strides {strides} that timm gives for them"
            )
    return Probe(
        backbone=backbone,
        arguments=arguments,
        channels=tuple(m.shape[1] for m in maps),
        strides=strides,
        plain=plain,
        channels_last=channels_last,
        exact=exact,
        multiple=multiple,
        fixed_size=sizes[0] if len(sizes) == 1 else None,
    )


def _strides(
    runs: list[list[Tensor]], sizes: list[tuple[int, int]], reductions: list[int]
) -> tuple[int, ...] | None:
    """The strides that the maps show in both directions at every size; None if one shows none.

    At a single size a padded map can look like one of another stride (56 for 64, of 224 pixels), so
    that there timm has to agree.
    """
    strides = []
    for i, told in enumerate(reductions):
        shown = {
            side / n
            for run, size in zip(runs, sizes, strict=True)
            for side, n in zip(size, run[i].shape[-2:], strict=True)
        }
        ratio = shown.pop()
        if shown or not ratio.is_integer() or (len(sizes) == 1 and ratio != told):
            return None
        strides.append(int(ratio))
    return tuple(strides)
