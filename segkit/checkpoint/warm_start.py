"""Warm start: a network begins with the weights of a checkpoint, as far as they fit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segkit.checkpoint import reading as checkpoint
from segkit.checkpoint.card import ModelCard
from segkit.config.quoting import quote_option
from segkit.core.errors import SegkitError
from segkit.core.labels import generate_names
from segkit.core.published import spell_path
from segkit.models.segmenter import Segmenter

Row = tuple[dict[int, float], float] | None
"""A logit as a sum of a checkpoint's logits: their factors by index, and what is added; or None."""


@dataclass
class Taken:
    """What a part of a network takes from a checkpoint.

    Attributes:
        name: Encoder, neck, head or auxiliary.
        taken: Number of its tensors that it takes.
        tensors: Number of its tensors.
        notes: What was adapted, and what begins anew.
    """

    name: str
    taken: int = 0
    tensors: int = 0
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        about = f"; {', '.join(self.notes)}" if self.notes else ""
        return f"{self.name}: {self.taken} of {self.tensors} tensors{about}"

    def as_row(self) -> dict[str, object]:
        """The row of a table."""
        notes = "; ".join(self.notes)
        return {"part": self.name, "taken": self.taken, "tensors": self.tensors, "notes": notes}


def take_weights(model: Segmenter, card: ModelCard, path: Path) -> tuple[list[Taken], ModelCard]:
    """Copy the weights of a checkpoint into a network that is about to be trained.

    Tensors of the encoder, and of a neck of the same name, are taken where name and shape are
    equal. The first convolution is adapted to other channels, position embeddings to another size.
    The layer of the classes keeps the rows of classes with the same name. Those of new classes
    begin as equal shares of the background (Cermelli et al. 2020, "Modeling the Background for
    Incremental Learning in Semantic Segmentation", section 3.3), so that the probabilities of the
    other classes stay what they were.

    Args:
        model: The network; it is changed.
        card: Its card.
        path: The checkpoint.

    Returns:
        What each part has taken, and the card with what comes with the weights: where the encoder's
        are from, and for 8-bit images of as many channels the normalisation, which is the dataset's
        with ``data.normalize=dataset``.

    Raises:
        SegkitError: It cannot be read, or its encoder is another one or fits nowhere.
    """
    try:
        source, old = checkpoint.read(path)
    except SegkitError as error:
        raise SegkitError(f"init: {error}") from error
    names = [each.encoder["name"].partition(".")[0] for each in (old, card)]  # without timm's tag
    if names[0] != names[1]:
        typed = [quote_option(key, getattr(old, key)["name"]) for key in ("encoder", "neck")]
        raise SegkitError(
            f"init={spell_path(path)}: its encoder is {old.encoder['name']}, and that of this"
            f" training is {card.encoder['name']}, where its weights mean nothing: add"
            f" {' '.join(typed)}."
        )
    parts = [_take_encoder(model.encoder, source.encoder, (card, old))]
    if not parts[0].taken:
        raise SegkitError(
            f"init={spell_path(path)}: no tensor of its encoder has the shape of one here: take its"
            f" options, {', '.join(_list_differences(old.encoder, card.encoder))}."
        )
    other_neck = old.neck["name"] != card.neck["name"]
    if other_neck:
        anew = [f"anew, the checkpoint has {old.neck['name']}"]
        parts.append(Taken("neck", 0, len(model.neck.state_dict()), anew))
    else:
        parts.append(_copy("neck", model.neck.state_dict(), source.neck.state_dict()))
    rows = _relate(old, card)
    parts.append(_take_head("head", model.head, source.head, rows, (card, old)))
    for number, head in enumerate(model.auxiliary):
        known = not other_neck and number < len(source.auxiliary)
        given = source.auxiliary[number] if known else nn.Identity()
        parts.append(_take_head(f"auxiliary head {number + 1}", head, given, rows, (card, old)))
    if old.pretrained_from:
        card = replace(card, pretrained_from=old.pretrained_from)
    old_values, values = old.normalization, card.normalization
    is_auto = card.config.get("data", {}).get("normalize") == "auto"
    if (
        is_auto
        and old_values.dtype == values.dtype == "uint8"
        and old.in_channels == card.in_channels
    ):
        card = replace(card, normalization=old_values)
    return parts, card


def _list_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [quote_option(f"encoder.{k}", v) for k, v in old.items() if v != new.get(k)]


def _take_encoder(encoder: nn.Module, source: nn.Module, cards: tuple[ModelCard, ...]) -> Taken:
    """Weights with a low-rank part have another name; the part itself begins with zero."""
    plain = ".parametrizations.weight.original"
    held = {name.replace(plain, ".weight"): value for name, value in source.state_dict().items()}
    wanted = {
        name.replace(plain, ".weight"): value
        for name, value in encoder.state_dict().items()
        if plain in name or ".parametrizations." not in name
    }
    return _copy("encoder", wanted, held, tuple(card.in_channels for card in cards))


def _copy(
    name: str,
    wanted: Mapping[str, Tensor],
    held: Mapping[str, Tensor],
    channels: Iterable[int] = (),
) -> Taken:
    part, missed = Taken(name, tensors=len(wanted)), []
    for key, value in wanted.items():
        given, note = _fit(key, held.get(key), value, tuple(channels))
        if given is None:
            missed.append(key)
            continue
        value.copy_(given)
        part.taken += 1
        part.notes += [note] if note and note not in part.notes else []
    if missed:
        part.notes.append(f"{len(missed)} anew, first {missed[0]}")
    return part


