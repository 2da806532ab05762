"""The weighted sum of losses: its value, its presets, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from omegaconf import OmegaConf

from segkit.config.compose import compose, find_conf_dir
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


def test_a_key_may_be_any_word_if_the_options_name_the_loss(batch):
    terms = {"soft.loss": {"name": "dice", "smooth": 1.0}, "keys": {"name": "dice", "smooth": 9.0}}
    options = {"mode": "multiclass", "ignore_index": 100}
    expected = sum(Loss.build("dice", smooth=smooth, **options)(*batch) for smooth in (1.0, 9.0))
    before = copy.deepcopy(terms)
    torch.testing.assert_close(Loss.build("sum", terms=terms, **options)(*batch), expected)
    assert terms == before


def test_weights_of_terms_move_with_the_sum():
    loss = Loss.build("sum", mode="binary", terms={"cross_entropy": {"class_weights": [1.0, 2.0]}})
    assert [buffer.device.type for buffer in loss.to("meta").buffers()] == ["meta"]


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({}, "no terms"),
        ({"dice": {"weight": 0}}, "term 'dice': the weight is 0"),
        ({"dice": {"weight": float("nan")}}, "weight is nan"),
        ({"dice": {"weight": True}}, "weight is True"),
        ({"dicce": {}}, "Did you mean 'dice'"),
        ({"dice": {"smoooth": 1.0}}, "Did you mean 'smooth'"),
        ({"dice": {"mode": "binary"}}, "mode: all terms share"),
        ({"bce": {}}, "no mode 'multiclass'"),
        ({"dice": None}, "terms"),
        ({"dicce": {}, "focal": {"gamma": -1}, "dice": {}}, "(?s)term 'dicce'.*term 'focal'"),
    ],
)
def test_wrong_terms_are_refused(terms, message):
    with pytest.raises(SegkitError, match=message):
        Loss.build("sum", mode="multiclass", terms=terms)


PRESETS = {
    path.stem: OmegaConf.to_container(OmegaConf.load(path))
    for path in find_conf_dir().glob("loss/*.yaml")
}
SUMS = [name for name, options in PRESETS.items() if options["name"] == "sum"]


def build_preset(mode: str, *overrides: str) -> Loss:
    options = OmegaConf.to_container(compose(list(overrides)).loss)
    return Loss.build(options.pop("name"), mode=mode, **options)


def test_every_loss_has_a_preset():
    shown = {options["name"] for options in PRESETS.values()}
    assert shown | {key for name in SUMS for key in PRESETS[name]["terms"]} >= set(Loss.names())


@pytest.mark.parametrize("name", SUMS)
def test_presets_of_sums_work_with_every_head(name):
    for mode in ("binary", "multiclass", "multilabel"):
        assert Loss.build("sum", mode=mode, terms=PRESETS[name]["terms"]).weights


def test_terms_of_a_preset_can_be_changed_added_and_removed():
    loss = build_preset(
        "binary",
        *("loss=dice_ce", "loss.terms.cross_entropy.weight=0.25"),
        *("+loss.terms.lovasz.weight=2", "~loss.terms.dice"),
    )
    assert [type(term).name for term in loss.terms] == ["cross_entropy", "lovasz"]
    assert loss.weights == (0.25, 2.0)


def test_focal_tversky_is_tversky_with_the_power_of_the_paper(batch):
    logits, target = batch
    target = torch.where(target == 100, 255, target)
    value = build_preset("multiclass", "loss=focal_tversky")(logits, target)
    expected = Loss.build("tversky", mode="multiclass", gamma=0.75)(logits, target)
    torch.testing.assert_close(value, expected)
