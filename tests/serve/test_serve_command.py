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
    ("words", "named"),
    [
        ([], "checkpoint=VALUE"),
        (["checkpoint=a.ckpt", "port=70000"], "port"),
        (["checkpoint=a.ckpt", "instances=all"], "instances"),
        (["checkpoint=a.ckpt", "names=[a*b]"], "names"),
        (["checkpoint=a.ckpt", "keys=nowhere"], "keys=nowhere cannot be read"),
        (["checkpoint=nowhere.ckpt", "port=0"], r"nowhere\.ckpt"),
    ],
)
def test_wrong_values_are_named(words, named):
    pytest.importorskip("fastapi_offline", reason="the extra serve is not installed")
    with pytest.raises(SegkitError, match=named):
        serve(compose(words, "serve"))


@pytest.mark.parametrize("package", ["fastapi_offline", "uvicorn", "python_multipart"])
def test_a_missing_extra_is_named(package, monkeypatch):
    for loaded in list(sys.modules):
        if loaded.startswith("segkit.serve.") and loaded != "segkit.serve.command":
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
    pytest.importorskip("fastapi_offline", reason="the extra serve is not installed")
    given = [f"checkpoint={binary_run.checkpoint}", "device=cpu"]
    command = [sys.executable, "-m", "segkit.serve", *given]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "port=0"], env=env, **options) as server:
        line = server.stdout.readline()
        where = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert where, line + server.stderr.read()
        with urllib.request.urlopen(f"{where[0]}/health", timeout=30) as answer:
            assert answer.status == 200
        second = subprocess.run([*command, f"port={where[1]}"], check=False, **options)
        assert second.returncode == 2
        assert re.match(rf"error: .*port={where[1]}.*Give another port", second.stderr)
        server.send_signal(signal.SIGINT)
        rest, errors = server.communicate(timeout=60)
    assert (server.returncode, rest, errors) == (130, "", "stopped\n")
    assert list(tmp_path.iterdir()) == []
