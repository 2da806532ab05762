"""The files below a folder: those that are images, and those that are not read."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segkit.core.errors import SegkitError, join_names
from segkit.images.formats.base import find_format, list_suffixes
from segkit.images.mask_beside import ENDING as OF_MASKS
from segkit.images.paths import find_ending
from segkit.images.place_files import ENDINGS as OF_PLACES

OF_SYSTEMS = (
    *("thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"),
    *("system volume information", "lost+found"),
)
"""What systems and file managers leave everywhere, in lower case."""
BESIDE = (*OF_PLACES, OF_MASKS)
"""Endings of files that are read with the image that they lie beside."""
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
"""Endings of packed files."""


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


def is_visible(name: str) -> bool:
    """Whether a file or folder of this name belongs to a data set."""
    return not name.startswith(".") and name.lower() not in OF_SYSTEMS


def require_folder(root: Path) -> None:
    """Refuse a data.root that is no folder.

    Raises:
        SegkitError: There is none, or a file.
    """
    if root.is_file():
        raise SegkitError(
            f"data.root: {root.resolve()} is a file, not a folder: data.pairs=FILE.csv reads a"
            " table; archives have to be unpacked."
        )
    if not root.is_dir():
        raise SegkitError(f"data.root: there is no folder {root.resolve()}.")


def scan_folder(folder: Path) -> list[os.DirEntry[str]]:
    """What is visible in a folder, sorted by name.

    Raises:
        SegkitError: It cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if is_visible(e.name)), key=lambda e: e.name)
    except OSError as error:
        raise refuse_folder(error) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def refuse_folder(error: OSError) -> SegkitError:
    """The error about a folder that cannot be read, part of which would be missing silently."""
    return SegkitError(
        f"data.root: the folder {error.filename} cannot be read: {error.strerror}. Give yourself"
        " the right to read it, or move it out of the data set."
    )


def list_files(folder: Path) -> Files:
    """List the visible files below a folder; symbolic links are followed, but not in circles.

    Raises:
        SegkitError: A folder cannot be read.
    """
    found = Files(folder)
    suffixes = tuple(list_suffixes())

    def walk(place: Path, inside: str, above: frozenset[Path]) -> None:
        here = place.resolve()
        if here in above:
            return
        for entry in scan_folder(place):
            name = inside + entry.name
            lower = entry.name.lower()
            if lower.endswith(BESIDE):
                continue
            if _is_folder(entry):
                if find_format(Path(entry.path)) is not None:
                    found.images.append(name)
                else:
                    walk(Path(entry.path), name + "/", above | {here})
            elif lower.endswith(suffixes) and (entry.is_symlink() or entry.is_file()):
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
    verb = "is" if len(names) == 1 else "are"
    return [f"{files} in {where} {verb} not used ({count_endings(names)}): {join_names(names)}"]


def describe_unread(files: Files, where: str, kind: str) -> str:
    """Why a folder without images is of no use, and what to do.

    Args:
        files: What is in it.
        where: What to call it.
        kind: "images" or "masks".
    """
    if not files.others:
        return f"{where} contains no {kind}. Known: {', '.join(list_suffixes())}"
    packed = [name for name in files.others if name.lower().endswith(ARCHIVES)]
    remedy = f"unpack {packed[0]}" if packed else "convert them to PNG or TIFF"
    endings = count_endings(files.others)
    return f"{where} contains no {kind} that can be read, only other files ({endings}): {remedy}"


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
    for entry in scan_folder(root):
        path = root / entry.name
        if _is_folder(entry) and find_format(path) is None:
            yield path
