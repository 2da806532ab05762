"""How paths name images: arrays in a file, several files as channels, and what is left of a name.

``a.h5::raw`` is the array raw of a.h5, and ``case_{0000,0001}.nii.gz`` an image whose channels lie
in two files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from segkit.core.errors import SegkitError
from segkit.images.formats.base import ImageFormat, list_suffixes

MARK = "\ue000"
"""Stands for the name of a channel in the paths of the files of an image."""
JOINTS = "_-. "
"""What joins the name of a channel to that of an image."""
_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")
_NAME_END = re.compile("/|::|$")


def split_array(file: str | Path) -> tuple[Path, str | None]:
    """The path of a file and the array in it: ``a.h5::raw`` is the array raw in a.h5.

    Images whose channels lie in several files, as :func:`split_channels` reads them, stay whole.
    """
    path, mark, array = os.fspath(file).partition("::")
    if not mark or Path(file).exists() or len(split_channels(file)) > 1:
        return Path(file), None
    return Path(path), array


def join_array(path: Path, array: str | None) -> Path:
    """The inverse of :func:`split_array`."""
    return path if array is None else Path(f"{path}::{array}")


def split_channels(file: str | Path) -> list[Path]:
    """The files that an image is made of, in the order of its channels, each with its array.

    They are listed in braces: ``case_{0000,0001}.nii.gz`` is case_0000.nii.gz with
    case_0001.nii.gz, ``{red,nir}/x_{red,nir}.tif`` is red/x_red.tif with nir/x_nir.tif, and
    ``a.h5::{raw,edges}`` are two arrays of a file. Any other path, and one at which there is a file
    with braces in its name, is alone.

    Raises:
        SegkitError: The braces list different numbers of channels.
    """
    place, lists = _find_braces(file)
    if len({len(names) for names in lists}) > 1:
        counts = " and ".join(str(len(names)) for names in lists)
        raise SegkitError(f"{file}: its braces list {counts} channels: list as many in each.")
    if not lists:
        return [Path(file)]
    first, *others = place.split(MARK)
    return [
        Path(first + "".join(map("".join, zip(names, others, strict=True))))
        for names in zip(*lists, strict=True)
    ]


def join_channels(place: str, channels: Sequence[str]) -> str:
    """The inverse of :func:`split_channels`, for a path in which MARK stands for each channel.

    A single channel needs no braces.

    Example:
        >>> print(join_channels(f"train_{MARK}/{MARK}_1.tif", ["red", "nir"]))
        train_{red,nir}/{red,nir}_1.tif
    """
    names = ",".join(channels)
    return place.replace(MARK, f"{{{names}}}" if len(channels) > 1 else names)


def name_channels(file: str | Path) -> tuple[str, ...]:
    """The words that tell the files of an image apart: 0000 and 0001; empty if it has one file."""
    _, lists = _find_braces(file)
    return tuple(name.rpartition("/")[2] for name in lists[-1]) if lists else ()


def list_parts(file: str | Path) -> list[Path]:
    """The files that hold an image: one, or those of its channels."""
    return list(dict.fromkeys(split_array(each)[0] for each in split_channels(file)))


def find_absent(file: str | Path) -> list[Path]:
    """The files of an image that do not exist, each with its array."""
    return [each for each in split_channels(file) if not split_array(each)[0].exists()]


def _find_braces(file: str | Path) -> tuple[str, list[list[str]]]:
    """The path with MARK in place of braces that list channels, and what each of them lists.

    Braces in the name of a file or folder that exists list none.
    """
    text = os.fspath(file)
    found = list(_BRACES.finditer(text))
    while found and _is_path(text, found[0].end()):
        del found[0]
    place = text
    for match in reversed(found):
        place = place[: match.start()] + MARK + place[match.end() :]
    return place, [match[1].split(",") for match in found]


def _is_path(text: str, place: int) -> bool:
    """Whether there is a file or a folder at a path, up to the name that has a character there."""
    end = _NAME_END.search(text, place)
    return end is not None and os.path.lexists(text[: end.start()])


def strip_ending(path: Path) -> Path:
    """A path without the ending that tells the format, such as ``.nii.gz``.

    A folder keeps a name that no format knows. ``a.h5::volumes/raw`` becomes ``a-volumes-raw``, and
    ``case_{0000,0001}.nii.gz`` becomes ``case``.
    """
    place, _ = _find_braces(path)
    stem = _strip_ending(Path(place))
    if MARK not in place:
        return stem
    return Path(drop_channels(stem.as_posix()) or "-".join(name_channels(path)))


def _strip_ending(path: Path) -> Path:
    file, array = split_array(path)
    if array is not None:
        stem = _strip_ending(file)
        return stem.with_name(f"{stem.name}-{array.strip('/').replace('/', '-')}")
    ending = find_ending(path.name)
    if ending:
        return path.with_name(path.name[: -len(ending)])
    return path if path.is_dir() else path.with_suffix("")


def drop_channels(place: str) -> str:
    """A path without ending and without the marks of channels, and without what joins them to it.

    Example:
        >>> drop_channels(f"train_{MARK}/{MARK}_1")
        'train/1'
    """
    parts = []
    for part in place.split("/"):
        kept = ""
        for piece in part.split(MARK):
            piece = piece.lstrip(JOINTS) if not kept or kept[-1] in JOINTS else piece
            kept += piece
        if MARK in part:
            kept = kept.rstrip(JOINTS)
            if not kept:
                continue
        parts.append(kept)
    return "/".join(parts)


def find_ending(name: str) -> str:
    """The ending of a file name that tells the format; empty if no format knows it."""
    known, lower = _know_endings(len(ImageFormat.members())), name.lower()
    dot = lower.find(".", 1)
    while dot > 0 and lower[dot:] not in known:
        dot = lower.find(".", dot + 1)
    return name[dot:] if dot > 0 else ""


@lru_cache(maxsize=1)
def _know_endings(count: int) -> frozenset[str]:
    """The endings of so many formats; more are known once a plugin adds one."""
    return frozenset(list_suffixes())
