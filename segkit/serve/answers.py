"""The endpoint's answers: JSON about a prediction, and its files."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from skimage.measure import regionprops

from segkit.checkpoint.card import ModelCard
from segkit.images.writing import encode_mask
from segkit.inference.objects.object_classes import classify_objects, list_object_classes
from segkit.inference.predictor import Prediction
from segkit.predict.masks import mask_values
from segkit.report.overlay import flatten_labels, make_legend
from segkit.serve.pictures import draw_classes, draw_image, draw_objects
from segkit.serve.uploads import Upload

Part = Literal["mask", "instances", "pictures"]
"""Parts of an answer that it holds only on request."""

MEDIA_TYPES = {".png": "image/png", ".tif": "image/tiff"}


class HeldFile(NamedTuple):
    """A file in memory."""

    name: str
    content: bytes


class ClassShare(BaseModel):
    """A class and the part of the image that it covers."""

    name: str
    color: str = Field(description="as #rrggbb")
    value: int = Field(description="in masks; 255 on the class's own page where classes overlap")
    pixels: int
    share: float = Field(description="of all pixels, 0 to 1; overlapping classes may exceed 1")


class Box(BaseModel):
    """The smallest rectangle around an object, in pixels from the upper left corner."""

    x: int
    y: int
    width: int
    height: int


class Point(BaseModel):
    """A position in pixels; the centre of the upper left pixel is (0, 0)."""

    x: float
    y: float


class FoundObject(BaseModel):
    """An object in the image."""

    model_config = ConfigDict(populate_by_name=True)

    id: int = Field(description="its value in the map of object ids")
    class_name: str = Field(alias="class")
    area: int = Field(description="in pixels")
    bounding_box: Box
    centroid: Point


class EncodedFile(BaseModel):
    """A file in base64."""

    name: str
    media_type: str
    base64: str


class Pictures(BaseModel):
    """PNG files in base64 to lay over one another; large images are reduced."""

    image: str = Field(description="the image in 8 bits")
    classes: str = Field(description="the classes' colours on a transparent background")
    objects: str | None = Field(description="a colour for each object on a transparent background")


class Answer(BaseModel):
    """The prediction for an image."""

    width: int
    height: int
    channels: int = Field(description="of the uploaded image")
    dtype: str = Field(description="of the uploaded image")
    page: Annotated[int, Field(ge=0)]
    pages: int = Field(description="number of pages in the file")
    seconds: float = Field(description="time of the prediction, without waiting and transfer")
    classes: list[ClassShare]
    objects: list[FoundObject] | None = Field(description="null if objects are not separated")
    mask: EncodedFile | None = None
    instances: EncodedFile | None = None
    pictures: Pictures | None = None


def build_answer(
    upload: Upload,
    prediction: Prediction,
    card: ModelCard,
    seconds: float,
    parts: Sequence[Part],
    *,
    with_objects: bool = True,
) -> Answer:
    """Build the answer about a prediction; ``parts`` are files in addition to the numbers."""
    labels, instances = prediction.labels, prediction.instances
    height, width = labels.shape[-2:]
    return Answer(
        width=width,
        height=height,
        channels=upload.image.shape[2],
        dtype=str(upload.image.dtype),
        page=upload.page,
        pages=upload.pages,
        seconds=round(seconds, 4),
        classes=count_classes(labels, card),
        objects=None
        if instances is None or not with_objects
        else list_objects(instances, labels, card),
        mask=_encode(make_mask_file(upload, labels, card)) if "mask" in parts else None,
        instances=_encode(make_instances_file(upload, instances))
        if "instances" in parts and instances is not None
        else None,
        pictures=_make_pictures(upload, prediction, card) if "pictures" in parts else None,
    )


def class_values(card: ModelCard) -> list[int]:
    """The value of each class in mask files."""
    return [255] * card.num_classes if card.mode == "multilabel" else list(card.mask_values)


def hex_color(color: Sequence[int]) -> str:
    """A colour in the notation of the web.

    Example:
        >>> hex_color((230, 159, 0))
        '#e69f00'
    """
    return "#" + "".join(f"{value:02x}" for value in color)


def count_classes(labels: NDArray[Any], card: ModelCard) -> list[ClassShare]:
    """Count the pixels of each class in labels (H, W) or, where classes overlap, (N, H, W)."""
    names, colors = card.class_names, card.class_colors
    if labels.ndim == 3:
        counts = np.count_nonzero(labels, axis=(1, 2))
    else:
        counts = np.bincount(labels.ravel(), minlength=len(names))
    total = labels.shape[-2] * labels.shape[-1]
    return [
        ClassShare(
            name=name, color=hex_color(color), value=value, pixels=count, share=count / total
        )
        for name, color, value, count in zip(
            names, colors, class_values(card), counts.tolist(), strict=True
        )
    ]


def list_objects(
    instances: NDArray[np.int32], labels: NDArray[Any], card: ModelCard
) -> list[FoundObject]:
    """List the objects in a map of ids (H, W) by their ids."""
    known, kinds = list_object_classes(card), classify_objects(instances, labels, card)
    found = []
    for region in regionprops(instances):
        top, left, bottom, right = region.bbox
        y, x = region.centroid
        found.append(
            FoundObject(
                id=region.label,
                class_name=known[kinds[region.label]].name,
                area=int(region.area),
                bounding_box=Box(x=left, y=top, width=right - left, height=bottom - top),
                centroid=Point(x=round(x, 2), y=round(y, 2)),
            )
        )
    return found


def make_mask_file(
    upload: Upload, labels: NDArray[Any], card: ModelCard, suffix: str | None = None
) -> HeldFile:
    """Make the mask file that ``python -m segkit.predict`` would write.

    Without a suffix it is a PNG, or a TIFF for labels (N, H, W) of overlapping classes.
    """
    suffix = suffix or (".png" if labels.ndim == 2 else ".tif")
    return HeldFile(
        upload.title + suffix, encode_mask(mask_values(labels, card.mode, card), suffix)
    )


def make_instances_file(
    upload: Upload, instances: NDArray[np.int32], suffix: str | None = None
) -> HeldFile:
    """Make the file of the object ids (H, W): without a suffix a PNG if 16 bits are enough."""
    suffix = suffix or (".png" if instances.max(initial=0) < 2**16 else ".tif")
    return HeldFile(f"{upload.title}_instances{suffix}", encode_mask(instances, suffix))


def _encode(file: HeldFile) -> EncodedFile:
    kind = MEDIA_TYPES[file.name[file.name.rindex(".") :]]
    return EncodedFile(name=file.name, media_type=kind, base64=_base64(file.content))


def _make_pictures(upload: Upload, prediction: Prediction, card: ModelCard) -> Pictures:
    _, colors, unpainted = make_legend(card)
    labels, instances = flatten_labels(prediction.labels, card.mode), prediction.instances
    return Pictures(
        image=_base64(draw_image(upload.image)),
        classes=_base64(draw_classes(labels, colors, unpainted)),
        objects=None if instances is None else _base64(draw_objects(instances)),
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
