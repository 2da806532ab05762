"""Files beside a data set that name its classes, such as class_dict.csv of CamVid."""

from __future__ import annotations

import json
import re
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from segkit.config.quoting import quote_option

MOST_BYTES = 2**16
"""Size of such a file, at most."""
_CALLED = re.compile("class|label|colou?r|categor|names|codes|palette|^dataset$")
"""What such files are called, besides their ending."""
_HEX = re.compile(r"#([0-9a-fA-F]{6})\b")
_RGB = re.compile(r"(?<![\w.])(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})(?![\w.])")
_NAME = re.compile(r"\s*(?:\d+[\s,;:]+)?([^\W\d][^,;:\t/\\]*?)\s*")
"""A class, with a number before it or none."""
_HEADING = re.compile(r"\b(name|class|label|id|r|red)\b", re.IGNORECASE)


class Classes(NamedTuple):
    """The classes that a file names, in its order, and their colours if it has them."""

    names: list[str]
    colors: list[tuple[int, int, int]]


def propose_classes(folder: Path, samples: Container[str]) -> list[str]:
    """A line with the options for the classes that a file in a folder names, or none.

    Args:
        folder: Where the file may lie.
        samples: Names of images without their endings, which are no classes.
    """
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (".csv", ".txt", ".json") and _CALLED.search(path.stem.lower()):
            with suppress(OSError, ValueError):  # another kind of file
                classes = read_classes(path)
                if not any(name in samples for name in classes.names):
                    found[path.name] = classes
    if not found:
        return []
    file, (names, colors) = max(found.items(), key=lambda item: bool(item[1].colors))
    ignored = []
    if file == "dataset.json" and names[-1] == "ignore":  # nnU-Net's pixels without a label
        ignored = [quote_option("data.label_map", {len(names) - 1: 255})]
        names = names[:-1]
    options = [*ignored, quote_option("data.class_names", names)]
    options += [quote_option("data.class_colors", colors)] if colors else []
    options = ["head=multiclass"] * (len(names) > 2) + options
    return [f"{file} names {len(names)} classes; to use them, add {' '.join(options)}"]


def read_classes(path: Path) -> Classes:
    """Read a file that has a class in each line, or the dataset.json of nnU-Net.

    Lines have a name, a number or none before it, and a colour as R, G, B or #RRGGBB or none.

    Raises:
        OSError: It cannot be read.
        ValueError: It does not name classes, each once.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError("it is too large")
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".json":
        return Classes(_check(_read_labels(json.loads(text))), [])
    lines = [line.replace('"', "") for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("#") or _HEX.match(line)]
    if path.suffix.lower() == ".csv" and lines and _HEADING.search(lines[0]):
        del lines[0]
    names, colors = list[str](), list[tuple[int, int, int]]()
    for line in lines:
        found = _HEX.search(line) or _RGB.search(line)
        if found is not None:
            parts = found.groups()
            rgb = bytes.fromhex(parts[0]) if len(parts) == 1 else bytes(map(int, parts))
            colors.append((rgb[0], rgb[1], rgb[2]))
            line = _cut_name(line[: found.start()], line[found.end() :])
        name = _NAME.fullmatch(line)
        if name is None:
            raise ValueError("not all lines name a class")
        names.append(name[1])
    if colors and len(set(colors)) < len(names):
        raise ValueError("not all lines have a colour of their own")
    return Classes(_check(names), colors)


def _cut_name(before: str, after: str) -> str:
    """The first field with a letter, before or after the colour."""
    fields = re.split(r"[,;:\t]", before) + re.split(r"[,;:\t]", after)
    return next((field for field in fields if re.search(r"[^\W\d]", field)), "")


def _read_labels(content: object) -> list[str]:
    """The names by label of {"labels": {name: label}}, or the other way round."""
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, dict):
        raise ValueError("it has no labels")
    of_label = {}
    for key, value in labels.items():
        name, label = (key, value) if isinstance(value, int) else (value, key)
        of_label[int(label)] = str(name)
    if sorted(of_label) != list(range(len(of_label))):
        raise ValueError("labels are missing")
    return [of_label[label] for label in range(len(of_label))]


def _check(names: list[str]) -> list[str]:
    if not 2 <= len(names) <= 255 or len(set(names)) < len(names):
        raise ValueError("it does not name 2 to 255 classes, each once")
    return names
