"""Uploads: how large they may be, and which are images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.images.reading import count_pages, has_known_start, read_extent, read_image

MEBIBYTE = 2**20


class UploadError(SegkitError):
    """An upload that is refused, with the status of HTTP that says why."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """What an upload may weigh.

    Attributes:
        max_bytes: Of the file.
        max_pixels: Of the image, height times width.
    """

    max_bytes: int
    max_pixels: int

    def too_many_bytes(self) -> UploadError:
        """The error for a file above the limit."""
        return UploadError(
            f"the upload is larger than {self.max_bytes / MEBIBYTE:g} MiB. Start the server with a"
            " larger max_upload_mb, or use python -m segkit.predict.",
            413,
        )


class Upload(NamedTuple):
    """An image that came in.

    Attributes:
        stem: Its file's name without the ending, for the names of downloads; never a path here.
        image: (H, W, C) as :func:`segkit.images.reading.read_image` gives it.
        page: Which page of the file it is, from 0.
        pages: How many it has.
    """

    stem: str
    image: NDArray[Any]
    page: int
    pages: int

    @property
    def title(self) -> str:
        """The stem, with the page where there are several."""
        return self.stem if self.pages == 1 else f"{self.stem}_{self.page:04d}"


def read_upload(
    name: str, data: bytes, page: int | None, limits: Limits, channels: int = 3
) -> Upload:
    """The image in an upload; it is decoded only after its size is known to be within the limits.

    Args:
        name: What the client calls the file.
        data: Its content.
        page: Which page, from 0; may be left out where there is one.
        limits: What it may weigh.
        channels: Of the images that the model takes; so many values a pixel are allowed, and four.

    Raises:
        UploadError: It is too large (413), or no image of a known format (415).
        SegkitError: It is damaged, or has no such page.
    """
    if len(data) > limits.max_bytes:
        raise limits.too_many_bytes()
    if not has_known_start(data):
        what = "is empty" if not data else "is no image that can be read"
        raise UploadError(f"the file {what}: send a PNG, JPEG, TIFF, BMP or WebP.", 415)
    extent = read_extent(data, page)
    values = extent.pixels * extent.channels
    if extent.pixels > limits.max_pixels or values > limits.max_pixels * max(4, channels):
        raise UploadError(
            f"the image has {extent.width} x {extent.height} pixels of {extent.channels} channels,"
            f" and the limit is {limits.max_pixels} pixels. Start the server with a larger"
            " max_pixels, or use python -m segkit.predict.",
            413,
        )
    image = read_image(data, page)
    return Upload(stem_of(name), image, page or 0, count_pages(data))


def stem_of(name: str) -> str:
    """The name of a file without folders, ending and control characters, at most 100 characters.

    Example:
        >>> stem_of("C:\\\\scans\\\\a.b.tif")
        'a.b'
    """
    stem = PurePosixPath(name.replace("\\", "/")).stem
    kept = "".join(sign for sign in stem if sign.isprintable())[:100].strip(". ")
    return kept or "image"
