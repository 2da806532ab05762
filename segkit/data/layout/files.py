"""The files below a folder: those that are images, and those that are not read."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segkit.images.formats.base import find_ending, find_format, list_suffixes
from segkit.images.mask_beside import ENDING as OF_MASKS
from segkit.images.place_files import ENDINGS as OF_PLACES

OF_SYSTEMS = ("thumbs.db", "desktop.ini")
"""Files that file managers leave everywhere."""
BESIDE = (*OF_PLACES, OF_MASKS)
"""Endings of files that are read with the image that they lie beside."""
NAMED = 3
"""Files that a message names."""


@dataclass
class Files:
    """What lies below a folder, by path relative to it.

    Attributes:
        folder: The folder.
        images: Images, sorted by name.
        others: Files that are not read.
        channels: The paths of images whose channels lie in several files, by name.
    """

    folder: Path
    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    channels: dict[str, str] = field(default_factory=dict)

    def find(self, name: str) -> Path:
        """The path of an image."""
        return self.folder / self.channels.get(name, name)


def list_files(folder: Path) -> Files:
    """List the visible files below a folder; symbolic links are followed, but not in circles."""
    found = Files(folder)
    suffixes = tuple(list_suffixes())

    def walk(place: Path, inside: str, above: frozenset[Path]) -> None:
        here = place.resolve()
        if here in above:
            return
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            name = inside + entry.name
            lower = entry.name.lower()
            if lower.startswith(".") or lower in OF_SYSTEMS or lower.endswith(BESIDE):
                continue
            if entry.is_dir():
                if find_format(Path(entry.path)) is not None:
                    found.images.append(name)
                else:
                    walk(Path(entry.path), name + "/", above | {here})
            elif lower.endswith(suffixes):
                found.images.append(name)
            else:
                found.others.append(name)

    walk(folder, "", frozenset())
    return found


def strip_suffix(name: str) -> str:
    """A path without the ending that tells the format; of ``.ome.tif`` both parts.

    Accents are composed (NFC): Macs store them apart.

    Example:
        >>> strip_suffix("a/b.c.OME.tif")
        'a/b.c'
    """
    name = unicodedata.normalize("NFC", name)
    stem = name[: len(name) - len(find_ending(name))]
    return stem[:-4] if stem.lower().endswith(".ome") else stem


def describe_unused(names: Sequence[str], where: str) -> list[str]:
    """A line on files that are not used, with their endings, or none."""
    if not names:
        return []
    files = "1 file" if len(names) == 1 else f"{len(names)} files"
    shown = ", ".join(names[:NAMED]) + (" ..." if len(names) > NAMED else "")
    verb = "is" if len(names) == 1 else "are"
    return [f"{files} in {where} {verb} not used ({count_endings(names)}): {shown}"]


def describe_unread(files: Files, where: str, kind: str) -> str:
    """Why a folder without images is of no use, and what to do.

    Args:
        files: What is in it.
        where: What to call it.
        kind: "images" or "masks".
    """
    if not files.others:
        return f"{where} contains no {kind}. Known: {', '.join(list_suffixes())}"
    endings = count_endings(files.others)
    return (
        f"{where} contains no {kind} that can be read, only other files ({endings}): convert them"
        " to PNG or TIFF"
    )


def count_endings(names: Sequence[str]) -> str:
    """How many files have each ending, as in "3 .json, 1 .xml"."""
    endings = Counter(Path(name).suffix.lower() or "no ending" for name in names)
    return ", ".join(f"{count} {ending}" for ending, count in endings.most_common(6))


def group_by_stem(names: Sequence[str]) -> dict[str, list[str]]:
    """File names by their name without the ending."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(strip_suffix(name), []).append(name)
    return found


def iterate_folders(root: Path) -> Iterator[Path]:
    """The visible folders in a folder that are no images, sorted."""
    for path in sorted(root.iterdir()):
        if path.is_dir() and not path.name.startswith(".") and find_format(path) is None:
            yield path
