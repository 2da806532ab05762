"""Several networks as one: which of them can be averaged, and on which tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from segkit.core.errors import SegkitError
from segkit.inference.runtimes.network import Network
from segkit.inference.tiles.tiling import Windows


def require_alike(networks: Sequence[Network]) -> None:
    """See that networks mean the same by their classes and compute on the same kind of arrays.

    Raises:
        SegkitError: They do not.
    """
    first = networks[0]
    for number, other in enumerate(networks[1:], 2):
        for name in ("mode", "class_names", "mask_values", "in_channels", "target"):
            one, two = getattr(first.card, name), getattr(other.card, name)
            if one != two:
                raise SegkitError(
                    f"checkpoint: number {number} of the list cannot be averaged with the first:"
                    f" its {name} is {two}, that of the first {one}."
                )
        if other.xp is not first.xp:
            raise SegkitError(
                "checkpoint: exported files and checkpoints cannot be averaged with each other."
            )


def common_windows(networks: Sequence[Network], context: int | None) -> Windows:
    """The windows that all networks take, with the context that is wanted.

    Raises:
        SegkitError: There are none.
    """
    windows = [network.windows for network in networks]
    common = windows[0]
    if len({(w.context, w.fixed, w.context and w.smallest) for w in windows}) > 1:
        raise SegkitError(
            "checkpoint: these networks take tiles of different forms and cannot be averaged."
        )
    if not common.context:
        step = math.lcm(*(w.step for w in windows))
        smallest = math.lcm(*(w.smallest for w in windows))
        common = replace(common, step=step, smallest=smallest)
    common = replace(common, side=min(w.side for w in windows))
    if context is None:
        return common
    if not (isinstance(context, int) and context >= 0):
        raise SegkitError(f"context is {context!r}: give a number of pixels, 0 or more.")
    if common.context or common.fixed is not None:
        raise SegkitError(
            f"context={context} cannot be had: this network takes tiles of its own form, with"
            f" {common.context} pixels around what they decide. Leave context out."
        )
    # a multiple of the step, so that pooling groups the same pixels
    return replace(common, context=math.ceil(context / common.step) * common.step)
