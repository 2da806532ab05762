"""Metrics that are accumulated over an epoch, exactly and across processes."""

from segkit.metrics.bootstrap import Interval, interval, intervals, score_intervals
from segkit.metrics.borders import BorderScores, border_counts, border_scores
from segkit.metrics.boundary import BoundaryScores, boundary_counts, boundary_scores
from segkit.metrics.confusion import ConfusionMatrix
from segkit.metrics.instances import InstanceScores, instance_scores, object_counts
from segkit.metrics.scores import Scores
from segkit.metrics.thresholds import ThresholdCounts, ThresholdSweep, threshold_sweep

# The function scores() stays in its module of the same name, which it would hide here.
__all__ = [
    "BorderScores",
    "BoundaryScores",
    "ConfusionMatrix",
    "InstanceScores",
    "Interval",
    "Scores",
    "ThresholdCounts",
    "ThresholdSweep",
    "border_counts",
    "border_scores",
    "boundary_counts",
    "boundary_scores",
    "instance_scores",
    "interval",
    "intervals",
    "object_counts",
    "score_intervals",
    "threshold_sweep",
]
