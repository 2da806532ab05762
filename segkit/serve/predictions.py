"""From an upload to the answer: one image at a time, outside of the event loop."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import Request, UploadFile
from fastapi.responses import Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from segkit.core.errors import SegkitError
from segkit.inference.predictor import Predictor
from segkit.serve.answers import (
    MEDIA_TYPES,
    Part,
    build_answer,
    make_instances_file,
    make_mask_file,
)
from segkit.serve.uploads import Limits, UploadError, read_upload

CLIENT_GONE = 499
"""The status for a client that has disconnected; nobody reads it."""


class Options(BaseModel):
    """Options of a prediction."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["json", "png", "tiff"] = Field(
        "json",
        description="numbers as JSON, or the mask with the values of the training masks; where"
        " classes overlap, a TIFF with a page for each class",
    )
    instances: bool | None = Field(
        None,
        description="json: whether to list objects, by default if the model separates them; png and"
        " tiff: send the object ids instead of the mask",
    )
    page: Annotated[int, Field(ge=0)] | None = Field(
        None, description="page of a TIFF, from 0; required if there are several"
    )
    include: Annotated[list[Part], AfterValidator(lambda parts: sorted(set(parts)))] = Field(
        [], description="files to put into the JSON in base64; may be given several times"
    )


class Predictions:
    """Answers requests with a predictor that gets one image at a time."""

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        self.predictor, self.limits = predictor, limits
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
        async with self._turn:
            if await request.is_disconnected():  # while it waited
                return Response(status_code=CLIENT_GONE)
            name, data = file.filename or "image", await file.read()
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._worker, self._respond, name, data, options)

    def close(self) -> None:
        """Accept no more images."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _respond(self, name: str, data: bytes, options: Options) -> Response:
        self._check(options)
        try:
            return self._predict(name, data, options)
        except (MemoryError, RuntimeError) as error:  # torch raises RuntimeError
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            raise UploadError(
                "there is not enough memory for an image of this size. Start the server with a"
                " smaller tile, or use python -m segkit.predict.",
                413,
            ) from error

    def _predict(self, name: str, data: bytes, options: Options) -> Response:
        card = self.predictor.card
        upload = read_upload(name, data, options.page, self.limits, card.in_channels)
        start = time.perf_counter()
        prediction = self.predictor(upload.image)
        seconds = time.perf_counter() - start
        if options.format == "json":
            listed = options.instances is not False
            body = build_answer(
                upload, prediction, card, seconds, options.include, with_objects=listed
            )
            return Response(body.model_dump_json(by_alias=True), media_type="application/json")
        suffix = ".png" if options.format == "png" else ".tif"
        if options.instances and prediction.instances is not None:
            held = make_instances_file(upload, prediction.instances, suffix)
        else:
            held = make_mask_file(upload, prediction.labels, card, suffix)
        return Response(
            held.content,
            media_type=MEDIA_TYPES[suffix],
            headers={
                "Content-Disposition": f"attachment; filename*=UTF-8''{quote(held.name)}",
                "X-Seconds": f"{seconds:.4f}",
            },
        )

    def _check(self, options: Options) -> None:
        """Refuse options that the model cannot satisfy before anything is computed."""
        layered = self.predictor.card.mode == "multilabel"
        if options.instances and self.predictor.instances is None:
            raise SegkitError(
                "instances: this server does not separate objects. Omit the option, or start the"
                " server with instances=components or another decoder."
            )
        if options.format == "png" and layered and not options.instances:
            raise SegkitError(
                "format=png: a PNG cannot hold the mask of overlapping classes. Use format=tiff."
            )
        if options.format != "json" and options.include:
            raise SegkitError("include works with format=json only.")
