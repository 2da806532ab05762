"""Mask files of a data set to values: numbers, indices of palettes, or colours.

The same colour means the same in every file. A palette's indices are the values of a mask only if
the palettes of all files agree; else their colours are. In masks of colours (RGB, or palettes that
differ) grey pixels have the value of their grey, and other colours a value of their own, see
`segkit.core.labels.color_to_value`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.core.labels import (
    FIRST_COLOR,
    IGNORE_INDEX,
    Mode,
    color_to_value,
    describe_values,
    value_to_color,
)
from segkit.images.raster import Raster, encode_colors, find_nodata, rotate_upright
from segkit.images.reading import ImageReader, render, simplify_mask

UNLABELLED = -1
"""The value of pixels of a mask without data: GDAL's nodata value, a mask or alpha in a TIFF."""
TRANSPARENT = -2
"""The value of pixels that are transparent in a picture, such as a PNG: nothing was painted there,
which may mean the background, or nothing (`segkit.data.checks.classes.decide_coding`)."""
LOSS = 8
"""How much lossy compression may change a grey or a colour that is the same all around; at least so
far apart must known values be."""
MOST_ROUNDED = 100_000
"""Masks whose rounding is remembered."""
THREADS = 8
"""Threads that read the headers of masks."""


@dataclass(frozen=True)
class Palettes:
    """The palettes of a set of masks.

    Attributes:
        differ: Whether an index has another colour in another file, so that only colours count.
        usual: The palette of most files (K, 3), None if no file has one.
        count: Number of files with a palette.
    """

    differ: bool = False
    usual: NDArray[np.uint8] | None = None
    count: int = 0


def compare_palettes(files: Sequence[Path]) -> Palettes:
    """Compare the palettes of masks; one that is the beginning of another one agrees with it.

    Beside masks in RGB palettes are colours too.
    """
    depths, channels = set[int](), set[int]()

    def read(file: Path) -> bytes | None:
        try:
            kind = _read_png_kind(file)
            if kind is not None:
                depths.add(kind[0])
                channels.add(kind[1])
                return None
            with ImageReader(file) as reader:
                found = reader.read_palette(0) if len(reader) else None
                if found is None and len(reader):
                    channels.add(reader.read_extent(0).channels)
        except SegkitError:  # the check reports all files that cannot be read
            return None
        return None if found is None else found.tobytes()

    with ThreadPoolExecutor(THREADS) as pool:
        counts = Counter(found for found in pool.map(read, files) if found is not None)
    # Optimisers store each file with the fewest bits, in which 1 means another grey.
    differ_in_depth = len(depths) > 1 and min(depths) < 8
    if not counts:
        return Palettes(differ_in_depth)
    longest = max(counts, key=len)
    has_colors = not channels.isdisjoint((3, 4))
    differ = differ_in_depth or has_colors
    differ = differ or any(not longest.startswith(palette) for palette in counts)
    colours = np.frombuffer(longest, np.uint8).reshape(-1, 3)
    is_grey = bool((colours == colours[:, :1]).all())
    # Black and white mean what they look like, whatever their indices; and files without a palette
    # hold greys.
    if is_grey and (counts.total() < len(files) or set(colours[:, 0].tolist()) <= {0, 255}):
        differ = True
    usual = counts.most_common(1)[0][0] if differ else longest
    return Palettes(differ, np.frombuffer(usual, np.uint8).reshape(-1, 3), counts.total())


def _read_png_kind(file: Path) -> tuple[int, int] | None:
    """Bits and channels of a PNG without a palette, from its header: most need not be opened."""
    try:
        with file.open("rb", buffering=0) as opened:
            start = opened.read(26)
    except OSError:  # a folder, or a file that is no more: the check reports it
        return None
    is_plain = len(start) == 26 and start[:4] == b"\x89PNG" and start[25] != 3  # the colour type
    return (start[24], {0: 1, 2: 3, 4: 2, 6: 4}.get(start[25], 0)) if is_plain else None


