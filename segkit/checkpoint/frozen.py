"""Checkpoints without the weights of a frozen encoder, which are those that timm gives to all."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from segkit.checkpoint.card import ModelCard
from segkit.checkpoint.limits import limit_weights
from segkit.core.errors import SegkitError
from segkit.models.encoders import Encoder

OWN = "encoder."
"""What the names of the encoder's weights begin with in a network."""


def hash_frozen(encoder: Encoder, part: Mapping[str, Any]) -> str:
    """Hash the frozen weights of an encoder, if they can be found again without the checkpoint.

    Args:
        encoder: As the training builds it.
        part: Its name and options in the config.

    Raises:
        SegkitError: None are frozen, or they are not timm's pretrained weights.
    """
    names = encoder.list_frozen()
    if not names:
        raise SegkitError(
            "trainer.save_frozen=false, but no weights of the encoder are frozen: use"
            " encoder.freeze=all or encoder.adapter=lora, or leave it out."
        )
    member, options = _resolve(part)
    if member.find_pretrained(options) is None:
        raise SegkitError(
            "trainer.save_frozen=false needs weights that are found again by the name of the"
            f" encoder, and those of '{part['name']}' are not ({encoder.pretrained_from}): use the"
            " pretrained weights of a timm model, encoder.pretrained=true, or leave it out."
        )
    state = encoder.state_dict()
    return _hash({name: state[name] for name in names})


def find_frozen(card: ModelCard, missing: Iterable[str]) -> dict[str, Tensor]:
    """Find the weights that a checkpoint of this card lacks; nothing is downloaded.

    Raises:
        SegkitError: They are not on this machine, or are not those of the training.
    """
    member, options = _resolve(card.encoder)
    path = member.find_pretrained(options)
    if path is None:
        raise SegkitError(
            "it was written with trainer.save_frozen=false, and the weights that it leaves out,"
            f" {card.pretrained_from}, are not on this machine. Download them once: python -c"
            f" \"import timm; timm.create_model('{options['model']}', pretrained=True)\""
        )
    given = {"in_channels": card.in_channels, **card.encoder, "pretrained": path}
    if "img_size" in inspect.signature(member).parameters and given.get("img_size") is None:
        given["img_size"] = max(card.img_size)
    with limit_weights(0, path.stat().st_size // 2, with_memory=True):
        state = Encoder.build(given.pop("name"), **given).state_dict()
    own = [key.removeprefix(OWN) for key in missing]
    if _hash({key: state[key] for key in own if key in state}) != card.frozen_sha256:
        raise SegkitError(
            f"the weights that it leaves out are not those in {path}. Use the file of its training,"
            f" {card.pretrained_from}."
        )
    return {OWN + key: state[key] for key in own}


def _resolve(part: Mapping[str, Any]) -> tuple[type[Encoder], dict[str, Any]]:
    return Encoder.resolve(part["name"], {k: v for k, v in part.items() if k != "name"})


def _hash(weights: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(weights):
        weight = weights[name].detach().cpu().contiguous()
        found.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        found.update(weight.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
