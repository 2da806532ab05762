from __future__ import annotations

import os
import subprocess
import sys

import pytest

from segkit.cli.launch import _exit
from segkit.config.declarations import COMMANDS, spell_command
from segkit.core.errors import SegkitError


def run(tmp_path, *arguments, command="segkit.train", **env):
    return subprocess.run(
        [sys.executable, "-m", command, *arguments],
        cwd=tmp_path,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_user_error_is_a_message_without_a_traceback_and_status_2(tmp_path):
    done = run(tmp_path, "data=folder", "data.root=nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()  # no empty folder is left


@pytest.mark.nightly
def test_the_trace_is_shown_on_request(tmp_path):
    done = run(tmp_path, "trainer.max_epochs=ten", SEGKIT_DEBUG="1")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_notes_of_an_error_are_shown_below_it(capsys):
    error = SegkitError("the data set has 1 problem")
    error.add_note("note: masks have the nodata value 1")
    with pytest.raises(SystemExit):
        _exit(error)
    assert capsys.readouterr().err == (
        "error: the data set has 1 problem\nnote: masks have the nodata value 1\n"
    )


@pytest.mark.parametrize("flags", [[], ["--cfg", "job"], ["--help"]])
def test_wrong_overrides_are_all_named(tmp_path, flags):
    done = run(tmp_path, *flags, "loss=dic", "trainer.max_epoch=3", "neck")
    assert done.returncode == 2
    for part in ("'dice'", "'trainer.max_epochs'", "'neck' cannot be parsed"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_flags_may_stand_between_the_overrides(tmp_path):
    done = run(tmp_path, "neck=fpn", "--cfg", "job", "seed=7", "--config-dir", ".", "name=mine")
    assert done.returncode == 0, done.stderr
    assert all(f"{line}\n" in done.stdout for line in ("seed: 7", "name: mine", "  name: fpn"))


def test_folders_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = run(tmp_path, "experiment=quick", "hydra.run.dir=file")
    assert done.returncode == 2
    assert "'file' cannot be used" in done.stderr.replace(str(tmp_path) + "/", "")
    assert "Traceback" not in done.stderr
    done = run(tmp_path, "--config-dir", "nowhere")
    assert done.returncode == 2
    assert "there is no folder of configs" in done.stderr


@pytest.mark.nightly
def test_options_of_a_sweep_may_be_missing_in_the_yaml(tmp_path):
    """The first error of each job shows that the override reached it."""
    swept = "neck.out_stride=1,-2"
    done = run(tmp_path, "-m", "experiment=quick", "trainer.max_epochs=-1", swept)
    assert done.returncode == 2
    assert done.stderr.count("trainer has no end") == 2
    assert done.stderr.count("neck: option 'out_stride' is -2") == 1


@pytest.mark.parametrize(
    "command", ["segkit", "segkit.data", *(spell_command(command)[10:] for command in COMMANDS)]
)
def test_help_whose_reader_is_gone_ends_quietly(tmp_path, command):
    read, write = os.pipe()
    os.close(read)  # as in `| head -0`
    done = subprocess.run(
        [sys.executable, "-m", *command.split(), "--help"],
        cwd=tmp_path,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_output_that_nobody_reads_is_dropped_and_the_work_goes_on(tmp_path):
    script = (
        "import pathlib\n"
        "from segkit.cli.launch import drop_unread_output\n"
        "drop_unread_output()\n"
        "from rich.console import Console\n"
        "for _ in range(3000): print('a line of output')\n"
        "Console().print('a table')\n"
        "pathlib.Path('done').touch()\n"
    )
    shell = f'{sys.executable} -c "$SCRIPT" | head -1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", shell],
        cwd=tmp_path,
        env={**os.environ, "SCRIPT": script},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "a line of output\n", "")
    assert (tmp_path / "done").exists()
