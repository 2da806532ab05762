"""The app: the page, its endpoint, and what is known of the model. Importing it needs FastAPI."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, File, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from segkit import __version__
from segkit.core.errors import SegkitError
from segkit.inference.predictor import Predictor
from segkit.serve.answers import MEDIA_TYPES, Answer
from segkit.serve.docs import CURL, docs_page
from segkit.serve.guards import AddHeaders, BodyLimit, require_same_site, trusted_hosts
from segkit.serve.model_info import ModelInfo, model_info
from segkit.serve.predictions import Options, Predictions
from segkit.serve.uploads import Limits, UploadError

FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
"""What is served as it lies beside this file. No other file can be asked for."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Of every answer: the page takes nothing from elsewhere, and images leave no traces in caches."""

CURL_EXAMPLES = {
    "/predict": [
        "curl -F file=@image.tif '{base}/predict?format=png' -o mask.png",
        "curl -F file=@image.tif '{base}/predict?include=mask'",
        "curl -F file=@stack.tif '{base}/predict?format=png&page=3' -o mask.png",
    ],
    "/model": ["curl {base}/model"],
    "/health": ["curl {base}/health"],
}


class Health(BaseModel):
    """That the server answers."""

    status: Literal["ok"] = "ok"
    busy: bool = Field(description="whether an image is being predicted")


class Problem(BaseModel):
    """What is wrong with a request."""

    detail: str


def create_app(
    predictor: Predictor, limits: Limits, *, name: str = "model", host: str = "127.0.0.1"
) -> FastAPI:
    """The app around a predictor.

    Args:
        predictor: What predicts. It gets one image at a time, in a thread of its own, so that the
            server answers meanwhile.
        limits: What uploads may weigh.
        name: Of the model, to be shown.
        host: What the server binds to; on the loopback it answers to no other name.
    """
    info = model_info(predictor, name, limits)
    predictions = Predictions(predictor, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        predictions.close()

    app = FastAPI(
        title="segkit",
        version=__version__,
        description="Image in, mask out.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load their scripts from the network
        redoc_url=None,
    )
    # The last one is the first that a request meets.
    app.add_middleware(BodyLimit, max_bytes=limits.max_bytes, message=str(limits.too_many_bytes()))
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=trusted_hosts(host))
    app.add_middleware(AddHeaders, headers=HEADERS)
    app.add_exception_handler(SegkitError, _explain)
    app.add_exception_handler(RequestValidationError, _explain_invalid)

    @app.post(
        "/predict",
        summary="Predict an image",
        dependencies=[Depends(require_same_site)],
        response_class=JSONResponse,
        responses=_responses(),
        openapi_extra=_curl("/predict"),
    )
    async def predict(
        request: Request,
        file: Annotated[UploadFile, File(description="PNG, JPEG, TIFF, BMP or WebP")],
        options: Annotated[Options, Query()],
    ) -> Response:
        """8 or 16 bit or float, of any size within the limits; images wait for one another."""
        return await predictions.respond(request, file, options)

    @app.get("/model", summary="What is known of the model", openapi_extra=_curl("/model"))
    async def model() -> ModelInfo:
        return info

    @app.get("/health", summary="Whether the server answers", openapi_extra=_curl("/health"))
    async def health() -> Health:
        return Health(busy=predictions.busy)

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi(), str(request.base_url).rstrip("/")))

    for path, (file_name, kind) in FILES.items():
        app.add_api_route(path, _static(file_name, kind), include_in_schema=False)
    return app


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


def _curl(path: str) -> dict[str, Any]:
    return {CURL: CURL_EXAMPLES[path]}


def _responses() -> dict[int | str, dict[str, Any]]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    refused = {
        400: "The body is no multipart form, or the Host header names another server",
        403: "A page of another site sent it",
        413: "The file or the image is too large",
        415: "The file is no image of a known format",
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
