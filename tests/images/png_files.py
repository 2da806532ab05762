"""PNGs of kinds that Pillow does not write."""

import struct
import zlib

H, W = 7, 5


def encode_png(bits: int, colour: int, rows: list[bytes], width: int, key: bytes = b"") -> bytes:
    """A PNG with a depth that no library here writes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + crc

    head = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    transparent = chunk(b"tRNS", key) if key else b""
    parts = chunk(b"IHDR", head) + transparent + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts
