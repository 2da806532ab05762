"""Reading a checkpoint: the card and the trained network."""

from __future__ import annotations

import inspect
import platform
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from segkit import __version__
from segkit.checkpoint.card import FORMAT, ModelCard
from segkit.checkpoint.frozen import find_frozen
from segkit.checkpoint.limits import limit_weights
from segkit.checkpoint.published import read_files
from segkit.core import plugins
from segkit.core.ensembles import is_ensemble, read_ensemble
from segkit.core.errors import SegkitError, all_at_once
from segkit.core.published import fetch, find_name
from segkit.core.torch_files import UnreadableError, load_data
from segkit.models.encoders import Encoder
from segkit.models.encoders.adapters import merge_adapters
from segkit.models.heads import Head
from segkit.models.necks import Neck
from segkit.models.segmenter import Segmenter, create_model
from segkit.targets.base import Target

KEY = "segkit"
"""The entry of a checkpoint that holds the card."""
PREFIX = "model."
"""What the names of the network's weights begin with in the Lightning module."""
AS_WRITTEN = "Use the checkpoint as its training wrote it."


def find_versions() -> dict[str, str]:
    """Find the versions of the packages that a result depends on."""
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
    """Read the network, in eval mode on the CPU, and its card. No code in the file is run.

    Args:
        path: A checkpoint, a published model's weights, or ``hf://owner/name``.

    Raises:
        SegkitError: There is no such file, or it is no checkpoint of segkit.
    """
    model, card, weights = _read_fitting(fetch(path))
    model.load_state_dict(weights, assign=True)
    merge_adapters(model)
    return model.eval(), card


def read_weights(path: Path) -> tuple[ModelCard, dict[str, torch.Tensor]]:
    """Read the card and all weights of its network by name, those too that the file leaves out.

    Raises:
        SegkitError: As :func:`read`.
    """
    _, card, weights = _read_fitting(path)
    return card, weights


def _read_fitting(path: Path) -> tuple[Segmenter, ModelCard, dict[str, torch.Tensor]]:
    """The network with its first weights, the card, and the weights that belong into it."""
    stored = read_raw(path)
    try:
        card = ModelCard.from_dict(stored[KEY])
    except SegkitError as error:
        raise SegkitError(f"checkpoint {path}: {error}\n{AS_WRITTEN}") from error
    weights = {
        key.removeprefix(PREFIX): value
        for key, value in stored["state_dict"].items()
        if key.startswith(PREFIX)
    }
    try:
        with _limit_weights(card, weights):
            model = _build(card)
        wanted = model.state_dict()
        missing = wanted.keys() - weights.keys()
        if card.frozen_sha256 is not None and missing:
            weights |= find_frozen(card, missing)
        options = {key: value for key, value in card.target.items() if key != "name"}
        Target.bind(card.target["name"], options)
    except SegkitError as error:
        message = f"checkpoint {path}: {error}"
        raise plugins.name_missing(card.config.get("plugins"), message) from error
    except (RuntimeError, MemoryError, OverflowError) as error:
        raise SegkitError(
            f"checkpoint {path}: the network that its card describes cannot be built:"
            f" {str(error).partition(chr(10))[0]}. {AS_WRITTEN}"
        ) from error
    differences = _compare(wanted, weights)
    if differences:
        raise all_at_once(
            f"checkpoint {path}: its weights do not fit the network that its card describes."
            f" {_name_other_versions(card)}",
            differences,
        )
    fitting = {name: value.to(wanted[name].dtype).contiguous() for name, value in weights.items()}
    return model, replace(card, frozen_sha256=None), fitting  # what is read is whole


def _limit_weights(card: ModelCard, held: dict[str, Any]) -> AbstractContextManager[None]:
    """Networks without a layout are run to measure them, and those with parts from outside segkit
    may compute with their first weights: they get memory for them.
    """
    elements = sum(value.numel() for value in held.values() if isinstance(value, torch.Tensor))
    parts = (Encoder, card.encoder), (Neck, card.neck), (Head, card.head)
    members = [family.resolve(part["name"], {})[0] for family, part in parts]
    with_memory = not card.layout or any(not m.__module__.startswith("segkit.") for m in members)
    return limit_weights(len(held), elements, with_memory)


def _build(card: ModelCard) -> Segmenter:
    """Build the network that a card describes, with random weights; nothing is downloaded.

    Cards of version 0.1.0 have no layout of the encoder; then a timm backbone is run to measure it.
    """
    options = {"in_channels": card.in_channels, **card.encoder}
    name = options.pop("name")
    if not card.layout and options.get("img_size") is None:
        member, _ = Encoder.resolve(name, {})
        if "img_size" in inspect.signature(member).parameters:
            options["img_size"] = max(card.img_size)
    return create_model(
        Encoder.rebuild(name, card.layout, **options),
        card.neck,
        card.head,
        num_classes=card.num_classes,
        auxiliary=card.auxiliary,
    )


