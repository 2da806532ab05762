"""Uploads: limits on files and pixels, and decoding; guards.py limits the body of a request."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, NamedTuple

from numpy.typing import NDArray

from segkit.checkpoint.card import ModelCard
from segkit.config.settings import ServeSettings
from segkit.core.errors import SegkitError
from segkit.images.formats.base import ImageFormat, find_format
from segkit.images.reading import count_pages, read_extent, read_image

MEBIBYTE = 2**20


class UploadError(SegkitError):
    """A refused upload, with the HTTP status for the reason."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Upload(NamedTuple):
    """An uploaded image.

    Attributes:
        stem: The file's name without its ending, for names of downloads; never used as a path.
        image: (H, W, C) from :func:`segkit.images.reading.read_image`.
        page: The page of the file, from 0.
        pages: Number of pages in the file.
    """

    stem: str
    image: NDArray[Any]
    page: int
    pages: int

    @property
    def title(self) -> str:
        """The stem, with the page if there are several."""
        return self.stem if self.pages == 1 else f"{self.stem}_{self.page:04d}"


def refuse_bytes(settings: ServeSettings) -> UploadError:
    """Make the error for a file above the limit."""
    return UploadError(
        f"the upload is larger than {settings.max_upload_mb:g} MiB. Start the server with a larger"
        " max_upload_mb, or use python -m segkit.predict.",
        413,
    )


def check_upload(data: bytes, page: int | None, settings: ServeSettings, card: ModelCard) -> int:
    """Check the size of the image in an upload without decoding it; the number of its pixels.

    A pixel may have as many values as the model has channels, or four.

    Raises:
        UploadError: It is too large (413), or not an image of a known format (415).
        SegkitError: Its head is damaged, or it has no such page.
    """
    if len(data) > settings.max_upload_mb * MEBIBYTE:
        raise refuse_bytes(settings)
    if find_format(data) is None:
        what = "is not an image of a known format" if data else "is empty"
        known = [each.title for each in ImageFormat.members().values() if each.takes_content]
        raise UploadError(f"the file {what}: known are {', '.join(sorted(known))}.", 415)
    limit, extent = settings.max_pixels, read_extent(data, page)
    values = extent.pixels * extent.channels
    if extent.pixels > limit or values > limit * max(4, card.in_channels):
        raise UploadError(
            f"the image has {extent.width} x {extent.height} pixels of {extent.channels} channels,"
            f" and the limit is {limit} pixels. Start the server with a larger max_pixels, or use"
            " python -m segkit.predict.",
            413,
        )
    return extent.pixels


def read_upload(
    name: str, data: bytes, page: int | None, settings: ServeSettings, card: ModelCard
) -> Upload:
    """Read the image in an upload; it is decoded only if its size is within the limits.

    Raises:
        UploadError: See :func:`check_upload`.
        SegkitError: It is damaged, or has no such page.
    """
    check_upload(data, page, settings, card)
    image = read_image(data, page, card.keeps_alpha, card.is_upright)
    return Upload(make_stem(name), image, page or 0, count_pages(data))


def make_stem(name: str) -> str:
    """Strip folders, ending and control characters from a file name; keep 100 characters.

    Example:
        >>> make_stem("C:\\\\scans\\\\a.b.tif")
        'a.b'
    """
    stem = PurePosixPath(name.replace("\\", "/")).stem
    kept = "".join(sign for sign in stem if sign.isprintable())[:100].strip(". ")
    return kept or "image"
