"""A prediction in the words of HTTP: the JSON of the endpoint, and the files beside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from scipy import ndimage

from segkit.checkpoint.card import ModelCard
from segkit.images.writing import encode_mask
from segkit.inference.objects.object_classes import classes_of_objects, object_classes
from segkit.inference.predictor import Prediction
from segkit.predict.masks import mask_values
from segkit.report.overlay import flatten_labels, make_legend
from segkit.serve.pictures import class_layer, object_layer, shown_image
from segkit.serve.uploads import Upload

Part = Literal["mask", "instances", "pictures"]
"""What an answer holds only where it is asked for."""

MEDIA_TYPES = {".png": "image/png", ".tif": "image/tiff"}


class HeldFile(NamedTuple):
    """A file that is on no disk."""

    name: str
    content: bytes


class ClassShare(BaseModel):
    """A class, and how much of the image it covers."""

    name: str
    color: str = Field(description="as #rrggbb")
    value: int = Field(description="in masks; 255 in the class's own page where classes overlap")
    pixels: int
    share: float = Field(description="of all pixels, 0 to 1; overlapping classes may exceed 1")


class Box(BaseModel):
    """The smallest rectangle around an object, in pixels from the upper left corner."""

    x: int
    y: int
    width: int
    height: int


class Point(BaseModel):
    """A place in pixels; the middle of the upper left pixel is (0, 0)."""

    x: float
    y: float


class FoundObject(BaseModel):
    """An object that was told apart."""

    id: int = Field(description="its value in the map of ids")
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
    """PNG files in base64 to be laid one on another, large images made smaller."""

    image: str = Field(description="as a screen can show it, 16-bit ones too")
    classes: str = Field(description="the classes' colours on a transparent ground")
    objects: str | None = Field(description="a colour an object, on a transparent ground")


class Answer(BaseModel):
    """What a model says about an image."""

    width: int
    height: int
    channels: int = Field(description="of the image as it was sent")
    dtype: str = Field(description="of the image as it was sent")
    page: Annotated[int, Field(ge=0)]
    pages: int = Field(description="how many the file has")
    seconds: float = Field(description="that the prediction took, without waiting and transfer")
    classes: list[ClassShare]
    objects: list[FoundObject] | None = Field(description="null where none are told apart")
    mask: EncodedFile | None = None
    instances: EncodedFile | None = None
    pictures: Pictures | None = None


def answer(
    upload: Upload,
    prediction: Prediction,
    card: ModelCard,
    seconds: float,
    parts: Sequence[Part],
    *,
    with_objects: bool = True,
) -> Answer:
    """All that was asked for about a prediction.

    Args:
        upload: The image.
        prediction: Of it.
        card: Of the model.
        seconds: That it took.
        parts: What the answer is to hold besides numbers.
        with_objects: Whether objects are listed.
    """
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
        classes=class_shares(labels, card),
        objects=None
        if instances is None or not with_objects
        else found_objects(instances, labels, card),
        mask=_encoded(mask_file(upload, labels, card)) if "mask" in parts else None,
        instances=_encoded(instances_file(upload, instances))
        if "instances" in parts and instances is not None
        else None,
        pictures=_pictures(upload, prediction, card) if "pictures" in parts else None,
    )


def class_values(card: ModelCard) -> list[int]:
    """The value of each class in masks."""
    return [255] * card.num_classes if card.mode == "multilabel" else list(card.mask_values)


def hex_color(color: Sequence[int]) -> str:
    """A colour as the web writes it.

    Example:
        >>> hex_color((230, 159, 0))
        '#e69f00'
    """
    return "#" + "".join(f"{value:02x}" for value in color)


def class_shares(labels: NDArray[Any], card: ModelCard) -> list[ClassShare]:
    """Each class with its pixels, in the order of the labels (H, W), or layers (N, H, W)."""
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


def found_objects(
    instances: NDArray[np.int32], labels: NDArray[Any], card: ModelCard
) -> list[FoundObject]:
    """The objects in a map of ids (H, W), in the order of the ids."""
    inside = np.flatnonzero(instances)
    ids = instances.ravel()[inside]
    areas = np.bincount(ids, minlength=1)
    rows, columns = (
        np.bincount(ids, weights=place, minlength=1) / np.maximum(areas, 1)
        for place in np.divmod(inside, instances.shape[1])
    )
    known, kinds = object_classes(card), classes_of_objects(instances, labels, card)
    found = []
    for number, place in enumerate(ndimage.find_objects(instances), start=1):
        if place is None:
            continue
        down, across = place
        found.append(
            FoundObject.model_validate(
                {
                    "id": number,
                    "class": known[kinds[number]].name,
                    "area": int(areas[number]),
                    "bounding_box": Box(
                        x=across.start,
                        y=down.start,
                        width=across.stop - across.start,
                        height=down.stop - down.start,
                    ),
                    "centroid": Point(
                        x=round(float(columns[number]), 2), y=round(float(rows[number]), 2)
                    ),
                }
            )
        )
    return found


def mask_file(
    upload: Upload, labels: NDArray[Any], card: ModelCard, suffix: str | None = None
) -> HeldFile:
    """The mask, as ``python -m segkit.predict`` writes it.

    Args:
        upload: The image.
        labels: Of it, (H, W), or layers (N, H, W), which only a TIFF holds.
        card: Of the model.
        suffix: ".png" or ".tif"; None: the former where it can be.
    """
    suffix = suffix or (".png" if labels.ndim == 2 else ".tif")
    return HeldFile(
        upload.title + suffix, encode_mask(mask_values(labels, card.mode, card), suffix)
    )


def instances_file(
    upload: Upload, instances: NDArray[np.int32], suffix: str | None = None
) -> HeldFile:
    """The map of ids.

    Args:
        upload: The image.
        instances: Ids of its objects (H, W).
        suffix: ".png" or ".tif"; None: the former where 16 bits are enough.
    """
    suffix = suffix or (".png" if instances.max(initial=0) < 2**16 else ".tif")
    return HeldFile(f"{upload.title}_instances{suffix}", encode_mask(instances, suffix))


def _encoded(file: HeldFile) -> EncodedFile:
    kind = MEDIA_TYPES[file.name[file.name.rindex(".") :]]
    return EncodedFile(name=file.name, media_type=kind, base64=_base64(file.content))


def _pictures(upload: Upload, prediction: Prediction, card: ModelCard) -> Pictures:
    _, colors, unpainted = make_legend(card)
    instances = prediction.instances
    return Pictures(
        image=_base64(shown_image(upload.image)),
        classes=_base64(
            class_layer(flatten_labels(prediction.labels, card.mode), colors, unpainted)
        ),
        objects=None if instances is None else _base64(object_layer(instances)),
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
