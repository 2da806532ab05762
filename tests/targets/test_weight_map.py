"""The weight map against its formula over whole images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from segkit.core.errors import SegkitError
from segkit.targets.base import Target
from segkit.targets.weight_map import MOST_BALANCE, WeightMap, balance_classes


def plain(ids, w0, sigma):
    """The second term on the background, over whole images and one object after the other."""
    far = [np.full(ids.shape, np.inf)] * 2
    distances = [ndimage.distance_transform_edt(ids != n) for n in np.unique(ids) if n]
    d1, d2 = np.sort(np.stack([*distances, *far]), axis=0)[:2]
    return np.where(ids == 0, w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2)), 0)


@settings(max_examples=40)
@given(
    hnp.arrays(np.uint16, (17, 19), elements=st.sampled_from([0] * 30 + [1, 2, 3, 4000])),
    st.floats(0.5, 20),
    st.floats(0.5, 8),
)
def test_the_second_term_is_that_of_the_formula(ids, w0, sigma):
    weight = WeightMap(w0, sigma, balance=False)((ids > 0).astype(np.uint8), ids)
    assert weight.dtype == np.float32
    assert np.abs(weight - 1 - plain(ids, w0, sigma)).max() <= 1.01e-4 * w0 + 1e-5


def test_by_hand():
    ids = np.zeros((9, 40), np.uint16)
    ids[:, :10], ids[:, 13:20] = 1, 2  # three pixels between them
    weight = WeightMap(balance=False)((ids > 0).astype(np.uint8), ids)
    assert weight[4, 11] == pytest.approx(1 + 10 * math.exp(-((2 + 2) ** 2) / 50))
    assert weight[4, 10] == pytest.approx(1 + 10 * math.exp(-((1 + 3) ** 2) / 50))
    assert weight[4, 5] == 1
    assert weight[4, 22] == pytest.approx(1 + 10 * math.exp(-((3 + 13) ** 2) / 50))
    one = np.where(ids == 1, ids, 0)
    assert (WeightMap(balance=False)((one > 0).astype(np.uint8), one) == 1).all()
    ids = np.array([[1, 0, 2, 2]], np.uint16)  # without w0 only the balance is left
    weight = WeightMap(w0=0)(np.array([[1, 0, 1, 1]], np.uint8), ids)
    assert weight[0] == pytest.approx([4 / (2 * 3), 4 / 2, 4 / (2 * 3), 4 / (2 * 3)])


@given(hnp.arrays(np.uint8, (7, 9), elements=st.sampled_from([0, 0, 0, 0, 1, 3, 254, 255])))
def test_balanced_classes_have_a_mean_weight_of_one_and_equal_shares(classes):
    weight = balance_classes(classes)[classes]
    labelled = classes != 255
    assert (weight[~labelled] == 0).all()
    if labelled.any():
        assert weight[labelled].mean() == pytest.approx(1, rel=1e-5)
        present = np.unique(classes[labelled])
        shares = [weight[classes == c].sum() for c in present]
        if min((classes == c).sum() for c in present) * len(present) * MOST_BALANCE > 63:
            assert shares == pytest.approx([shares[0]] * len(shares), rel=1e-4)


def test_a_few_pixels_do_not_outweigh_the_rest():
    classes = np.zeros((100, 100), np.uint8)
    classes[0, 0] = 1
    weight = balance_classes(classes)
    assert weight[1] / weight[0] == pytest.approx(MOST_BALANCE / (10000 / (2 * 9999)))
    assert weight[classes].mean() == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"w0": -1}, "greater than or equal to 0"),
        ({"sigma": 0}, "greater than 0"),
        ({"w_0": 10}, "Unexpected keyword"),
        (10, "dictionary or an instance of WeightMap"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(SegkitError, match=f"weight_map.*{words}"):
        Target.build("foreground", weight_map=options)
