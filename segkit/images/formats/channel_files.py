"""Images whose channels lie in several files: ``case_{0000,0001}.nii.gz``.

Each file is read as its own format says, and as a viewer shows it; then the channels of all of them
follow each other in the order in which the files are written. The files have the same height, width
and number of pages, and, where they say so, lie at the same place. Values of different types become
the common one, without loss. A pixel that has no data in one of the files has none in the image.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from segkit.core.errors import SegkitError
from segkit.images.formats.base import ImageFormat, Pages
from segkit.images.paths import split_array, split_channels
from segkit.images.place import FARTHEST, Place, describe_shift, find_shift
from segkit.images.place_files import read_place_beside
from segkit.images.raster import Extent, Raster, Windows, unite
from segkit.images.reading import develop, open_source, wrap_errors

T = TypeVar("T")


class ChannelFiles(ImageFormat, name="channel_files"):
    """Several files, each with channels of the same image."""

    title = "image in several files"

    @classmethod
    def owns_name(cls, path: Path) -> bool:
        """By the braces in the path."""
        return len(split_channels(path)) > 1

    @classmethod
    def open(cls, file: Path | bytes, array: str | None = None) -> Pages:
        """Open all files.

        Raises:
            SegkitError: One of them cannot be read, or they do not fit each other.
        """
        assert isinstance(file, Path)
        members = list[_Member]()
        with contextlib.ExitStack() as stack:
            for path in split_channels(file):
                with wrap_errors(path):
                    members.append(_Member(path, open_source(path)))
                stack.callback(members[-1].pages.close)
            pages = ChannelPages(members)
            stack.pop_all()
        return pages


class _Member(NamedTuple):
    """One of the files."""

    path: Path
    pages: Pages


class ChannelPages(Pages):
    """The pages of several open files, whose channels follow each other.

    Raises:
        SegkitError: They do not fit each other.
    """

    def __init__(self, members: Sequence[_Member]) -> None:
        self._members = members
        self.guess = next((each.pages.guess for each in members if each.pages.guess), None)
        self.directions = members[0].pages.directions
        self._require_same("number of pages", [len(each.pages) for each in members])
        for page in {0, len(self) - 1} if len(self) else ():
            self._require_fit(page)

    def __len__(self) -> int:
        return len(self._members[0].pages)

    def read(self, page: int) -> Raster:
        """The channels of a page of all files."""
        rasters = self._ask(lambda pages: pages.read(page))
        self._require_same("size", [raster.values.shape[:2] for raster in rasters])
        return _stack(rasters)

    def read_extent(self, page: int) -> Extent:
        """The size of a page, with the channels of all files."""
        heights, widths, channels = zip(
            *self._ask(lambda pages: pages.read_extent(page)), strict=True
        )
        return Extent(max(heights), max(widths), sum(channels))

    def read_size(self, page: int) -> tuple[int, int, int]:
        """As the first file says it: all say the same."""
        return self._members[0].pages.read_size(page)

    def open_windows(self, page: int) -> Windows | None:
        """Windows of the files, if all have some."""
        found = self._ask(lambda pages: pages.open_windows(page))
        windows = [each for each in found if each is not None]
        if len(windows) < len(found):
            return None

        def read(top: int, left: int, height: int, width: int) -> Raster:
            return _stack([each.read(top, left, height, width) for each in windows])

        return Windows(windows[0].size, _stack([each.kind for each in windows]), read)

    def read_place(self, page: int) -> Place | None:
        """Where the pixels lie by the first file that says it."""
        return next((place for place in self._read_places(page) if place is not None), None)

    def close(self) -> None:
        """Close all files."""
        for each in self._members:
            each.pages.close()

    def _ask(self, question: Callable[[Pages], T]) -> list[T]:
        """An answer of each file; errors name it."""
        answers = []
        for each in self._members:
            with wrap_errors(each.path):
                answers.append(question(each.pages))
        return answers

    def _read_places(self, page: int) -> list[Place | None]:
        places = self._ask(lambda pages: pages.read_place(page))
        if len(self) > 1:
            return places
        files = (split_array(each.path)[0] for each in self._members)
        return list(map(read_place_beside, files, places))

    def _require_same(self, what: str, values: Sequence[object]) -> None:
        for each, value in zip(self._members, values, strict=True):
            if value != values[0]:
                raise SegkitError(
                    f"its channels do not fit each other: the {what} of {self._members[0].path} is"
                    f" {_state(values[0])}, that of {each.path} {_state(value)}. Bring them onto"
                    " one grid."
                )

    def _require_fit(self, page: int) -> None:
        """Compare the sizes of a page and its places, as far as the files say where they lie."""
        sizes = self._ask(lambda pages: pages.read_size(page))
        self._require_same("size", [size[:2] for size in sizes])
        self._require_same("orientation", [size[2] for size in sizes])
        size = sizes[0][:2]
        first, *others = self._read_places(page)
        for each, place in zip(self._members[1:], others, strict=True):
            shift = find_shift((first, place), (size, size)) if first and place else None
            if shift is not None and shift >= FARTHEST:
                raise SegkitError(
                    f"its channels do not fit each other: {self._members[0].path} and {each.path}"
                    f" lie {describe_shift(shift)} by their headers. Bring them onto one grid."
                )


def _state(value: object) -> str:
    return " x ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _stack(rasters: Sequence[Raster]) -> Raster:
    """One raster with the channels of several, which have the same size and orientation."""
    shown = [develop(raster) for raster in rasters]
    missing = unite(*(empty for _, empty in shown))
    values = np.concatenate([values for values, _ in shown], axis=2)
    return Raster(values, missing=missing, orientation=rasters[0].orientation)
