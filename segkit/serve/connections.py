"""Connections: those whose clients are silent or slow do not use up what others need.

Uvicorn limits only the time between two requests of a connection.
"""

from __future__ import annotations

import asyncio
import math
import socket
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from segkit.config.settings import ServeSettings

CONNECTIONS = 512
"""Open connections. One more closes the one that has waited longest for its client."""
SLOWEST = 2**14
"""Bytes per second that a client must send or take."""


class ImpatientProtocol(H11Protocol):
    """Closes a connection whose client sends no whole head, or does not take the answer.

    While the app reads a body, :class:`segkit.serve.guards.Gate` sets the limits; what is left of
    one that the app did not want has to come within ``patience`` seconds, too.
    """

    def __init__(self, *args: Any, patience: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._patience = patience
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being done for the client."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # of TCP
        """See :class:`asyncio.Protocol`."""
        super().connection_made(transport)
        # asyncio does so only where a socket names its protocol; else a body may wait 40 ms for the
        # client to confirm the head
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._start_timer()
        if len(self.connections) > CONNECTIONS:
            others = [each for each in self.connections if isinstance(each, ImpatientProtocol)]
            idle = [each for each in others if each.is_idle and each is not self]
            if idle:
                min(idle, key=lambda each: each.since).transport.abort()

    def data_received(self, data: bytes) -> None:
        """See :class:`asyncio.Protocol`."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._start_timer()

    def on_response_complete(self) -> None:
        """Called by uvicorn when the answer has been handed to the system."""
        self._start_timer()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """See :class:`asyncio.Protocol`."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        self.since = self.loop.time()
        self._watch(math.inf)

    def _watch(self, unsent: float) -> None:
        """Look again after a while; ``unsent`` bytes of the answer wait for the client."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(self._patience, self._check, unsent)

    def _check(self, unsent: float) -> None:
        left = self.transport.get_write_buffer_size()
        if left and left <= unsent - SLOWEST * self._patience:
            self._watch(left)
        elif left or self.is_idle:
            self.transport.abort()


def make_server(app: ASGIApp, settings: ServeSettings) -> uvicorn.Server:
    """Make the server that runs an app."""
    protocol: Any = partial(ImpatientProtocol, patience=settings.client_timeout)
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        access_log=False,
        log_config=None,  # see segkit.serve.monitoring
        log_level="warning",
        server_header=False,
        forwarded_allow_ips=settings.proxies,
    )
    return uvicorn.Server(config)
