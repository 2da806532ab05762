"""Who may send requests, and how many."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

pytest.importorskip("fastapi_offline", reason="the extra serve is not installed")
from fastapi.testclient import TestClient
from serve.conftest import Thresholds, as_png
from starlette.exceptions import HTTPException

from segkit.config.settings import ServeSettings
from segkit.core.errors import SegkitError
from segkit.serve.app import create_app
from segkit.serve.guards import Places, name_client, read_keys
from segkit.serve.monitoring import set_up_log

KEYS = ["first-key-of-20-signs", "second-key-of-20-sign"]
IMAGE = as_png(np.zeros((8, 8), np.uint8))


def make_client(predictor=None, keys=(), **options):
    settings = ServeSettings(checkpoint=["a.ckpt"], **options)
    app = create_app(predictor or Thresholds(), settings, keys)
    return TestClient(app, base_url="http://127.0.0.1:8000")


def post(client, **headers):
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/predict", files={"file": ("a.png", IMAGE)}, headers=given)


@pytest.fixture
def held():
    """A predictor that holds each image until it is told to go on."""

    class Held(Thresholds):
        begun, go_on = threading.Semaphore(0), threading.Event()

        def __call__(self, image):
            self.begun.release()
            assert self.go_on.wait(20)
            return super().__call__(image)

    predictor = Held()
    yield predictor
    predictor.go_on.set()


def test_all_that_tells_of_the_model_needs_a_key():
    with make_client(keys=KEYS) as client:
        opened = {"/", "/page.css", "/page.js", "/health", "/ready", "/docs", "/openapi.json"}
        for path in (*client.app.openapi()["paths"], *opened, "/swagger-ui/swagger-ui.css", "/no"):
            needs_none = path in opened or path.startswith("/swagger-ui/")
            assert (client.get(path).status_code == 401) == (not needs_none), path
        refused = post(client, x_api_key="first-key-of-20-sign")
        assert refused.status_code == 401
        assert "X-API-Key" in refused.json()["detail"]
        assert refused.headers["www-authenticate"] == "Bearer"
        for key in KEYS:
            assert post(client, x_api_key=key).status_code == 200
            assert post(client, authorization=f"Bearer {key}").status_code == 200
        assert post(client, authorization=f"Basic {KEYS[0]}").status_code == 401
        assert client.get("/model", headers={"x-api-key": "schlüssel".encode()}).status_code == 401
        schemes = client.get("/openapi.json").json()["components"]["securitySchemes"]
        assert schemes["APIKeyHeader"]["name"] == "X-API-Key"


def test_a_file_of_keys(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# of the lab\n{KEYS[0]}\n\n {KEYS[1]} \n")
    assert read_keys(path) == KEYS
    path.write_text(f"short\n{KEYS[0]}\nwith a space in its middle\n")
    with pytest.raises(SegkitError, match=r"(?s)keys=.*line 1: .*16 signs.*line 3: "):
        read_keys(path)
    for content in (b"", b"# nothing\n", "schlüssel-aus-20-zeichen".encode()):
        path.write_bytes(content)
        with pytest.raises(SegkitError, match=r"keys=.*(no keys|plain letters)"):
            read_keys(path)
    with pytest.raises(SegkitError, match="cannot be read"):
        read_keys(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://[evil"}, 403),
        ({"origin": "http://127.0.0.1:8000.evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9000"}, 403),
        ({"origin": "http://lab.example", "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "http://127.0.0.1:8000", "sec-fetch-site": "cross-site"}, 403),
    ],
)
def test_origins(headers, status):
    with make_client() as client:
        assert post(client, **headers).status_code == status


def test_names_behind_a_proxy():
    for host in ("127.0.0.1", "0.0.0.0"):
        with make_client(host=host, names=["lab.example"]) as client:
            given = {
                name: client.get("/health", headers={"host": name}).status_code
                for name in ("lab.example", "127.0.0.1:8000", "evil.example")
            }
            assert given == {"lab.example": 200, "127.0.0.1:8000": 200, "evil.example": 400}


def test_a_rate_is_counted_for_each_key():
    with make_client(keys=KEYS, rate=3) as client:
        assert [post(client, x_api_key=KEYS[0]).status_code for _ in range(4)] == [200] * 3 + [429]
        refused = post(client, x_api_key=KEYS[0])
        assert 15 <= int(refused.headers["retry-after"]) <= 20
        assert "3 requests a minute" in refused.json()["detail"]
        assert post(client, x_api_key=KEYS[1]).status_code == 200
        assert client.get("/model", headers={"x-api-key": KEYS[0]}).status_code == 200


def test_rates_of_many_clients_are_forgotten(monkeypatch):
    monkeypatch.setattr("segkit.serve.guards.REMEMBERED", 10)
    monkeypatch.setattr("segkit.serve.guards.WINDOW", 1e-3)

    async def send():
        places = Places(ServeSettings(checkpoint=["a.ckpt"], rate=1))
        for number in range(100):
            with places.take(f"client {number}", asyncio.timeout(None)):
                await asyncio.sleep(0.002)
        return len(places._due)

    assert asyncio.run(send()) <= 11


def test_places_are_limited_for_all_and_for_each(held):
    with (
        make_client(held, KEYS, max_requests=2, max_requests_per_client=1) as client,
        ThreadPoolExecutor(2) as threads,
    ):
        first, second = ({"x-api-key": key} for key in KEYS)
        answers = [threads.submit(post, client, x_api_key=KEYS[0])]
        assert held.begun.acquire(timeout=20)
        refused = post(client, x_api_key=KEYS[0])
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "1 requests are under way" in refused.json()["detail"]
        assert client.get("/ready").json() == {"status": "ready"}
        answers.append(threads.submit(post, client, x_api_key=KEYS[1]))
        while client.get("/ready").status_code == 200:
            assert not any(answer.done() for answer in answers)
        assert "segkit_places 2\n" in client.get("/metrics", headers=first).text
        assert post(client, x_api_key=KEYS[1]).status_code == 429
        held.go_on.set()
        assert [answer.result(20).status_code for answer in answers] == [200, 200]
        assert client.get("/ready").status_code == 200
        assert post(client, **second).status_code == 200


def test_addresses_of_a_network_of_ipv6_are_one_client():
    def name(host):
        return name_client({"client": (host, 1)})

    assert name("2001:db8::1") == name("2001:db8::ffff:1") == "2001:db8::/64"
    for host in ("192.0.2.7", "::1", "testclient"):
        assert name(host) == host
    assert name_client({"client": None}) == "unknown"


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [("proxy-1:2.3_x", True), ("", False), ("a b", False), ("x" * 101, False), ("a\tb", False)],
)
def test_request_ids_come_from_the_proxy_or_are_made(given, is_kept):
    with make_client() as client:
        answers = [client.get("/health", headers={"x-request-id": given}) for _ in range(2)]
    found = [answer.headers["x-request-id"] for answer in answers]
    assert (found == [given, given]) == is_kept
    assert is_kept or all(re.fullmatch("[0-9a-f]{32}", one) for one in found)
    assert is_kept or found[0] != found[1]


def test_what_nobody_expected_is_an_answer_with_an_id(caplog):
    class Broken(Thresholds):
        def __call__(self, image):
            raise ZeroDivisionError("a secret")

    with make_client(Broken()) as client:
        failed = post(client)
    assert failed.status_code == 500
    assert failed.headers["x-request-id"] in failed.json()["detail"]
    assert "secret" not in failed.text
    assert "a secret" in caplog.text


@pytest.fixture
def log(capsys):
    """Sets up the log, and undoes it: loggers are shared by all tests of a process."""
    loggers = [logging.getLogger(name) for name in ("segkit.serve", "uvicorn")]
    loggers.append(logging.getLogger("segkit.serve.requests"))
    before = [(each.handlers, each.propagate, each.level) for each in loggers]

    def write(kind):
        set_up_log(kind)
        with make_client(keys=KEYS) as client:
            post(client, x_api_key=KEYS[1], x_request_id="one")
            client.get("/a%0Ab\u2028", headers={"x-request-id": "two"})
        return capsys.readouterr().out.splitlines()

    yield write
    for each, (handlers, propagate, level) in zip(loggers, before, strict=True):
        each.handlers, each.propagate = handlers, propagate
        each.setLevel(level)


def test_a_log_of_json_lines(log):
    first, second = map(json.loads, log("json"))
    assert (first["id"], first["client"], first["status"]) == ("one", "key 2", 200)
    assert (first["method"], first["path"], first["level"]) == ("POST", "/predict", "info")
    assert 0 < first["seconds"] < 60
    assert (second["id"], second["status"], second["path"]) == ("two", 401, "/a%0Ab%E2%80%A8")


def test_a_log_of_text_and_none(log):
    first, second = log("text")
    assert re.fullmatch(r"\S+ \S+ key 2 POST /predict 200 [\d.]+ s one", first)
    assert second.endswith(" s two")
    assert log(None) == []


def test_metrics_are_in_the_format_of_prometheus():
    with make_client() as client:
        post(client)
        post(client)
        for path in ("/health", "/one", "/two"):
            client.get(path)
        answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.text.splitlines()
    form = r'# (HELP|TYPE) \w+ .+|\w+(\{(\w+="[^"]*",?)+\})? [\d.e+-]+'
    assert [line for line in lines if not re.fullmatch(form, line)] == []
    assert 'segkit_requests_total{path="/predict",status="200"} 2' in lines
    assert 'segkit_requests_total{path="other",status="404"} 2' in lines
    assert 'segkit_answer_seconds_bucket{le="+Inf"} 2' in lines
    assert "segkit_answer_seconds_count 2" in lines
    assert "segkit_pixels_total 128" in lines
    assert 'segkit_model_loads_total{result="refused"} 0' in lines
    buckets = [float(line.split()[-1]) for line in lines if "_bucket" in line]
    assert buckets == sorted(buckets)


def test_of_strangers_nobody_gets_all_places_and_this_machine_does():
    places = Places(ServeSettings(checkpoint=["a.ckpt"], max_requests=9))

    async def fill(client):
        with ExitStack() as held:
            for number in itertools.count():
                try:
                    held.enter_context(places.take(client, asyncio.timeout(None)))
                except HTTPException as refused:
                    return number, refused.status_code

    for client, most in (("127.0.0.1", 9), ("::1", 9), ("192.0.2.7", 2), ("key 1", 2)):
        assert asyncio.run(fill(client)) == (most, 429)
    assert len(places) == 0
