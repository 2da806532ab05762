"""What is said about requests: ids, headers, the log, and numbers for Prometheus."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOG = logging.getLogger("segkit.serve")
REQUESTS = logging.getLogger("segkit.serve.requests")

ID = re.compile(r"[\w.:-]{1,100}", re.ASCII)
"""An id that is taken over from a proxy."""
CLIENT_GONE = 499
"""The status of a request whose client has disconnected; nobody reads it."""
PATHS = ("/", "/predict", "/model", "/health", "/ready", "/metrics", "/docs")
"""Paths with numbers of their own; strangers can think of endless others."""
BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds in seconds of the histogram of answers."""


class Metrics:
    """Numbers since the start."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.answers: Counter[float] = Counter()
        self.loads: Counter[str] = Counter({"loaded": 0, "refused": 0})
        self.answer_seconds = self.prediction_seconds = 0.0
        self.pixels = 0

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self.requests[path if path in PATHS else "other", status] += 1
        if path == "/predict" and status == 200:
            self.answer_seconds += seconds
            self.answers.update(bound for bound in (*BUCKETS, float("inf")) if seconds <= bound)

    def format(self, places: int) -> str:
        """The text format of Prometheus; ``places``: requests for predictions under way."""
        answered = self.answers[float("inf")]
        histogram = {
            f'_bucket{{le="{"+Inf" if bound == float("inf") else bound}"}}': self.answers[bound]
            for bound in (*BUCKETS, float("inf"))
        } | {"_sum": self.answer_seconds, "_count": answered}
        requests = {
            f'{{path="{path}",status="{status}"}}': count
            for (path, status), count in sorted(self.requests.items())
        }
        predicted = {"": self.prediction_seconds}
        loads = {f'{{result="{result}"}}': count for result, count in self.loads.items()}
        families: list[tuple[str, str, str, Mapping[str, float]]] = [
            ("requests_total", "counter", "Answered requests.", requests),
            ("places", "gauge", "Requests for predictions under way.", {"": places}),
            ("answer_seconds", "histogram", "From the head of a request to its mask.", histogram),
            ("prediction_seconds_total", "counter", "Time of predictions.", predicted),
            ("pixels_total", "counter", "Predicted pixels.", {"": self.pixels}),
            ("model_loads_total", "counter", "New files of the model.", loads),
        ]
        lines = []
        for name, kind, meaning, samples in families:
            lines += [f"# HELP segkit_{name} {meaning}", f"# TYPE segkit_{name} {kind}"]
            lines += [f"segkit_{name}{label} {value}" for label, value in samples.items()]
        return "\n".join([*lines, ""])


class Monitor:
    """Gives each request an id, which its answer and the log show, and its answer headers.

    Headers that an answer has already stay. What the app did not expect becomes an answer too.
    """

    def __init__(self, app: ASGIApp, headers: Mapping[str, str], metrics: Metrics) -> None:
        self.app, self.headers, self.metrics = app, headers, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), CLIENT_GONE
        given = Headers(scope=scope).get("x-request-id", "")
        identity = given if ID.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})

        async def adding(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = MutableHeaders(scope=message)
                for name, value in {**self.headers, "X-Request-ID": identity}.items():
                    own.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, adding)
        except Exception:
            LOG.exception("request %s failed", identity)
            if status != CLIENT_GONE:
                raise
            failed = f"the server failed; its log says more about request {identity}."
            await JSONResponse({"detail": failed}, 500)(scope, receive, adding)
        finally:
            seconds = time.perf_counter() - began
            self.metrics.count(scope["path"], status, seconds)
            facts = {
                "id": identity,
                "client": state.get("client", "unknown"),
                "method": scope["method"],
                "path": quote(scope["path"]),
                "status": status,
                "seconds": round(seconds, 4),
            }
            line = "{client} {method} {path} {status} {seconds} s {id}".format(**facts)
            REQUESTS.info(line, extra={"facts": facts})


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        facts = getattr(record, "facts", None) or {"message": record.getMessage()}
        entry = {"time": when, "level": record.levelname.lower(), **facts}
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def set_up_log(kind: Literal["text", "json"] | None) -> None:
    """Write what the server says to the standard output, and a line for each request if asked."""
    handler = logging.StreamHandler(sys.stdout)
    line = "%(asctime)s %(message)s" if kind == "text" else "%(message)s"
    handler.setFormatter(_JsonLines() if kind == "json" else logging.Formatter(line))
    for logger in (LOG, logging.getLogger("uvicorn")):
        logger.handlers, logger.propagate = [handler], False
    LOG.setLevel(logging.INFO)
    REQUESTS.setLevel(logging.INFO if kind else logging.WARNING)
