"""Write masks and pictures, whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

from segkit.core.errors import SegkitError
from segkit.core.files import write_whole
from segkit.images.place import Place, to_tiff_options
from segkit.images.raster import Array, decode_colors

FAST = 1
"""Deflate level of PNGs: a fifth of level 6's time; pictures as small, masks 1.5 times as large."""


def write_mask(
    path: str | Path,
    labels: Array,
    colored: bool = False,
    place: Place | None = None,
    nodata: int | None = None,
) -> None:
    """Write labels without loss: to PNG with 8 or 16 bits, to TIFF (deflate) with 8, 16 or 32 bits.

    Folders above the file are created.

    Args:
        path: ends in .png, .tif or .tiff.
        labels: (H, W) integers or bool; for TIFF also (N, H, W), written as N pages.
        colored: whether they are values of colours, (H, W), which are written as RGB.
        place: where the pixels lie, and ``nodata`` the label of pixels without data; for TIFF.

    Raises:
        SegkitError: for another suffix or shape, for values that are negative, not integers or too
            large for the format, and if the file cannot be written.
    """
    try:
        data = encode_mask(labels, Path(path).suffix.lower(), colored, place, nodata)
    except SegkitError as error:
        raise SegkitError(f"{path}: {error}") from error
    write_whole(path, data)


def encode_mask(
    labels: Array,
    suffix: str,
    colored: bool = False,
    place: Place | None = None,
    nodata: int | None = None,
) -> bytes:
    """Make the content of the file that `write_mask` writes, with the same errors."""
    dimensions = {".png": (2,), ".tif": (2, 3), ".tiff": (2, 3)}.get(suffix)
    if dimensions is None:
        raise SegkitError(f"masks are written as .png, .tif or .tiff, not as '{suffix}'.")
    if labels.ndim not in dimensions or labels.size == 0 or labels.dtype.kind not in "biu":
        wanted = "(H, W)" if dimensions == (2,) else "(H, W) or (N, H, W)"
        raise SegkitError(f"labels must be {wanted} integers, not {labels.shape} {labels.dtype}.")
    if colored:
        labels = decode_colors(labels)
    low, high = int(labels.min()), int(labels.max())
    kinds: list[type[np.uint8 | np.uint16 | np.int32]] = [np.uint8, np.uint16]
    if suffix != ".png":
        kinds.append(np.int32)
    dtype = next((kind for kind in kinds if high <= np.iinfo(kind).max), None)
    if dtype is None or low < 0:
        hint = " A .tif holds up to 2^31 - 1." if suffix == ".png" and low >= 0 else ""
        raise SegkitError(f"labels from {low} to {high} do not fit into a {suffix} file.{hint}")
    labels = labels.astype(dtype)
    if suffix == ".png":
        return _encode_png(labels)
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        labels,
        compression="zlib",
        photometric="rgb" if colored else "minisblack",
        metadata=None,
        **to_tiff_options(place, nodata),
    )
    return buffer.getvalue()


def _encode_png(values: Array) -> bytes:
    """Compress each row as its difference from the one above.

    To choose a filter for each row, as others do, takes two or three times as long, and saves 1 %.
    """
    rows = np.ascontiguousarray(values)
    return bytes(imagecodecs.png_encode(rows, level=FAST, filter=imagecodecs.PNG.FILTER.UP))


def write_image(path: str | Path, image: Array, place: Place | None = None) -> None:
    """Write an 8-bit picture to a PNG or, with its place, to a TIFF; makes folders above it.

    Args:
        path: ends in .png or .tif.
        image: uint8, (H, W, 3) RGB, (H, W, 4) RGBA, (H, W, 1) or (H, W) grey.
        place: where the pixels lie, for TIFF.

    Raises:
        SegkitError: The file cannot be written.
    """
    flat = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    if Path(path).suffix.lower() == ".png":
        write_whole(path, _encode_png(flat))
        return
    buffer = io.BytesIO()
    options = to_tiff_options(place)
    kind = "rgb" if flat.ndim == 3 else "minisblack"
    tifffile.imwrite(buffer, flat, compression="zlib", photometric=kind, metadata=None, **options)
    write_whole(path, buffer.getvalue())
