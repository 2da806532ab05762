"""Clients that mean harm, or are broken: the server answers the others all the same."""

from __future__ import annotations

import http.client
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi_offline", reason="the extra serve is not installed")
from serve.conftest import Thresholds, as_png, gigapixel_png, serving

IMAGE = as_png(np.zeros((8, 8), np.uint8))
OPENING = (
    b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n'
    b"Content-Type: image/png\r\n\r\n"
)
FORM = b"Content-Type: multipart/form-data; boundary=B\r\n"
HEAD = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"
SLOW = {
    "nothing": b"",
    "half a head": HEAD + b"X-a: ",
    "half a body": HEAD + FORM + b"Content-Length: 1000000\r\n\r\n" + OPENING,
    "half a body that nobody wants": b"GET /model HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Content-Length: 1000000\r\n\r\nabc",
    "nothing more": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
}
WAIT = 30


def wrap(data):
    return OPENING + data + b"\r\n--B--\r\n"


def connect(port, sent=b""):
    opened = socket.create_connection(("127.0.0.1", port), WAIT)
    opened.sendall(sent)
    return opened


def ask(port, path="/health", data=None, wait=WAIT):
    """The status of an answer: of a prediction if there is an image."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=wait)
    try:
        if data is None:
            client.request("GET", path)
        else:
            headers = {"Content-Type": "multipart/form-data; boundary=B"}
            client.request("POST", "/predict", wrap(data), headers)
        answer = client.getresponse()
        answer.read()
        return answer.status
    finally:
        client.close()


def read_to_end(opened):
    """All that a connection says until it is closed."""
    opened.settimeout(WAIT)
    parts = []
    with suppress(ConnectionResetError):
        while part := opened.recv(2**16):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SLOW)
def test_silent_clients_keep_nobody_out_and_are_closed(kind, monkeypatch):
    monkeypatch.setattr("segkit.serve.connections.CONNECTIONS", 40)
    with (
        serving(client_timeout=1, max_requests=8) as port,
        ExitStack() as stack,
    ):
        opened = [stack.enter_context(connect(port, SLOW[kind])) for _ in range(60)]
        for _ in range(12):
            assert ask(port) == 200
            if kind != "half a body":  # their places are theirs for a second
                assert ask(port, data=IMAGE) == 200
            for one in opened:
                with suppress(OSError):
                    if kind.startswith("half"):
                        one.sendall(b"a")
            time.sleep(0.1)
        assert ask(port, data=IMAGE) == 200
        for one in opened:
            said = read_to_end(one)
            assert kind.startswith("nothing") or said.count(b"HTTP/1.1 ") <= 1


@pytest.mark.slow
def test_who_does_not_read_the_answer_is_closed(monkeypatch):
    from segkit.serve.connections import ImpatientProtocol

    lost, lose = threading.Event(), ImpatientProtocol.connection_lost
    monkeypatch.setattr(
        ImpatientProtocol, "connection_lost", lambda *given: (lose(*given), lost.set())
    )
    with serving(client_timeout=1) as port, socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.connect(("127.0.0.1", port))
        request = b"GET /swagger-ui/swagger-ui-bundle.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        opened.sendall(20 * request)
        assert lost.wait(WAIT)
        assert len(read_to_end(opened)) < 20 * 2**20  # of 29 million; what the system had taken
        assert ask(port) == 200


@pytest.mark.slow
def test_an_upload_that_is_slow_but_comes_is_taken():
    with serving(client_timeout=3) as port, connect(port) as opened:
        body = wrap(IMAGE + bytes(200_000))  # what comes after a PNG does not count
        opened.sendall(HEAD + FORM + b"Content-Length: %d\r\n\r\n" % len(body))
        for at in range(0, len(body), 20_000):
            opened.sendall(body[at : at + 20_000])
            time.sleep(0.4)
        assert opened.recv(12) == b"HTTP/1.1 200"


@pytest.mark.slow
def test_slow_uploads_give_way_where_all_places_are_taken():
    with serving(client_timeout=WAIT, max_requests=4) as port, ExitStack() as stack:
        opened = [stack.enter_context(connect(port, SLOW["half a body"])) for _ in range(4)]
        for _ in range(100):
            if ask(port, data=IMAGE) == 200:
                break
            time.sleep(0.1)
        assert [ask(port, data=IMAGE) for _ in range(5)] == [200] * 5
        ready, _, _ = select.select(opened, [], [], WAIT)
        assert ready[0].recv(12) == b"HTTP/1.1 408"
        assert len(ready) == 1


@pytest.mark.slow
def test_who_stops_in_the_middle_of_a_large_upload_is_not_waited_for():
    """However much has come before."""
    with serving(client_timeout=1) as port, connect(port) as opened:
        opened.sendall(HEAD + FORM + b"Content-Length: 20000000\r\n\r\n" + OPENING + bytes(2**22))
        assert opened.recv(12) == b"HTTP/1.1 408"


def test_work_for_a_client_that_has_gone_ends():
    class Endless(Thresholds):
        begun = threading.Event()

        def try_stream(self, images, pause=lambda: None):
            self.seen.append(images)
            while len(self.seen) == 1:
                pause()
                self.begun.set()
            yield from super().try_stream(images, pause)

    predictor = Endless()
    with serving(predictor) as port:
        body = wrap(IMAGE)
        head = HEAD + FORM + b"Content-Length: %d\r\n\r\n" % len(body)
        with connect(port, head + body):
            assert predictor.begun.wait(WAIT)
        assert ask(port, data=IMAGE) == 200


@pytest.fixture(scope="module")
def port():
    with serving(max_upload_mb=1) as found:
        yield found


RAW = {
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", b"400"),
    "garbage": (b"\x16\x03\x01" + bytes(range(256)) + b"\r\n\r\n", b"400"),
    "a head without end": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + bytes(300_000), b"400"),
    "a negative length": (HEAD + b"Content-Length: -5\r\n\r\n", b"400"),
    "two lengths": (HEAD + b"Content-Length: 3\r\nContent-Length: 30\r\n\r\nabc", b"400"),
    "a foreign host": (b"GET /model HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"400"),
    "a foreign origin": (
        HEAD + b"Origin: http://evil.example\r\nContent-Length: 9\r\n\r\n",
        b"403",
    ),
    "no form": (HEAD + b"Content-Length: 3\r\n\r\nabc", b"422"),
    "no boundary": (
        HEAD + b"Content-Type: multipart/form-data\r\nContent-Length: 2\r\n\r\n{}",
        b"400",
    ),
    "a websocket": (
        b"GET /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        b"405",
    ),
}


@pytest.mark.parametrize("kind", RAW)
def test_broken_requests_are_answered(port, kind):
    sent, status = RAW[kind]
    with connect(port) as opened, suppress(ConnectionResetError, BrokenPipeError):
        opened.sendall(sent)
        assert opened.recv(12) == b"HTTP/1.1 " + status[:3]
    assert ask(port, data=IMAGE) == 200


def test_bodies_of_any_size_are_cut_off(port):
    """Sent in chunks, so that no length is declared."""
    with connect(port, HEAD + FORM + b"Transfer-Encoding: chunked\r\n\r\n") as opened:
        block = b"%x\r\n%s\r\n" % (2**20, bytes(2**20))
        opened.sendall(b"%x\r\n%s\r\n" % (len(OPENING), OPENING))
        with suppress(OSError):
            for _ in range(4):
                opened.sendall(block)
        assert opened.recv(12) == b"HTTP/1.1 413"
    assert ask(port, data=IMAGE) == 200


def test_forms_of_many_parts_are_refused(port):
    part = b'--B\r\nContent-Disposition: form-data; name="f%d"\r\n\r\nx\r\n'
    body = b"".join(part % number for number in range(15_000)) + b"--B--\r\n"
    with connect(port, HEAD + FORM + b"Content-Length: %d\r\n\r\n" % len(body)) as opened:
        with suppress(OSError):
            opened.sendall(body)
        assert opened.recv(12) == b"HTTP/1.1 400"


def test_images_that_claim_to_be_huge_are_not_decoded(port):
    claim = bytearray(IMAGE)
    claim[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    assert ask(port, data=gigapixel_png()) == 413
    assert ask(port, data=bytes(claim)) in (413, 422)


def test_clients_that_go_in_the_middle_leave_nothing(port):
    body = wrap(IMAGE)
    sent = HEAD + FORM + b"Content-Length: %d\r\n\r\n" % len(body) + body
    for number in range(60):
        with connect(port, sent[: len(sent) * number // 60]) as opened:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)
    for _ in range(200):
        client.request("GET", "/metrics")
        if b"segkit_places 0\n" in client.getresponse().read():
            break
        time.sleep(0.05)
    else:
        raise AssertionError("places are still taken")
    client.close()


@pytest.mark.nightly
def test_two_hundred_uploads_at_once_stay_in_bounds(binary_run, tmp_path):
    """Uploads of 4 MiB: all of them would be 800 MB."""
    options = [f"checkpoint={binary_run.checkpoint}", "port=0", "device=cpu", "log=json"]
    with (
        subprocess.Popen(
            [sys.executable, "-m", "segkit.serve", *options],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        ) as server,
        ExitStack() as stack,
    ):
        stack.callback(server.kill)
        line = server.stdout.readline()
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)", line)[1])
        lines = []
        reader = threading.Thread(target=lambda: lines.extend(server.stdout))
        reader.start()

        def read_peak():
            status = Path(f"/proc/{server.pid}/status").read_text()
            return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024

        noise = np.random.default_rng(0).integers(0, 255, (512, 512), np.uint8)
        data = as_png(noise) + bytes(4 * 2**20)
        assert ask(port, data=data) == 200
        before = read_peak()

        def upload(_):
            with suppress(ConnectionError):  # of those that do not read before they have sent all
                return ask(port, data=data, wait=300)

        with ThreadPoolExecutor(200) as threads:
            statuses = Counter(threads.map(upload, range(200)))
        assert ask(port) == 200
        grown = read_peak() - before
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 130
        reader.join(10)
    assert set(statuses) <= {200, 429, None}, statuses
    assert statuses[200] >= 64
    assert grown < 200, f"{grown:.0f} MB more"
    assert "Traceback" not in "".join(lines)
