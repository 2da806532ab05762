"""Whether compressed pixels are exactly those that were saved: masks must be.

Of codecs that can do both, the first bytes tell which was used.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import imagecodecs

_LERC, _ZSTD = b"Lerc2 ", b"\x28\xb5\x2f\xfd"
_KIND_OF_LERC = {2: 30, 3: 34, 4: 38, 5: 38, 6: 38}
"""Where the type of the values is, by version; integers have the numbers below 6."""
_ERROR_OF_LERC = {2: 34, 3: 38, 4: 42, 5: 42, 6: 50}
"""Where the allowed error is, by version."""
_FLOAT_OF_LERC = 6
_XL_BOXES, _XL = b"\0\0\0\x0cJXL ", b"\xff\x0a"
"""Starts of JPEG XL in boxes, and of its pixels."""


def is_lossy_webp(data: bytes) -> bool:
    """Whether a WebP is lossy, by the kind of its first picture."""
    at = 12
    while at + 8 <= len(data):
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind == b"ANMF":  # a frame, with chunks of its own after 16 bytes
            size = 16
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8 "
        at += 8 + size + size % 2
    return True


def is_lossy_jpeg2000(data: bytes) -> bool:
    """Whether a JPEG 2000 is lossy: whether its wavelet cannot be undone exactly.

    One that can, but whose data were cut to a rate, counts as exact: nothing in its header tells,
    only whether all bit planes of all blocks are there. Values that no class has betray it then.
    """
    at = data.find(b"\xff\x52")  # coding style: its last byte says which wavelet
    return at < 0 or len(data) <= at + 13 or data[at + 13] == 0


def is_lossy_lerc(data: bytes) -> bool:
    """Whether a LERC is lossy, by the error that it allows: of integers 1 or more, of floats any.

    In TIFF it may be packed again, by deflate or Zstandard, which needs all of its bytes. Versions
    that are not known count as lossy.
    """
    if data.startswith(_ZSTD):
        data = bytes(imagecodecs.zstd_decode(data))
    elif not data.startswith(_LERC):
        data = zlib.decompressobj().decompress(data, 64)
    version = int.from_bytes(data[6:10], "little")
    at = _ERROR_OF_LERC.get(version)
    if not data.startswith(_LERC) or at is None or len(data) < at + 8:
        return True
    kind = int.from_bytes(data[_KIND_OF_LERC[version] :][:4], "little")
    (error,) = struct.unpack_from("<d", data, at)
    return bool(error >= 1 if kind < _FLOAT_OF_LERC else error > 0)


def is_lossy_jpegxl(data: bytes) -> bool:
    """Whether a JPEG XL is lossy: whether it is stored in the colours XYB, or was a JPEG.

    One with additional channels or fields in its header counts as lossy.
    """
    start = data.find(_XL) if data.startswith(_XL_BOXES) else 0
    if start < 0 or data[start : start + 2] != _XL or b"jbrd" in data:
        return True
    bits = int.from_bytes(data[start + 2 : start + 34], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    is_small = take(1)
    _skip_side(take, is_small)
    if not take(3):  # the width is none of the usual multiples of the height
        _skip_side(take, is_small)
    if take(1) or take(1):  # all by default, which is XYB; additional fields
        return True
    is_float, depth = take(1), take(2)
    take((6 if depth == 3 else 0) + 4 * is_float)
    take(1)  # whether 16 bits suffice to decode it
    return bool(take(2) or take(1))  # additional channels; XYB


def _skip_side(take: Callable[[int], int], is_small: int) -> None:
    """Skip the bits of a height or a width; small ones are multiples of 8 up to 256."""
    take(5 if is_small else (9, 13, 18, 30)[take(2)])
