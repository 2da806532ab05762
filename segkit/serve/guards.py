"""Between the network and the app: who may send requests, and how many, how large and how slow."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segkit.config.settings import ServeSettings
from segkit.core.errors import SegkitError, all_at_once
from segkit.serve.connections import SLOWEST
from segkit.serve.uploads import MEBIBYTE, refuse_bytes

WRAPPING = 2**16
"""Bytes of a request in addition to its file."""
WINDOW = 60.0
"""Seconds in which requests are counted for the option ``rate``."""
REMEMBERED = 10_000
"""Clients whose requests are counted before those of long ago are forgotten."""
GRACE = 0.95
"""An upload with less of its time than this share may have to go."""
SHORTEST_KEY = 16
"""Characters: shorter ones can be guessed."""
OPEN = ("/", "/page.css", "/page.js", "/health", "/ready", "/docs", "/openapi.json", "/swagger-ui/")
"""What is answered without a key: it says nothing about the model. The last one is a folder."""


class Place:
    """A request for a prediction: who sent it, how much of it has come, and when it must end."""

    def __init__(self, client: str, limit: asyncio.Timeout) -> None:
        self.client, self.limit, self.taken, self.is_uploaded = client, limit, 0, False

    @property
    def end(self) -> float:
        """When the patience with the upload is over; never if it is here."""
        when = self.limit.when()
        return math.inf if self.is_uploaded or when is None else when


class Places:
    """The requests for predictions that are under way: uploaded, waiting or being predicted."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._held: set[Place] = set()
        self._due: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._held)

    @property
    def are_full(self) -> bool:
        """Whether there is no room for another request."""
        return len(self) >= self._settings.max_requests

    @contextmanager
    def take(self, client: str, limit: asyncio.Timeout) -> Iterator[Place]:
        """Hold a place in the ``with`` block.

        If there is none, an upload that has been too slow for a while has to go.

        Raises:
            HTTPException: The client sends too many requests, or all places are taken (429).
        """
        self._count(client)
        own = {place for place in self._held if place.client == client}
        if len(own) >= self._find_share(client):
            self._make_room(own)
        elif self.are_full:
            self._make_room(self._held)
        place = Place(client, limit)
        self._held.add(place)
        try:
            yield place
        finally:
            self._held.discard(place)

    def _make_room(self, places: set[Place]) -> None:
        slowest = min(places, key=lambda place: place.end)
        if slowest.end > _now() + GRACE * self._settings.client_timeout:
            raise _refuse(f"{len(places)} requests are under way. Try again later.", 1)
        if not slowest.limit.expired():
            slowest.limit.reschedule(0)
        self._held.discard(slowest)

    def _find_share(self, client: str) -> int:
        """The number of places that a client may hold."""
        given, most = self._settings.max_requests_per_client, self._settings.max_requests
        return given or (most if is_loopback(client) else max(1, most // 4))

    def _count(self, client: str) -> None:
        """Count a request: each puts off the moment from which on ``rate`` others are free."""
        rate, now = self._settings.rate, _now()
        if rate is None:
            return
        due = max(now, self._due.get(client, 0)) + WINDOW / rate
        if due - now > WINDOW + 1e-6:
            raise _refuse(f"more than {rate} requests a minute.", math.ceil(due - now - WINDOW))
        self._due[client] = due
        if len(self._due) > REMEMBERED:
            self._due = {each: when for each, when in self._due.items() if when > now}


class Gate:
    """Refuses requests before their bodies are read, and those that take too long.

    Bodies are counted as they arrive, not as declared. What is left of one that is too large is
    read and dropped, up to as much again: a client that is cut off while sending does not read the
    answer.
    """

    def __init__(
        self, app: ASGIApp, settings: ServeSettings, places: Places, keys: Sequence[str]
    ) -> None:
        self.app, self._settings, self._places = app, settings, places
        self._keys = [_digest(key) for key in keys]
        self._most = round(settings.max_upload_mb * MEBIBYTE) + WRAPPING

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), scope["path"]
        try:
            client = name_client(scope)
            if self._keys and path not in OPEN and not path.startswith(OPEN[-1]):
                client = self._recognize(headers)
            scope["state"]["client"] = client
            if (scope["method"], path) != ("POST", "/predict"):
                await self.app(scope, receive, send)
                return
            require_same_site(headers)
            await self._admit(client, scope, receive, send)
        except HTTPException as error:
            answer = JSONResponse({"detail": error.detail}, error.status_code, error.headers)
            await answer(scope, receive, send)

    def _recognize(self, headers: Headers) -> str:
        """Name the sender by the number of the key; all keys are compared, each in full."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = _digest(given)
        found = [n for n, key in enumerate(self._keys, 1) if hmac.compare_digest(key, digest)]
        if not found:
            raise HTTPException(
                401,
                "a key is needed: send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.",
                {"WWW-Authenticate": "Bearer"},
            )
        return f"key {found[0]}"

    async def _admit(self, client: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the app answer within the limits of time and size."""
        patience, timeout = self._settings.client_timeout, self._settings.timeout

        async def count() -> Message:
            message = await self._receive_part(place, receive)
            if place.taken <= self._most:
                return message
            while message.get("more_body") and place.taken <= 2 * self._most:
                message = await self._receive_part(place, receive)
            raise HTTPException(413, str(refuse_bytes(self._settings)))

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                limit.reschedule(None)
            await send(message)

        try:
            async with asyncio.timeout(patience) as limit:
                with self._places.take(client, limit) as place:
                    await self.app(scope, count, answer)
        except TimeoutError:
            if not limit.expired():
                raise
            if place.is_uploaded:
                why = f"there was no time for the image within {timeout:g} seconds. Send a smaller"
                raise HTTPException(503, f"{why} one, or try again later.") from None
            raise HTTPException(408, "the upload was too slow.") from None

    async def _receive_part(self, place: Place, receive: Receive) -> Message:
        """Receive a part of the upload: each of its bytes buys time for the next part."""
        message = await receive()
        if message["type"] == "http.request":
            size, now = len(message.get("body", b"")), _now()
            end = min(place.end + size / SLOWEST, now + self._settings.client_timeout)
            place.taken += size
            place.is_uploaded = not message.get("more_body", False)
            place.limit.reschedule(now + self._settings.timeout if place.is_uploaded else end)
        return message


def name_client(scope: Scope) -> str:
    """The address of a client; of IPv6 the network, in which a client chooses its addresses."""
    host = (scope.get("client") or ("unknown",))[0]
    try:
        address = ip_address(host)
    except ValueError:
        return str(host)
    if isinstance(address, IPv6Address) and not address.is_loopback:
        return str(ip_network((address, 64), strict=False))
    return str(address)


def require_same_site(headers: Headers) -> None:
    """Refuse requests that a page of another site makes a browser send.

    Such a page could not read the answer, but could keep the model busy. Only browsers send these
    headers; over plain HTTP they send the second one alone.

    Raises:
        HTTPException: The request comes from another site.
    """
    site = headers.get("sec-fetch-site")
    if site is None and "origin" in headers:
        is_own = headers["origin"].partition("://")[2].lower() == headers.get("host", "").lower()
        site = "same-origin" if is_own else "cross-site"
    if site not in (None, "none", "same-origin"):
        raise HTTPException(403, "a page of another site may not use this server.")


def read_keys(path: Path) -> list[str]:
    """Read a file with a key a line; empty lines and lines that begin with # are skipped.

    Raises:
        SegkitError: It cannot be read, has no keys, or keys that cannot be used; all are named.
    """
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text of plain letters and digits"
        raise SegkitError(f"keys={path} cannot be read: {why}.") from error
    keys, problems = [], []
    for number, line in enumerate(lines, start=1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        keys.append(key)
        if len(key) < SHORTEST_KEY or not key.isprintable() or " " in key:
            problems.append(f"line {number}: a key has no spaces and {SHORTEST_KEY} signs or more")
    if problems:
        raise all_at_once(f"keys={path} cannot be used:", problems)
    if not keys:
        raise SegkitError(f"keys={path} has no keys. Write one a line, as of: openssl rand -hex 32")
    return keys


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine can reach a server that binds to this host."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def list_trusted_hosts(settings: ServeSettings) -> list[str]:
    """List the host names that a server answers to; without ``names``, any off the loopback.

    Another name that resolves to this machine belongs to a page that tries to read what is served
    here (DNS rebinding).
    """
    if not (settings.names or is_loopback(settings.host)):
        return ["*"]
    # Older versions of Starlette cut an IPv6 address at its first colon. No name begins with [.
    return ["127.0.0.1", "localhost", "[::1]", "[", settings.host, *settings.names]


def _refuse(why: str, seconds: int) -> HTTPException:
    return HTTPException(429, why, {"Retry-After": str(seconds)})


def _now() -> float:
    return asyncio.get_running_loop().time()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
