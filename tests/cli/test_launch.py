from __future__ import annotations

import os
import subprocess
import sys

import pytest


def run(tmp_path, *arguments, **env):
    return subprocess.run(
        [sys.executable, "-m", "segkit.train", *arguments],
        cwd=tmp_path,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_user_error_is_a_message_without_a_traceback_and_status_2(tmp_path):
    done = run(tmp_path, "data=folder", "data.root=nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()  # no empty folder is left


def test_the_trace_is_shown_on_request(tmp_path):
    done = run(tmp_path, "data=folder", "data.root=nowhere", SEGKIT_DEBUG="1")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_wrong_overrides_are_all_named(tmp_path):
    done = run(tmp_path, "encoder=resnt34", "trainer.max_epoch=3", "neck")
    assert done.returncode == 2
    for part in ("'resnet34'", "'trainer.max_epochs'", "'neck' cannot be parsed"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("flags", [["--cfg", "job", "encoder=resnt34"]])
def test_showing_a_config_that_does_not_compose(tmp_path, flags):
    done = run(tmp_path, *flags)
    assert done.returncode == 2
    assert "Did you mean 'resnet34'" in done.stderr


def test_a_run_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = run(tmp_path, "experiment=quick", "hydra.run.dir=file")
    assert done.returncode == 2
    assert "'file' cannot be used" in done.stderr.replace(str(tmp_path) + "/", "")
    assert "Traceback" not in done.stderr
