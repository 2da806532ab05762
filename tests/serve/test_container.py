"""The Dockerfile: built where there is a docker, read everywhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from segkit.config.compose import compose
from segkit.config.settings import ServeSettings

ROOT = Path(__file__).parent.parent.parent
TEXT = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)
LINES = [tuple(line.split(None, 1)) for line in TEXT.replace("\\\n", "").splitlines() if line]


def list_values(word):
    return [value for first, value in LINES if first == word]


def has_docker():
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True).returncode == 0


def test_its_base_is_pinned():
    (version, *_) = (value.partition("=")[2] for value in list_values("ARG"))
    assert re.fullmatch(r"3\.\d+\.\d+-slim-\w+", version)
    assert {value.split()[0] for value in list_values("FROM")} == {"python:${PYTHON}"}


def test_nobody_is_root_when_it_runs():
    (user,) = list_values("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    after = LINES[LINES.index(("USER", user)) :]
    assert not {word for word, _ in after} & {"RUN", "COPY", "ADD"}


def test_it_holds_no_secret_and_copies_only_what_it_needs():
    assert not re.search(r"(?i)password|secret|token|http.*@", TEXT)
    assert not list_values("ADD")
    taken = [word for value in list_values("COPY") for word in value.split()[:-1]]
    here = [word for word in taken if not word.startswith(("--from", "/"))]
    assert all((ROOT / name).exists() for name in here)
    listed = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in listed
    assert {line[1:] for line in listed if line.startswith("!")} == set(here)


def test_its_commands_exist():
    entry = json.loads(list_values("ENTRYPOINT")[0])
    given = json.loads(list_values("CMD")[0])
    assert entry[:3] == ["python", "-m", "segkit.serve"]
    config = compose([*entry[3:], *given], "serve")
    settings = ServeSettings.model_validate(dict(config))
    assert (settings.host, settings.port) == ("0.0.0.0", int(list_values("EXPOSE")[0]))
    check = json.loads(list_values("HEALTHCHECK")[0].partition("CMD ")[2])
    assert check[:2] == ["python", "-c"]
    compile(check[2], "HEALTHCHECK", "exec")
    assert f":{settings.port}/health" in check[2]


@pytest.mark.nightly
def test_it_builds_and_serves_without_a_writable_disk(binary_run):
    if not has_docker():
        pytest.skip("there is no docker")
    built = subprocess.run(
        ["docker", "build", "--quiet", str(ROOT)], capture_output=True, text=True, check=True
    )
    run = ["docker", "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--volume"]
    run += [f"{binary_run.checkpoint.parent}:/model:ro", built.stdout.strip()]
    with subprocess.Popen(run, stdout=subprocess.PIPE, text=True) as server:
        line = server.stdout.readline()
        server.terminate()
    assert "http://" in line
