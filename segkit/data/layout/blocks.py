"""Large images divided into blocks, of which some are for validation and some for testing.

The blocks of an image are counted in a line that turns at its edges, and those of a split follow
each other in it: fewer of them touch training blocks than of single blocks here and there.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from segkit.data.layout.splits import Divided, natural_key
from segkit.data.sources.base import SPLITS, Sample, Split

Block = tuple[int, int, int, int]
"""Top, left, height and width of a part of an image, as `Sample.window`."""

BLOCKS = 25
"""Blocks of an image, at least, unless they would be smaller than SMALLEST."""
SMALLEST = 256
"""Height and width of a block, at least, unless the config says another size."""
BAND_BYTES = 32 * 2**20
"""Bytes of a band, if a value has one, unless it is lower than TILE."""
TILE = 256
"""Rows of a band, or a multiple of it."""

_SUFFIX = re.compile(r"\[\d+:\d+,\d+:\d+\]$")


class Shares(NamedTuple):
    """Fractions of the blocks for validation and for testing, and the seed of their places."""

    val: float
    test: float
    seed: int


def divide_samples(
    samples: list[Sample],
    sizes: list[tuple[int, int]],
    side: int | None,
    shares: Shares,
    problems: list[str],
) -> Divided:
    """Divide every sample into blocks of all splits.

    The pages of a file are divided alike, because neighbouring ones show the same.

    Args:
        samples: The whole images.
        sizes: Their heights and widths.
        side: Height and width of the blocks, which may be larger so that all are alike.
        shares: What the splits get.
        problems: Takes what is wrong with single samples; they are in no split.
    """
    divided: Divided = {split: [] for split in SPLITS}
    for sample, size in zip(samples, sizes, strict=True):
        rows, columns = _count_blocks(size, side)
        file = sample.name if sample.page is None else sample.name.rpartition("#")[0]
        order = random.Random(f"{shares.seed} {file}")
        splits = _choose_splits(rows * columns, shares, order)
        if splits is None:
            needed = 1 + (shares.val > 0) + (shares.test > 0)
            problems.append(
                f"{sample.name} has {size[0]} x {size[1]} pixels (height x width), which make"
                f" {rows * columns} block(s), fewer than the {needed} splits: set a smaller"
                " data.tile_size, or data.split=random"
            )
            continue
        blocks = list_blocks(size, rows, columns)
        for split, number in zip(splits, _count_in_line(rows, columns), strict=True):
            divided[split].append(take_block(sample, blocks[number]))
    return {split: sorted(part, key=natural_key) for split, part in divided.items()}


def list_blocks(size: tuple[int, int], rows: int, columns: int) -> list[Block]:
    """Divide an image evenly; heights and widths differ by a pixel at most. Row after row."""
    ys, xs = (
        [i * n // k for i in range(k + 1)] for n, k in zip(size, (rows, columns), strict=True)
    )
    return [
        (top, left, bottom - top, right - left)
        for top, bottom in pairwise(ys)
        for left, right in pairwise(xs)
    ]


def list_parts(size: tuple[int, int], side: int) -> list[Block]:
    """Divide an image evenly into as few parts as possible, none larger than that."""
    rows, columns = (-(-length // side) for length in size)
    return list_blocks(size, rows, columns)


def list_bands(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Top and height of bands of an image that are read one after the other, of one byte a value.

    Files hold strips or tiles, whose heights mostly are powers of two: bands hold whole ones.
    """
    height = max(1, BAND_BYTES // math.prod(shape[1:]) // TILE) * TILE
    return [(top, min(height, shape[0] - top)) for top in range(0, shape[0], height)]


def take_block(sample: Sample, block: Block) -> Sample:
    """A block as a sample of its own, named ``a.tif[0:512,1024:1536]`` by its rows and columns."""
    top, left, height, width = block
    name = f"{sample.name}[{top}:{top + height},{left}:{left + width}]"
    return replace(sample, name=name, window=block)


def take_part(sample: Sample, block: Block) -> Sample:
    """A part of a sample, which may be a block itself; it is still named as the sample."""
    top, left, height, width = block
    if sample.window is not None:
        top, left = top + sample.window[0], left + sample.window[1]
    return replace(sample, window=(top, left, height, width))


def take_whole(sample: Sample) -> Sample:
    """The whole image of a block, or of a part of one."""
    return replace(sample, name=_SUFFIX.sub("", sample.name), window=None)


def _count_blocks(size: tuple[int, int], side: int | None) -> tuple[int, int]:
    """Rows and columns of blocks."""
    height, width = size
    if side is None:
        side = max(SMALLEST, math.isqrt(height * width // BLOCKS))
        while side > SMALLEST and (height // side) * (width // side) < BLOCKS:
            side -= 1
    return max(1, height // side), max(1, width // side)


def _choose_splits(count: int, shares: Shares, order: random.Random) -> list[Split] | None:
    """The split of each block of the line; None if there are too few for all."""
    val, test = (
        max(1, round(count * share)) if share else 0 for share in (shares.val, shares.test)
    )
    free = count - val - test
    if free < 1:
        return None
    first, second = sorted(order.randint(0, free) for _ in range(2))
    runs: list[tuple[Split, int]] = [("val", val), ("test", test)]
    order.shuffle(runs)
    (one, length), (other, rest) = runs
    parts = [first, length, second - first, rest, free - second]
    names: list[Split] = ["train", one, "train", other, "train"]
    return [name for name, n in zip(names, parts, strict=True) for _ in range(n)]


def _count_in_line(rows: int, columns: int) -> list[int]:
    """The numbers of blocks, row after row, in the order of a line that turns at the edges."""
    line = list[int]()
    for row in range(rows):
        numbers = range(row * columns, (row + 1) * columns)
        line += numbers if row % 2 == 0 else reversed(numbers)
    return line
