"""The meaning of labels, shared by heads, losses, metrics and data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

Mode = Literal["binary", "multiclass", "multilabel"]
"""One foreground against the background; one of N classes; N classes that may overlap."""
MODES: tuple[Mode, ...] = get_args(Mode)

Decoder = Literal["components", "watershed", "border_core", "distance", "queries"]
"""How objects are separated in a prediction; see segkit.inference.objects.instances."""

OBJECT_SCORES = ("seg", "det", "ap", "ap50", "pq", "aji")
"""Scores of objects; a training can monitor them."""

IGNORE_INDEX = 255
"""The label of pixels without gradient and metric; warping fills masks with it."""
GUESS = {"uint8": 254, "uint16": 2**16 - 1}
"""The mark, among labels and ids, of pixels without a label that are to get a pseudo-label."""

FIRST_COLOR = 2**24
"""In masks of colours grey pixels have the value of their grey, and others this plus 0xRRGGBB."""


def color_to_value(color: Sequence[int]) -> int:
    """The mask value of a colour (R, G, B) of 0..255.

    Example:
        >>> color_to_value((255, 255, 255)), hex(color_to_value((255, 0, 16)))
        (255, '0x1ff0010')
    """
    red, green, blue = color
    return red if red == green == blue else FIRST_COLOR + (red << 16) + (green << 8) + blue


def value_to_color(value: int) -> tuple[int, int, int]:
    """The colour of a mask value, grey for values up to 255."""
    if value < FIRST_COLOR:
        return value, value, value
    return value >> 16 & 255, value >> 8 & 255, value & 255


def describe_colors(values: Sequence[int]) -> str:
    """Mask values for a message, all as #RRGGBB."""
    return ", ".join("#{:02x}{:02x}{:02x}".format(*value_to_color(value)) for value in values)


def describe_values(values: Sequence[int], most: int = 6) -> str:
    """Mask values for a message, only the first of many; colours as #RRGGBB."""
    shown = [f"#{v - FIRST_COLOR:06x}" if v >= FIRST_COLOR else str(v) for v in values[:most]]
    return ", ".join(shown) + (" ..." if len(values) > most else "")


def generate_names(count: int, mode: Mode) -> tuple[str, ...]:
    """The names of classes that have none."""
    if mode == "binary":
        return "background", "foreground"
    return tuple(f"class {i}" for i in range(count))


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


def decide(probabilities: Any, mode: Mode, threshold: float | Sequence[float]) -> Any:
    """Labels of probabilities (B, num_logits, H, W), which may be of numpy or of torch.

    Args:
        probabilities: The probabilities.
        mode: What their channels mean.
        threshold: One number, or one for each channel.

    Returns:
        (B, H, W), of overlapping classes (B, N, H, W): of "multiclass" the most probable class;
        else whether the probability exceeds the threshold.
    """
    if mode == "multiclass":
        return probabilities.argmax(1)
    given = threshold if isinstance(threshold, Sequence) else [threshold]
    if mode == "binary":
        return probabilities[:, 0] > given[0]
    labels = probabilities > given[0]
    for channel, own in enumerate(given[1:], 1):
        labels[:, channel] = probabilities[:, channel] > own
    return labels
