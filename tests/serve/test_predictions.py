"""Turns of large and small images, limits of time, and a model that is replaced."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

pytest.importorskip("fastapi_offline", reason="the extra serve is not installed")
from fastapi.testclient import TestClient
from serve.conftest import Thresholds, as_png, make_card

import segkit
from segkit.config.settings import ServeSettings
from segkit.serve import predictions
from segkit.serve.app import create_app

SMALL, LARGE = (as_png(np.zeros(shape, np.uint8)) for shape in ((8, 8), (40, 40)))


def make_client(predictor, **options):
    settings = ServeSettings(**{"checkpoint": ["a.ckpt"], **options})
    return TestClient(create_app(predictor, settings), base_url="http://127.0.0.1:8000")


def post(client, data):
    return client.post("/predict", files={"file": ("a.png", data)})


def wait_until(test):
    done = threading.Event()
    for _ in range(600):
        if test():
            return
        done.wait(0.05)
    raise AssertionError("it did not come")


class Tiles(Thresholds):
    """Computes batches of a large image until that is enough, and notes how many at a time."""

    def __init__(self):
        super().__init__()
        self.begun, self.enough = threading.Event(), threading.Event()
        self.computing = self.most = 0

    def try_stream(self, images, pause=lambda: None):
        (image,) = images
        is_large = len(image) == 40
        while True:
            pause()
            self.computing += 1
            self.most = max(self.most, self.computing)
            self.begun.wait(0.001)
            self.computing -= 1
            if is_large:
                self.begun.set()
            if not is_large or self.enough.is_set():
                break
        yield self(image)


def test_small_images_pass_a_large_one_and_batches_take_turns(monkeypatch):
    monkeypatch.setattr(predictions, "LARGE", 1000)
    predictor = Tiles()
    with (
        make_client(predictor) as client,
        ThreadPoolExecutor(1) as threads,
        ExitStack() as stack,
    ):
        stack.callback(predictor.enough.set)  # else a failure would wait for ever
        large = threads.submit(post, client, LARGE)
        assert predictor.begun.wait(20)
        for _ in range(5):
            assert post(client, SMALL).status_code == 200
        assert not large.done()
        assert client.get("/health").json()["busy"]
        predictor.enough.set()
        assert large.result(20).status_code == 200
    assert predictor.most == 1


@pytest.mark.slow
def test_a_large_image_waits_for_small_ones_as_long_as_its_batch_took(monkeypatch):
    monkeypatch.setattr(predictions, "LARGE", 1000)
    held = []
    monkeypatch.setattr(
        "segkit.serve.app.Predictions",
        lambda *given: held.append(predictions.Predictions(*given)) or held[0],
    )

    class Patient(Thresholds):
        begun, seen_by_small, batches = threading.Event(), [], 0

        def try_stream(self, images, pause=lambda: None):
            (image,) = images
            pause()
            if len(image) == 40:
                self.batches += 1
                self.begun.set()
                wait_until(lambda: held[0]._small_ones == 3)
                threading.Event().wait(2)
                pause()
                self.batches += 1
            else:
                self.seen_by_small.append(self.batches)
            yield self(image)

    predictor = Patient()
    with make_client(predictor) as client, ThreadPoolExecutor(4) as threads:
        large = threads.submit(post, client, LARGE)
        assert predictor.begun.wait(20)
        small = [threads.submit(post, client, SMALL) for _ in range(3)]
        assert {answer.result(60).status_code for answer in [large, *small]} == {200}
    assert predictor.seen_by_small == [1, 1, 1]


def test_an_image_that_takes_too_long_is_given_up():
    predictor = Tiles()
    with make_client(predictor, timeout=0.5) as client:
        late = post(client, LARGE)
        assert late.status_code == 503
        assert "0.5 seconds" in late.json()["detail"]
        assert post(client, SMALL).status_code == 200  # in the same thread, so it has ended


@pytest.mark.slow
def test_large_images_are_the_same_in_turns(binary_run, monkeypatch):
    """Real networks: of two threads that take turns, each gets what it would get alone."""
    monkeypatch.setattr(predictions, "LARGE", 10_000)
    predictor = segkit.load(binary_run.checkpoint, device="cpu", tile=64)
    images = [np.random.default_rng(k).integers(0, 255, (300, 300), np.uint8) for k in range(2)]
    images += [image[:64, :64] for image in images for _ in range(5)]
    with make_client(predictor) as client, ThreadPoolExecutor(12) as threads:
        files = [as_png(image) for image in images]
        answers = list(threads.map(lambda data: post(client, data).json(), files))
    for image, answer in zip(images, answers, strict=True):
        expected = int(predictor(image).labels.sum())
        assert answer["classes"][1]["pixels"] == expected


@pytest.mark.slow
def test_a_replaced_model_is_used_and_a_broken_one_is_not(
    binary_run, multiclass_run, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(predictions, "POLL", 0.05)
    caplog.set_level("INFO")
    path = tmp_path / "best.ckpt"
    shutil.copy(binary_run.checkpoint, path)
    predictor = segkit.load(path, device="cpu")
    with make_client(predictor, checkpoint=[path], device="cpu") as client:

        def count(result):
            told = client.get("/metrics").text
            return int(told.split(f'segkit_model_loads_total{{result="{result}"}} ')[1].split()[0])

        assert client.get("/model").json()["mode"] == "binary"
        (tmp_path / "new").write_bytes(multiclass_run.checkpoint.read_bytes()[:5000])
        (tmp_path / "new").replace(path)
        wait_until(lambda: count("refused") == 1)
        assert "the old one stays" in caplog.text
        assert client.get("/model").json()["mode"] == "binary"
        path.unlink()
        assert post(client, SMALL).status_code == 200
        shutil.copy(multiclass_run.checkpoint, tmp_path / "new")
        (tmp_path / "new").replace(path)
        wait_until(lambda: count("loaded") == 1)
        assert client.get("/model").json()["mode"] == "multiclass"
        answer = post(client, SMALL).json()
        assert [known["name"] for known in answer["classes"]] == list(
            segkit.load(path, device="cpu").card.class_names
        )
        assert count("refused") == 1


def test_a_request_is_answered_by_the_model_that_it_found(monkeypatch):
    """A model that is replaced while a request waits has other classes."""
    old, new = Thresholds(), Thresholds(make_card("multiclass", ("a", "b", "c")))
    settings = ServeSettings(checkpoint=["a.ckpt"])
    held = []

    class Swapping(Thresholds):
        def try_stream(self, images, pause=lambda: None):
            held[0].predictor = new
            return old.try_stream(images, pause)

    monkeypatch.setattr(
        "segkit.serve.app.Predictions",
        lambda *given: held.append(predictions.Predictions(*given)) or held[0],
    )
    client = TestClient(create_app(Swapping(), settings), base_url="http://127.0.0.1:8000")
    with client:
        first, second = post(client, SMALL).json(), post(client, SMALL).json()
    assert [len(answer["classes"]) for answer in (first, second)] == [2, 3]
