"""The weighted sum of losses: its value, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from segkit.core.errors import SegkitError
from segkit.losses import Loss


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(3, (2, 5, 7), generator=generator)
    target[0, :2] = 100
    return torch.randn(2, 3, 5, 7, generator=generator), target


@pytest.mark.parametrize("mode", ["multiclass", "multilabel"])
def test_is_the_weighted_sum_of_its_terms(batch, mode):
    options = {"mode": mode, "ignore_index": 100}
    loss = Loss.build(
        "sum",
        terms={
            "dice": {"weight": 0.5, "smooth": 2.0},
            "cross_entropy": {"label_smoothing": 0.1},
            "focal": {"weight": 3},
        },
        **options,
    )
    expected = (
        0.5 * Loss.build("dice", smooth=2.0, **options)(*batch)
        + Loss.build("cross_entropy", label_smoothing=0.1, **options)(*batch)
        + 3 * Loss.build("focal", **options)(*batch)
    )
    torch.testing.assert_close(loss(*batch), expected)


def test_a_key_may_be_any_word_where_the_name_is_given(batch):
    terms = {"soft.loss": {"name": "dice", "smooth": 1.0}, "keys": {"name": "dice", "smooth": 9.0}}
    options = {"mode": "multiclass", "ignore_index": 100}
    expected = sum(Loss.build("dice", smooth=smooth, **options)(*batch) for smooth in (1.0, 9.0))
    torch.testing.assert_close(Loss.build("sum", terms=terms, **options)(*batch), expected)


def test_the_terms_have_the_mode_and_the_ignore_index_of_the_sum():
    loss = Loss.build("sum", mode="multilabel", ignore_index=7, terms={"dice": {}, "focal": {}})
    assert {(term.mode, term.ignore_index) for term in loss.terms} == {("multilabel", 7)}


def test_the_options_given_are_left_as_they_were():
    terms = {"overlap": {"name": "dice", "weight": 2.0}}
    Loss.build("sum", mode="binary", terms=terms)
    Loss.resolve("sum", {})[0]("binary", terms)
    assert terms == {"overlap": {"name": "dice", "weight": 2.0}}


def test_weights_of_terms_move_with_the_sum():
    loss = Loss.build("sum", mode="binary", terms={"cross_entropy": {"class_weights": [1.0, 2.0]}})
    assert [buffer.device.type for buffer in loss.to("meta").buffers()] == ["meta"]


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({}, "no terms"),
        ({"dice": {"weight": 0}}, "term 'dice': the weight is 0"),
        ({"dice": {"weight": -1.0}}, "weight is -1.0"),
        ({"dice": {"weight": float("nan")}}, "weight is nan"),
        ({"dice": {"weight": "much"}}, "weight is 'much'"),
        ({"dice": {"weight": True}}, "weight is True"),
        ({"dicce": {}}, "Did you mean 'dice'"),
        ({"dice": {"smoooth": 1.0}}, "Did you mean 'smooth'"),
        ({"dice": {"mode": "binary"}}, "mode: all terms share"),
        ({"dice": {"ignore_index": 0}}, "ignore_index: all terms share"),
        ({"bce": {}}, "no mode 'multiclass'"),
        ({"dice": None}, "terms"),
    ],
)
def test_wrong_terms_are_refused(terms, message):
    with pytest.raises(SegkitError, match=message):
        Loss.build("sum", mode="multiclass", terms=terms)


def test_all_wrong_terms_are_named_at_once():
    terms = {"dicce": {}, "focal": {"gamma": -1.0}, "dice": {}}
    with pytest.raises(SegkitError, match=r"(?s)term 'dicce'.*term 'focal'"):
        Loss.build("sum", mode="multiclass", terms=terms)
