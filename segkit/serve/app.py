"""The app: the page, the endpoint, the model's facts, and the state of the server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, File, HTTPException, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
)
from fastapi.security import APIKeyHeader
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from segkit import __version__
from segkit.config.settings import ServeSettings
from segkit.core.errors import SegkitError
from segkit.core.labels import Mode
from segkit.inference.predictor import Predictor
from segkit.serve.answers import MEDIA_TYPES, Answer, KnownClass, Options, list_classes
from segkit.serve.guards import Gate, Places, list_trusted_hosts
from segkit.serve.monitoring import Metrics, Monitor
from segkit.serve.predictions import Predictions, name_model, reload_when_replaced
from segkit.serve.uploads import UploadError

FILES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
"""Files beside this one that are served as they are. No other file can be requested."""
SWAGGER = "/swagger-ui"
"""Where the scripts of the page /docs are."""

POLICY = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self'; img-src 'self' data: blob:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CONTENT_SECURITY_POLICY = "Content-Security-Policy"
HEADERS = {
    CONTENT_SECURITY_POLICY: POLICY.format(scripts=""),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Sent with every answer: pages load nothing from elsewhere, and caches keep no images."""

PREDICT = """Send an image of 8 bits, 16 bits or float within the size limits. Requests are answered
one after the other; small images pass large ones.

    curl -F file=@image.tif 'http://127.0.0.1:8000/predict?format=png' -o mask.png
    curl -F file=@image.tif 'http://127.0.0.1:8000/predict?include=mask'
    curl -F file=@stack.tif 'http://127.0.0.1:8000/predict?format=png&page=3' -o mask.png
"""


class Health(BaseModel):
    """The state of the server."""

    status: Literal["ok"] = "ok"
    busy: bool = Field(description="whether an image is being predicted")


class Readiness(BaseModel):
    """Whether a request would be answered now."""

    status: Literal["ready"] = "ready"


class Problem(BaseModel):
    """What is wrong with a request."""

    detail: str


REFUSALS = {
    400: "The body is not a multipart form, or the Host header names another server",
    401: "A key is needed",
    403: "A page of another site sent the request",
    408: "The upload was too slow",
    413: "The file or the image is too large",
    415: "The file is not an image of a known format",
    422: "The image is damaged or does not fit the model, or an option is wrong",
    429: "The client sends too many requests, or the server has too many; see Retry-After",
    503: "There was no time for the image",
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The prediction",
        "model": Answer,
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in MEDIA_TYPES.values()
        },
    },
    **{code: {"description": why, "model": Problem} for code, why in REFUSALS.items()},
}


class ClassInfo(KnownClass):
    """A class of the model."""

    painted: bool = Field(description="whether pictures show it; they do not show the background")


class ModelInfo(BaseModel):
    """The trained model and its inputs."""

    name: str
    encoder: str
    neck: str
    head: str
    mode: Mode = Field(description="one foreground, one of N classes, or N that may overlap")
    target: str = Field(description="what the network learned from the masks")
    instances: str | None = Field(description="how objects are separated; null: not at all")
    in_channels: int = Field(description="grey and RGB are converted into each other")
    dtype: str = Field(description="of the training images; others are converted")
    crop: tuple[int, int] = Field(description="height and width of the training crops")
    classes: list[ClassInfo]
    versions: dict[str, str] = Field(description="versions of the training's packages")
    version: str = Field(description="version of the segkit that serves the model")
    max_upload_mb: float
    max_pixels: int


