"""The accumulator of counts: exact in any order, over batches and over processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection

from segkit.core.errors import SegkitError
from segkit.metrics.instances import InstanceScores, instance_scores, object_counts


def image_counts(images: int = 5, seed: int = 0) -> np.ndarray:
    """The counts of random images, (images, K)."""
    rng = np.random.default_rng(seed)
    truths = np.repeat(rng.integers(0, 9, (images, 8, 3)), 3, axis=2)
    return np.stack([object_counts(t, np.where(rng.random(t.shape) < 0.8, t, 0)) for t in truths])


def metric(*batches: np.ndarray) -> InstanceScores:
    found = InstanceScores()
    for counts in batches:
        found.update(counts)
    return found


def test_scores_the_sums():
    counts = image_counts()
    expected = {name: float(value) for name, value in instance_scores(counts.sum(axis=0)).items()}
    found = metric(*counts).compute()
    assert found == pytest.approx(expected, abs=1e-10)
    assert {type(value) for value in found.values()} == {float}


def test_neither_order_nor_batches_matter_at_all():
    counts = image_counts(20)
    one = metric(*counts)
    assert torch.equal(metric(*counts[::-1]).sums, one.sums)
    assert torch.equal(metric(counts[:7], counts[7:]).sums, one.sums)
    assert metric(counts).compute() == one.compute()


def test_processes_are_summed():
    one, two = metric(image_counts(seed=1)), metric(image_counts(seed=2))
    alone = one.compute()
    one.sync(
        dist_sync_fn=lambda state, group=None: [state, two.sums],
        distributed_available=lambda: True,
    )
    assert torch.equal(one.sums, metric(image_counts(seed=1), image_counts(seed=2)).sums)
    one.unsync()
    assert one.compute() == alone


def test_forward_gives_the_batch_and_keeps_the_total():
    found = InstanceScores()
    first, second = image_counts(seed=1), image_counts(seed=2)
    assert found(first) == metric(first).compute()
    assert found(second) == metric(second).compute()
    assert found.compute() == metric(first, second).compute()


def test_reset_starts_anew_also_in_inference_mode():
    found = metric(image_counts(seed=1))
    with torch.inference_mode():
        found.reset()
        found.update(image_counts(seed=2))
    found.update(image_counts(seed=3))
    assert found.compute() == metric(image_counts(seed=2), image_counts(seed=3)).compute()


def test_half_precision_modules_keep_integer_sums():
    collection = torch.nn.ModuleList([MetricCollection([InstanceScores()])])
    found = collection.bfloat16()[0]["InstanceScores"]
    found.update(image_counts())
    assert found.compute() == metric(image_counts()).compute()


def test_large_sums_stay_whole():
    counts = np.zeros(len(metric().total))
    counts[0] = 2.0**52
    found = metric(counts)
    counts[0] = 1
    found.update(counts)
    assert found.sums[0, 0] == 2**52 + 1
    assert found.total[0] == 2**52 + 1


def test_another_shape_is_refused():
    with pytest.raises(SegkitError, match=r"InstanceScores takes counts of the shape"):
        InstanceScores().update(np.zeros(3))
    with pytest.raises(SegkitError, match=r"not \(2, 2, "):
        InstanceScores().update(np.zeros((2, 2, len(InstanceScores().total))))
