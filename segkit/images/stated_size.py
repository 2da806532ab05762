"""The size that a picture inside another file states: decoders trust it more than that file."""

from __future__ import annotations

import struct

from segkit.images.formats.base import find_format
from segkit.images.raster import require_room

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
"""Markers of a JPEG, with JPEG-LS, after which its size stands."""
_ALONE = frozenset((0, 1, *range(0xD0, 0xDA), 0xFF))
"""Markers of a JPEG that are nothing but themselves."""
_FILES = (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP", b"RIFF", b"\x89PNG")
"""Starts of JPEG 2000, WebP and PNG; other data may look like a file by chance."""
_RATIOS = (1, 1.2, 4 / 3, 1.5, 16 / 9, 1.25, 2)
"""Widths of JPEG XL in heights."""


def require_room_for_picture(data: bytes) -> None:
    """Check the size of a packed frame, strip or tile before it is decoded.

    Raises:
        TooLargeError: It is decoded to more pixels than :func:`require_room` allows.
    """
    size = None
    if data.startswith(b"\xff\xd8"):
        size = _read_jpeg_size(data)
    elif data.startswith(b"Lerc2 "):  # newer ones have a checksum before it
        size = struct.unpack_from("<2I", data, 10 if data[6] < 3 else 14)
    elif data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        size = _read_jpegxl_size(data)
    elif data.startswith(b"II\xbc\1"):
        size = _read_jpegxr_size(data)
    elif data.startswith(_FILES) and (kind := find_format(data)):
        size = kind.open(data).read_extent(0)[:2]
    if size is not None:
        require_room(size)


def _read_jpeg_size(data: bytes) -> tuple[int, ...] | None:
    at = 2
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 9:
        marker = data[at + 1]
        if marker in _FRAMES:
            return struct.unpack_from(">HH", data, at + 5)
        at += 1 if marker in _ALONE else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _read_jpegxl_size(data: bytes) -> tuple[int, int]:
    """Height and width, or one of the usual ratios of both, in bits from the lowest."""
    at = 0 if data.startswith(b"\xff") else data.find(b"\xff\x0a", 12)
    bits = int.from_bytes(data[at + 2 : at + 12], "little")

    def take(count: int) -> int:
        nonlocal bits
        taken = bits & ((1 << count) - 1)
        bits >>= count
        return taken

    is_small = take(1)

    def take_side() -> int:
        return 8 * (take(5) + 1) if is_small else 1 + take((9, 13, 18, 30)[take(2)])

    height, ratio = take_side(), take(3)
    return height, int(height * _RATIOS[ratio - 1]) if ratio else take_side()


def _read_jpegxr_size(data: bytes) -> tuple[int, int]:
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    tags = {
        tag: value & 0xFFFF if kind == 3 else value
        for tag, kind, _, value in struct.iter_unpack("<HHII", data[at + 2 : at + 2 + 12 * count])
    }
    return tags[0xBC81], tags[0xBC80]
