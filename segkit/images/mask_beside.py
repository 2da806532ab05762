"""GDAL's mask beside an image: ``a.tif.msk`` tells which pixels of ``a.tif`` have data.

GDAL writes one for formats without masks of their own, and for TIFF unless
``GDAL_TIFF_INTERNAL_MASK=YES``. It is a TIFF that says so in its metadata; others are not read.
"""

from __future__ import annotations

from pathlib import Path

from segkit.core.errors import SegkitError
from segkit.images.formats.base import Pages
from segkit.images.formats.tiff import Tiff, TiffPages
from segkit.images.place import Place
from segkit.images.raster import Array, Extent, Raster, Windows, require_room, unite

ENDING = ".msk"
"""What such a file has after the name of its image."""
_METADATA = 42112
"""GDAL's tag for metadata."""


def add_mask_beside(pages: Pages, file: Path) -> Pages:
    """The image of a file without the pixels that a mask beside it hides.

    Raises:
        SegkitError: The mask cannot be read, or has another size than the image.
    """
    path = file.with_name(file.name + ENDING)
    if len(pages) != 1 or not path.is_file() or not _is_tiff(path):
        return pages
    try:
        mask = TiffPages(path)
    except Exception as error:  # decoders raise anything
        raise SegkitError(f"its mask {path.name} cannot be read: {error}.") from error
    if "INTERNAL_MASK_FLAGS_1" not in str(mask.file.pages.first.tags.valueof(_METADATA, "")):
        mask.close()
        return pages
    size, own = pages.read_size(0)[:2], mask.read_size(0)[:2]
    if size != own:
        mask.close()
        raise SegkitError(
            f"its mask {path.name} has {own[0]} x {own[1]} pixels (height x width), the image"
            f" {size[0]} x {size[1]}: write it again, or remove it if it belongs to another image."
        )
    return _MaskedPages(pages, mask)


def _is_tiff(path: Path) -> bool:
    with path.open("rb") as opened:
        return opened.read(4).startswith(Tiff.starts)


class _MaskedPages(Pages):
    """An image of one page, and its mask; 0 is no data."""

    def __init__(self, image: Pages, mask: Pages) -> None:
        self._image, self._mask = image, mask
        self.guess, self.directions = image.guess, image.directions

    def __len__(self) -> int:
        return 1

    def read(self, page: int) -> Raster:
        require_room(self._mask.read_extent(0))
        return _hide(self._image.read(page), self._mask.read(0))

    def read_extent(self, page: int) -> Extent:
        return self._image.read_extent(page)

    def read_size(self, page: int) -> tuple[int, int, int]:
        return self._image.read_size(page)

    def read_palette(self, page: int) -> Array | None:
        return self._image.read_palette(page)

    def read_place(self, page: int) -> Place | None:
        return self._image.read_place(page)

    def open_windows(self, page: int) -> Windows | None:
        image, mask = self._image.open_windows(page), self._mask.open_windows(0)
        if image is None or mask is None:
            return None

        def read(*window: int) -> Raster:
            return _hide(image.read(*window), mask.read(*window))

        return Windows(image.size, _hide(image.kind, mask.kind), read)

    def close(self) -> None:
        self._image.close()
        self._mask.close()


def _hide(raster: Raster, mask: Raster) -> Raster:
    """Pixels without those that the mask hides; also what a picture does not paint has no data."""
    missing = unite(raster.missing, (mask.values == 0).all(axis=2))
    return raster._replace(missing=missing, is_painted=False)
