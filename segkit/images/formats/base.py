"""The contract of formats: how files are recognised, and how their images are read."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from segkit.core.errors import SegkitError
from segkit.core.registry import Registrable
from segkit.images.place import Place
from segkit.images.raster import Array, Extent, Raster, Windows

START = 512
"""Bytes at the start of a file that tell its format."""


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

    A folder that cannot be read is no format's own.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It is none.
    """
    members = list(ImageFormat.members().values())
    if isinstance(file, bytes):
        members = [each for each in members if each.takes_content]
        return next((each for each in members if each.owns(Path(), file[:START])), None)
    if file.is_dir():
        with suppress(PermissionError):
            return next((each for each in members if each.owns_folder(file)), None)
        return None
    if not file.is_file() and file.exists():  # reading it might wait forever
        raise ValueError("it is a pipe or a device, not a file")
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


def list_suffixes() -> list[str]:
    """The endings of all files that can be read, sorted."""
    return sorted({suffix for each in ImageFormat.members().values() for suffix in each.suffixes})


def is_image(path: Path) -> bool:
    """Whether the ending of a file says that it can be read, or a folder is an image.

    Hidden files are none: ``._a.png`` of a Mac is no picture.
    """
    if path.name.startswith("."):
        return False
    if path.is_dir():
        return find_format(path) is not None
    return path.name.lower().endswith(tuple(list_suffixes()))