@dataclass(frozen=True)
class MaskDecoder:
    """Decodes the masks of a set.

    Attributes:
        by_color: Whether palettes, and what other files have instead, are read as colours.
        layers: Whether the channels of a mask are classes, not colours.
        nearest: Known values, to which all are rounded; None: lossy files are refused.
        rounded: What that did to the last masks that were read.
    """

    by_color: bool = False
    layers: bool = False
    nearest: tuple[int, ...] | None = None
    rounded: deque[Rounding] = field(default_factory=lambda: deque(maxlen=MOST_ROUNDED), repr=False)

    def read(self, raster: Raster) -> NDArray[Any]:
        """(H, W) values, or (H, W, N) layers, of a mask as it is stored.

        Raises:
            SegkitError: Its compression changes values, too much for the known ones or without any
                that are known, or they are no integers.
        """
        if raster.is_lossy and self.nearest is None:
            raise SegkitError(
                "the mask is compressed with loss, as a JPEG, so that its values are not those that"
                " were drawn: save masks as PNG, or let data.mask_values=nearest take the nearest"
                " known value"
            )
        if raster.is_lossy and self.nearest is not None and _measure_gap(self.nearest) < LOSS:
            raise SegkitError(
                "the mask is compressed with loss, as a JPEG, which changes values by more than the"
                f" known values {describe_values(self.nearest)} differ, so that classes cannot be"
                " told: save masks as PNG"
            )
        hidden = self._find_hidden(raster)
        if hidden is not None and raster.values.dtype.kind == "f":  # which may hold no integer
            raster = raster._replace(values=np.where(hidden[..., None], 0, raster.values))
        values = self._to_values(raster)
        if self.nearest is not None:
            values, rounding = round_to_nearest(values, self.nearest)
            self.rounded.append(rounding)
        if hidden is not None and hidden.any():
            hidden = rotate_upright(hidden, raster.orientation)
            if raster.is_painted and not raster.alpha:  # one colour is transparent: black is black
                hidden = hidden & (values != 0)
            values = values.astype(np.int32)
            values[hidden] = TRANSPARENT if raster.is_painted else UNLABELLED
        return values

    def _find_hidden(self, raster: Raster) -> NDArray[np.bool_] | None:
        """The pixels (H, W), as stored, that are transparent or have no data; None without any."""
        found = []
        # A transparent index or grey of a picture is a value like others.
        if raster.missing is not None and (not raster.is_painted or self._reads_colors(raster)):
            found.append(raster.missing)
        if raster.alpha and not self.layers:
            found.append(raster.values[..., -1] == 0)
        empty = find_nodata(raster) if raster.nodata else None
        if empty is not None:  # 0 is the background: many writers state it as nodata
            found.append(empty)
        if raster.values.dtype.kind == "f":
            found.append(np.asarray(np.isnan(raster.values).all(axis=2)))
        return np.any(found, axis=0) if found else None

    def reads_parts(self, kind: Raster) -> bool:
        """Whether parts of such a mask are read as the whole, without its pixels.

        Not where channels are dropped if they tell nothing in the whole mask, or fractions rounded
        if all are close to whole numbers.
        """
        if self._reads_colors(kind) and render(kind).shape[2] in (1, 3):
            return True
        may_be_grey = kind.is_rgb and _drop_alpha(kind).values.shape[2] == 3
        return not (may_be_grey or kind.step or (self.layers and kind.alpha))

    def _reads_colors(self, raster: Raster) -> bool:
        is_small = raster.values.dtype in (np.uint8, np.bool_)
        return is_small and not self.layers and (raster.is_rgb or self.by_color)

    def _to_values(self, raster: Raster) -> NDArray[Any]:
        plain = raster if self.layers else _drop_alpha(raster)  # which may be a class
        if not self._reads_colors(raster):
            is_rgb = plain.is_rgb and plain.values.shape[2] == 3 and not self.layers
            if is_rgb and plain.values.dtype == np.uint16:
                return self._to_values(_reduce_to_8_bits(plain))
            return simplify_mask(plain)
        shown = np.ma.getdata(render(raster))
        if shown.shape[2] not in (1, 3):  # with measured channels besides the colour
            return simplify_mask(plain)
        coded = encode_colors(np.broadcast_to(shown, (*shown.shape[:2], 3)))
        return coded.astype(np.uint8) if coded.max(initial=0) < 256 else coded


def _drop_alpha(raster: Raster) -> Raster:
    return raster._replace(values=raster.values[..., :-1], alpha="") if raster.alpha else raster


