"""Jobs of Slurm: stopped by a signal, requeued, resumed; and sweeps whose jobs are elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest

from segkit.report.table import read_csv

COMMAND = [sys.executable, "-m", "segkit.train", "experiment=quick", "encoder=unet"]
COMMAND += ["encoder.depth=2", "encoder.width=4", "trainer.accelerator=cpu"]
COMMAND += ["trainer.progress_bar=false"]
SCONTROL = """#!/bin/sh
echo "$@" > "$0.said"
exit $SCONTROL_STATUS
"""


@pytest.fixture
def job(tmp_path):
    """The environment of a job of four tasks that was started without srun, with a scontrol."""
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    own = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "4", "SCONTROL_STATUS": "0", "PATH": path}
    return os.environ | own


def start(job, *options, cwd):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*COMMAND, *options], cwd=cwd, env=job, **streams)


def send_after_an_epoch(process, runs, number):
    """Send a signal once a run has written a row of metrics.csv; return what is printed."""
    until = time.monotonic() + 240
    while not any(runs.glob("*/metrics.csv")) and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(number)
    return process.communicate(timeout=120)[0]


@pytest.mark.nightly
@pytest.mark.parametrize("status", ["0", "1"], ids=["requeued", "refused"])
def test_a_job_that_slurm_stops_is_requeued_and_goes_on(tmp_path, job, status):
    runs, options = tmp_path / "runs/quick", ["trainer.max_epochs=8", "encoder.dropout=0"]
    job["SCONTROL_STATUS"] = status
    said = send_after_an_epoch(start(job, *options, cwd=tmp_path), runs, signal.SIGUSR1)
    assert "Traceback" not in said
    assert "has 4 tasks" in said
    assert (tmp_path / "scontrol.said").read_text() == "requeue 77\n"
    assert ("is requeued" in said, "cannot be requeued" in said) == (status == "0", status == "1")
    (run,) = runs.iterdir()
    done = len(read_csv(run / "metrics.csv"))
    assert 0 < done < 8
    job["SLURM_RESTART_COUNT"] = "1"
    again = start(job, *options, cwd=tmp_path)
    said, _ = again.communicate(timeout=240)
    assert again.returncode == 0, said
    assert list(runs.iterdir()) == [run]
    epochs = [row["epoch"] for row in read_csv(run / "metrics.csv")]
    assert epochs == list(range(8))
    over = start(job, *options, cwd=tmp_path)  # in a script of several trainings, this one is over
    said, _ = over.communicate(timeout=240)
    assert over.returncode == 0
    assert f"{run.name} is finished" in said
    assert list(runs.iterdir()) == [run]


def run_sweep(tmp_path, *options):
    done = subprocess.run(
        [*COMMAND, "-m", "trainer.max_epochs=1", "hydra/launcher=submitit_local", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
    )
    (table,) = tmp_path.glob("runs/quick/sweep_*/sweep.csv")
    return done, {row["job"]: row for row in read_csv(table)}


@pytest.mark.nightly
def test_a_sweep_of_submitit_ends_with_its_table(tmp_path):
    pytest.importorskip(
        "hydra_plugins.hydra_submitit_launcher", reason="the extra slurm is not installed"
    )
    done, rows = run_sweep(tmp_path, "data.crop_size=64,0")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "2 jobs, best first" in done.stdout
    assert 0 < rows[0]["val/iou"] < 1
    assert "crop_size" in rows[1]["error"]


DIES = """
import os
if "SUBMITIT_EXECUTOR" in os.environ:
    os._exit(9)
"""


@pytest.mark.nightly
def test_a_killed_job_of_a_sweep_is_in_its_table(tmp_path):
    pytest.importorskip(
        "hydra_plugins.hydra_submitit_launcher", reason="the extra slurm is not installed"
    )
    (tmp_path / "dies.py").write_text(
        "import os\nif 'SUBMITIT_EXECUTOR' in os.environ: os._exit(9)"
    )
    done, rows = run_sweep(tmp_path, "plugins=[dies.py]")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "error: a job of the sweep was lost" in done.stderr
    assert "it was killed" in rows[0]["error"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("submitit") is not None, reason="the extra slurm is installed")
def test_a_sweep_without_the_extra_names_it(tmp_path):
    command = [*COMMAND, "-m", "hydra/launcher=slurm", "seed=1,2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install '.[slurm]'" in done.stderr
    assert "Traceback" not in done.stderr
