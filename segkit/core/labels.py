"""The meaning of labels, shared by heads, losses, metrics and data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

Mode = Literal["binary", "multiclass", "multilabel"]
"""One foreground against the background; one of N classes; N classes that may overlap."""
MODES: tuple[Mode, ...] = get_args(Mode)

Decoder = Literal["components", "watershed", "border_core", "distance"]
"""How objects are separated in a prediction; see segkit.inference.objects.instances."""

OBJECT_SCORES = ("seg", "det", "ap", "ap50", "pq", "aji")
"""Scores of objects; a training can monitor them."""

IGNORE_INDEX = 255
"""The label of pixels without gradient and metric; warping fills masks with it."""


def find_background(names: Sequence[str] | None, mode: Mode) -> int | None:
    """Find the label of the background among the classes of the masks.

    Binary masks and classes without names have the background 0. Otherwise the first class is the
    background if its name says so, in any case: "Background".

    Args:
        names: Names of the classes in label order, None if they have no names.
        mode: The head's mode.

    Returns:
        The label, or None if every class is an object class, as in street scenes.
    """
    if names and mode != "binary" and names[0].strip().lower() != "background":
        return None
    return 0


def decide(probabilities: Any, mode: Mode, threshold: float) -> Any:
    """Labels of probabilities (B, num_logits, H, W), which may be of numpy or of torch.

    Returns:
        (B, H, W), of overlapping classes (B, N, H, W): of "multiclass" the most probable class;
        else whether the probability exceeds the threshold.
    """
    if mode == "multiclass":
        return probabilities.argmax(1)
    return (probabilities[:, 0] if mode == "binary" else probabilities) > threshold
