"""The files of a published model: weights, card, page and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from segkit.checkpoint.card import ModelCard
from segkit.checkpoint.published import hash_file, write_card, write_weights
from segkit.core.errors import SegkitError
from segkit.core.files import wrap_write_errors, write_whole
from segkit.core.published import WEIGHTS
from segkit.hub.page import Page, make_page
from segkit.report.page import fit_to_page
from segkit.report.table import read_csv

PAGE = "README.md"
"""The page of a repository."""
PICTURES = {"best.png": "best-[0-9][0-9]-*.png", "worst.png": "worst-[0-9][0-9]-*.png"}
"""The pictures of a page, and how the files in a report are called whose first one each is."""


def write_model(
    folder: Path, card: ModelCard, weights: Mapping[str, Tensor], page: Page, run: Path | None
) -> None:
    """Write all files of a published model.

    Args:
        folder: An empty folder.
        card: The card, as :func:`leave_out_names` returns it.
        weights: The weights of the network by name.
        page: What the page says besides the card.
        run: The run folder whose report has the pictures; None for none.
    """
    with wrap_write_errors(folder):
        write_weights(folder / WEIGHTS, weights)
        pictures = copy_pictures(run, folder) if run is not None else []
        write_whole(folder / PAGE, make_page(card, replace(page, pictures=pictures)))
        others = {name: hash_file(folder / name) for name in (PAGE, *pictures)}
        write_card(folder, card, others)


def leave_out_names(card: ModelCard) -> ModelCard:
    """A card without what tells of the machine and the images of the training.

    Absolute paths are reduced to their last part, and the names of validation images are dropped.
    """
    config: dict[str, Any] = _shorten_paths(card.config)
    if isinstance(config.get("data"), dict) and "val_names" in config["data"]:
        config["data"]["val_names"] = None
    return replace(
        card,
        encoder=_shorten_paths(card.encoder),
        pretrained_from=_shorten_paths(card.pretrained_from),
        config=config,
    )


def _shorten_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shorten_paths(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_shorten_paths(each) for each in value]
    if not isinstance(value, str) or "\n" in value:
        return value
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(value).is_absolute() or value.startswith("~"):
            return kind(value).name
    return value


def find_scored_run(checkpoint: Path) -> Path | None:
    """The run folder with the scores of a checkpoint: those of its best.ckpt, if it has one."""
    folder = checkpoint.parent
    is_scored = checkpoint.name == "best.ckpt" or (
        checkpoint.name == "last.ckpt" and not (folder / "best.ckpt").exists()
    )
    run = folder.parent
    held = folder.name == "checkpoints" and (run / "scores.csv").is_file()
    return run if is_scored and held else None


def read_scores(run: Path) -> dict[str, list[dict[str, object]]]:
    """The tables of a run's scores: ``scores`` over all images, ``classes``, and ``images``.

    Raises:
        SegkitError: A table cannot be read.
    """
    files = {name: run / f"{name}.csv" for name in ("scores", "classes", "images")}
    return {name: read_csv(file) for name, file in files.items() if file.is_file()}


def copy_pictures(run: Path, folder: Path) -> list[str]:
    """Copy the first of the best and of the worst predictions of a report; returns their names."""
    names = []
    for name, pattern in PICTURES.items():
        found = sorted((run / "report").glob(pattern))
        if not found:
            continue
        try:
            with Image.open(found[0]) as image:
                picture = fit_to_page(np.asarray(image.convert("RGB")))
        except (OSError, ValueError) as error:
            raise SegkitError(
                f"the picture {found[0]} cannot be read ({error}): remove it, or give"
                " pictures=false."
            ) from error
        Image.fromarray(picture).save(folder / name)
        names.append(name)
    return names
