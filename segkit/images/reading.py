"""Image and mask files to arrays.

The first bytes of a file determine its format, not its suffix; `segkit.images.formats` has a module
for each. An *image* is read as a viewer shows it: palettes and inks become colours, 1 bit black and
white, and white-is-zero is inverted. A *mask* is read as the numbers in the file: palettes stay
indices, and 1 bit is 0 and 1, where 1 is white; white-is-zero is inverted here too. The EXIF (or
TIFF) orientation applies to both, because the mask was drawn over the rotated image.

Pixels without data are masked (`numpy.ma`): those that are transparent, by an alpha channel, a
palette or a mask in the file or beside it, those that have GDAL's nodata value in all channels, and
NaN. An alpha channel is not a channel of the image; other additional channels are.

In a TIFF the samples of one page are channels, interleaved or plane by plane. Several pages are
channels of one image only where the file's own metadata (OME, ImageJ or tifffile's) name that axis
C; all others are pages, from which the caller chooses. Overviews and transparency masks do not
count. Of a file with several arrays, as a zarr or HDF5 is, ``FILE::ARRAY`` is one; of a slide
``FILE::LEVEL`` is a level, and of a volume ``FILE::PLANE`` are its slices in a plane. Channels may
lie in several files: ``case_{0000,0001}.nii.gz`` is one image.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segkit.core.errors import SegkitError
from segkit.images.formats.base import START, Pages, find_format, list_suffixes
from segkit.images.mask_beside import add_mask_beside
from segkit.images.paths import list_parts, split_array
from segkit.images.place import Place
from segkit.images.place_files import read_place_beside
from segkit.images.raster import (
    Array,
    Extent,
    Raster,
    find_nodata,
    full_scale,
    is_opaque,
    require_room,
    rotate_upright,
    unite,
)

FINE = 0.01
"""Steps of scaled values up to which labels can be told from fractions."""

_NOT_READ: dict[str, tuple[int, tuple[bytes, ...]]] = {
    "AVIF": (4, (b"ftypavif",)),
    "HEIF": (4, (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1")),
    "JPEG XL": (0, (b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    "netCDF 3": (0, (b"CDF\1", b"CDF\2", b"CDF\5")),
    "HDF 4": (0, (b"\x0e\x03\x13\x01",)),
    "OpenEXR": (0, (b"v/1\x01",)),
    "FITS": (0, (b"SIMPLE  =",)),
    "PAM": (0, (b"P7\n",)),
    "PDF": (0, (b"%PDF",)),
}
"""Images of formats that are known by their bytes at a place, and no more."""
_CONVERTERS = {"netCDF 3": " with 'nccopy -k nc4 IN OUT'", "HDF 4": " with 'h4toh5 IN OUT'"}

File = str | Path | bytes
"""The path of a file or zarr, or the content of a file, which error messages call "the file"."""


def count_pages(file: File) -> int:
    """Count the pages of a file, as this module's docstring and those of the formats define them.

    Raises:
        SegkitError: The file cannot be read.
    """
    with ImageReader(file) as reader:
        return len(reader)


def read_image(
    file: File, page: int | None = None, keep_alpha: bool = False, upright: bool = True
) -> Array:
    """Read one image as (H, W, C), in the order R, G, B if it has colours.

    To read many pages of a file, open it once with `ImageReader`.

    Returns:
        uint8, uint16 or float32 with the values as stored; only grey of 1, 2 or 4 bits is spread to
        0..255. Signed and 32- or 64-bit integers and other floats become float32 with the same
        numbers (rounded above 2^24). An animation gives its first frame. A masked array if pixels
        have no data.

    Args:
        file: its path, or its content.
        page: which page, from 0; may be omitted if there is only one.
        keep_alpha: whether an alpha channel is the last channel of the image, and hides nothing.
        upright: whether it is turned as its EXIF orientation says.

    Raises:
        SegkitError: The file is missing, not an image, truncated or damaged, has several pages and
            none was chosen, or has no such page.
    """
    with ImageReader(file, upright) as reader:
        return reader.read_image(page, keep_alpha)


def read_mask(path: str | Path, page: int | None = None) -> Array:
    """Read one mask as (H, W), or as (H, W, C) if its channels differ in meaning or in value.

    Returns:
        uint8 and uint16 as stored; 1 bit as uint8 0 and 1; everything else as int32.

    Args:
        path: the file.
        page: which page, from 0; may be omitted if there is only one.

    Raises:
        SegkitError: as `read_image`, and for values that are not whole numbers or exceed int32.
    """
    with ImageReader(path) as reader:
        return reader.read_mask(page)


def read_extent(file: File, page: int | None = None) -> Extent:
    """Read how large an image would be in memory, without decoding it.

    A file of a few kilobytes can hold gigapixels: files from strangers are checked with this first.
    Tiles of a TIFF that are larger than the image count in full.

    Raises:
        SegkitError: as `read_image`, as far as the header shows.
    """
    with ImageReader(file) as reader:
        return reader.read_extent(page)


class ImageReader:
    """An open image file or zarr, whose pages are read one after the other.

    Example:
        >>> with ImageReader("stack.tif") as reader:
        ...     images = [reader.read_image(page) for page in range(len(reader))]
    """

    def __init__(self, file: File, upright: bool = True) -> None:
        """Open a file, whose EXIF orientations are obeyed if ``upright``.

        Raises:
            SegkitError: The file is missing, not an image, truncated or damaged.
        """
        self.file, self._upright = file, upright
        with wrap_errors(file):
            self._source = open_source(file)

    def __len__(self) -> int:
        return len(self._source)

    @property
    def guess(self) -> tuple[str, tuple[int, ...]] | None:
        """How the axes of an array that names none are read; see `Pages`."""
        return self._source.guess

    @property
    def directions(self) -> str:
        """Where the axes of a volume lead as stored; see `Pages`."""
        return self._source.directions

    def read(self, page: int | None = None) -> Raster:
        """Read one page as stored, for `render` or `simplify_mask`."""
        with wrap_errors(self.file):
            number = choose_page(page, len(self))
            require_room(self._source.read_extent(number))
            raster = self._source.read(number)
        return raster if self._upright else raster._replace(orientation=1)

    def read_image(self, page: int | None = None, keep_alpha: bool = False) -> Array:
        """Read one page, see `segkit.images.reading.read_image`."""
        raster = self.read(page)
        with wrap_errors(self.file):
            return render(raster, keep_alpha)

    def read_mask(self, page: int | None = None) -> Array:
        """Read one page, see `segkit.images.reading.read_mask`."""
        raster = self.read(page)
        with wrap_errors(self.file):
            return simplify_mask(raster)

    def read_extent(self, page: int | None = None) -> Extent:
        """Read the size of one page, see `segkit.images.reading.read_extent`."""
        with wrap_errors(self.file):
            return self._source.read_extent(choose_page(page, len(self)))

    def read_size(self, page: int | None = None) -> tuple[int, int]:
        """Read the height and width of one page, as its image has them."""
        with wrap_errors(self.file):
            height, width, turned = self._source.read_size(choose_page(page, len(self)))
        return (width, height) if self._upright and turned > 4 else (height, width)

    def read_palette(self, page: int | None = None) -> Array | None:
        """Read the colours of the values of one page, (K, 3) uint8; None if it has no palette."""
        with wrap_errors(self.file):
            return self._source.read_palette(choose_page(page, len(self)))

    def read_place(self, page: int | None = None) -> Place | None:
        """Read where the pixels of one page lie in the world; None if no file says so.

        Files beside the image count too, if it has one page. Of an image that is turned only the
        size of a pixel is known.
        """
        with wrap_errors(self.file):
            number = choose_page(page, len(self))
            place = self._source.read_place(number)
            if not isinstance(self.file, bytes) and len(self) == 1:
                place = read_place_beside(list_parts(self.file)[0], place)
            turned = self._source.read_size(number)[2] if place and self._upright else 1
        if place is None or turned == 1:
            return place
        size = place.pixel_size
        return size and Place(pixel_size=size[::-1] if turned > 4 else size)

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""
        self._source.close()

    def __enter__(self) -> ImageReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_source(file: File) -> Pages:
    """Open the images of a file, in the format that its first bytes tell."""
    path, array = (file, None) if isinstance(file, bytes) else split_array(file)
    found = find_format(path)
    if found is None:
        if isinstance(path, Path) and path.is_dir():
            os.scandir(path).close()  # fails with the reason if it may not be opened
            raise ValueError("it is a folder, but not a zarr or another image")
        raise ValueError(_explain_content(path))
    if array is not None and not found.has_arrays:
        raise SegkitError(f"a {found.title} has no arrays to choose from: leave '::{array}' out.")
    pages = found.open(path, array)
    try:
        return pages if isinstance(path, bytes) else add_mask_beside(pages, path)
    except BaseException:
        pages.close()
        raise


def _explain_content(file: Path | bytes) -> str:
    """What a file is that no format owns, and the remedy."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            start = opened.read(START)
    else:
        start = file[:START]
    if not start:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, without the image: run 'git lfs pull'"
    for title, (at, starts) in _NOT_READ.items():
        if start.startswith(starts, at):
            converter = _CONVERTERS.get(title, " to PNG or TIFF")
            return f"it is {title}, which is not read: convert it{converter}"
    known = ", ".join(list_suffixes())
    return f"it is not an image; known are {known}. Convert others to PNG or TIFF"


