"""Run every command and snippet of the README on small data."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tifffile

from segkit.core.ensembles import write_ensemble
from segkit.data.sources.cells import draw
from segkit.images.writing import write_image, write_mask

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
SMALL = [
    "trainer.max_steps=2",
    "trainer.progress_bar=false",
    "trainer.accelerator=cpu",
    "data.num_workers=0",
    "data.batch_size=2",
    "data.crop_size=64",
    "encoder.pretrained=false",
]


def write_set(folder: Path, masks, channels: int = 1, count: int = 6) -> None:
    for i in range(count):
        cells = draw(i, (64, 72), channels)
        write_image(folder / f"images/{i}.png", cells.image)
        write_mask(folder / f"masks/{i}.png", masks(cells))


@pytest.fixture(scope="module")
def place(tmp_path_factory, binary_run):
    """A folder with data for each command."""
    root = tmp_path_factory.mktemp("readme")
    write_set(root / "plain", lambda c: c.binary * np.uint8(255))
    write_set(root / "classes", lambda c: c.classes)
    write_set(root / "dsb2018", lambda c: c.instances.astype(np.uint16))
    write_set(root / "instances", lambda c: c.instances.astype(np.uint16))
    write_set(root / "unet2015", lambda c: c.binary)
    for experiment in ("isbi2012", "isbi2012_modern"):
        write_set(root / experiment, lambda c: (1 - c.binary) * np.uint8(255))
    for experiment in ("phc_u373", "dic_hela_modern"):
        for sequence, frame in (("01", 0), ("01", 1), ("02", 0)):
            cells, home = draw(frame, (128, 128)), root / experiment
            (home / sequence).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(home / sequence / f"t00{frame}.tif", cells.image[..., 0])
            ids = cells.instances.astype(np.uint16)
            write_mask(home / f"{sequence}_GT/SEG/man_seg00{frame}.tif", ids)
            write_mask(home / f"{sequence}_GT/TRA/man_track00{frame}.tif", ids)
    for split in ("train", "val", "test"):
        write_set(root / "camvid" / split, lambda c: c.classes + np.uint8(9), 3, 2)
    return root


def test_the_readme_has_what_it_promises():
    assert len(COMMANDS) >= 15
    assert "pip install segkit" not in README
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / picture).is_file()
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def choose_tier(command: str) -> object:
    """Sweeps, experiments and commands like those that other tests run by day are for the night."""
    others = ("segkit.benchmark", "segkit.export", "mobilevitv2", "encoder=patchnet", "experiment=")
    others += ("plan=auto", "instances", "[CKPT,CKPT]", "ENSEMBLE", "augment=", "polygons=")
    others += ("neck=residual", "target=objects", "segkit.serve", "logger=", "segkit.search")
    long = " -m " in command.removeprefix("python -m") or any(text in command for text in others)
    return pytest.param(command, marks=pytest.mark.nightly if long else pytest.mark.slow)


@pytest.mark.parametrize("command", [choose_tier(command) for command in COMMANDS])
def test_commands(command, place, binary_run, tmp_path):
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"  # results are written next to it
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(binary_run.checkpoint.read_bytes())
    write_ensemble(tmp_path / "ensemble.yaml", [checkpoint, checkpoint])
    named = command.replace("CKPT", str(checkpoint))
    words = shlex.split(named.replace("ENSEMBLE", str(tmp_path / "ensemble.yaml")))
    experiment = re.search(r"experiment=(\w+)", command)
    name = "classes" if "head=multiclass" in command else "plain"
    name = "instances" if "data.instances" in command else name
    name = experiment[1] if experiment else name
    words = [re.sub(r"\bDIR\b", str(place / name), word) for word in words]
    words = [re.sub(r"^(\[?|plugins=\[)examples/", rf"\1{ROOT}/examples/", word) for word in words]
    for run in {"RUN", "RUN2"} & set(words):
        words[words.index(run)] = shutil.copytree(binary_run.folder, tmp_path / run).name
    trains = "segkit.train" in words and "--help" not in words
    if trains:
        has_built_in_data = not any(word.startswith(("data=", "experiment=")) for word in words)
        words += [*SMALL, *(["data.train=8", "data.val=2"] if has_built_in_data else [])]
    if "segkit.benchmark" in words:
        words += ["encoders=[resnet18]", "sizes=[32]", "batch=2", "rounds=1", "warm_up=0"]
    if words[0] == "make":
        subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, check=True)
        return
    if "encoder=patchnet" in words:  # the line before installs it
        (install,) = (line for line in COMMANDS if line.startswith("pip"))
        run_there(
            install.replace("examples/", f"{ROOT}/examples/").split(), tmp_path / "site", tmp_path
        )
    run_there(words, tmp_path / "site", tmp_path)
    if trains:
        assert list(tmp_path.glob("runs/**/report.html"))
    if "segkit.predict" in words:
        assert len(list((tmp_path / "masks").glob("*.png"))) == 6


def run_there(words: list[str], site: Path, folder: Path) -> None:
    """Run a command in a process of its own, which sees the packages of a folder."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    if words[0] == "pip":
        words = [sys.executable, "-m", *words, "--quiet", "--target", str(site)]
    else:
        words = [sys.executable, *words[1:]]
    if "segkit.serve" in words:
        assert_serves([*words, "port=0"], env)
        return
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def assert_serves(words: list[str], env: dict[str, str]) -> None:
    pytest.importorskip("fastapi", reason="the extra serve is not installed")
    server = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://\S+", server.stdout.readline())[0]
        with urllib.request.urlopen(f"{address}/health") as answer:
            assert answer.status == 200
    finally:
        server.send_signal(signal.SIGINT)
        with server.stdout:
            assert server.wait(60) == 130


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_snippets(number, place, binary_run):
    code = blocks("python")[number]
    code = code.replace("CKPT", str(binary_run.checkpoint))
    code = code.replace("IMAGE", str(place / "plain/images/0.png"))
    names: dict[str, object] = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    if "logits" in names:
        assert names["logits"].shape == (2, 5, 211, 317)
    if "result" in names:
        assert names["result"].labels.shape == (64, 72)
