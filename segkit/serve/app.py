"""The app: the page, its endpoint and the description of the model. It needs FastAPI."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, File, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from segkit import __version__
from segkit.core.errors import SegkitError
from segkit.core.labels import Mode
from segkit.inference.predictor import Predictor
from segkit.serve.answers import MEDIA_TYPES, Answer, class_values, hex_color
from segkit.serve.guards import AddHeaders, BodyLimit, list_trusted_hosts, require_same_site
from segkit.serve.predictions import Options, Predictions
from segkit.serve.uploads import MEBIBYTE, Limits, UploadError

FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
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
one after the other.

    curl -F file=@image.tif 'http://127.0.0.1:8000/predict?format=png' -o mask.png
    curl -F file=@image.tif 'http://127.0.0.1:8000/predict?include=mask'
    curl -F file=@stack.tif 'http://127.0.0.1:8000/predict?format=png&page=3' -o mask.png
"""


class Health(BaseModel):
    """The state of the server."""

    status: Literal["ok"] = "ok"
    busy: bool = Field(description="whether an image is being predicted")


class Problem(BaseModel):
    """What is wrong with a request."""

    detail: str


class ClassInfo(BaseModel):
    """A class of the model."""

    name: str
    color: str = Field(description="as #rrggbb")
    value: int = Field(description="in masks")
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


def create_app(
    predictor: Predictor, limits: Limits, *, name: str = "model", host: str = "127.0.0.1"
) -> FastAPI:
    """Create the app around a predictor, which gets one image at a time in its own thread.

    Args:
        predictor: The predictor.
        limits: The limits of uploads.
        name: The model's name on the page.
        host: The address of the server; on the loopback it answers to no other name.
    """
    info = describe_model(predictor, name, limits)
    predictions = Predictions(predictor, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        predictions.close()

    app = FastAPIOffline(
        docs_url=None,  # ours has a content security policy
        redoc_url=None,
        static_url=SWAGGER,
        title="segkit",
        version=__version__,
        description="Image in, mask out. [Try it on a page](./).",
        lifespan=lifespan,
    )
    # The last one is the first that a request meets.
    app.add_middleware(BodyLimit, max_bytes=limits.max_bytes, message=str(limits.too_many_bytes()))
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list_trusted_hosts(host))
    app.add_middleware(AddHeaders, headers=HEADERS)
    app.add_exception_handler(SegkitError, _explain)
    app.add_exception_handler(RequestValidationError, _explain_invalid)

    @app.post(
        "/predict",
        summary="Predict an image",
        description=PREDICT,
        dependencies=[Depends(require_same_site)],
        response_class=JSONResponse,
        responses=_responses(),
    )
    async def predict(
        request: Request,
        file: Annotated[UploadFile, File(description="PNG, JPEG, TIFF, BMP or WebP")],
        options: Annotated[Options, Query()],
    ) -> Response:
        return await predictions.respond(request, file, options)

    @app.get("/model", summary="Describe the model")
    async def model() -> ModelInfo:
        return info

    @app.get("/health", summary="Tell whether the server answers")
    async def health() -> Health:
        return Health(busy=predictions.busy)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return _docs_page()

    for path, (file_name, kind) in FILES.items():
        app.add_api_route(path, _static(file_name, kind), include_in_schema=False)
    return app


def describe_model(predictor: Predictor, name: str, limits: Limits) -> ModelInfo:
    """Describe a predictor's model for the page."""
    card = predictor.card
    unpainted = None if card.mode == "multilabel" else card.background
    classes = zip(card.class_names, card.class_colors, class_values(card), strict=True)
    return ModelInfo(
        name=name,
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
            ClassInfo(name=title, color=hex_color(color), value=value, painted=label != unpainted)
            for label, (title, color, value) in enumerate(classes)
        ],
        versions=card.versions,
        version=__version__,
        max_upload_mb=limits.max_bytes / MEBIBYTE,
        max_pixels=limits.max_pixels,
    )


def _docs_page() -> HTMLResponse:
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


def _static(file_name: str, kind: str) -> Callable[[], Awaitable[Response]]:
    content = files("segkit.serve").joinpath(file_name).read_bytes()

    async def send() -> Response:
        return Response(content, media_type=kind)

    return send


async def _explain(_: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, UploadError) else 422
    return JSONResponse({"detail": str(error)}, status)


async def _explain_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [
        f"{'.'.join(str(part) for part in problem['loc'][1:]) or 'body'}: {problem['msg']}"
        for problem in error.errors()
    ]
    return JSONResponse({"detail": "; ".join(problems)}, 422)


def _responses() -> dict[int | str, dict[str, Any]]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    refused = {
        400: "The body is not a multipart form, or the Host header names another server",
        403: "A page of another site sent the request",
        413: "The file or the image is too large",
        415: "The file is not an image of a known format",
        422: "The image is damaged or does not fit the model, or an option is wrong",
    }
    return {
        200: {
            "description": "The prediction",
            "model": Answer,
            "content": dict.fromkeys(MEDIA_TYPES.values(), binary),
        },
        **{code: {"description": why, "model": Problem} for code, why in refused.items()},
    }
