"""Draws: evenly, by classes, by hardness; the same for any number of workers."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from segkit.data.draws import ClassOrder, DrawSampler, EvenOrder, HardOrder


def draw_epoch(count: int, per_epoch: int, seed: int, epoch: int) -> list[tuple[int, int]]:
    sampler = DrawSampler(EvenOrder(count, seed), per_epoch, seed)
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == per_epoch
    return drawn


@given(st.integers(1, 40), st.integers(1, 90), st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_every_sample_is_drawn_equally_often(count, per_epoch, seed, epochs):
    counts = Counter(dict.fromkeys(range(count), 0))
    for epoch in range(epochs):
        counts.update(index for index, _ in draw_epoch(count, per_epoch, seed, epoch))
        assert max(counts.values()) - min(counts.values()) <= 1  # whenever the training ends
    assert set(counts) == set(range(count))


@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_draws_depend_only_on_seed_and_epoch(seed, epoch):
    assert draw_epoch(20, 30, seed, epoch) == draw_epoch(20, 30, seed, epoch)
    assert draw_epoch(20, 30, seed, epoch) != draw_epoch(20, 30, seed, epoch + 1)
    assert draw_epoch(20, 30, seed, epoch) != draw_epoch(20, 30, seed + 1, epoch)
    seeds = [s for e in (epoch, epoch + 1) for _, s in draw_epoch(20, 30, seed, e)]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 0


@given(st.integers(0, 2**32 - 1), st.integers(1, 50))
def test_every_class_is_drawn_equally_often(seed: int, per_epoch: int):
    presence = np.zeros((12, 4), np.bool_)
    presence[:, 0], presence[::3, 1], presence[5, 3] = True, True, True  # none has the class 2
    order, drawn = ClassOrder(presence, seed), []
    for epoch in range(3):
        drawn += order.list_draws(epoch, per_epoch)
        classes = Counter({0: 0, 1: 0, 3: 0})
        classes.update(label for _, label in drawn)
        assert max(classes.values()) - min(classes.values()) <= 1
    assert all(presence[index, label] for index, label in drawn)
    for label in (0, 1):  # evenly over the images that have it
        images = Counter(index for index, other in drawn if other == label)
        counts = [images[i] for i in np.flatnonzero(presence[:, label])]
        assert max(counts) - min(counts) <= 1
    again = ClassOrder(presence, seed)
    assert again.list_draws(2, per_epoch) == drawn[2 * per_epoch :]


def test_hard_samples_are_drawn_more_often():
    weights = None
    order = HardOrder(EvenOrder(10, 7), lambda: weights)
    assert order.list_draws(3, 20) == EvenOrder(10, 7).list_draws(3, 20)
    weights = np.ones(10)
    weights[4] = 11
    counts = Counter(index for epoch in range(50) for (index,) in order.list_draws(epoch, 100))
    assert 0.5 * 0.1 + 0.5 * 0.55 - 0.02 < counts[4] / 5000 < 0.5 * 0.1 + 0.5 * 0.55 + 0.02
    assert min(counts.values()) >= 250  # half of the draws are even
    weights = np.zeros(10)
    assert order.list_draws(0, 10) == EvenOrder(10, 7).list_draws(0, 10)
