"""From an upload to its answer: waiting, predicting, and the model that does it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Literal
from urllib.parse import quote

import numpy as np
from fastapi import Request, UploadFile
from fastapi.responses import Response

from segkit.config.settings import ServeSettings
from segkit.core.errors import SegkitError
from segkit.core.published import find_name, list_model_files
from segkit.inference.predictor import Prediction, Predictor, load_from_settings
from segkit.serve.answers import Options, build_answer, encode_part
from segkit.serve.monitoring import CLIENT_GONE, LOG, Metrics
from segkit.serve.uploads import Upload, UploadError, check_upload, read_upload

LARGE = 4_000_000
"""Pixels of an image that lets smaller ones pass."""
POLL = 1.0
"""Seconds between two looks at the files of the model."""


class _StoppedError(Exception):
    """Nobody waits for the answer any more."""


class Predictions:
    """Answers requests in the order in which they come; small images pass a large one.

    The network computes one batch at a time. After each of its own, a large image lets small ones
    pass for as long as that took, so two images are in memory. What nobody waits for is not
    computed to its end.
    """

    def __init__(self, predictor: Predictor, settings: ServeSettings, metrics: Metrics) -> None:
        self.predictor, self._settings, self._metrics = predictor, settings, metrics
        self._turn, self._next = threading.Lock(), threading.Lock()
        self._images, self._small_ones, self._changed = 0, 0, threading.Condition()
        # A thread each, for small images and for large ones: one after the other.
        self._small, self._large = ThreadPoolExecutor(1, "small"), ThreadPoolExecutor(1, "large")

    @property
    def busy(self) -> bool:
        """Whether an image is being predicted."""
        return self._images > 0

    async def respond(self, request: Request, file: UploadFile, options: Options) -> Response:
        """Answer a request.

        Raises:
            SegkitError: The upload or the options cannot be used.
        """
        check_options(options, self.predictor)
        gone = asyncio.ensure_future(request.receive())  # after the body: that the client is gone
        work = asyncio.ensure_future(self._work(file, options, gone.done))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else Response(status_code=CLIENT_GONE)
        finally:
            work.cancel()
            gone.cancel()

    def close(self) -> None:
        """Accept no more images."""
        for threads in (self._small, self._large):
            threads.shutdown(wait=False, cancel_futures=True)

    async def _work(
        self, file: UploadFile, options: Options, is_stopped: Callable[[], bool]
    ) -> Response:
        loop, predictor = asyncio.get_running_loop(), self.predictor
        name, held = file.filename or "image", file.file

        def predict(is_large: bool) -> Response:
            if is_stopped():
                raise _StoppedError
            data = _read(held)
            upload = read_upload(name, data, options.page, self._settings, predictor.card)
            del data  # it may be large
            prediction, seconds = self._predict(predictor, upload, is_stopped, is_large)
            return make_response(upload, prediction, predictor, seconds, options)

        def predict_small() -> Response | None:
            pixels = check_upload(_read(held), options.page, self._settings, predictor.card)
            return None if pixels > LARGE else predict(False)

        self._images += 1
        try:
            self._count_small(1)
            try:
                answer = await loop.run_in_executor(self._small, predict_small)
            finally:
                self._count_small(-1)
            if answer is None:
                answer = await loop.run_in_executor(self._large, predict, True)
            return answer
        except (MemoryError, RuntimeError) as error:  # torch raises RuntimeError
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            raise UploadError(
                "there is not enough memory for an image of this size. Start the server with a"
                " smaller tile, or use python -m segkit.predict.",
                413,
            ) from error
        finally:
            self._images -= 1

    def _predict(
        self, predictor: Predictor, upload: Upload, is_stopped: Callable[[], bool], is_large: bool
    ) -> tuple[Prediction, float]:
        start = began = self._take_turn()

        def pause() -> None:
            nonlocal began
            if is_stopped():
                raise _StoppedError
            if is_large:
                took = time.perf_counter() - began
                self._turn.release()
                with self._changed:
                    self._changed.wait_for(lambda: not self._small_ones, took)
                began = self._take_turn()

        try:
            (found,) = predictor.try_stream([upload.image], pause=pause)
            seconds = time.perf_counter() - start
            if isinstance(found, SegkitError):
                raise found
            self._metrics.prediction_seconds += seconds
            self._metrics.pixels += upload.image.shape[0] * upload.image.shape[1]
        finally:
            self._turn.release()
        return found, seconds

    def _take_turn(self) -> float:
        with self._next:  # else the thread that has just released the turn would get it again
            self._turn.acquire()
        return time.perf_counter()

    def _count_small(self, more: int) -> None:
        with self._changed:
            self._small_ones += more
            self._changed.notify_all()


def _read(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def check_options(options: Options, predictor: Predictor) -> None:
    """Refuse options that the model cannot satisfy before anything is computed."""
    if options.instances and predictor.instances is None:
        raise SegkitError(
            "instances: this server does not separate objects. Omit the option, or start the"
            " server with instances=components or another decoder."
        )
    layered = predictor.card.mode == "multilabel"
    if options.format == "png" and layered and not options.instances:
        raise SegkitError(
            "format=png: a PNG cannot hold the mask of overlapping classes. Use format=tiff."
        )
    if options.format != "json" and options.include:
        raise SegkitError("include works with format=json only.")


def make_response(
    upload: Upload, prediction: Prediction, predictor: Predictor, seconds: float, options: Options
) -> Response:
    """Make the answer in the format that the options ask for."""
    card = predictor.card
    if options.format == "json":
        answer = build_answer(upload, prediction, card, seconds, options)
        return Response(answer.model_dump_json(by_alias=True), media_type="application/json")
    suffix = ".png" if options.format == "png" else ".tif"
    part: Literal["mask", "instances"] = "instances" if options.instances else "mask"
    file = encode_part(upload, prediction, card, part, suffix)
    return Response(
        file.content,
        media_type=file.media_type,
        headers={
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.name)}",
            "X-Seconds": f"{seconds:.4f}",
        },
    )


async def reload_when_replaced(
    predictions: Predictions, settings: ServeSettings, metrics: Metrics
) -> None:
    """Load the model again whenever its files have changed; one that does not work is not used."""
    used = seen = _look_at(settings.checkpoint)
    while True:
        await asyncio.sleep(POLL)
        before, seen = seen, await asyncio.to_thread(_look_at, settings.checkpoint)
        if seen in (used, None) or seen != before:  # as it was, missing, or being written
            continue
        used = seen
        name = name_model(settings)
        try:
            predictions.predictor = await asyncio.to_thread(_load_checked, settings)
        except Exception as error:  # whatever a broken file makes a library raise
            metrics.loads["refused"] += 1
            LOG.error("the new %s cannot be used, so the old one stays: %s", name, error)
        else:
            metrics.loads["loaded"] += 1
            LOG.info("the new %s is in use", name)


def name_model(settings: ServeSettings) -> str:
    """Name the checkpoints for people."""
    first, *others = settings.checkpoint
    return (find_name(first) or first.name) + (f" and {len(others)} more" if others else "")


def _look_at(paths: list[Path]) -> Hashable | None:
    """What changes with the files, as far as they are there."""
    try:
        found = [part.stat() for path in paths for part in list_model_files(path)]
    except OSError:
        return None
    return tuple((each.st_ino, each.st_size, each.st_mtime_ns) for each in found)


def _load_checked(settings: ServeSettings) -> Predictor:
    """Load the model, and predict an empty image of the size of the training's crops."""
    predictor = load_from_settings(settings)
    card = predictor.card
    predictor(np.zeros((*card.img_size, card.in_channels), card.normalization.dtype))
    return predictor
