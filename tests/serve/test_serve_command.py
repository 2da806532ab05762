from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from segkit.config.compose import compose
from segkit.core.errors import SegkitError
from segkit.serve.command import format_address, listen, serve


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("port=70000", "port"),
        ("max_upload_mb=0", "max_upload_mb"),
        ("max_pixels=-1", "max_pixels"),
        ("instances=all", "instances"),
    ],
)
def test_wrong_values_are_named(override, named):
    with pytest.raises(SegkitError, match=named):
        serve(compose(["checkpoint=a.ckpt", override], "serve"))


def test_the_checkpoint_must_be_given_and_be_there():
    with pytest.raises(SegkitError, match="checkpoint=VALUE"):
        serve(compose([], "serve"))
    pytest.importorskip("fastapi_offline", reason="the extra `serve` is not installed")
    with pytest.raises(SegkitError, match=r"nowhere\.ckpt"):
        serve(compose(["checkpoint=nowhere.ckpt", "port=0"], "serve"))


@pytest.mark.parametrize("package", ["fastapi_offline", "uvicorn", "python_multipart"])
def test_a_missing_extra_is_named(package, monkeypatch):
    for loaded in list(sys.modules):
        if loaded.startswith(("segkit.serve.app", "segkit.serve.predictions")):
            monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SegkitError, match=r"pip install 'segkit-torch\[serve\]'") as error:
        serve(compose(["checkpoint=nowhere.ckpt"], "serve"))
    assert package in str(error.value)


def test_a_host_of_another_machine_is_refused():
    with pytest.raises(SegkitError, match=r"192\.0\.2\.1"):
        listen("192.0.2.1", 0)  # reserved for documentation


def test_addresses_can_be_opened():
    for host, shown in (("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("localhost", None)):
        with listen(host, 0) as listener:
            where = format_address(listener)
            name, port = re.fullmatch(r"http://\[?(.+?)\]?:(\d+)", where).groups()
            assert shown in (None, name)
            with socket.create_connection((name, int(port)), timeout=5):
                pass


@pytest.mark.slow
def test_it_runs_until_ctrl_c(binary_run, tmp_path):
    pytest.importorskip("fastapi_offline", reason="the extra `serve` is not installed")
    given = [f"checkpoint={binary_run.checkpoint}", "device=cpu"]
    command = [sys.executable, "-m", "segkit.serve", *given]
    with subprocess.Popen(
        [*command, "port=0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as server:
        line = server.stdout.readline()
        where = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert where, line + server.stderr.read()
        with urllib.request.urlopen(f"{where[0]}/health", timeout=30) as answer:
            assert answer.status == 200
        port = where[0].rpartition(":")[2]
        second = subprocess.run(
            [*command, f"port={port}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode == 2
        assert re.match(rf"error: .*port={port}.*Give another port", second.stderr)
        server.send_signal(signal.SIGINT)
        rest, errors = server.communicate(timeout=60)
    assert (server.returncode, rest, errors) == (130, "", "stopped\n")
    assert list(tmp_path.iterdir()) == []
