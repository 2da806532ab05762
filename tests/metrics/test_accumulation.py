"""Metrics accumulate exactly, in any order, over batches and processes; their examples run."""

from __future__ import annotations

import doctest
import sys

import numpy as np
import pytest
import torch
from metrics.conftest import CLASSES, random_labels, random_probabilities
from torchmetrics import MetricCollection

from segkit.metrics.confusion import ConfusionMatrix
from segkit.metrics.instances import OBJECT_COUNTS, InstanceScores, count_objects
from segkit.metrics.thresholds import ThresholdCounts


def random_counts(seed: int) -> tuple[np.ndarray]:
    """The counts of the objects of four images, (4, K); some have fractions."""
    rng = np.random.default_rng(seed)
    truths = np.repeat(rng.integers(0, 9, (4, 8, 3)), 3, axis=2)
    counts = [count_objects(t, np.where(rng.random(t.shape) < 0.8, t, 0)) for t in truths]
    return (np.stack(counts),)


METRICS = {
    **{
        f"confusion {mode}": (
            lambda mode=mode: ConfusionMatrix(mode, CLASSES[mode]),
            lambda seed, mode=mode: random_labels(mode, seed),
        )
        for mode in CLASSES
    },
    **{
        f"thresholds {mode}": (
            lambda mode=mode: ThresholdCounts(mode, CLASSES[mode]),
            lambda seed, mode=mode: random_probabilities(mode, seed),
        )
        for mode in ("binary", "multilabel")
    },
    "objects": (InstanceScores, random_counts),
}
every_metric = pytest.mark.parametrize(("make", "draw"), METRICS.values(), ids=METRICS)


@pytest.mark.parametrize("module", ["bootstrap", "boundary", "confusion", "instances", "overlaps"])
def test_the_examples_run(module):
    result = doctest.testmod(sys.modules[f"segkit.metrics.{module}"])
    assert result.attempted > 0
    assert result.failed == 0


def feed(metric, *batches):
    for batch in batches:
        metric.update(*batch)
    return metric


def state(metric) -> torch.Tensor:
    return next(getattr(metric, k) for k in ("matrix", "histogram", "sums") if hasattr(metric, k))


def assert_same(found, expected) -> None:
    assert state(found).dtype == torch.int64
    assert torch.equal(state(found), state(expected))


@every_metric
def test_neither_order_nor_batches_matter(make, draw):
    batch = draw(0)
    whole = feed(make(), batch)
    parts = [tuple(x[part] for x in batch) for part in (slice(3, 4), slice(1, 3), slice(0, 1))]
    assert_same(feed(make(), *parts), whole)
    before = whole.compute()
    kept = {**before} if isinstance(before, dict) else before.clone()
    whole.update(*draw(1))
    assert before == kept if isinstance(before, dict) else torch.equal(before, kept)


@pytest.mark.parametrize("name", ["confusion multilabel", "thresholds multilabel"])
def test_a_label_map_is_one_class_per_pixel_in_multilabel(name):
    make, draw = METRICS[name]
    target = torch.randint(3, (4, 5, 7), generator=torch.Generator().manual_seed(5))
    target[0] = 255
    stack = torch.stack([torch.where(target == 255, 255, target == c) for c in range(3)], dim=1)
    assert_same(feed(make(), (draw(0)[0], target)), feed(make(), (draw(0)[0], stack)))


@every_metric
def test_processes_are_summed(make, draw):
    """Each process gathers the states of all and sums them; the gathering is simulated here."""
    one, two = feed(make(), draw(1)), feed(make(), draw(2))
    one.sync(
        dist_sync_fn=lambda own, group=None: [own, state(two)], distributed_available=lambda: True
    )
    assert_same(one, feed(make(), draw(1), draw(2)))
    one.unsync()
    assert_same(one, feed(make(), draw(1)))


@every_metric
def test_a_reset_metric_in_half_precision_and_inference_mode_keeps_counting(make, draw):
    collection = torch.nn.ModuleList([MetricCollection([feed(make(), draw(0))])])
    (metric,) = collection.bfloat16()[0].values()
    with torch.inference_mode():
        metric.reset()
        metric.update(*draw(1))
    metric(*draw(2))
    assert_same(metric, feed(make(), draw(1), draw(2)))


def test_sums_stay_exact_beyond_float32():
    matrix = ConfusionMatrix("binary", 2)
    matrix.matrix = torch.full((2, 2), 2**24)
    pixel = torch.zeros(1, 1, 1, dtype=torch.int64)
    assert feed(matrix, (pixel, pixel)).compute().tolist() == [[2**24 + 1, 2**24], [2**24, 2**24]]
    counts = np.zeros(len(OBJECT_COUNTS))
    counts[0] = 2.0**52
    metric = feed(InstanceScores(), (counts,))
    counts[0] = 1.25
    metric.update(counts)
    assert metric.sums[:, 0].tolist() == [2**52 + 1, 2**38]
