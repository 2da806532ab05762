"""Counts that add up over images and processes, and the scores of their sums."""

from segkit.metrics.bootstrap import Interval as Interval
from segkit.metrics.bootstrap import intervals as intervals
from segkit.metrics.bootstrap import score_intervals as score_intervals
from segkit.metrics.borders import border_counts as border_counts
from segkit.metrics.borders import border_scores as border_scores
from segkit.metrics.boundary import boundary_counts as boundary_counts
from segkit.metrics.boundary import boundary_scores as boundary_scores
from segkit.metrics.confusion import ConfusionMatrix as ConfusionMatrix
from segkit.metrics.instances import InstanceScores as InstanceScores
from segkit.metrics.instances import instance_scores as instance_scores
from segkit.metrics.instances import object_counts as object_counts
from segkit.metrics.thresholds import ThresholdCounts as ThresholdCounts
from segkit.metrics.thresholds import threshold_sweep as threshold_sweep
