"""Between the network and the app: limits on the size of requests and on who may send them."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

WRAPPING = 2**16
"""Bytes of a request in addition to its file."""


class BodyLimit:
    """Refuses bodies above a limit with 413. Bytes are counted as they arrive, not as declared.

    The rest is read and dropped, up to as much again: a client that is cut off while sending does
    not read the answer.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, message: str) -> None:
        self.app, self.limit, self.message = app, max_bytes + WRAPPING, message

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        taken = 0

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken <= self.limit:
                return message
            while message.get("more_body") and taken <= 2 * self.limit:
                message = await receive()
                taken += len(message.get("body", b""))
            raise HTTPException(413, self.message)

        await self.app(scope, limited, send)


class AddHeaders:
    """Adds headers to every answer that does not set them itself."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str]) -> None:
        self.app, self.headers = app, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def adding(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    own.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, adding if scope["type"] == "http" else send)


def require_same_site(request: Request) -> None:
    """Refuse requests that a page of another site makes a browser send.

    Such a page could not read the answer, but could keep the model busy. Only browsers send this
    header.

    Raises:
        HTTPException: The request comes from another site.
    """
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise HTTPException(403, "a page of another site may not use this server.")


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine can reach a server that binds to this host."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def list_trusted_hosts(host: str) -> list[str]:
    """List the host names that a server on the loopback answers to; any name elsewhere.

    Another name that resolves to this machine belongs to a page that tries to read what is served
    here (DNS rebinding).
    """
    if not is_loopback(host):
        return ["*"]
    # Older versions of Starlette cut an IPv6 address at its first colon. No name begins with [.
    return ["127.0.0.1", "localhost", "[::1]", "[", host]
