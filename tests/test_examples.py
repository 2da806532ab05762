from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
QUICK = ["experiment=quick", "trainer.progress_bar=false", "trainer.accelerator=cpu"]


def run(*arguments: str, cwd: Path, path: Sequence[Path] = ()) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT]))}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )


def train(*arguments: str, cwd: Path, path: Sequence[Path] = ()) -> str:
    done = run("-m", "segkit.train", *QUICK, *arguments, cwd=cwd, path=path)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.nightly
def test_an_installed_package_adds_an_encoder(tmp_path):
    site = tmp_path / "site"
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    done = run(*pip, str(site), str(EXAMPLES / "custom_encoder"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = train("encoder=patchnet", "encoder.width=4", cwd=tmp_path, path=[site])
    assert "patchnet + unet + binary" in said
    helped = run("-m", "segkit.train", "--help", cwd=tmp_path, path=[site])
    assert "patchnet" in helped.stdout
    # without the package the checkpoint says what is missing
    (best,) = tmp_path.glob("runs/quick/*/checkpoints/best.ckpt")
    failed = run("-m", "segkit.evaluate", f"checkpoint={best}", cwd=tmp_path)
    assert failed.returncode == 2
    assert "encoder 'patchnet' is not known" in failed.stderr
    again = run("-m", "segkit.evaluate", f"checkpoint={best}", cwd=tmp_path, path=[site])
    assert again.returncode == 0, again.stderr


def test_a_config_file_cannot_import_code(tmp_path):
    """Only what the command line names is imported."""
    evil = tmp_path / "evil.py"
    evil.write_text("raise RuntimeError('it ran')")
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(f"# @package _global_\nplugins: ['{evil}']\n")
    done = run(
        "-m",
        "segkit.train",
        "--config-dir",
        str(tmp_path / "conf"),
        "experiment=mine",
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "plugins" in done.stderr
    assert "it ran" not in done.stderr


@pytest.mark.nightly
def test_the_notebook_runs(tmp_path):
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text())["cells"]
    code = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    script = tmp_path / "notebook.py"
    script.write_text(code)
    done = run(str(script), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "(100, 70) (1, 100, 70)" in done.stdout


@pytest.mark.slow
def test_the_parts_of_the_guide_train_together(tmp_path):
    guide = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", guide, re.S)
    (tmp_path / "parts.py").write_text("\n".join(blocks))
    words = ["encoder=stripes", "encoder.width=8", "neck=ladder", "loss=hinge"]
    words += ["data=discs", "data.count=8", "plugins=[parts.py]", "metrics=[mean_size]"]
    words += ["trainer.max_epochs=1", "trainer.progress_bar=false", "trainer.accelerator=cpu"]
    words += ["data.crop_size=64", "data.num_workers=0"]
    done = run("-m", "segkit.train", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stripes + ladder + binary" in done.stdout
    assert "mean_size" in done.stdout