def create_app(predictor: Predictor, settings: ServeSettings, keys: Sequence[str] = ()) -> FastAPI:
    """Create the app around a predictor.

    On the loopback it answers to no other name of this machine. With keys, all that tells of the
    model or uses it needs one of them.
    """
    metrics, places = Metrics(), Places(settings)
    predictions = Predictions(predictor, settings, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watch = asyncio.create_task(reload_when_replaced(predictions, settings, metrics))
        yield
        watch.cancel()
        predictions.close()

    app = FastAPIOffline(
        docs_url=None,  # ours has a content security policy
        redoc_url=None,
        static_url=SWAGGER,
        title="segkit",
        version=__version__,
        description="Image in, mask out. [Try it on a page](./).",
        lifespan=lifespan,
        # only described here, for the page /docs: the gate asks for it
        dependencies=[Depends(APIKeyHeader(name="X-API-Key", auto_error=False))] if keys else [],
    )
    # The last one is the first that a request meets.
    app.add_middleware(Gate, settings=settings, places=places, keys=keys)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list_trusted_hosts(settings))
    app.add_middleware(Monitor, headers=HEADERS, metrics=metrics)
    app.add_exception_handler(SegkitError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)

    @app.post(
        "/predict",
        summary="Predict an image",
        description=PREDICT,
        response_class=JSONResponse,
        responses=RESPONSES,
    )
    async def predict(
        request: Request,
        file: Annotated[UploadFile, File(description="PNG, JPEG, TIFF, BMP or WebP")],
        options: Annotated[Options, Query()],
    ) -> Response:
        return await predictions.respond(request, file, options)

    @app.get("/model", summary="Describe the model")
    async def model() -> ModelInfo:
        return describe_model(predictions.predictor, settings)

    @app.get("/health", summary="Tell whether the server answers")
    async def health() -> Health:
        return Health(busy=predictions.busy)

    @app.get(
        "/ready",
        summary="Tell whether there is room for another image",
        responses={503: {"description": "All places are taken", "model": Problem}},
    )
    async def ready() -> Readiness:
        if places.are_full:
            raise HTTPException(503, f"{len(places)} requests are under way.")
        return Readiness()

    @app.get("/metrics", summary="Numbers for Prometheus", response_class=PlainTextResponse)
    async def numbers() -> Response:
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response(metrics.format(len(places)), media_type=kind)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return _make_docs_page()

    for path in FILES:
        app.add_route(path, _send_file, include_in_schema=False)
    return app


def describe_model(predictor: Predictor, settings: ServeSettings) -> ModelInfo:
    """Describe a predictor's model for the page."""
    card = predictor.card
    unpainted = None if card.mode == "multilabel" else card.background
    return ModelInfo(
        name=name_model(settings),
        encoder=str(card.encoder["name"]),
        neck=str(card.neck["name"]),
        head=str(card.head["name"]),
        mode=card.mode,
        target=str(card.target["name"]),
        instances=predictor.instances,
        in_channels=card.in_channels,
        dtype=card.normalization.dtype,
        crop=card.img_size,
        classes=[
            ClassInfo(**known.model_dump(), painted=label != unpainted)
            for label, known in enumerate(list_classes(card))
        ],
        versions=card.versions,
        version=__version__,
        max_upload_mb=settings.max_upload_mb,
        max_pixels=settings.max_pixels,
    )


async def _send_file(request: Request) -> Response:
    return FileResponse(Path(__file__).with_name(FILES[request.url.path]))


def _make_docs_page() -> HTMLResponse:
    """FastAPI's page about the endpoint, whose one inline script the policy names by its hash."""
    page = get_swagger_ui_html(  # relative addresses, as the server may be behind a prefix
        openapi_url="openapi.json",
        title="segkit: the HTTP endpoint",
        swagger_js_url=f".{SWAGGER}/swagger-ui-bundle.js",
        swagger_css_url=f".{SWAGGER}/swagger-ui.css",
        swagger_favicon_url="data:,",
        swagger_ui_parameters={"docExpansion": "full", "tryItOutEnabled": True},
    )
    scripts = ""
    for script in re.findall(rb"<script>(.*?)</script>", bytes(page.body), re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(script).digest()).decode("ascii")
        scripts += f" 'sha256-{digest}'"
    page.headers[CONTENT_SECURITY_POLICY] = POLICY.format(scripts=scripts)
    return page


async def _answer_error(_: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, UploadError) else 422
    return JSONResponse({"detail": str(error)}, status)


async def _answer_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [
        f"{'.'.join(str(part) for part in problem['loc'][1:]) or 'body'}: {problem['msg']}"
        for problem in error.errors()
    ]
    return JSONResponse({"detail": "; ".join(problems)}, 422)