def _compare(wanted: dict[str, Any], held: dict[str, Any]) -> list[str]:
    """List the differences between a network's weights and given ones, a line for each kind."""
    kinds: dict[str, list[str]] = {
        "tensors are missing": sorted(wanted.keys() - held.keys()),
        "tensors are too many": sorted(held.keys() - wanted.keys()),
        "are no tensors": [],
        "tensors have another shape": [],
        "tensors have another type": [],
        "tensors hold values that are no finite numbers": [],
    }
    for name in sorted(wanted.keys() & held.keys()):
        mine, given = wanted[name], held[name]
        if not isinstance(given, torch.Tensor) or given.layout != mine.layout or given.is_meta:
            kinds["are no tensors"].append(name)
        elif given.shape != mine.shape:
            shapes = f"{tuple(given.shape)} instead of {tuple(mine.shape)}"
            kinds["tensors have another shape"].append(f"{name}: {shapes}")
        elif given.is_complex() or given.is_floating_point() != mine.is_floating_point():
            kinds["tensors have another type"].append(f"{name}: {given.dtype}")
        elif not _is_finite(given) and (mine.is_meta or _is_finite(mine)):
            kinds["tensors hold values that are no finite numbers"].append(name)
    return [f"{len(names)} {kind}, first {names[0]}" for kind, names in kinds.items() if names]


def _is_finite(values: torch.Tensor) -> bool:
    if not values.is_floating_point() or not values.numel():
        return True
    return all(end.isfinite() for end in values.aminmax())


def _name_other_versions(card: ModelCard) -> str:
    here = find_versions()
    other = [f"{k} {v} (here {here[k]})" for k, v in card.versions.items() if here.get(k, v) != v]
    if not other:
        return AS_WRITTEN
    return f"It was written with {', '.join(other)}: install these versions."


def read_raw(path: Path) -> dict[str, Any]:
    """Read the dictionary of a checkpoint file, or what it would be of a published model."""
    if not path.is_file():
        raise SegkitError(f"checkpoint: {_describe_missing(path)}")
    if path.suffix == ".safetensors":
        held, weights = read_files(path)
        stored = {KEY: held, "state_dict": {PREFIX + name: w for name, w in weights.items()}}
        return _require_format(stored, path)
    if is_ensemble(path):
        members = read_ensemble(path)
        raise SegkitError(
            f"checkpoint {path} is an ensemble, and this takes one network: give one of its"
            f" {len(members)}, {members[0]} for instance."
        )
    try:
        stored = load_data(path)
    except OSError as error:
        raise SegkitError(
            f"checkpoint {path} cannot be read as data: {error.strerror or error}. Check that you"
            " may read it."
        ) from error
    except UnreadableError as error:
        raise SegkitError(
            f"checkpoint {path} cannot be read as data: {error}. Use the best.ckpt or last.ckpt of"
            " a run of segkit, copied in full."
        ) from error
    if not isinstance(stored, dict) or KEY not in stored or "state_dict" not in stored:
        raise SegkitError(
            f"{path} is no checkpoint of segkit: it has no entry '{KEY}'. Weights of an encoder"
            " go to encoder.pretrained=PATH."
        )
    return _require_format(stored, path)


def _require_format(stored: dict[str, Any], path: Path) -> dict[str, Any]:
    card, weights = stored[KEY], stored["state_dict"]
    both = isinstance(card, dict) and isinstance(weights, dict)
    named = both and all(isinstance(name, str) for name in weights)
    made = card.get("format") if named else None
    if not isinstance(made, int):
        raise SegkitError(f"checkpoint {path} is not as segkit writes it. {AS_WRITTEN}")
    if made > FORMAT:
        raise SegkitError(
            f"checkpoint {path} has the format {made} of a newer segkit; this is"
            f" {__version__}, which reads up to {FORMAT}. Upgrade segkit."
        )
    return stored


def find_run_folder(checkpoint: Path) -> Path:
    """The run folder of a checkpoint; the folder that holds it if it lies somewhere else.

    What belongs to a model of the hub goes to a folder of its name, not into the hub's cache.
    """
    if name := find_name(checkpoint):
        return Path(name.rpartition("/")[2])
    folder = checkpoint.parent
    return folder.parent if folder.name == "checkpoints" else folder


def _describe_missing(path: Path) -> str:
    """Say what is at the path instead of a file, and what may be meant."""
    if not path.is_dir():
        return f"there is no file {path.resolve()}. Give the best.ckpt of a run of segkit."
    for held in ("checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        if (path / held).is_file():
            return f"{path.resolve()} is a folder. That is a run folder: use {path / held}."
    return f"{path.resolve()} is a folder. Give the best.ckpt in the checkpoints of a run."
