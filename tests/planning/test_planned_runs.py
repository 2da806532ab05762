"""Trainings with plan=auto: on all kinds of data, resumed, in a sweep, with typos."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from omegaconf import OmegaConf

from segkit.checkpoint import reading as checkpoint
from segkit.config.compose import compose
from segkit.config.openings import find_open_keys
from segkit.core.errors import SegkitError
from segkit.images.reading import write_image, write_mask
from segkit.report.table import read_csv
from segkit.training.run import Run, train

pytestmark = pytest.mark.slow
SMALL = [
    "plan=auto",
    "encoder=unet",
    "encoder.width=4",
    "encoder.depth=3",
    "encoder.norm=batch",
    "trainer.progress_bar=false",
    "trainer.accelerator=cpu",
    "data.num_workers=0",
]
FEW_CELLS = ["data.train=6", "data.val=2", "data.test=0", "data.size=[40,40]"]
RNG = np.random.default_rng(0)


def run(folder: Path, *overrides: str) -> Run:
    with warnings.catch_warnings():
        return train(compose([*SMALL, "trainer.max_steps=2", *overrides]), folder)


def config_of(result: Run) -> Any:
    return OmegaConf.load(result.folder / "config.yaml")


def folder_of(root: Path, count: int, size: tuple[int, int], classes: int, channels: int) -> Path:
    """Noise with a square of each class."""
    for number in range(count):
        pixels = RNG.integers(0, 256, (*size, channels)).astype(np.uint8)
        labels = np.zeros(size, np.uint8)
        for label in range(1, classes):
            labels[label : label + 3, 1:4] = label
        write_image(root / "images" / f"{number}.png", pixels)
        write_mask(root / "masks" / f"{number}.png", labels)
    return root


@pytest.fixture(scope="module")
def planned(tmp_path_factory: Any) -> Run:
    """A planned training on cells."""
    return run(tmp_path_factory.mktemp("planned"), *FEW_CELLS)


def test_every_choice_stands_in_the_run(planned: Run) -> None:
    config = config_of(planned)
    assert find_open_keys(config) == []
    assert config.data.crop_size == [40, 40]
    assert config.loss.terms.dice.weight == 1
    assert config.augment == compose(["augment=light"]).augment
    rows = read_csv(planned.folder / "plan.csv")
    assert {"data.crop_size", "loss", "optimizer.lr"} <= {str(row["key"]) for row in rows}
    card = checkpoint.read(planned.checkpoint)[1]
    assert card.config["data"]["crop_size"] == [40, 40]


def test_the_same_values_given_by_hand_are_the_same_training(planned: Run, tmp_path: Path) -> None:
    rows = read_csv(planned.folder / "plan.csv")
    given = [
        f"{row['key']}={'null' if row['value'] != row['value'] else row['value']}" for row in rows
    ]
    second = run(tmp_path, *FEW_CELLS, "plan=none", *given)
    losses = [read_csv(r.folder / "metrics.csv")[-1]["train/loss"] for r in (planned, second)]
    assert losses[0] == losses[1]
    assert not (second.folder / "plan.csv").exists()


def test_what_is_given_is_trained(tmp_path: Path) -> None:
    options = ["loss=dice", "data.crop_size=24", "data.batch_size=2", "augment=none"]
    config = config_of(run(tmp_path, *FEW_CELLS, *options))
    assert (config.loss.name, config.data.crop_size, config.data.batch_size) == (
        "dice",
        [24, 24],
        2,
    )
    assert config.augment.transforms == []


@pytest.mark.parametrize(
    "options",
    [["data.instances=true", "target=border_core"], ["encoder.padding=valid", "neck=unet"]],
)
def test_ids_of_objects_and_unpadded_networks(tmp_path: Path, options: list[str]) -> None:
    result = run(tmp_path, *FEW_CELLS, *options)
    assert config_of(result).data.crop_size == [40, 40]
    assert result.checkpoint.is_file()


def test_five_images_in_colours_with_several_classes(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "data", 5, (30, 44), classes=3, channels=3)
    config = config_of(run(tmp_path / "run", "data=folder", f"data.root={root}", "head=multiclass"))
    assert list(config.data.crop_size) == [28, 44]
    assert config.loss == compose(["loss=dice_focal"]).loss


def test_large_images_of_16_bits_with_a_rare_class(tmp_path: Path) -> None:
    for number in range(3):
        pixels = RNG.integers(100, 4000, (400, 400)).astype(np.uint16)
        (tmp_path / "data/images").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(tmp_path / f"data/images/{number}.tif", pixels)
        labels = np.zeros((400, 400), np.uint8)
        labels[5:20, 5:20] = 1
        write_mask(tmp_path / f"data/masks/{number}.png", labels)
    config = config_of(run(tmp_path / "run", "data=folder", f"data.root={tmp_path / 'data'}"))
    assert config.data.normalize == "dataset"
    assert config.data.foreground_share == 0.5
    assert list(config.data.crop_size) == [256, 256]


def test_one_tiny_image(tmp_path: Path) -> None:
    for split in ("train", "val"):
        folder_of(tmp_path / "data" / split, 1, (7, 5), classes=2, channels=1)
    config = config_of(run(tmp_path / "run", "data=folder", f"data.root={tmp_path / 'data'}"))
    assert list(config.data.crop_size) == [5, 5]


def test_a_planned_run_is_resumed_as_it_was_planned(planned: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(planned.folder, tmp_path / "run"))
    before = config_of(planned)
    again = run(folder, *FEW_CELLS, "trainer.max_steps=4", f"resume={folder}")
    after = config_of(again)
    assert after.data == before.data
    assert after.optimizer == before.optimizer
    assert after.trainer.max_steps == 4
    assert read_csv(folder / "metrics.csv")[-1]["step"] == 4


def test_a_resumed_run_cannot_be_planned_anew(planned: Run) -> None:
    before = (planned.folder / "config.yaml").read_text()
    command = [sys.executable, "-m", "segkit.train", f"resume={planned.folder}", "plan=auto"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "plan=auto: it cannot change in a resumed run" in done.stderr
    assert (planned.folder / "config.yaml").read_text() == before


def test_all_problems_are_named_before_the_data_are_read(tmp_path: Path) -> None:
    config = compose(["plan=auto", "data=folder", "data.root=/nowhere"])
    OmegaConf.set_struct(config, False)
    config.data.batch_size, config.trainer.precison, config.neck.wdth = "aut", 1, 3
    with pytest.raises(SegkitError) as error:
        train(config, tmp_path)
    text = str(error.value)
    assert "data.batch_size='aut'" in text
    assert "trainer.precison: there is no such key" in text
    assert "neck: option 'wdth' is not known" in text
    assert "crop_size" not in text


def test_in_a_sweep_each_job_has_its_own_plan(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "segkit.train", "-m", *SMALL, *FEW_CELLS]
    jobs = ["trainer.max_steps=1", "loss=auto,dice"]
    done = subprocess.run([*command, *jobs], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [sweep] = (tmp_path / "runs/cells").iterdir()
    found = [OmegaConf.load(sweep / f"{number}/config.yaml") for number in range(2)]
    assert [(c.loss.name, *c.data.crop_size) for c in found] == [("sum", 40, 40), ("dice", 40, 40)]
    assert len(read_csv(sweep / "sweep.csv")) == 2