def _reduce_to_8_bits(raster: Raster) -> Raster:
    """Colours of 16 bits that are written colours of 8 bits, or numbers if all are greys.

    Raises:
        SegkitError: They are neither.
    """
    values = raster.values
    if not (values % 257).any():
        return raster._replace(values=(values // 257).astype(np.uint8))
    if (values == values[..., :1]).all():
        return raster._replace(values=values[..., :1], is_rgb=False)
    raise SegkitError(
        "the mask has colours of 16 bits that 8 bits do not hold: save it as RGB with 8 bits, or as"
        " one channel of class numbers"
    )


def list_known_values(
    mask_values: Literal["exact", "nearest"],
    mode: Mode,
    class_colors: Sequence[Sequence[int]] | None,
    label_map: Mapping[int, int] | None,
    class_names: Sequence[str] | None,
    instances: bool,
) -> tuple[int, ...] | None:
    """The values to which masks are rounded, from what is known of the classes; None if "exact".

    Raises:
        SegkitError: Nothing is known.
    """
    if mask_values == "exact":
        return None
    if instances:
        raise SegkitError(
            "data.mask_values=nearest is for masks of classes, whose values are known: ids of"
            " objects are read as they are (data.mask_values=exact)."
        )
    if class_colors is not None:
        return tuple(map(color_to_value, class_colors))
    if label_map is not None:
        return tuple(label_map) if 0 in label_map.values() else (0, *label_map)
    if class_names is not None and mode == "multiclass":
        return (*range(len(class_names)), IGNORE_INDEX)
    if mode == "multiclass":
        raise SegkitError(
            "data.mask_values=nearest needs to know the values of the classes: give"
            " data.class_colors, data.label_map or data.class_names."
        )
    return 0, 255


class Rounding(NamedTuple):
    """How many pixels of a mask were moved to another value, of how many, and how far at most.

    The distance is that of the greys, or of the colours in the channel where it is largest.
    """

    moved: int
    pixels: int
    farthest: int


def round_to_nearest(
    values: NDArray[Any], known: Sequence[int]
) -> tuple[NDArray[np.int32], Rounding]:
    """Replace each value by the nearest of the known ones; colours by their distance in RGB."""
    found, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    colours = np.array([value_to_color(int(v)) for v in found], np.int64).reshape(-1, 3)
    wanted = np.array([value_to_color(v) for v in known], np.int64)
    nearest = np.empty(len(found), np.int64)
    for first in range(0, len(found), 4096):
        part = colours[first : first + 4096, None] - wanted[None]
        nearest[first : first + 4096] = (part**2).sum(axis=2).argmin(axis=1)
    table = np.array(known, np.int32)[nearest]
    far = np.abs(colours - wanted[nearest]).max(axis=1, initial=0)
    rounding = Rounding(int(counts[far > 0].sum()), values.size, int(far.max(initial=0)))
    return table[places].reshape(values.shape), rounding


def _measure_gap(known: Sequence[int]) -> int:
    """How far the two most similar values are apart, in the channel where they differ most."""
    colours = np.array([value_to_color(value) for value in known], np.int64)
    gaps = np.abs(colours[:, None] - colours[None]).max(axis=2)
    return int(gaps[gaps > 0].min(initial=FIRST_COLOR))


def describe_rounding(decoder: MaskDecoder) -> list[str]:
    """What ``data.mask_values=nearest`` did to the masks that were read, as one line."""
    moved, pixels = (sum(each[i] for each in decoder.rounded) for i in (0, 1))
    if decoder.nearest is None or not moved:
        return []
    farthest = max(each.farthest for each in decoder.rounded)
    between = " An edge between two classes may become a class whose value lies between theirs"
    return [
        f"data.mask_values=nearest moves {moved / pixels:.2%} of the pixels of masks to one of the"
        f" known values {describe_values(decoder.nearest)}, by up to {farthest}"
        + f".{between}"
        * (len(decoder.nearest) > 2)
    ]


def fit_size(mask: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Resize a mask to (height, width) by the nearest pixel, so that no value is invented."""
    if mask.shape[:2] == size:
        return mask
    rows = ((np.arange(size[0]) + 0.5) * mask.shape[0] / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * mask.shape[1] / size[1]).astype(int)
    return np.ascontiguousarray(mask[rows][:, columns])


def describe_palettes(palettes: Palettes) -> list[str]:
    """What the user should know of them."""
    if palettes.usual is None:
        return ["masks have different bit depths and are read as greys"] if palettes.differ else []
    if palettes.differ:
        return ["masks with palettes are read by colour, not by index"]
    shown = encode_colors(palettes.usual[:4]).tolist()
    return [
        f"{palettes.count} masks have a palette; their indices count, 0, 1 ... are shown as"
        f" {describe_values(shown)}"
    ]