def _fit(
    name: str, given: Tensor | None, wanted: Tensor, channels: tuple[int, ...]
) -> tuple[Tensor | None, str]:
    """A tensor of the checkpoint in the shape that is wanted, if that is possible, and how."""
    if given is None:
        return None, ""
    if given.shape == wanted.shape:
        return given, ""
    mine, other = wanted.shape, given.shape
    same = mine[:1] + mine[2:] == other[:1] + other[2:]
    if len(mine) == 4 and same and channels == (mine[1], other[1]):
        return adapt_channels(given, mine[1]), f"image channels {other[1]} -> {mine[1]}"
    if name.endswith("pos_embed") and len(mine) == len(other) == 3 and mine[2] == other[2]:
        resampled = _resample_positions(given, mine[1])
        if resampled is not None:
            return resampled, "position embeddings resampled"
    return None, ""


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """Adapt the weights (out, in, h, w) of the first convolution to another number of channels.

    One channel gets the sum, as if it were repeated; several get the weights in turn, scaled so
    that equal channels give what they gave.
    """
    given = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    turns = [number % given for number in range(channels)]
    return weight[:, turns] * (given / channels)


def _resample_positions(given: Tensor, count: int) -> Tensor | None:
    """Position embeddings (1, tokens, C) for another square of patches, if both are squares."""
    from timm.layers.pos_embed import resample_abs_pos_embed

    for prefix in range(9):  # class and register tokens come first
        side = math.isqrt(max(0, count - prefix))
        old = math.isqrt(max(0, given.shape[1] - prefix))
        if (side**2, old**2) == (count - prefix, given.shape[1] - prefix):
            size = [side, side]
            found: Tensor = resample_abs_pos_embed(given, size, [old, old], prefix)
            return found
    return None


def _take_head(
    name: str, head: nn.Module, source: nn.Module, rows: list[Row], cards: tuple[ModelCard, ...]
) -> Taken:
    card, old = cards
    layer = getattr(head, "class_layer", None)
    own, held = head.state_dict(), source.state_dict()
    if layer is None or layer != getattr(source, "class_layer", None):
        same = type(head) is type(source) and old.class_names == card.class_names
        return _copy(name, own, held if same else {})
    of_classes = {key for key in own if key.startswith(f"{layer}.")}
    part = _copy(name, {k: v for k, v in own.items() if k not in of_classes}, held)
    part.tensors += len(of_classes)
    if own[f"{layer}.weight"].shape[1:] != held[f"{layer}.weight"].shape[1:]:
        part.notes.append("the classes anew, the neck's map has another number of channels")
        return part
    extra = own[f"{layer}.weight"].shape[0] - len(rows)  # "no object" of queries is the last
    last = held[f"{layer}.weight"].shape[0] - 1
    for key in of_classes:
        for number, row in enumerate([*rows, *[({last: 1.0}, 0.0)] * extra]):
            if row is None:
                continue
            factors, added = row
            given = [factor * held[key][i] for i, factor in factors.items()]
            total = torch.stack(given).sum(0) if given else torch.zeros_like(own[key][number])
            own[key][number] = total + (added if key.endswith("bias") else 0.0)
    part.taken += len(of_classes)
    part.notes += _describe_classes(card, old)
    return part


def _describe_classes(card: ModelCard, old: ModelCard) -> list[str]:
    pairs = _pair_classes(old, card)
    kept = [name for i, name in enumerate(card.class_names) if i in pairs]
    new = [name for i, name in enumerate(card.class_names) if i not in pairs]
    gone = [name for i, name in enumerate(old.class_names) if i not in pairs.values()]
    lists = {"classes kept": kept, "new": new, "dropped": gone}
    return [f"{what}: {', '.join(names)}" for what, names in lists.items() if names]


def _pair_classes(old: ModelCard, card: ModelCard) -> dict[int, int]:
    """The class of the checkpoint for each class that it has: by name, without names by place."""
    names, known = list(card.class_names), list(old.class_names)
    unnamed = any(
        each.class_names == generate_names(each.num_classes, each.mode) for each in (card, old)
    )
    if unnamed and not set(names) & set(known):
        return {i: i for i in range(min(len(names), len(known)))}
    if card.mode == old.mode == "binary":  # one kind of object against everything else
        return {0: 0, 1: 1}
    return {i: known.index(name) for i, name in enumerate(names) if name in known}


def _relate(old: ModelCard, card: ModelCard) -> list[Row]:
    """Each logit of a network as a sum of logits of a checkpoint; None: it has none like it."""
    pairs = _pair_classes(old, card)
    if card.mode == "binary":
        return [_find_object_row(old, pairs)]
    rows: list[Row] = [
        _find_class_row(old, card, pairs[i]) if i in pairs else None
        for i in range(card.num_classes)
    ]
    background = card.background
    if card.mode == "multiclass" and old.mode != "multilabel" and background in pairs:
        assert background is not None
        share = rows[background]
        new = [i for i, row in enumerate(rows) if row is None]
        if share is not None and new:
            part = (share[0], share[1] - math.log(len(new) + 1))
            for i in (background, *new):
                rows[i] = part
    return rows


def _find_object_row(old: ModelCard, pairs: Mapping[int, int]) -> Row:
    """The logit of the only class that is no background."""
    found = pairs.get(1)
    if found is None:
        return None
    if old.mode == "binary":
        return {0: 1.0}, 0.0
    if old.mode == "multilabel" or old.background in (None, found):
        return {found: 1.0}, 0.0
    assert old.background is not None
    return {found: 1.0, old.background: -1.0}, 0.0


def _find_class_row(old: ModelCard, card: ModelCard, found: int) -> Row:
    if old.mode != "binary":
        return {found: 1.0}, 0.0
    if found == 1:
        return {0: 1.0}, 0.0
    # a sigmoid is the softmax of its logit beside a zero
    return ({0: -1.0}, 0.0) if card.mode == "multilabel" else ({}, 0.0)
