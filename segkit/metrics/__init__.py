"""Metrics that are accumulated over an epoch, exactly and across processes."""

from segkit.metrics.confusion import ConfusionMatrix
from segkit.metrics.scores import Scores

# The function scores() stays in its module of the same name, which it would hide here.
__all__ = ["ConfusionMatrix", "Scores"]
