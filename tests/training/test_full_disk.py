"""A disk that fills up while training: one message, and the last good checkpoint stays."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from contextlib import contextmanager

import pytest
import torch
from conftest import QUICK, train_quick

import segkit
from segkit.core.errors import SegkitError
from segkit.core.files import written_whole

SMALL = ("encoder=unet", "encoder.width=4", "encoder.depth=2")
LAST = "checkpoints/last.ckpt"
BEST = "checkpoints/best.ckpt"


def read_files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


@pytest.fixture
def fill(monkeypatch):
    """Lets the disk be full for files of some names, from one writing of them on."""

    def full(*names: str, writing: int) -> None:
        done = 0

        def fsync(_: int) -> None:
            if done >= writing:
                raise OSError(28, "No space left on device")

        @contextmanager
        def written(path):
            nonlocal done
            done += str(path).endswith(names)
            with monkeypatch.context() as patch:
                if str(path).endswith(names):
                    patch.setattr("segkit.core.files.os.fsync", fsync)
                with written_whole(path) as file:
                    yield file

        for module in ("segkit.training.checkpoints", "segkit.core.files"):
            monkeypatch.setattr(f"{module}.written_whole", written)

    return full


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "writing", "message", "held"),
    [
        ([".ckpt"], 1, r"best\.ckpt': No space left on device\. Check that its .* full\.$", set()),
        (["last.ckpt"], 1, r"last\.ckpt'.*last good checkpoint is .*best\.ckpt\.", {BEST}),
        (["scores.csv"], 1, r"scores\.csv'.*The training itself is done", {BEST, LAST}),
        # the table is the first to find the disk full; its error is reported, not the checkpoint's
        (["metrics.csv", "last.ckpt"], 3, r"write .*metrics\.csv'.*checkpoint is .*last", {LAST}),
    ],
)
def test_the_message_names_what_is_left(fill, tmp_path, names, writing, message, held):
    fill(*names, writing=writing)
    options = ["trainer.max_epochs=2", "trainer.check_val_every_n_epoch=9"]
    with pytest.raises(SegkitError, match=message):
        train_quick(tmp_path, *SMALL, *(options if len(names) > 1 else []))
    assert {p for p in read_files(tmp_path) if p.endswith(".ckpt") or "tmp" in p} == held
    for path in held:
        segkit.load(tmp_path / path, device="cpu")


@pytest.mark.slow
def test_a_training_goes_on_from_the_checkpoint_before(fill, tmp_path, monkeypatch):
    fill("last.ckpt", writing=3)
    with pytest.raises(SegkitError) as error:
        train_quick(tmp_path, *SMALL, "trainer.max_epochs=4")
    text = str(error.value)
    assert f"cannot write '{tmp_path / LAST}': No space left on device" in text
    assert f"{LAST}, is whole: make room and go on with resume={tmp_path}." in text
    assert torch.load(tmp_path / LAST, weights_only=True)["epoch"] == 1
    monkeypatch.undo()  # there is room again
    run = train_quick(tmp_path, *SMALL, "trainer.max_epochs=4", f"resume='{tmp_path}'")
    assert torch.load(tmp_path / LAST, weights_only=True)["epoch"] == 3
    assert (run.folder / "report.html").is_file()


@pytest.mark.nightly
def test_files_that_cannot_grow_any_more(tmp_path, monkeypatch):
    """As a user meets it: the limit of the system makes real writes fail."""
    # checkpoints do not pass through the folder for temporary files, which may be another disk
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "is not there"))
        run = train_quick(tmp_path / "run", *SMALL)
    before = read_files(run.folder / "checkpoints")
    limit = len(before["last.ckpt"]) // 2

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "segkit.train", "resume=run", "trainer.max_epochs=3"]
    done = subprocess.run(command, cwd=tmp_path, preexec_fn=limited, capture_output=True, text=True)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1
    assert "File too large. Check that its folder may be written to" in done.stderr
    assert "go on with resume=run" in done.stderr
    assert read_files(run.folder / "checkpoints") == before


@pytest.mark.slow
def test_a_library_that_finds_the_disk_full_gives_no_traceback(tmp_path):
    (tmp_path / "at_the_end_of_its_disk.py").write_text(
        "def go(config):\n    raise OSError(28, 'No space left on device')\n"
    )
    code = (
        "import sys; from segkit.cli.launch import launch; sys.argv = ['segkit', *sys.argv[1:]];"
        "launch('train', 'at_the_end_of_its_disk:go')"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code, *QUICK],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "error: No space left on device: free some space on the disk" in done.stderr
    assert "Traceback" not in done.stderr
