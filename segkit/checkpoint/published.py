"""Published models as files: the weights in ``model.safetensors``, the card in ``config.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from segkit.checkpoint.card import ModelCard
from segkit.core.errors import SegkitError
from segkit.core.files import write_whole
from segkit.core.published import CARD, HASHES, KEY, WEIGHTS, read_card


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the weights of a network under their names."""
    from safetensors.torch import save_file

    path.touch()
    mode = path.stat().st_mode  # safetensors makes a file that its owner alone may read
    # it holds no tensor that shares its memory with another one
    save_file({k: v.clone().contiguous() for k, v in weights.items()}, path, {"format": "pt"})
    path.chmod(mode)


def write_card(folder: Path, card: ModelCard, others: Mapping[str, str]) -> None:
    """Write the card beside the weights, with their SHA-256 and that of other files."""
    hashes = {WEIGHTS: hash_file(folder / WEIGHTS), **others}
    stored = {KEY: card.to_dict(), HASHES: hashes}
    write_whole(folder / CARD, json.dumps(stored, indent=2, ensure_ascii=False, default=str) + "\n")


def read_files(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the card and the weights of a published model: numbers and text, no code.

    Args:
        path: The file of the weights; the card lies beside it.

    Raises:
        SegkitError: They cannot be read, do not belong together, or segkit did not write them.
    """
    from safetensors.torch import load_file

    stored = read_card(path.with_name(CARD))
    card = stored[KEY]
    try:
        if hash_file(path) != stored[HASHES].get(WEIGHTS):
            raise SegkitError(
                f"{path} is not the file that the {CARD} beside it was written for: it is damaged,"
                " or was replaced. Take both from their origin again; from the cache of the hub"
                " remove their folder first."
            )
        weights = load_file(path)
    except SegkitError:
        raise
    except Exception as error:  # safetensors has its own
        raise SegkitError(
            f"{path} cannot be read as safetensors, which hold numbers alone; nothing of it was"
            f" run: {' '.join(str(error).split())}."
        ) from error
    # the file is whole: what a checkpoint leaves out is put in before it is published
    own = {name: weight.clone() for name, weight in weights.items()}  # not parts of the file
    return {**card, "frozen_sha256": None}, own


def hash_file(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
