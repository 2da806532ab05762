"""The scripts of benchmarks/ can be imported, and the one for GPUs runs in small sizes."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path("benchmarks")


@pytest.mark.parametrize("name", sorted(path.stem for path in SCRIPTS.glob("*.py")))
def test_every_script_fits_the_package(name: str) -> None:
    assert callable(importlib.import_module(name).main)


@pytest.mark.nightly
def test_the_parts_for_a_gpu_run_on_a_cpu(tmp_path: Path) -> None:
    paths = [str(Path.cwd()), str(SCRIPTS.resolve()), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, str(SCRIPTS / "gpu.py"), "--device", "cpu", "--tiny"]
    command += ["--seconds", "900", "--runs", str(tmp_path / "runs"), "--output", str(tmp_path)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=1000,
    )
    assert done.returncode == 0, done.stderr
    tables = json.loads((tmp_path / "gpu.json").read_text())["tables"]
    rows = [row for table in tables.values() for row in table]
    assert len(tables) == 10
    assert not any("failed" in row or "left out" in row for row in rows), rows
    assert all(float(row["segkit, ms"]) > 0 for row in rows if "segkit, ms" in row)
