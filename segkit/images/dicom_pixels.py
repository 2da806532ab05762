"""The pixels of DICOM frames: unpacked, and what their header says about the values."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import imagecodecs
import numpy as np

from segkit.core.errors import SegkitError
from segkit.images.dicom_slices import Slice, quiet
from segkit.images.formats.base import import_extra
from segkit.images.raster import Array, Raster
from segkit.images.stated_size import require_room_for_picture

_JPEG = "1.2.840.10008.1.2.4."
_BIG_ENDIAN, _RLE = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"
_PLAIN_SYNTAXES = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    _BIG_ENDIAN,
    _RLE,
)
"""Transfer syntaxes that pydicom decodes by itself: not packed, deflated, RLE."""
_LOSSY = tuple(_JPEG + end for end in ("50", "51", "81", "91", "203"))
_OWN_COLOURS = (".50", ".51")
"""Ends of transfer syntaxes whose decoders give RGB whatever is stored."""
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_GREY = ("MONOCHROME1", "MONOCHROME2")
_END = b"\xff\xd9"
"""Last bytes of every kind of JPEG."""


def read_frame(dataset: Any, each: Slice, is_scaled: bool) -> Raster:
    """A frame, (H, W, C), with the values of its unit, such as Hounsfield's.

    Args:
        dataset: the whole file, as pydicom's Dataset.
        each: the frame.
        is_scaled: whether any frame of the series has a slope or an intercept.

    Raises:
        SegkitError: Its colours or its compression are not read.
        ValueError: Its pixels are cut short, or are not those that its header describes.
    """
    colours = read_colours(each.header)
    stored = decode_frame(dataset, each)
    syntax = dataset.file_meta.TransferSyntaxUID
    raster = Raster(stored.reshape(*stored.shape[:2], -1), is_lossy=syntax in _LOSSY)
    if colours == "PALETTE COLOR":
        return raster._replace(palette=_read_palette(dataset, stored.dtype))
    if colours in _COLOURS:
        return raster._replace(is_rgb=True)
    raster = raster._replace(missing=_find_padding(stored, each.header))
    if colours == "MONOCHROME1":
        stored = _invert(stored, each.header)
    if "ModalityLUTSequence" in dataset:
        with quiet():
            pixels = import_extra("pydicom.pixels", "medical")
            stored = pixels.apply_modality_lut(stored, dataset)
    elif is_scaled:
        stored = _rescale(stored, *each.scale)
    return raster._replace(values=stored[..., None])


def decode_frame(dataset: Any, each: Slice) -> Array:
    """A frame as stored, (H, W) or (H, W, 3) RGB, in the type that its header declares.

    Raises:
        SegkitError: It is packed in a way that nothing here unpacks.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    pixels = import_extra("pydicom.pixels", "medical")
    if syntax in _PLAIN_SYNTAXES:
        if dataset.BitsAllocated == 1 and syntax not in (_RLE, _BIG_ENDIAN):
            return _unpack_bits(dataset, each)
        with quiet():
            found: Array = pixels.pixel_array(dataset, index=each.frame)
        return found.astype(found.dtype.newbyteorder("="), copy=False)
    colours = read_colours(dataset)
    decode = _find_decoder(str(syntax), colours)
    if decode is None:
        raise SegkitError(
            f"its pixels are packed as {syntax.name}, which is not read: convert it, for example"
            " with dcmdjpeg or gdcmconv --raw."
        )
    encaps = import_extra("pydicom.encaps", "medical")
    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths
    count = int(dataset.get("NumberOfFrames") or 1)
    data = encaps.get_frame(
        dataset.PixelData, each.frame, number_of_frames=count, extended_offsets=offsets
    )
    if not data.rstrip(b"\0\xff").endswith(_END):  # codecs would fill the rest, or take minutes
        raise ValueError("its pixels are cut short")
    require_room_for_picture(data)
    values = np.asarray(decode(data))
    wanted = (int(dataset.Rows), int(dataset.Columns))
    samples = int(dataset.SamplesPerPixel)
    if values.shape != (wanted if samples == 1 else (*wanted, samples)):
        raise ValueError(f"its pixels are {values.shape}, and not {wanted} as its header says")
    with quiet():
        if colours in ("YBR_FULL", "YBR_FULL_422") and not str(syntax).endswith(_OWN_COLOURS):
            values = pixels.convert_color_space(values, "YBR_FULL", "RGB")
        dtype = pixels.utils.pixel_dtype(dataset).newbyteorder("=")
    if dtype.kind == "i":  # codecs know no sign, and give the bits
        unused = 8 * dtype.itemsize - int(dataset.BitsStored)
        return (values.astype(dtype) << unused) >> unused
    return values.astype(dtype, copy=False)


