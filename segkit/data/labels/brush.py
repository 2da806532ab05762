"""The run lengths of Label Studio's brush.

The format is that of @thi.ng/rle-pack (https://github.com/thi-ng/umbrella): a stream of bits with

- 32 bits: how many values there are,
- 5 bits: bits of a value, less 1,
- 4 times 4 bits: the four widths of a run length, less 1,
- chunks: 1 bit, whether the chunk repeats one value; 2 bits, which width; the length less 1 in that
  width; then one value to repeat, or as many values as the length says.

The values are the pixels of an image in rows, with the channels red, green, blue and opacity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError


def decode_brush(packed: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels (H, W) of an image that were painted.

    Raises:
        SegkitError: The bytes are damaged or of another size, as the end of a sentence.
    """
    try:
        data = np.array(packed, np.uint8) if isinstance(packed, list) else None
    except (TypeError, ValueError, OverflowError):
        data = None
    if data is None or data.ndim != 1:
        raise SegkitError("its run lengths are not a list of bytes")
    height, width = size
    values = _unpack_values(data, 4 * height * width)
    return values.reshape(height, width, 4)[..., 3] > 0


def _unpack_values(data: NDArray[np.uint8], expected: int) -> NDArray[np.uint8]:
    bits = np.unpackbits(data)
    text = bits.tobytes().translate(_DIGITS).decode("ascii")
    place = 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        if place > len(text):
            raise SegkitError("its run lengths are cut short")
        return int(text[place - count : place], 2)

    total = read(32)
    if total != expected:
        raise SegkitError(f"its run lengths hold {total} values, but the image needs {expected}")
    width = read(5) + 1
    if width != 8:
        raise SegkitError(f"its run lengths have values of {width} bits, not 8")
    widths = [read(4) + 1 for _ in range(4)]
    values = np.zeros(total, np.uint8)
    done = 0
    while done < total:
        is_repeated = read(1)
        stop = done + read(widths[read(2)]) + 1
        if stop > total:
            raise SegkitError("its run lengths go beyond the image")
        if is_repeated:
            values[done:stop] = read(8)
        else:
            count = 8 * (stop - done)
            if place + count > len(text):
                raise SegkitError("its run lengths are cut short")
            values[done:stop] = np.packbits(bits[place : place + count])
            place += count
        done = stop
    return values


_DIGITS = bytes.maketrans(b"\0\1", b"01")
