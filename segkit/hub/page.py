"""The page of a published model: README.md with the front matter that the hub reads."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from segkit.checkpoint.card import ModelCard
from segkit.core.labels import FIRST_COLOR
from segkit.models.encoders import Encoder
from segkit.models.heads import Head
from segkit.models.necks import Neck
from segkit.report.table import format_cell, format_heading, is_missing

UNKNOWN = "unknown"
"""The license of a model for which none was given, as the hub spells it."""
CAPTIONS = {
    "best.png": "Among the best predictions on the validation images",
    "worst.png": "Among the worst predictions on the validation images",
}
ORDER = "image, ground truth, prediction, errors"
FAMILIES: Mapping[str, Any] = {"encoder": Encoder, "neck": Neck, "head": Head}


@dataclass(frozen=True)
class Page:
    """What the page says besides the card.

    Attributes:
        repo: The repository, OWNER/NAME.
        revision: The branch of it, None for the main one.
        license: The license, as the hub spells it.
        scores: The tables of the run's scores, ``scores``, ``classes`` and ``images``.
        pictures: The names of the pictures beside the page.
    """

    repo: str
    revision: str | None = None
    license: str | None = None
    scores: Mapping[str, Sequence[Mapping[str, object]]] = field(default_factory=dict)
    pictures: Sequence[str] = ()


def make_page(card: ModelCard, page: Page) -> str:
    """The page as Markdown."""
    parts = [
        f"---\n{yaml.safe_dump(describe(card, page), sort_keys=False, allow_unicode=True)}---",
        f"# {page.repo.rpartition('/')[2]}",
        _summarize(card),
        "## Use",
        _explain_use(card, f"hf://{page.repo}{f'@{page.revision}' if page.revision else ''}"),
        "## Input and classes",
        _describe_input(card),
        _make_table(_list_classes(card)),
    ]
    if page.scores.get("scores"):
        parts += ["## Scores", *_describe_scores(page)]
    if page.pictures:
        parts.append("## Predictions")
        parts += [
            f"![{CAPTIONS[name]}]({name})\n\n*{CAPTIONS[name]}: {ORDER}.*" for name in page.pictures
        ]
    parts += ["## Training", _describe_training(card)]
    if page.license is None:
        parts += ["## License", "The owner of this model has not named a license."]
    return "\n\n".join(parts) + "\n"


def describe(card: ModelCard, page: Page) -> dict[str, Any]:
    """The front matter: what the hub searches and shows."""
    kind = "instance-segmentation" if _tells_objects(card) else "semantic-segmentation"
    found: dict[str, Any] = {
        "library_name": "segkit",
        "license": page.license or UNKNOWN,
        "pipeline_tag": "image-segmentation",
        "tags": ["segkit", kind, "pytorch", "safetensors"],
    }
    scores = {
        str(row["score"]): round(float(str(row["value"])), 6)
        for row in page.scores.get("scores", ())
        if "score" in row and not is_missing(row.get("value"))
    }
    scores = {name: value for name, value in scores.items() if math.isfinite(value)}
    if not scores:
        return found
    metrics = [
        {"type": name, "name": format_heading(name), "value": value}
        for name, value in scores.items()
    ]
    result = {
        "task": {"type": "image-segmentation"},
        "dataset": {"type": _name_data(card), "name": f"{_name_data(card)}, validation images"},
        "metrics": metrics,
    }
    name = page.repo.rpartition("/")[2]
    return {
        **found,
        "metrics": list(scores),
        "model-index": [{"name": name, "results": [result]}],
    }


def _tells_objects(card: ModelCard) -> bool:
    return card.config.get("instances") is not None


def _name_data(card: ModelCard) -> str:
    return str(card.config.get("data", {}).get("name", "unknown"))


def _summarize(card: ModelCard) -> str:
    what = {
        "binary": "foreground and background",
        "multiclass": f"{card.num_classes} classes",
        "multilabel": f"{card.num_classes} classes that may overlap",
    }[card.mode]
    objects = ", and numbers objects" if _tells_objects(card) else ""
    return (
        f"This model segments images into {what}{objects}: encoder `{card.encoder['name']}`, neck"
        f" `{card.neck['name']}`, head `{card.head['name']}`, trained with segkit"
        f" {card.versions.get('segkit', '')}".rstrip()
        + ". It consists of numbers and plain data; loading it runs no code from this repository."
    )


def _explain_use(card: ModelCard, name: str) -> str:
    lines = ["In a clone of segkit, `pip install .`. Then in Python"]
    others = _list_foreign_parts(card)
    if others:
        lines[0] = (
            "In a clone of segkit, `pip install .`. The model has parts from outside segkit, which"
            f" must be there too: {', '.join(others)}. An installed package is found by itself; a"
            " file is named with `plugins=[FILE.py]`, and imported in Python. Then"
        )
    lines.append(
        "```python\nimport segkit\n\n"
        f'predictor = segkit.load("{name}")\n'
        'labels = predictor("IMAGE").labels  # (H, W)'
        f"{', of several classes (C, H, W)' if card.mode == 'multilabel' else ''}\n```"
    )
    lines.append("or on the command line")
    lines.append(
        f"```bash\npython -m segkit.predict checkpoint={name} input=DIR output=masks\n"
        f"python -m segkit.serve checkpoint={name}\n```"
    )
    return "\n\n".join(lines)


def _list_foreign_parts(card: ModelCard) -> list[str]:
    """The parts whose code is not segkit's, with their modules."""
    found = []
    for key, family in FAMILIES.items():
        name = getattr(card, key)["name"]
        module = family.resolve(name, {})[0].__module__
        if not module.startswith("segkit."):
            file = re.fullmatch(r"segkit_plugin_(.+)_[0-9a-f]{8}", module)
            found.append(f"{key} `{name}` of `{file[1] + '.py' if file else module}`")
    return found


def _describe_input(card: ModelCard) -> str:
    names = ", ".join(f"`{name}`" for name in card.channel_files)
    kind = {"uint8": "8 bits", "uint16": "16 bits", "float32": "float values"}
    channels = f"{card.in_channels} channel{'s' * (card.in_channels > 1)}"
    text = (
        f"Images of any size with {channels} of {kind[card.normalization.dtype]}"
        f"{f' in files of their own ({names})' if names else ''}; trained on crops of"
        f" {card.img_size[0]} x {card.img_size[1]} pixels. segkit scales the intensities as in the"
        " training."
    )
    if card.mode != "multiclass":
        chosen = card.postprocessing and card.postprocessing.thresholds
        above = ", ".join(f"{each:g}" for each in chosen or [card.threshold])
        text += f" A class is where its probability is above {above}."
    return text


def _list_classes(card: ModelCard) -> list[dict[str, object]]:
    rows = []
    for label, name in enumerate(card.class_names[: card.num_classes]):
        color = "#{:02x}{:02x}{:02x}".format(*card.class_colors[label])
        value = card.mask_values[label]
        written = str(value) if value < FIRST_COLOR else f"#{value - FIRST_COLOR:06x}"
        rows.append({"Label": label, "Class": name, "Value in masks": written, "Color": color})
    return rows


def _describe_scores(page: Page) -> list[str]:
    images = len(page.scores.get("images", ()))
    about = "On the validation images of the training"
    if images:
        about += f" ({images:,})"
    rows = [
        {
            "Score": format_heading(str(row.get("score"))),
            "Value": format_cell(row.get("value")),
            "95 % interval": f"{format_cell(row.get('low'))} to {format_cell(row.get('high'))}",
        }
        for row in page.scores["scores"]
    ]
    parts = [
        f"{about}, which chose the checkpoint; intervals by bootstrap over images.",
        _make_table(rows),
    ]
    classes = page.scores.get("classes", ())
    if len(classes) > 2:  # one class and the mean are those scores
        named = [{format_heading(k): format_cell(v) for k, v in row.items()} for row in classes]
        parts.append(_make_table(named))
    return parts


def _describe_training(card: ModelCard) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in card.versions.items())
    begun = f"The encoder began with {card.pretrained_from or 'random weights'}"
    if card.config.get("init"):
        begun = "The training began with the weights of another network"
    return (
        f"{begun}. `config.json` holds the whole config of the training"
        " and the model card, without absolute paths and names of validation images. Versions:"
        f" {versions}."
    )


def _make_table(rows: Sequence[Mapping[str, object]]) -> str:
    columns = list(rows[0])
    lines = [columns, *([str(row.get(column, "")) for column in columns] for row in rows)]
    written = [f"| {' | '.join(map(_escape, line))} |" for line in lines]
    return "\n".join([written[0], f"|{'---|' * len(columns)}", *written[1:]])


def _escape(cell: str) -> str:
    """Text in a table of Markdown, where it could be markup."""
    return re.sub(r"([\\`*_{}\[\]<>|!])", r"\\\1", " ".join(cell.split()))