def choose_page(page: int | None, count: int) -> int:
    """The page to read of a file with that many pages.

    Raises:
        SegkitError: There are several pages and none was chosen, or there is no such page.
        ValueError: There are no pages.
    """
    if not count:
        raise ValueError("it has no pages, or is truncated")
    if page is None and count > 1:
        raise SegkitError(
            f"the file has {count} pages; choose one of 0 to {count - 1}. To store the channels of"
            " one image, put them into one page (as samples) or into an axis named C."
        )
    if not 0 <= (page or 0) < count:
        raise SegkitError(f"there is no page {page}; the file has pages 0 to {count - 1}.")
    return page or 0


def render(raster: Raster, keep_alpha: bool = False) -> Array:
    """The image as a viewer shows it, (H, W, C); see `read_image`."""
    values, missing = develop(raster, keep_alpha)
    values = np.ascontiguousarray(rotate_upright(values, raster.orientation))
    if missing is not None:
        missing = rotate_upright(missing, raster.orientation)
    return _mask_missing(values, missing)


def develop(raster: Raster, keep_alpha: bool = False) -> tuple[Array, Array | None]:
    """What a viewer shows of the pixels as they are stored, still not turned.

    Returns:
        The values (H, W, C), uint8, uint16 or float32, and where pixels have no data, (H, W), or
        None; NaN is not counted.
    """
    values = raster.values
    if raster.palette is not None:
        others = values[..., 1:]  # such as alpha
        values = np.take(raster.palette, values[..., 0], axis=0)  # bool for 1 bit
        if others.shape[2]:
            if others.dtype == np.uint16:
                others = (others >> 8).astype(np.uint8)
            values = np.concatenate([values, others], axis=2)
    elif raster.white_is_zero and values.dtype == np.bool_:
        values = ~values
    elif raster.white_is_zero and values.dtype.kind == "u":
        values = _invert(values, raster.bits)
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    elif raster.bits in (2, 4) and raster.palette is None:
        values = values * np.uint8(255 // (2**raster.bits - 1))
    elif values.dtype not in (np.uint8, np.uint16):
        with np.errstate(over="ignore"):  # of 64 bits, which become infinite
            values = values.astype(np.float32)
    missing = unite(raster.missing, find_nodata(raster))
    if raster.is_cmyk:
        values = _convert_inks(values)
    if raster.alpha and not keep_alpha:
        values, hidden = _apply_alpha(values, raster.alpha == "premultiplied")
        missing = unite(missing, hidden)
    return values, missing


def _invert(values: Array, bits: int) -> Array:
    """Grey values of so many bits, 0 for all, of which 0 is shown white."""
    inverted: Array = values.dtype.type(2 ** (bits or 8 * values.itemsize) - 1) - values
    return inverted


def _convert_inks(values: Array) -> Array:
    """Cyan, magenta, yellow and black, and what follows, to RGB and what follows."""
    scale = full_scale(values.dtype)
    inks, black = values[..., :3].astype(np.float32), values[..., 3:4].astype(np.float32)
    light = (scale - inks) * (scale - black) / scale
    if values.dtype.kind == "u":
        light = np.rint(light)
    return np.concatenate([light.astype(values.dtype), values[..., 4:]], axis=2)


def _apply_alpha(values: Array, premultiplied: bool) -> tuple[Array, Array]:
    """The colours of an image without its alpha channel, and where it is transparent (H, W)."""
    colours, alpha = values[..., :-1], values[..., -1:]
    if premultiplied and not is_opaque(values):
        scale = full_scale(values.dtype) / np.maximum(alpha.astype(np.float32), 1e-6)
        straight = np.minimum(colours * scale, full_scale(values.dtype))
        if values.dtype.kind == "u":
            straight = np.rint(straight)
        colours = np.where(alpha > 0, straight, 0).astype(values.dtype)
    return colours, alpha[..., 0] == 0


def _mask_missing(values: Array, missing: Array | None) -> Array:
    """A masked array if any value is missing: where ``missing``, (H, W), and where a float is NaN.

    Without missing values it is a plain array.
    """
    mask: Array = np.isnan(values) if values.dtype == np.float32 else np.zeros((), np.bool_)
    if missing is not None and missing.any():
        mask = mask | missing[..., None]
    if not mask.any():
        return values
    return np.ma.MaskedArray(values, np.array(np.broadcast_to(mask, values.shape)))


def simplify_mask(raster: Raster) -> Array:
    """Drop channels that tell nothing, and convert to uint8, uint16 or int32."""
    values = rotate_upright(raster.values, raster.orientation)
    if values.dtype == np.bool_:
        values = (values ^ raster.white_is_zero).astype(np.uint8)
    elif raster.white_is_zero and values.dtype.kind == "u":
        values = _invert(values, raster.bits)
    if raster.alpha and values.shape[2] in (2, 4) and is_opaque(values):
        values = values[..., :-1]
    if raster.is_rgb and values.shape[2] == 3 and (values[..., 1:] == values[..., :1]).all():
        values = values[..., :1]
    if values.shape[2] == 1:
        values = values[..., 0]
    if 0 < raster.step <= FINE:
        whole = np.rint(values)
        if (np.abs(values - whole) <= raster.step).all():
            values = whole
    if values.dtype not in (np.uint8, np.uint16):
        values = _to_int32(values)
    return np.ascontiguousarray(values)


def _to_int32(values: Array) -> npt.NDArray[np.int32]:
    low, high = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    if values.dtype.kind == "f":
        values = values.astype(np.float64)  # holds every int32, unlike float32
        if not (values == np.trunc(values)).all():  # NaN equals nothing
            raise SegkitError("a mask must hold whole numbers, not fractions or NaN.")
    if values.dtype.kind not in "iuf" or not ((values >= low) & (values <= high)).all():
        raise SegkitError(f"a mask must hold 32-bit integers; its {values.dtype} exceed them.")
    return values.astype(np.int32)


@contextmanager
def wrap_errors(file: File) -> Iterator[None]:
    """Turn all errors of decoders into a SegkitError that names the file; hide their warnings."""
    name = "the file" if isinstance(file, bytes) else file
    before = getattr(_thread, "is_reading", False)
    _thread.is_reading = True
    try:
        yield
    except SegkitError as error:
        raise SegkitError(f"{name}: {error}") from error
    except MemoryError as error:
        raise SegkitError(
            f"{name}: does not fit into memory with the size that its header states; if that is"
            " wrong, it is damaged."
        ) from error
    except ImportError as error:  # of a codec
        raise SegkitError(
            f"{name}: cannot be read: the installed imagecodecs has no decoder for its compression"
            f" ({error}). Save it again with deflate or LZW, or update imagecodecs."
        ) from error
    except Exception as error:  # decoders raise anything: struct.error, zlib.error, IndexError ...
        reason = explain_error(error)
        if isinstance(error, FileNotFoundError) and Path(str(name)).is_symlink():
            reason = f"it is a link to {Path(str(name)).readlink()}, which is not there"
        raise SegkitError(f"{name}: cannot be read: {reason}.") from error
    finally:
        _thread.is_reading = before


def explain_error(error: Exception) -> str:
    """What is wrong with a file, without the full stop: what a decoder says gets a remedy."""
    said = getattr(error, "strerror", None)
    reason = (said or str(error) or type(error).__name__).rstrip(".")
    if "> not supported" in reason:  # of tifffile, about a compression
        return f"{reason}. Save it again with deflate or LZW"
    if said or (isinstance(error, ValueError) and _is_own(error)):
        return str(reason)
    return f"it is damaged, or of a kind that is not read ({reason}): convert it to PNG or TIFF"


def _is_own(error: Exception) -> bool:
    """Whether an error was raised here, with a reason and a remedy, and not by a decoder."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and place.tb_frame.f_globals["__name__"].startswith("segkit.")


_thread = threading.local()
for _name in ("tifffile", "nibabel.global", "pydicom"):
    logging.getLogger(_name).addFilter(lambda _: not getattr(_thread, "is_reading", False))
