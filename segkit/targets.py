"""What the label of a pixel can mean: the words that heads, losses, metrics and data share."""

from __future__ import annotations

from typing import Literal, get_args

Mode = Literal["binary", "multiclass", "multilabel"]
"""One foreground against the background; one of N classes; N classes that may overlap."""
MODES: tuple[Mode, ...] = get_args(Mode)

Decoder = Literal["components", "watershed", "border_core", "distance"]
"""How objects are told apart in a prediction; see segkit.inference.instances."""

OBJECT_SCORES = ("seg", "det", "ap", "ap50", "pq", "aji")
"""Scores that can only be had where objects are told apart, and that a training can monitor."""

IGNORE_INDEX = 255
"""The label of pixels that do not count: no gradient, no metric; warping fills masks with it."""
