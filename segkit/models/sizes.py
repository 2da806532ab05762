"""Input and output sizes of the unpadded U-Net, such as 572 -> 388."""

from __future__ import annotations

from segkit.core.errors import SegkitError


def valid_output(size: int, depth: int) -> int | None:
    """The output size for an input of ``size`` pixels; None if the network cannot take it.

    Each level takes 4 pixels on the way down and 4 on the way up (Ronneberger et al. 2015, fig. 1).

    Example:
        >>> valid_output(572, depth=5)
        388
    """
    for _ in range(depth - 1):
        size -= 4
        if size <= 0 or size % 2:
            return None
        size //= 2
    size -= 4
    for _ in range(depth - 1):
        size = 2 * size - 4
    return size if size > 0 else None


def valid_input(target: int, depth: int) -> int:
    """The smallest input whose output has at least ``target`` pixels.

    Example:
        >>> valid_input(388, depth=5)
        572
    """
    size = target
    for _ in range(depth - 1):
        size = -(-(size + 4) // 2)  # rounded up: an up-convolution gives even sizes only
    size += 4
    for _ in range(depth - 1):
        size = 2 * size + 4
    return size


def check_valid(height: int, width: int, depth: int) -> tuple[int, int]:
    """The output size of an unpadded network.

    Raises:
        SegkitError: It cannot take that size; the message names the next one that it can.
    """
    out = valid_output(height, depth), valid_output(width, depth)
    if out[0] is None or out[1] is None:
        smallest = valid_input(1, depth)
        step = 2 ** (depth - 1)
        near = [
            max(smallest, smallest + -(-(n - smallest) // step) * step) for n in (height, width)
        ]
        raise SegkitError(
            f"an unpadded network of depth {depth} cannot take {height} x {width} pixels: each"
            f" max-pooling needs an even size. The next size that fits is {near[0]} x {near[1]}."
        )
    return out[0], out[1]
