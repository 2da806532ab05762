"""Where a set of the Cell Tracking Challenge keeps what, and what is said if it does not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from segkit.core.errors import SegkitError
from segkit.data.sources.base import Sample
from segkit.images.reading import count_pages

Truth = Literal["gold", "silver"]
"""Outlined by people, or the majority of computers' outlines."""

_FOLDER: dict[Truth, str] = {"gold": "GT", "silver": "ST"}
_HOW = """
The training sets of the Cell Tracking Challenge, such as DIC-C2DH-HeLa and PhC-C2DH-U373, are had
from https://celltrackingchallenge.net/2d-datasets/. data.root=DIR is the folder of an unpacked one:
    DIR/01/t000.tif                   the images; 02/ ... likewise
    DIR/01_GT/SEG/man_seg000.tif      outlines: ids of cells, in some of the frames (gold truth)
    DIR/01_GT/TRA/man_track000.tif    markers: ids of all cells, in every frame
    DIR/01_ST/SEG/man_seg000.tif      outlines by computers (silver truth), which some sets have"""


@dataclass(frozen=True)
class TimeLapse:
    """A sequence: the frames of it that have outlines.

    Attributes:
        name: Such as "01".
        samples: The frames, in their order; a frame is called as "01/t000".
        markers: Files of markers by the names of the frames.
        problems: Outlines without an image.
    """

    name: str
    samples: list[Sample]
    markers: dict[str, Path]
    problems: list[str]


def find_sequences(root: Path, truth: Truth) -> list[TimeLapse]:
    """The sequences that have outlines.

    Args:
        root: The folder with 01, 01_GT ..., or the one above it.
        truth: Which outlines.

    Raises:
        SegkitError: There are none, or the set is three-dimensional.
    """
    home = _home(root)
    found = [_sequence(folder) for folder in sorted(home.glob(f"[0-9][0-9]_{_FOLDER[truth]}/SEG"))]
    found = [sequence for sequence in found if sequence.samples or sequence.problems]
    if not found:
        hint = " data.truth=gold is for the outlines by people." if truth == "silver" else ""
        raise _unlike(
            f"{home.resolve()} has no outlines, no 01_{_FOLDER[truth]}/SEG/man_seg000.tif or the"
            f" like.{hint}"
        )
    return found


def _home(root: Path) -> Path:
    """The folder with the sequences: the given one, or the only one like it inside."""
    if not root.is_dir():
        raise _unlike(f"there is no folder {root.resolve()}.")
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    homes = [path for path in folders if any(path.glob("[0-9][0-9]_[GS]T"))]
    if homes and (homes[0] == root or len(homes) == 1):
        return homes[0]
    if homes:
        names = ", ".join(path.name for path in homes)
        raise _unlike(f"{root.resolve()} holds several sets, {names}: name one of them.")
    if any(path.is_dir() for folder in folders for path in folder.glob("[0-9][0-9]")):
        raise _unlike(
            f"{root.resolve()} has sequences, but no reference, no folder 01_GT: it is a test set."
        )
    held = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
    raise _unlike(f"{root.resolve()} has no folders 01 and 01_GT. It holds: {held}.")


def _sequence(outlines: Path) -> TimeLapse:
    """The sequence whose outlines lie in a folder as 01_GT/SEG."""
    home, name = outlines.parents[1], outlines.parent.name[:2]
    if any(outlines.glob("man_seg_*_*.tif")):
        raise _three_dimensional(outlines)
    images, masks = _frames(home / name, "t"), _frames(outlines, "man_seg")
    markers = _frames(home / f"{name}_GT" / "TRA", "man_track")
    samples = [
        Sample(f"{name}/{images[frame].stem}", images[frame], mask)
        for frame, mask in sorted(masks.items())
        if frame in images
    ]
    problems = [
        f"{mask.relative_to(home).as_posix()} has no image: there is no {name}/t"
        f"{mask.stem.removeprefix('man_seg')}.tif"
        for frame, mask in masks.items()
        if frame not in images
    ]
    if samples and _pages(images[next(frame for frame in masks if frame in images)]) > 1:
        raise _three_dimensional(home / name)
    called = {frame: f"{name}/{image.stem}" for frame, image in images.items()}
    return TimeLapse(
        name,
        samples,
        {called[frame]: path for frame, path in markers.items() if frame in called},
        problems,
    )


def _frames(folder: Path, prefix: str) -> dict[int, Path]:
    """The files of a folder that are called so, by the number of their frame."""
    called = re.compile(re.escape(prefix) + r"(\d{3,})\.tif")
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return {int(match[1]): path for path in files if (match := called.fullmatch(path.name))}


def _pages(image: Path) -> int:
    try:
        return count_pages(image)
    except SegkitError:  # the check will say so, of all files that cannot be read
        return 1


def _three_dimensional(where: Path) -> SegkitError:
    return _unlike(f"{where.resolve()} is in three dimensions, which segkit does not read.")


def _unlike(what: str) -> SegkitError:
    return SegkitError(f"data.root: {what}{_HOW}")
