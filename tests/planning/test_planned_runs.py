"""Trainings with plan=auto: on all kinds of data, resumed, in a sweep."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from conftest import train_quick
from omegaconf import OmegaConf

from segkit.checkpoint import reading as checkpoint
from segkit.config.compose import compose
from segkit.config.openings import find_open_keys
from segkit.images.writing import write_mask
from segkit.report.table import read_csv
from segkit.training.run import Run

pytestmark = pytest.mark.slow
SMALL = ["plan=auto", "trainer.progress_bar=false", "trainer.accelerator=cpu", "data.num_workers=0"]
SMALL += ["encoder=unet", "encoder.width=4", "encoder.depth=3", "encoder.norm=batch"]
FEW_CELLS = ["data.train=6", "data.val=2", "data.test=0", "data.size=[40,40]"]


def run(folder: Path, *overrides: str) -> tuple[Run, Any]:
    """A short training, and its config."""
    result = train_quick(folder, "trainer.max_steps=2", *overrides, quick=SMALL)
    return result, OmegaConf.load(result.folder / "config.yaml")


def put(root: Path, count: int, classes: int, pixels: Any) -> list[str]:
    """Images with a square of each class, as a data set on the command line."""
    for number in range(count):
        labels = np.zeros(pixels.shape[:2], np.uint8)
        for label in range(1, classes):
            labels[label : label + 3, 1:4] = label
        write_mask(root / "masks" / f"{number}.png", labels)
        (root / "images").mkdir(exist_ok=True)
        tifffile.imwrite(root / "images" / f"{number}.tif", pixels)
    return ["data=folder", f"data.root={root}"]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: Any) -> tuple[Run, Any]:
    """A planned training on cells."""
    return run(tmp_path_factory.mktemp("planned"), *FEW_CELLS)


def test_a_run_stores_every_choice(planned):
    result, config = planned
    assert find_open_keys(config) == []
    assert config.data.crop_size == [40, 40]
    assert config.loss.terms.dice.weight == 1
    assert config.augment == compose(["augment=light"]).augment
    rows = read_csv(result.folder / "plan.csv")
    assert {"data.crop_size", "loss", "optimizer.lr"} <= {str(row["key"]) for row in rows}
    assert checkpoint.read(result.checkpoint)[1].config["data"]["crop_size"] == [40, 40]


def test_the_same_values_given_by_hand_are_the_same_training(planned, tmp_path):
    first, _ = planned
    given = [
        f"{row['key']}={'null' if row['value'] != row['value'] else row['value']}"
        for row in read_csv(first.folder / "plan.csv")
    ]
    second, _ = run(tmp_path, *FEW_CELLS, "plan=none", *given)
    one, two = (read_csv(r.folder / "metrics.csv")[-1]["train/loss"] for r in (first, second))
    assert one == two
    assert not (second.folder / "plan.csv").exists()


@pytest.mark.parametrize(
    "options",
    [["data.instances=true", "target=border_core"], ["encoder.padding=valid", "neck=unet"]],
)
def test_ids_of_objects_and_unpadded_networks(tmp_path, options):
    result, config = run(tmp_path, *FEW_CELLS, *options)
    assert config.data.crop_size == [40, 40]
    assert result.checkpoint.is_file()


def test_five_images_in_colours_with_several_classes(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 44, 3)).astype(np.uint8)
    _, config = run(tmp_path / "run", *put(tmp_path / "data", 5, 3, pixels), "head=multiclass")
    assert list(config.data.crop_size) == [28, 44]
    assert config.loss == compose(["loss=dice_focal"]).loss


def test_one_tiny_image(tmp_path):
    for split in ("train", "val"):
        put(tmp_path / "data" / split, 1, 2, np.ones((7, 5), np.uint8))
    _, config = run(tmp_path / "run", "data=folder", f"data.root={tmp_path / 'data'}")
    assert list(config.data.crop_size) == [5, 5]


def test_a_planned_run_is_resumed_as_it_was_planned(planned, tmp_path):
    first, before = planned
    folder = Path(shutil.copytree(first.folder, tmp_path / "run"))
    _, after = run(folder, *FEW_CELLS, "trainer.max_steps=4", f"resume={folder}")
    assert (after.data, after.optimizer) == (before.data, before.optimizer)
    assert after.trainer.max_steps == 4
    assert read_csv(folder / "metrics.csv")[-1]["step"] == 4


@pytest.mark.nightly
def test_in_a_sweep_each_job_has_its_own_plan(tmp_path):
    command = [sys.executable, "-m", "segkit.train", "-m", *SMALL, *FEW_CELLS]
    jobs = ["trainer.max_steps=1", "loss=auto,dice", "data.crop_size=auto,24"]
    done = subprocess.run([*command, *jobs], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [sweep] = (tmp_path / "runs/cells").iterdir()
    found = [OmegaConf.load(sweep / f"{number}/config.yaml") for number in range(4)]
    sizes = [(40, 40), (24, 24)]
    wanted = [(name, *size) for name in ("sum", "dice") for size in sizes]
    assert [(c.loss.name, *c.data.crop_size) for c in found] == wanted
    assert len(read_csv(sweep / "sweep.csv")) == 4
