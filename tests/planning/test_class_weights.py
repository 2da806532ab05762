"""Class weights from the data: their values, where they go, and that a run keeps them."""

from __future__ import annotations

import doctest

import cv2
import numpy as np
import pytest
from conftest import train_quick
from omegaconf import OmegaConf
from rich.console import Console

import segkit.planning.class_weights
from segkit.config.compose import compose
from segkit.config.openings import take_choices
from segkit.config.validation import validate
from segkit.core.errors import SegkitError
from segkit.data.checks.summary import check
from segkit.data.sources.base import DataSource
from segkit.losses import Loss
from segkit.planning.class_weights import choose_class_weights, weigh_classes

ROWS = {
    # rows of each label of 16, in the training masks; those of the validation are all 0
    "binary": {0: 12, 1: 4},
    "multiclass": {0: 9, 1: 4, 2: 1, 255: 2},
}


every_mode = pytest.mark.parametrize("mode", ROWS)


def draw_set(tmp_path, mode):
    """The options of a data set whose rows of each label are known."""
    labels = np.repeat(list(ROWS[mode]), list(ROWS[mode].values())).astype(np.uint8)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
        for number in range(2):
            mask = np.repeat(labels[:, None], 16, 1)
            if split == "val":
                mask = np.where(mask == 255, 0, mask)
                mask[:8] = 1
            cv2.imwrite(str(tmp_path / split / "masks" / f"{split}{number}.png"), mask)
            noise = np.random.default_rng(number + 5 * (split == "val")).integers(0, 255, (16, 16))
            cv2.imwrite(str(tmp_path / split / "images" / f"{split}{number}.png"), noise)
    return {"root": str(tmp_path)}


def weigh(mode, options, *overrides):
    """The config with class weights from the data, and what is printed."""
    count = [f"head.num_classes={options['count']}"] if "count" in options else []
    config = compose(
        ["data=folder", f"data.root={options['root']}", f"head={mode}", *count, *overrides]
    )
    settings = validate(config)
    source = DataSource.build("folder", mode=mode, **settings.data.options)
    summary = check(source, mode, options.get("count"))
    console = Console(soft_wrap=True, markup=False, highlight=False)
    with console.capture() as captured:
        found = weigh_classes(settings, summary, console)
    assert validate(OmegaConf.create(found.to_plain())) == found
    return found, captured.get()


def test_the_example_runs():
    assert doctest.testmod(segkit.planning.class_weights).failed == 0


@every_mode
def test_weights_are_inverse_roots_of_the_shares_of_the_training_pixels(tmp_path, mode):
    options = draw_set(tmp_path, mode)
    found, printed = weigh(mode, options, "loss=cross_entropy", "loss.class_weights=auto")
    counts = [n for label, n in ROWS[mode].items() if label != 255]
    roots = 1 / np.sqrt(np.array(counts) / sum(counts))
    weights = found.loss.options["class_weights"]
    np.testing.assert_allclose(weights, roots / roots.mean(), rtol=5e-4)
    np.testing.assert_allclose(np.mean(weights), 1, rtol=5e-4)
    assert printed.startswith(f"loss.class_weights: {'background' if mode == 'binary' else ''}")
    assert printed.count("\n") == 1
    Loss.build("cross_entropy", mode=mode, **found.loss.options)


def test_classes_that_no_training_mask_has_weigh_one(tmp_path):
    options = draw_set(tmp_path, "multiclass") | {"count": 5}
    found, printed = weigh("multiclass", options, "loss=dice", "loss.class_weights=auto")
    weights = found.loss.options["class_weights"]
    assert weights[3:] == [1.0, 1.0]
    np.testing.assert_allclose(np.mean(weights[:3]), 1, rtol=5e-4)
    assert "the weight of what no training mask has is 1" in printed


def test_each_class_of_overlapping_ones_has_the_weight_of_its_own_share(tmp_path):
    """Nested squares: shares of 1 and 1/4 of the pixels."""
    for split in ("train", "val"):
        (tmp_path / split / "images").mkdir(parents=True)
        noise = np.random.default_rng(len(split)).integers(0, 255, (16, 16))
        cv2.imwrite(str(tmp_path / split / "images" / f"{split}.png"), noise)
        for name, side in (("whole", 16), ("part", 8)):
            mask = np.zeros((16, 16), np.uint8)
            mask[:side, :side] = 255
            (tmp_path / split / "masks" / name).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / split / "masks" / name / f"{split}.png"), mask)
    given = {"root": str(tmp_path)}
    found, printed = weigh("multilabel", given, "loss=cross_entropy", "loss.class_weights=auto")
    assert sorted(found.loss.options["class_weights"]) == [0.6667, 1.333]
    assert "part 1.333" in printed
    assert "whole 0.6667" in printed


@every_mode
def test_the_terms_of_a_sum_are_filled_in_with_one_line(tmp_path, mode):
    options = draw_set(tmp_path, mode)
    term = "loss.terms.cross_entropy.class_weights=auto"
    found, printed = weigh(mode, options, "loss=dice_ce", term)
    weights = found.loss.options["terms"]["cross_entropy"]["class_weights"]
    assert len(weights) == len([label for label in ROWS[mode] if label != 255])
    assert found.loss.options["terms"]["dice"]["class_weights"] is None
    assert printed.startswith("loss.terms.cross_entropy.class_weights: ")
    assert weigh(mode, options, "loss=dice_ce")[1] == ""


def test_balanced_and_single_classes_weigh_one():
    assert choose_class_weights([0.25] * 4) == [1.0] * 4
    assert choose_class_weights([0.0, 1.0]) == [1.0, 1.0]
    assert choose_class_weights([0.0, 0.0]) == [1.0, 1.0]


@pytest.mark.parametrize("name", ["cross_entropy", "dice", "lovasz", "cldice", "tversky"])
def test_auto_is_an_error_where_no_data_are_known(name):
    with pytest.raises(SegkitError, match="only a training fills it in"):
        Loss.build(name, mode="multiclass", class_weights="auto")


def test_where_auto_does_not_fit_it_is_refused_before_the_data_are_read():
    with pytest.raises(SegkitError, match="mode 'binary' has one class"):
        validate(compose(["head=binary", "loss=dice", "loss.class_weights=auto"]))
    drawn = ["target=border_core", "head=multiclass", "data.instances=true", "data=folder"]
    drawn += ["data.root=x", "loss=cross_entropy", "loss.class_weights=auto"]
    with pytest.raises(SegkitError, match="give the weights of background, core, border"):
        validate(compose(drawn))


@pytest.mark.slow
def test_a_run_stores_the_weights_and_a_resumed_one_keeps_them(tmp_path, capsys):
    given = ["loss=cross_entropy", "loss.class_weights=auto", "trainer.max_epochs=1"]
    folder = train_quick(tmp_path, *given).folder
    assert capsys.readouterr().out.count("loss.class_weights: background") == 1
    stored = OmegaConf.load(folder / "config.yaml")
    first, second = stored.loss.class_weights
    assert first < 1 < second
    stored.loss.class_weights = [0.5, 1.5]  # as if the data had others now
    OmegaConf.save(stored, folder / "config.yaml")
    assert take_choices(compose(given), stored).loss.class_weights == [0.5, 1.5]
    train_quick(tmp_path, *given[:2], "trainer.max_epochs=2", f"resume={folder}")
    assert OmegaConf.load(folder / "config.yaml").loss.class_weights == [0.5, 1.5]
    assert "loss.class_weights" not in capsys.readouterr().out
