"""Configs of strangers: folders named with --config-dir, and run folders that are resumed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from conftest import QUICK, train_quick

import segkit
from segkit.config.resumed import admit_resumed, find_resumed, read_sweep
from segkit.core.errors import SegkitError

GLOBAL = "# @package _global_\n"
EVIL = "{_target_: builtins.open, file: PWNED, mode: w}"
HOSTILE = {
    "callback": f"hydra: {{callbacks: {{evil: {EVIL}}}}}",
    "launcher": f"hydra: {{launcher: {EVIL}}}",
    "sweeper": f"hydra: {{sweeper: {EVIL}}}",
    "sweep params": "hydra: {sweeper: {params: {plugins: evil.py}}}",
    "job logging": "hydra: {job_logging: {version: 1, formatters: {evil: {'()': evil.x}}}}",
    "hydra logging": "hydra: {hydra_logging: {version: 1, handlers: {evil: {class: evil.X}}}}",
    "environment": "hydra: {job: {env_set: {LD_PRELOAD: ./evil.so}}}",
    "record": "hydra: {output_subdir: ../../elsewhere}",
    "interpolation": f"evil: {{callbacks: {{evil: {EVIL}}}}}\nhydra: ${{evil}}",
    "no mapping": "hydra: 5",
    "run folder above": "hydra: {run: {dir: ../elsewhere}}",
    "run folder elsewhere": "hydra: {run: {dir: /tmp/elsewhere}}",
    "run folder at home": "hydra: {run: {dir: ~/elsewhere}}",
    "run folder by a key": "hydra: {run: {dir: '${evil}'}}\nevil: /tmp/elsewhere",
    "sweep folder": "hydra: {sweep: {subdir: ../../elsewhere}}",
    "resumed run": "resume: /tmp/elsewhere",
    "relocated part": "defaults: [{/evil@hydra.callbacks: part}]",
    "relocated config": "defaults: [/evil/part@hydra]",
}
ELSEWHERE = {
    "a group of hydra": ("hydra/callbacks/evil.yaml", f"evil: {EVIL}", "+hydra/callbacks=evil"),
    "a header": ("evil/part.yaml", f"# @package hydra.callbacks\nx: {EVIL}", "+evil=part"),
    "a name": ("evil/hydra.yaml", f"# @package _name_\ncallbacks: {{x: {EVIL}}}", "+evil=hydra"),
    "a logging": ("hydra/job_logging/evil.yaml", "version: 1", "hydra/job_logging=evil"),
}


def write(folder, name, text):
    file = folder / "conf" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return folder / "conf"


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_folder_of_configs_decides_no_code_and_no_place(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "evil/part.yaml", f"x: {EVIL}")
    conf = write(tmp_path, "experiment/evil.yaml", GLOBAL + text)
    with pytest.raises(SegkitError, match="only the command line may") as error:
        segkit.compose(["experiment=evil"], config_dir=conf)
    assert "evil.yaml" in str(error.value)
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize(("file", "text", "override"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_nor_does_one_of_another_group(tmp_path, file, text, override):
    conf = write(tmp_path, file, text)
    with pytest.raises(SegkitError, match="a config of Hydra itself"):
        segkit.compose([override], config_dir=conf)


def test_harmless_settings_are_said_and_code_that_is_typed_is_taken(tmp_path, capsys):
    text = "hydra: {run: {dir: 'mine/${now:%Y-%m-%d}'}, mode: RUN}\nseed: 5"
    conf = write(tmp_path, "experiment/fine.yaml", GLOBAL + text)
    assert segkit.compose(["experiment=fine"], config_dir=conf).seed == 5
    assert "sets hydra.run.dir to mine/${now:%Y-%m-%d}" in capsys.readouterr().err
    typed = "+hydra.callbacks.mine._target_=segkit.report.sweep.SweepTable"
    segkit.compose(["experiment=fine", typed], config_dir=conf)


def test_a_bomb_in_a_folder_of_configs_is_a_message(tmp_path):
    conf = write(tmp_path, "experiment/deep.yaml", GLOBAL + "x: " + "[" * 10**5)
    with pytest.raises(SegkitError, match="nested more than"):
        segkit.compose(["experiment=deep"], config_dir=conf)


def test_a_search_path_and_a_name_that_lead_away_are_refused(tmp_path):
    with pytest.raises(SegkitError, match="--config-dir"):
        segkit.compose([f"hydra.searchpath=[file://{tmp_path}]"])


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["-m"], ["--help"], ["--cfg", "job"]])
def test_no_command_runs_what_a_folder_of_configs_names(tmp_path, flags):
    write(tmp_path, "experiment/evil.yaml", GLOBAL + HOSTILE["callback"])
    (tmp_path / "evil.py").write_text("open('PWNED', 'w')")
    command = [sys.executable, "-m", "segkit.train", "--config-dir=conf", "experiment=evil", *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "hydra.callbacks" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"conf", "evil.py"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "flag", [["--config-path=conf"], ["-cn", "evil"], ["--experimental-rerun", "evil.pickle"]]
)
def test_flags_that_replace_the_configs_are_refused(tmp_path, flag):
    command = [sys.executable, "-m", "segkit.train", *flag]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--config-dir DIR" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["../../elsewhere", "/tmp/elsewhere"])
def test_the_name_of_a_run_stays_below_runs(tmp_path, name):
    done = subprocess.run(
        [sys.executable, "-m", "segkit.train", *QUICK, f"name={name}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "below runs/" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


BROKEN = {
    "a list": b"[1]",
    "a number": b"5",
    "nothing": b"",
    "no yaml": b"{{{",
    "a tag": b"data: {name: cells}\nx: !!python/object/apply:os.system ['touch PWNED']",
    "bytes": bytes(range(256)),
    "brackets": b"[" * 10**6,
    "no encoder": b"data: {name: cells}",
    "hydra": b"data: {name: cells}\nhydra: {callbacks: {x: {_target_: evil.x}}}",
    "another place": b"data: {name: cells}\nname: ${oc.env:SECRET_TOKEN}",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_run_folder_with_a_broken_config_is_a_message(tmp_path, binary_run, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(binary_run.folder, tmp_path / "run")
    (folder / "config.yaml").write_bytes(content)
    with pytest.raises(SegkitError):
        train_quick(folder, "trainer.max_epochs=2", f"resume={folder}")
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x81", b"[" * 10**5, b"{"])
def test_a_damaged_environment_is_a_message(tmp_path, binary_run, content):
    folder = shutil.copytree(binary_run.folder, tmp_path / "run")
    (folder / "environment.json").write_bytes(content)
    with pytest.raises(SegkitError, match=r"environment\.json cannot be read"):
        train_quick(folder, "trainer.max_epochs=2", f"resume={folder}")


def test_a_resumed_sweep_takes_code_only_from_the_command_line(tmp_path):
    task = ["encoder=resnet18,unet", "plugins=[evil.py]"]
    text = json.dumps({"hydra": {"overrides": {"task": task, "hydra": ["hydra/launcher=evil"]}}})
    (tmp_path / "multirun.yaml").write_text(text)
    folder = find_resumed(["seed=1", f"resume={tmp_path}"])
    assert folder == tmp_path
    sweep = read_sweep(folder)
    with pytest.raises(SegkitError, match="names code") as error:
        admit_resumed([f"resume={tmp_path}", "seed=3"], folder, sweep)
    assert "seed=3: it cannot change" in str(error.value)
    typed = [f"resume={tmp_path}", "plugins=[mine.py]"]
    assert admit_resumed(typed, folder, sweep) == [
        *("encoder=resnet18,unet", "plugins=[mine.py]", f"hydra.sweep.dir='{tmp_path}'")
    ]
    (tmp_path / "multirun.yaml").write_text("[1]")
    with pytest.raises(SegkitError, match="no command line"):
        read_sweep(tmp_path)
    assert admit_resumed(["resume=x", "data.root=y"], tmp_path, None) == [
        "resume=x",
        "++data.root=y",
    ]
