"""Two trainings never share a run folder."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from omegaconf import OmegaConf

from segkit.core.errors import SegkitError, Stop
from segkit.training.folder import ClaimFolder, claim_folder


def test_every_caller_gets_a_folder_of_its_own(tmp_path):
    wanted = tmp_path / "runs" / "cells" / "now"
    with ThreadPoolExecutor(16) as pool:
        claimed = list(pool.map(lambda _: claim_folder(wanted), range(40)))
    names = ["now", *(f"now_{number}" for number in range(2, 41))]
    assert sorted(folder.name for folder in claimed) == sorted(names)
    assert all(folder.is_dir() for folder in claimed)


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(SegkitError, match=r"cannot create the run folder .*hydra\.run\.dir"):
        claim_folder(tmp_path / "runs" / "now")


def test_sweeps_keep_apart_in_every_process_of_theirs(tmp_path):
    """What a job composes of the overrides is what the sweep has claimed."""
    for name in ("sweep", "sweep_2"):
        hydra = {"sweep": {"dir": str(tmp_path / "sweep")}, "overrides": {"hydra": []}}
        config = OmegaConf.create({"hydra": hydra})
        claim = ClaimFolder()
        claim.on_multirun_start(config)
        assert config.hydra.sweep.dir == str(tmp_path / name)
        assert config.hydra.overrides.hydra == [f"hydra.sweep.dir='{tmp_path / name}'"]
        pickle.loads(pickle.dumps(claim)).on_multirun_end(config)  # as in a job of Slurm
        with pytest.raises(Stop, match="in use by a sweep"):
            ClaimFolder().on_multirun_start(config)  # named by the user, as far as it knows
        claim.on_multirun_end(config)
        again = ClaimFolder()
        again.on_multirun_start(config)
        again.on_multirun_end(config)
        assert config.hydra.sweep.dir == str(tmp_path / name)


@pytest.mark.nightly
def test_commands_of_the_same_second_keep_apart(tmp_path):
    """With a clock that stands still."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/same_time.yaml").write_text(
        "# @package _global_\ndefaults: [quick]\nhydra: {run: {dir: runs/now}}\n"
    )
    command = [sys.executable, "-m", "segkit.train", f"--config-dir={tmp_path}"]
    command += ["experiment=same_time", "trainer.accelerator=cpu", "trainer.progress_bar=false"]
    command += ["encoder=unet", "encoder.depth=2", "encoder.width=4"]
    runs = [subprocess.Popen([*command, f"seed={seed}"], cwd=tmp_path) for seed in (1, 2)]
    assert [run.wait() for run in runs] == [0, 0]
    folders = list((tmp_path / "runs").iterdir())
    assert {folder.name for folder in folders} == {"now", "now_2"}
    assert {OmegaConf.load(folder / "config.yaml").seed for folder in folders} == {1, 2}
    assert all((folder / "result.json").is_file() for folder in folders)
