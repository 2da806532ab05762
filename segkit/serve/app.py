"""The app: the page, the endpoint, which predicts one image at a time, and the model's facts."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import Depends, FastAPI, File, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from segkit import __version__
from segkit.config.settings import ServeSettings
from segkit.core.errors import SegkitError
from segkit.core.labels import Mode
from segkit.inference.predictor import Predictor
from segkit.serve.answers import (
    MEDIA_TYPES,
    Answer,
    KnownClass,
    Options,
    build_answer,
    encode_part,
    list_classes,
)
from segkit.serve.guards import AddHeaders, BodyLimit, list_trusted_hosts, require_same_site
from segkit.serve.uploads import MEBIBYTE, UploadError, read_upload, refuse_bytes

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

CLIENT_GONE = 499
"""The status for a client that has disconnected; nobody reads it."""
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


REFUSALS = {
    400: "The body is not a multipart form, or the Host header names another server",
    403: "A page of another site sent the request",
    413: "The file or the image is too large",
    415: "The file is not an image of a known format",
    422: "The image is damaged or does not fit the model, or an option is wrong",
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


class Predictions:
    """Answers requests with a predictor that gets one image at a time."""

    def __init__(self, predictor: Predictor, settings: ServeSettings) -> None:
        self.predictor, self.settings = predictor, settings
        self._turn = asyncio.Lock()
        # One thread: if a request is cancelled half-way, the next one still waits for its end.
        self._worker = ThreadPoolExecutor(1, "predict")

    @property
    def busy(self) -> bool:
        """Whether an image is being predicted."""
        return self._turn.locked()

    async def respond(self, request: Request, file: UploadFile, options: Options) -> Response:
        """Answer a request after all earlier ones.

        Raises:
            SegkitError: The upload or the options cannot be used.
        """
        self._check(options)
        async with self._turn:
            if await request.is_disconnected():  # while it waited
                return Response(status_code=CLIENT_GONE)
            name, data = file.filename or "image", await file.read()
            loop = asyncio.get_running_loop()
            try:
                return await loop.run_in_executor(self._worker, self._predict, name, data, options)
            except (MemoryError, RuntimeError) as error:  # torch raises RuntimeError
                if isinstance(error, RuntimeError) and "memory" not in str(error):
                    raise
                raise UploadError(
                    "there is not enough memory for an image of this size. Start the server with a"
                    " smaller tile, or use python -m segkit.predict.",
                    413,
                ) from error

    def close(self) -> None:
        """Accept no more images."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _predict(self, name: str, data: bytes, options: Options) -> Response:
        card = self.predictor.card
        upload = read_upload(name, data, options.page, self.settings, card)
        start = time.perf_counter()
        prediction = self.predictor(upload.image)
        seconds = time.perf_counter() - start
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

    def _check(self, options: Options) -> None:
        """Refuse options that the model cannot satisfy before anything is computed."""
        if options.instances and self.predictor.instances is None:
            raise SegkitError(
                "instances: this server does not separate objects. Omit the option, or start the"
                " server with instances=components or another decoder."
            )
        layered = self.predictor.card.mode == "multilabel"
        if options.format == "png" and layered and not options.instances:
            raise SegkitError(
                "format=png: a PNG cannot hold the mask of overlapping classes. Use format=tiff."
            )
        if options.format != "json" and options.include:
            raise SegkitError("include works with format=json only.")


def create_app(predictor: Predictor, settings: ServeSettings) -> FastAPI:
    """Create the app around a predictor, which gets one image at a time in its own thread.

    On the loopback it answers to no other name of this machine.
    """
    info = describe_model(predictor, settings)
    predictions = Predictions(predictor, settings)

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
    app.add_middleware(
        BodyLimit,
        max_bytes=round(settings.max_upload_mb * MEBIBYTE),
        message=str(refuse_bytes(settings)),
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list_trusted_hosts(settings.host))
    app.add_middleware(AddHeaders, headers=HEADERS)
    app.add_exception_handler(SegkitError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)

    @app.post(
        "/predict",
        summary="Predict an image",
        description=PREDICT,
        dependencies=[Depends(require_same_site)],
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
        return info

    @app.get("/health", summary="Tell whether the server answers")
    async def health() -> Health:
        return Health(busy=predictions.busy)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return _make_docs_page()

    for path in FILES:
        app.add_route(path, _send_file, include_in_schema=False)
    return app


def name_model(settings: ServeSettings) -> str:
    """Name the checkpoints for people."""
    first, *others = settings.checkpoint
    return first.name + (f" and {len(others)} more" if others else "")


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
