"""The endpoint's answers: JSON about a prediction, and its files and pictures."""

from __future__ import annotations

import base64
import io
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from skimage.measure import regionprops

from segkit.checkpoint.card import ModelCard
from segkit.images.writing import encode_mask
from segkit.inference.masks import choose_suffix, make_mask
from segkit.inference.objects.object_classes import classify_objects, list_object_classes
from segkit.inference.predictor import Prediction
from segkit.report.colors import choose_colors, format_color
from segkit.report.display import to_display
from segkit.report.overlay import Layer, make_class_layer
from segkit.serve.uploads import Upload

MEDIA_TYPES = {".png": "image/png", ".tif": "image/tiff"}
WIDEST = 2048
"""Longer side of a picture in pixels; larger images are reduced."""
HUES = 254
"""Colours of objects: a PNG has 256 at most."""

Base64 = Annotated[
    bytes, PlainSerializer(lambda data: base64.b64encode(data).decode("ascii"), return_type=str)
]


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
    include: Annotated[
        list[Literal["mask", "instances", "pictures"]],
        AfterValidator(lambda parts: sorted(set(parts))),
    ] = Field([], description="files to put into the JSON in base64; may be given several times")


class KnownClass(BaseModel):
    """A class of the model."""

    name: str
    color: str = Field(description="as #rrggbb")
    value: int = Field(description="in masks; 255 on the class's own page where classes overlap")


class ClassShare(KnownClass):
    """A class and the part of the image that it covers."""

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

    model_config = ConfigDict(populate_by_name=True)

    name: str
    media_type: str
    content: Base64 = Field(alias="base64")


class Pictures(BaseModel):
    """PNG files in base64 to lay over one another; large images are reduced."""

    image: Base64 = Field(description="the image in 8 bits")
    classes: Base64 = Field(description="the classes' colours on a transparent background")
    objects: Base64 | None = Field(
        description="a colour for each object on a transparent background"
    )


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
    upload: Upload, prediction: Prediction, card: ModelCard, seconds: float, options: Options
) -> Answer:
    """Build the answer in JSON about a prediction."""
    labels, ids = prediction.labels, prediction.instances
    height, width = labels.shape[-2:]
    answer = Answer(
        width=width,
        height=height,
        channels=upload.image.shape[2],
        dtype=str(upload.image.dtype),
        page=upload.page,
        pages=upload.pages,
        seconds=round(seconds, 4),
        classes=count_classes(labels, card),
        objects=None,
    )
    if ids is not None and options.instances is not False:
        answer.objects = list_objects(ids, labels, card)
    if "mask" in options.include:
        answer.mask = encode_part(upload, prediction, card, "mask")
    if "instances" in options.include and ids is not None:
        answer.instances = encode_part(upload, prediction, card, "instances")
    if "pictures" in options.include:
        answer.pictures = draw_pictures(upload.image, prediction, card)
    return answer


def list_classes(card: ModelCard) -> list[KnownClass]:
    """List the classes of a model in the order of their labels."""
    is_layered = card.mode == "multilabel"
    values = [255] * card.num_classes if is_layered else card.mask_values
    return [
        KnownClass(name=name, color=format_color(color), value=value)
        for name, color, value in zip(card.class_names, card.class_colors, values, strict=True)
    ]


def count_classes(labels: NDArray[Any], card: ModelCard) -> list[ClassShare]:
    """Count the pixels of each class in labels (H, W) or, where classes overlap, (N, H, W)."""
    if labels.ndim == 3:
        counts = np.count_nonzero(labels, axis=(1, 2))
    else:
        counts = np.bincount(labels.ravel(), minlength=256)[: card.num_classes]
    total = labels.shape[-2] * labels.shape[-1]
    return [
        ClassShare(**known.model_dump(), pixels=count, share=count / total)
        for known, count in zip(list_classes(card), counts.tolist(), strict=True)
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


def encode_part(
    upload: Upload,
    prediction: Prediction,
    card: ModelCard,
    part: Literal["mask", "instances"],
    suffix: str | None = None,
) -> EncodedFile:
    """Make the file of the mask or the ids that ``python -m segkit.predict`` would write.

    Without a suffix it is a PNG, or a TIFF if a PNG cannot hold it.
    """
    stem, values = upload.title, prediction.instances
    colored = part == "mask" and card.has_colored_masks
    if part == "mask" or values is None:
        values = make_mask(prediction.labels, card)
    else:
        stem = f"{stem}_instances"
    suffix = suffix or choose_suffix(values, colored)
    content = encode_mask(values, suffix, colored)
    return EncodedFile(name=stem + suffix, media_type=MEDIA_TYPES[suffix], content=content)


def draw_pictures(image: NDArray[Any], prediction: Prediction, card: ModelCard) -> Pictures:
    """Draw the picture of an image (H, W, C) of any type, and its prediction as layers."""
    ids, objects = prediction.instances, None
    if ids is not None:
        hues = np.where(ids > 0, (ids - 1) % HUES + 1, 0)
        objects = _draw_layer(Layer(hues, [(0, 0, 0), *choose_colors(HUES)]))
    return Pictures(
        image=_encode_png(Image.fromarray(_reduce(to_display(image), cv2.INTER_AREA))),
        classes=_draw_layer(make_class_layer(prediction.labels, card)),
        objects=objects,
    )


def _draw_layer(layer: Layer) -> bytes:
    hidden = len(layer.colors)  # has its own index, as pixels without data have no class
    labels = np.where(layer.find_painted(), layer.labels, hidden).astype(np.uint8)
    picture = Image.fromarray(_reduce(labels, cv2.INTER_NEAREST))
    picture.putpalette([value for color in (*layer.colors, (0, 0, 0)) for value in color])
    return _encode_png(picture, transparency=bytes([255] * hidden + [0]))


def _reduce(picture: NDArray[np.uint8], interpolation: int) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    scale = WIDEST / max(height, width)
    if scale >= 1:
        return picture
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(picture, size, interpolation=interpolation).astype(np.uint8)


def _encode_png(picture: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="PNG", compress_level=3, **options)  # speed matters more than size
    return file.getvalue()
