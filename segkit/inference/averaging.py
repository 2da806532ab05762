"""What networks need in common so that their probabilities can be averaged. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from segkit.checkpoint.card import ModelCard
from segkit.core.errors import SegkitError
from segkit.inference.tiles.tiling import Windows


def list_unseen(cards: Sequence[ModelCard]) -> list[str] | None:
    """The validation images that no network was trained on; None if none is of a fold."""
    names = [card.config.get("data", {}).get("val_names") for card in cards]
    known = [set(each) for each in names if each is not None]
    return sorted(set.intersection(*known)) if known else None


def require_same_classes(cards: Sequence[ModelCard]) -> None:
    """Check that the probabilities of all networks mean the same.

    Raises:
        SegkitError: They do not.
    """
    first = cards[0]
    for number, other in enumerate(cards[1:], 2):
        for name in ("mode", "class_names", "mask_values", "in_channels", "target"):
            one, two = getattr(first, name), getattr(other, name)
            if one != two:
                raise SegkitError(
                    f"checkpoint: number {number} of the list cannot be averaged with the first:"
                    f" its {name} is {two}, that of the first {one}."
                )
        files = first.channel_files, other.channel_files
        if all(files) and files[0] != files[1]:
            raise SegkitError(
                f"checkpoint: number {number} of the list cannot be averaged with the first: the"
                f" channels of its images were {', '.join(files[1])}, those of the first"
                f" {', '.join(files[0])}."
            )


def require_same_tuning(cards: Sequence[ModelCard]) -> None:
    """Check that what was chosen after the trainings is the same for all.

    Raises:
        SegkitError: It is not.
    """
    if len({card.postprocessing for card in cards}) > 1:
        raise SegkitError(
            "checkpoint: the models of the list were tuned apart, so that their thresholds or"
            " sizes of objects differ: tune them together (python -m segkit.evaluate"
            " checkpoint=[A,B] tune=true)."
        )


def find_common_windows(windows: Sequence[Windows]) -> Windows:
    """Find the windows that all networks take, the largest as small as that of any.

    Raises:
        SegkitError: There are none.
    """
    common = windows[0]
    if len({(w.context, w.fixed, w.context and w.smallest) for w in windows}) > 1:
        raise SegkitError(
            "checkpoint: these networks take tiles of different forms and cannot be averaged."
        )
    if not common.context:
        step = math.lcm(*(w.step for w in windows))
        smallest = math.lcm(*(w.smallest for w in windows))
        common = replace(common, step=step, smallest=smallest)
    return replace(common, side=min(w.side for w in windows))
