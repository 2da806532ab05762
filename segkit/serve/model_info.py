"""What the page and the endpoint tell about the model."""

from __future__ import annotations

from pydantic import BaseModel, Field

from segkit import __version__
from segkit.core.labels import Mode
from segkit.inference.predictor import Predictor
from segkit.serve.answers import class_values, hex_color
from segkit.serve.uploads import MEBIBYTE, Limits


class ClassInfo(BaseModel):
    """A class of the model."""

    name: str
    color: str = Field(description="as #rrggbb")
    value: int = Field(description="in masks")
    painted: bool = Field(description="whether pictures show it; the background they do not")


class ModelInfo(BaseModel):
    """The trained model, and what it can be given here."""

    name: str
    encoder: str
    neck: str
    head: str
    mode: Mode = Field(description="one foreground, one of N classes, or N that may overlap")
    target: str = Field(description="what the network learned of the masks")
    instances: str | None = Field(description="how objects are told apart, null: not at all")
    in_channels: int = Field(description="grey and RGB become each other where they must")
    dtype: str = Field(description="of the images of the training; others are converted")
    crop: tuple[int, int] = Field(description="height and width of the crops of the training")
    classes: list[ClassInfo]
    versions: dict[str, str] = Field(description="that the model was trained with")
    version: str = Field(description="of the segkit that serves it")
    max_upload_mb: float
    max_pixels: int


def model_info(predictor: Predictor, name: str, limits: Limits) -> ModelInfo:
    """What is known of a predictor's model.

    Args:
        predictor: The predictor.
        name: Of the model, to be shown.
        limits: What uploads may weigh.
    """
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
