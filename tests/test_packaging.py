from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_a_wheel_works_from_another_directory(tmp_path):
    """The configs travel in the wheel, and the checkout is not needed."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wheel = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([*pip, *wheel, str(ROOT)], check=True)
    (built,) = tmp_path.glob("segkit_torch-*.whl")
    site = tmp_path / "site"
    subprocess.run(
        [*pip, "install", "--quiet", "--no-deps", "--target", str(site), str(built)], check=True
    )
    away = tmp_path / "away"
    away.mkdir()
    # -P and a PYTHONPATH of the wheel alone: neither the checkout nor its editable install
    env = {**os.environ, "PYTHONPATH": str(site)}
    code = "import segkit, segkit.config.compose as c; print(segkit.__file__, c.find_conf_dir())"
    where = subprocess.run(
        [sys.executable, "-c", code], cwd=away, env=env, capture_output=True, text=True, check=True
    )
    assert where.stdout.split() == [str(site / "segkit/__init__.py"), str(site / "segkit/conf")]
    done = subprocess.run(
        [sys.executable, "-m", "segkit", "train", "experiment=quick", "--cfg", "job"],
        cwd=away, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "max_epochs: 1" in done.stdout
    assert list((site / "bin").glob("segkit*"))


def test_the_console_script_lists_its_commands_and_names_wrong_ones(capsys, monkeypatch):
    from segkit.__main__ import COMMANDS, main

    monkeypatch.setattr(sys, "argv", ["segkit"])
    main()
    listed = capsys.readouterr().out
    assert all(command in listed for command in ("train", "evaluate", "predict"))
    monkeypatch.setattr(sys, "argv", ["segkit", "trian"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err
    assert all(importlib.util.find_spec(f"segkit.{command}") for command in COMMANDS)


def test_the_version_stands_in_one_way_everywhere():
    import segkit

    declared = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert declared is not None
    assert declared[1] == segkit.__version__


def test_make_lists_its_targets():
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("train", "test", "check"):
        assert re.search(rf"^  make {target}\s+\w", done.stdout, re.M)


def test_lightning_releases_with_malware_are_excluded():
    text = (ROOT / "pyproject.toml").read_text()
    assert "!=2.6.2,!=2.6.3" in text
