"""Counts that add up over images and processes, and the scores of their sums."""

from segkit.metrics.base import Metric as Metric
