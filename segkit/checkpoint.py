"""What a checkpoint holds besides weights, and how a model comes back out of one."""

from __future__ import annotations

import inspect
import io
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from segkit import __version__
from segkit.data.coding import LabelCoding
from segkit.data.normalization import Normalization
from segkit.errors import SegkitError
from segkit.files import write_whole
from segkit.models.encoders import Encoder
from segkit.models.segmenter import Segmenter, create_model

KEY = "segkit"
FORMAT = 1
PREFIX = "model."
"""Of the network's weights among those of the Lightning module."""


@dataclass(frozen=True)
class ModelCard:
    """All that is needed to rebuild a trained network and to use it, as plain data.

    Attributes:
        encoder: Name and options of the encoder; weights are never fetched again.
        neck: Name and options of the neck.
        head: Name and options of the head, its threshold among them.
        in_channels: Channels of the image.
        num_classes: Number of classes, background included.
        auxiliary: Number of auxiliary heads.
        img_size: Size of the training crops, (height, width).
        class_names: Names of the classes.
        class_colors: RGB colours of the classes.
        normalization: What happens to the intensities.
        mask_values: The value of each class in the masks, in which predictions are written too.
        background: The label that overlays leave unpainted, None where every class is painted.
        target: Name and options of what was learned of the masks.
        pretrained_from: Where the encoder's weights came from, None for random ones.
        config: The resolved config of the training.
        versions: Versions of segkit, torch, timm and Python.
    """

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
    pretrained_from: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: dictionaries, lists, strings and numbers."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelCard:
        """The inverse of :meth:`to_dict`."""
        known = {k: v for k, v in data.items() if k in cls.__dataclass_fields__}
        known["normalization"] = Normalization.from_dict(data["normalization"])
        for key in ("img_size", "class_names", "mask_values"):
            known[key] = tuple(data[key])
        known["class_colors"] = tuple(tuple(color) for color in data["class_colors"])
        return cls(**known)

    def build(self) -> Segmenter:
        """The network with fresh weights, without asking any hub."""
        encoder = dict(self.encoder)
        member, _ = Encoder.resolve(encoder["name"], {})
        if "pretrained" in inspect.signature(member).parameters:
            encoder["pretrained"] = False
        return create_model(
            encoder,
            self.neck,
            self.head,
            num_classes=self.num_classes,
            in_channels=self.in_channels,
            auxiliary=self.auxiliary,
            img_size=max(self.img_size),
        )

    @property
    def coding(self) -> LabelCoding:
        """What the values of masks mean."""
        return LabelCoding({value: label for label, value in enumerate(self.mask_values)})


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    import lightning
    import timm

    return {
        "segkit": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # else an object of a class
        "timm": timm.__version__,
        "lightning": lightning.__version__,
    }


def read(path: Path | str) -> tuple[Segmenter, ModelCard]:
    """The trained network, in eval mode on the CPU, and its card. Only data is read, no code run.

    Raises:
        SegkitError: There is no such file, or it is no checkpoint of segkit.
    """
    stored = read_raw(Path(path))
    card = ModelCard.from_dict(stored[KEY])
    try:
        model = card.build()
    except SegkitError as error:
        wanted = card.config.get("plugins") or []
        hint = f" The training named plugins={wanted}: name them again." if wanted else ""
        raise SegkitError(f"checkpoint {path}: {error}{hint}") from error
    weights = {
        key.removeprefix(PREFIX): value
        for key, value in stored["state_dict"].items()
        if key.startswith(PREFIX)
    }
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        made = stored[KEY].get("versions", {})
        raise SegkitError(
            f"checkpoint {path}: its weights do not fit the network that its card describes. It was"
            f" written with {made}, here are {versions()}. {error}"
        ) from error
    return model.eval(), card


def read_raw(path: Path) -> dict[str, Any]:
    """The dictionary of a checkpoint file.

    Raises:
        SegkitError: There is no such file, it cannot be read, or it is no checkpoint of segkit.
    """
    if not path.is_file():
        hint = ""
        for held in (path / "checkpoints" / "best.ckpt", path / "checkpoints" / "last.ckpt"):
            if held.is_file():
                hint = f" That is a run folder: use {held}."
                break
        raise SegkitError(f"checkpoint: there is no file {path.resolve()}.{hint}")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch each have their own
        reason = str(error).partition("\n")[0]
        raise SegkitError(
            f"checkpoint {path} cannot be read as data: {reason}. Use the best.ckpt or"
            " last.ckpt of a run of segkit."
        ) from error
    if not isinstance(stored, dict) or KEY not in stored or "state_dict" not in stored:
        raise SegkitError(
            f"{path} is no checkpoint of segkit: it has no entry '{KEY}'. Weights of an encoder"
            " go to encoder.pretrained=PATH."
        )
    if stored[KEY]["format"] > FORMAT:
        raise SegkitError(
            f"checkpoint {path} has the format {stored[KEY]['format']} of a newer segkit; this is"
            f" {__version__}, which reads up to {FORMAT}. Upgrade segkit."
        )
    return stored


def slim(path: Path) -> None:
    """Drop all that only a resumed training needs, such as the state of the optimizer."""
    stored = read_raw(path)
    kept = ("state_dict", KEY, "epoch", "global_step", "pytorch-lightning_version")
    buffer = io.BytesIO()
    torch.save({key: stored[key] for key in kept if key in stored}, buffer)
    write_whole(path, buffer.getvalue())