def _unpack_bits(dataset: Any, each: Slice) -> Array:
    """A frame of bits, which may begin amid a byte; pydicom only reads all frames of these."""
    height, width = each.size
    first, skip = divmod(each.frame * height * width, 8)
    data = np.frombuffer(dataset.PixelData, np.uint8)[first:][: (skip + height * width + 7) // 8]
    bits = np.unpackbits(data, bitorder="little")[skip:][: height * width]
    if bits.size < height * width:
        raise ValueError("its pixels are cut short")
    return bits.reshape(height, width)


def _find_decoder(syntax: str, colours: str) -> Callable[[bytes], Array] | None:
    """What decodes frames of a transfer syntax; None if nothing does."""
    if not syntax.startswith(_JPEG):
        return None
    end = syntax.removeprefix(_JPEG)
    if end in ("50", "51"):
        return partial(_decode_jpeg, colours)
    decoders: dict[str, Callable[..., Any]] = {
        **dict.fromkeys(("57", "70"), imagecodecs.jpegsof3_decode),
        **dict.fromkeys(("80", "81"), imagecodecs.jpegls_decode),
        **dict.fromkeys(("90", "91", "201", "202", "203"), imagecodecs.jpeg2k_decode),
    }
    return decoders.get(end)


def _decode_jpeg(colours: str, data: bytes) -> Array:
    """A JPEG as grey or RGB. One that does not name its colours has those of the header."""
    start = data[:1024]
    if colours in _GREY:
        return np.asarray(imagecodecs.jpeg8_decode(data))
    if b"JFIF\0" in start or b"\xff\xee\0\x0eAdobe" in start:  # whole ones, as decoders ask
        return np.asarray(imagecodecs.jpeg8_decode(data, outcolorspace="RGB"))
    stored = "RGB" if colours == "RGB" else "YCBCR"
    return np.asarray(imagecodecs.jpeg8_decode(data, colorspace=stored, outcolorspace="RGB"))


def read_colours(header: Any) -> str:
    """The kind of colours, after checking that it is a known one.

    Raises:
        SegkitError: It is not.
    """
    kind = str(header.get("PhotometricInterpretation", "")).strip()
    if kind not in (*_GREY, *_COLOURS, "PALETTE COLOR"):
        raise SegkitError(f"its colours are {kind or 'not named'}, which is not converted.")
    return kind


def _read_palette(dataset: Any, dtype: np.dtype[Any]) -> Array:
    """The colours of all indices, (K, 3) uint8."""
    pixels = import_extra("pydicom.pixels", "medical")
    indices = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)[None]
    with quiet():
        colours: Array = pixels.apply_color_lut(indices, dataset)[0]
    return (colours >> 8 if colours.dtype == np.uint16 else colours).astype(np.uint8)


def _find_padding(stored: Array, header: Any) -> Array | None:
    """Where a grey image has the padding value, or a value of that range; None if nowhere."""
    if header.get("PixelPaddingValue") is None or stored.dtype.kind not in "iu":
        return None
    ends = [header.PixelPaddingValue, header.get("PixelPaddingRangeLimit")]
    # Files with signed pixels may give it without a sign.
    bits = 2 ** (8 * stored.dtype.itemsize)
    low = np.iinfo(stored.dtype).min
    values = [(int(end) - low) % bits + low for end in ends if end is not None]
    missing: Array = (stored >= min(values)) & (stored <= max(values))
    return missing if missing.any() else None


def _invert(stored: Array, header: Any) -> Array:
    """Invert values stored with white as the lowest, as viewers do."""
    if stored.dtype.kind == "f":
        return -stored
    bits = int(header.BitsStored)
    total = -1 if stored.dtype.kind == "i" else 2**bits - 1  # of the lowest and the highest
    return (total - stored.astype(np.int64)).astype(stored.dtype)


def _rescale(stored: Array, slope: float, intercept: float) -> Array:
    """Values in the unit of the image: whole numbers stay exact."""
    if slope == 1 and intercept.is_integer() and stored.dtype.kind in "iu":
        return (stored.astype(np.int64) + int(intercept)).astype(np.int32)
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)
