"""What belongs to a trained network, as plain data; checkpoints and exported files hold it."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from segkit.checkpoint.values import FULL_SCALE, LabelCoding, Normalization
from segkit.core.errors import SegkitError, all_at_once
from segkit.core.labels import FIRST_COLOR, IGNORE_INDEX, MODES, Mode
from segkit.core.postprocessing import Postprocessing
from segkit.images.raster import convert_channels
from segkit.targets.base import Target

FORMAT = 3
"""The newest format of the card: 2 where weights are left out, otherwise 1."""
LARGEST_SIDE = 2**16
"""Largest side of crops and tiles that a file may ask for, in pixels."""


@dataclass(frozen=True)
class ModelCard:
    """All that is needed to rebuild a trained network and to use it, as plain data.

    Attributes:
        encoder: Name and options, like those of neck, head and target; weights are never downloaded
            again.
        num_classes: Number of classes, background included.
        auxiliary: Number of auxiliary heads.
        img_size: Size of the training crops, (height, width).
        class_colors: RGB colours of the classes.
        mask_values: The value of each class in the masks, also in predicted ones.
        background: The label that overlays leave unpainted, None where every class is painted.
        mode: What the head's logits mean.
        threshold: Probability above which a pixel belongs to a class, where the head has one.
        pretrained_from: Where the encoder's weights came from, None for random ones.
        config: The resolved config of the training.
        versions: Versions of segkit, torch, timm and Python.
        layout: What :meth:`segkit.Encoder.layout` gave, so that loading runs nothing: channels,
            strides, the multiple to which inputs are padded, the only input size if there is one.
            Empty in cards of version 0.1.0.
        bytes_per_pixel: Memory for each pixel of the input when predicting on torch, if known.
        frozen_sha256: Hash of the frozen weights that the checkpoint leaves out, if it does.
        postprocessing: What was chosen after the training, if it was.
    """

    __pydantic_config__ = ConfigDict(allow_inf_nan=False)

    encoder: dict[str, Any]
    neck: dict[str, Any]
    head: dict[str, Any]
    in_channels: int
    num_classes: int
    auxiliary: int
    img_size: tuple[int, int]
    class_names: tuple[str, ...]
    class_colors: tuple[tuple[int, int, int], ...]
    normalization: Normalization
    mask_values: tuple[int, ...]
    background: int | None = 0
    target: dict[str, Any] = field(default_factory=lambda: {"name": "labels"})
    mode: Mode = "binary"
    threshold: float = 0.5
    pretrained_from: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    layout: dict[str, Any] = field(default_factory=dict)
    bytes_per_pixel: float | None = None
    frozen_sha256: str | None = None
    postprocessing: Postprocessing | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data: dictionaries, lists, strings and numbers."""
        made = 1 if self.frozen_sha256 is None else 2
        return {"format": made if self.postprocessing is None else FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelCard:
        """The inverse of :meth:`to_dict`; lists may stand for tuples, as in JSON.

        Raises:
            SegkitError: Fields are missing, or are not what they must be; all are named.
        """
        known = {k: v for k, v in data.items() if k in cls.__dataclass_fields__}
        head = data.get("head")
        if "mode" not in known and isinstance(head, dict) and head.get("name") in MODES:
            known["mode"] = head["name"]  # cards of version 0.1.0
            known["threshold"] = head.get("threshold", 0.5)
        try:
            card = TypeAdapter(cls).validate_python(known)
            problems = list(card._problems())
        except ValidationError as error:
            problems = [describe_detail(detail) for detail in error.errors()]
        if problems:
            raise all_at_once("the model card cannot be used:", problems)
        return card

    def _problems(self) -> Iterator[str]:
        """What is impossible or contradicts itself."""
        for key in ("encoder", "neck", "head", "target"):
            if not isinstance(getattr(self, key).get("name"), str):
                yield f"{key}.name is missing"
        for key in ("class_names", "class_colors", "mask_values"):
            if (count := len(getattr(self, key))) < self.num_classes:
                yield f"{key} has {count} entries for num_classes={self.num_classes}"
        if min(self.in_channels, self.num_classes, *self.img_size) < 1 or self.auxiliary < 0:
            yield "in_channels, num_classes and img_size must be 1 or more, auxiliary 0 or more"
        if max(self.img_size) > LARGEST_SIDE:
            yield f"img_size must be at most {LARGEST_SIDE}"
        norm = self.normalization
        if not len(norm.mean) == len(norm.std) == self.in_channels:
            yield f"normalization needs a mean and a std for each of in_channels={self.in_channels}"
        low, high = ((v,) if isinstance(v, float) else v for v in (norm.low, norm.high))
        if not len(low) == len(high) in (1, self.in_channels):
            yield "normalization.low and high must be numbers, or have one for each channel"
        elif any(a >= b for a, b in zip(low, high, strict=True)) or min(norm.std, default=1) <= 0:
            yield "normalization.low must be below high, and std above 0"
        if norm.dtype not in (*FULL_SCALE, "float32"):
            yield f"normalization.dtype={norm.dtype!r} is no image type"
        if self.bytes_per_pixel is not None and not self.bytes_per_pixel > 0:
            yield "bytes_per_pixel must be above 0"
        chosen = () if self.postprocessing is None else self.postprocessing.thresholds
        if chosen and (self.mode == "multiclass" or len(chosen) != self.num_logits):
            yield f"postprocessing has {len(chosen)} thresholds for {self.num_logits} logits"

    @property
    def num_logits(self) -> int:
        """Channels of the network's output."""
        return 1 if self.mode == "binary" else self.num_classes

    @property
    def takes_queries(self) -> bool:
        """Whether queries find classes and objects, instead of a map of pixels."""
        return self.head.get("name") == "queries"

    @property
    def tells_objects(self) -> bool:
        """Whether the network gives numbers of objects behind the probabilities of the classes."""
        return bool(self.head.get("objects"))

    @property
    def keeps_alpha(self) -> bool:
        """Whether an alpha channel of an image is one of the model's channels."""
        return self.in_channels in (2, 4)

    @property
    def is_upright(self) -> bool:
        """Whether images are turned as their EXIF data say, as those of the training were."""
        return bool(self.config.get("data", {}).get("orientation") != "stored")

    @property
    def channel_files(self) -> tuple[str, ...]:
        """The channels that lay in files of their own in the training, in their order."""
        return tuple(map(str, self.config.get("data", {}).get("channel_files") or ()))

    @property
    def image_pattern(self) -> str:
        """The pattern of the paths of the training's images; empty if it had none."""
        return str(self.config.get("data", {}).get("image_pattern") or "")

    def convert_channels(self, image: NDArray[Any]) -> NDArray[Any]:
        """Convert an image (H, W, C) to the model's channels, if there is an obvious conversion.

        Raises:
            SegkitError: There is none.
        """
        if len(self.channel_files) > 1 and image.shape[2] != self.in_channels:
            names = ",".join(self.channel_files)
            raise SegkitError(
                f"the model was trained on images of {self.in_channels} channels in several files"
                f" ({names.replace(',', ', ')}), this image has {image.shape[2]}: give a folder"
                " whose files are called so, or the files of an image in braces, such as"
                f" 'x_{{{names}}}.tif'."
            )
        return convert_channels(image, self.in_channels)

    @property
    def has_colored_masks(self) -> bool:
        """Whether the masks of the training hold colours."""
        return self.mode != "multilabel" and max(self.mask_values, default=0) >= FIRST_COLOR

    @property
    def unlabelled(self) -> int:
        """The label of predicted pixels without data; overlapping classes are absent there."""
        return 0 if self.mode == "multilabel" else IGNORE_INDEX

    @property
    def unlabelled_value(self) -> int:
        """The value of pixels without data in predicted masks: 255, unless that is a class."""
        return next(v for v in (IGNORE_INDEX, 128, *range(256)) if v not in self.mask_values)

    def build_target(self) -> Target:
        """Build the target that the network has learned."""
        options = dict(self.target)
        return Target.build(options.pop("name"), **options)

    @property
    def coding(self) -> LabelCoding:
        """What the values of masks mean."""
        return LabelCoding({value: label for label, value in enumerate(self.mask_values)})


def describe_detail(detail: Any) -> str:
    """A problem that pydantic found, with the key and the value."""
    key = ".".join(map(str, detail["loc"]))
    if detail["type"] == "missing":
        return f"{key} is missing"
    return f"{key}={reprlib.repr(detail['input'])}: {detail['msg']}"
