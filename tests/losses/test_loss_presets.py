"""The presets of conf/loss: what they are, and that all of it can be overridden."""

from __future__ import annotations

import inspect

import pytest
from omegaconf import OmegaConf

from segkit.config.compose import compose, conf_dir
from segkit.losses import Loss

PRESETS = {
    path.stem: OmegaConf.to_container(OmegaConf.load(path))
    for path in conf_dir().glob("loss/*.yaml")
}
SUMS = [name for name, options in PRESETS.items() if options["name"] == "sum"]


def built(mode: str, *overrides: str) -> Loss:
    options = OmegaConf.to_container(compose(list(overrides)).loss)
    return Loss.build(options.pop("name"), mode=mode, **options)


@pytest.mark.parametrize("name", Loss.names())
def test_every_loss_has_a_preset(name):
    shown = {options["name"] for options in PRESETS.values()}
    shown |= {key for sum_ in SUMS for key in PRESETS[sum_]["terms"]}
    assert name in shown


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_sums_serve_every_head(name, mode):
    assert built(mode, f"loss={name}").weights


@pytest.mark.parametrize("name", SUMS)
def test_every_option_of_every_term_can_be_overridden(name):
    for key, options in PRESETS[name]["terms"].items():
        term = Loss.resolve(options.get("name", key), {})[0]
        wanted = set(inspect.signature(term).parameters) - {"mode", "ignore_index"}
        assert set(options) >= wanted | {"weight"}, key


def test_the_weights_of_dice_ce_can_be_overridden():
    changes = ["loss.terms.dice.weight=0.25", "loss.terms.dice.smooth=3"]
    loss = built("binary", "loss=dice_ce", *changes)
    assert loss.weights == (0.25, 1.0)
    assert loss.terms[0].smooth == 3


def test_a_term_can_be_added_and_one_removed():
    loss = built("binary", "loss=dice_ce", "+loss.terms.lovasz.weight=2", "~loss.terms.dice")
    assert [type(term).name for term in loss.terms] == ["cross_entropy", "lovasz"]
    assert loss.weights == (1.0, 2.0)


def test_focal_tversky_is_tversky_with_the_papers_power():
    assert built("binary", "loss=focal_tversky").gamma == 0.75
    assert built("binary", "loss=tversky").gamma == 1
