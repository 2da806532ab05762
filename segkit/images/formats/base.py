"""The format contract: how files are recognised, and how their images are read."""

from __future__ import annotations

import importlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from segkit.core.errors import SegkitError
from segkit.core.registry import Registrable
from segkit.images.place import Place
from segkit.images.raster import Array, Extent, Raster, Windows

START = 512
"""Bytes at the start of a file that tell its format."""
MARK = "\ue000"
"""Stands for the name of a channel in the paths of the files of an image."""

JOINTS = "_-. "
"""What joins the name of a channel to that of an image."""
_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")
_NAME_END = re.compile("/|::|$")


class Pages(ABC):
    """The images of an open file: its only one, or several as pages.

    Errors of decoders of any type are passed on.

    Attributes:
        guess: How the axes of an array that names none are read, such as "(pages, H, W)", and its
            shape; None where nothing is guessed.
        directions: Where the axes of a volume lead as stored, such as "RAS" (right, anterior,
            superior) of NIfTI; empty where pages are as stored.
    """

    guess: tuple[str, tuple[int, ...]] | None = None
    directions: str = ""

    @abstractmethod
    def __len__(self) -> int:
        """The number of pages."""

    @abstractmethod
    def read(self, page: int) -> Raster:
        """One page, whole."""

    @abstractmethod
    def read_extent(self, page: int) -> Extent:
        """The size of a page, without decoding it."""

    def read_size(self, page: int) -> tuple[int, int, int]:
        """Height and width of a page as stored, and its EXIF orientation, from its header."""
        extent = self.read_extent(page)
        return extent.height, extent.width, 1

    def read_palette(self, page: int) -> Array | None:
        """The colours of a page's values, (K, 3) uint8, from its header; None if it has none."""
        return None

    def open_windows(self, page: int) -> Windows | None:
        """Windows of a page; None where it can only be read whole, or would save no memory."""
        return None

    def read_place(self, page: int) -> Place | None:
        """Where the pixels of a page lie in the world as stored; None where it is not known."""
        return None

    def close(self) -> None:  # noqa: B027 - most keep no file open
        """Close the file."""


class ImageFormat(Registrable, ABC, family="image_format"):
    """A format of files. Members are used as classes: nothing is ever built.

    Attributes:
        title: What messages call the format.
        suffixes: Endings of its files in lower case, with the dot.
        starts: First bytes of its files.
        takes_content: Whether it opens what strangers upload, from memory.
        has_arrays: Whether a file may hold several named arrays, chosen as ``FILE::ARRAY``.
        has_pages: Whether a file may hold several images.
        maps_suffix: Ending of the files that :meth:`write_maps` writes; empty if predictions are
            written as pictures.
    """

    title: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = ()
    starts: ClassVar[tuple[bytes, ...]] = ()
    takes_content: ClassVar[bool] = False
    has_arrays: ClassVar[bool] = False
    has_pages: ClassVar[bool] = True
    maps_suffix: ClassVar[str] = ""

    @classmethod
    @abstractmethod
    def open(cls, file: Path | bytes, array: str | None = None) -> Pages:
        """Open a file that is the format's own, or the content of one if it ``takes_content``."""

    @classmethod
    def owns(cls, path: Path, start: bytes) -> bool:
        """Whether a file with this name and these first bytes is of the format.

        An upload has no name, an empty path.
        """
        return start.startswith(cls.starts)

    @classmethod
    def write_maps(cls, source: str | Path, pages: Sequence[Array], target: Path) -> None:
        """Write maps of all pages of a file to one that lies in the same voxels.

        A map holds labels, ids or probabilities: (H, W), or (C, H, W) with channels.

        Raises:
            SegkitError: The maps do not fit, or a file cannot be read or written.
        """
        raise NotImplementedError(f"{cls.title} has no files of maps")

    @classmethod
    def owns_folder(cls, path: Path) -> bool:
        """Whether a folder is an image of the format."""
        return False

    @classmethod
    def owns_name(cls, path: Path) -> bool:
        """Whether a path at which there is no file stands for an image of the format."""
        return False


def find_format(file: Path | bytes) -> type[ImageFormat] | None:
    """The format of a file or a folder, by its first bytes; None if no format is its own.

    Raises:
        OSError: The file cannot be opened.
    """
    members = list(ImageFormat.members().values())
    if isinstance(file, bytes):
        members = [each for each in members if each.takes_content]
        return next((each for each in members if each.owns(Path(), file[:START])), None)
    if file.is_dir():
        return next((each for each in members if each.owns_folder(file)), None)
    try:
        with file.open("rb") as opened:
            start = opened.read(START)
    except FileNotFoundError:
        named = next((each for each in members if each.owns_name(file)), None)
        if named is None:
            raise
        return named
    return next((each for each in members if each.owns(file, start)), None)


def may_have_pages(path: Path) -> bool:
    """Whether a file may hold several images, by its ending: most need not be opened for that."""
    ending = path.suffix.lower()
    return not any(
        ending in each.suffixes and not each.has_pages for each in ImageFormat.members().values()
    )


def split_array(file: str | Path) -> tuple[Path, str | None]:
    """The path of a file and the array in it: ``a.h5::raw`` is the array raw in a.h5.

    Images whose channels lie in several files, as :func:`split_channels` reads them, stay whole.
    """
    path, mark, array = os.fspath(file).partition("::")
    if not mark or Path(file).exists() or len(split_channels(file)) > 1:
        return Path(file), None
    return Path(path), array


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


def join_array(path: Path, array: str | None) -> Path:
    """The inverse of :func:`split_array`."""
    return path if array is None else Path(f"{path}::{array}")


def import_extra(package: str, extra: str) -> Any:
    """Import a package that an extra of segkit installs; call it only where a file needs it.

    Raises:
        SegkitError: It is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise SegkitError(
            f"reading it needs the package {package.partition('.')[0]}, which is not installed:"
            f" pip install 'segkit-torch[{extra}]'."
        ) from error


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
    lower = name.lower()
    endings = _sort_endings(len(ImageFormat.members()))
    ending = next((ending for ending in endings if lower.endswith(ending)), "")
    return name[-len(ending) :] if 0 < len(ending) < len(name) else ""


@lru_cache(maxsize=1)
def _sort_endings(count: int) -> list[str]:
    """The endings of so many formats, longest first; more are known once a plugin adds one."""
    return sorted(list_suffixes(), key=len, reverse=True)


def list_suffixes() -> list[str]:
    """The endings of all files that can be read, sorted."""
    return sorted({suffix for each in ImageFormat.members().values() for suffix in each.suffixes})


def is_image(path: Path) -> bool:
    """Whether the ending of a file says that it can be read, or a folder is an image.

    Hidden files are none: ``._a.png`` of a Mac is no picture.
    """
    name = path.name.lower()
    if name.startswith("."):
        return False
    if name.endswith(tuple(list_suffixes())):
        return path.is_file() or find_format(path) is not None
    return path.is_dir() and find_format(path) is not None
