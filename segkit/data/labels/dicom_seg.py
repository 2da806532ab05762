"""DICOM segmentations of DICOM series: frames for each segment and slice, or maps of labels.

https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_A.51.html
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.data.labels.base import Annotations, LabelFormat, Rle, Shape
from segkit.data.labels.draft import Draft, explain
from segkit.data.labels.runs import encode_mask
from segkit.data.labels.tree import FileTree, find_split
from segkit.data.layout.files import list_files
from segkit.images.formats.base import find_format
from segkit.images.formats.dicom import (
    SEGMENTATIONS,
    Dicom,
    Slice,
    decode_frame,
    list_frames,
    list_slices,
    load_dataset,
    quiet,
)
from segkit.images.place import find_shift
from segkit.images.reading import wrap_errors

_KIND = re.compile(b"(%s)(?![.0-9])" % b"|".join(map(re.escape, map(str.encode, SEGMENTATIONS))))
_START = 1024
"""Bytes in which a file names its kind."""
_APART = 0.5
"""How many pixels a frame and its slice may lie apart: headers are rounded."""


class DicomSegFormat(LabelFormat, name="dicom_seg"):
    """Files of segments, and anywhere below the root the series on which they were drawn.

    A frame belongs to the slice that it names, else to the one at its place. All slices of such a
    series are samples; what no segment covers is background. Classes are the labels of segments,
    in the order of their numbers. A fraction is inside from a half on.
    """

    title = "DICOM segmentations"

    @classmethod
    def find(cls, tree: FileTree) -> list[Path]:
        """The files of this kind, with an ending of DICOM, or none."""
        endings = "", *Dicom.suffixes
        files = (file for file in tree.files if posixpath.splitext(file)[1].lower() in endings)
        return [path for path in map(tree.path, files) if _is_segmentation(path)]

    @classmethod
    def claims(cls, mask: Path) -> bool:
        """Whether it is one, or a folder with one."""
        return any(map(_is_segmentation, mask.iterdir() if Dicom.owns_folder(mask) else [mask]))

    @classmethod
    def read(cls, files: Sequence[Path], tree: FileTree) -> Annotations:
        """Draw all segments; the split is that of a folder of the series."""
        draft = Draft(tree, "segments")
        images = _list_images(tree, draft)
        slices = _Slices(images)
        drawn: dict[str, dict[int, list[Shape]]] = {}
        numbers: dict[str, int] = {}
        for path in files:
            try:
                with wrap_errors(path):
                    found = _read_regions(path, slices, draft)
            except SegkitError as error:
                draft.problems.append(explain(error))
                continue
            for image in {each.image for each in found} & drawn.keys():
                draft.count(f"segments of several files are drawn together, as on {image}")
            for each in found:
                numbers[each.label] = min(each.number, numbers.get(each.label, each.number))
                shape = Shape(draft.add_category(each.label), each.region)
                drawn.setdefault(each.image, defaultdict(list))[each.page].append(shape)
        for name, shapes in drawn.items():
            count = len(images[name])
            for page, slice in enumerate(images[name]):
                draft.add_image(
                    name,
                    shapes[page],
                    name,
                    split=find_split(name),
                    size=slice.size,
                    page=page if count > 1 else None,
                )
        left = images.keys() - drawn.keys()
        if left:
            draft.notes.append(
                f"DICOM images without segments are not used ({len(left)}): {min(left)}"
                + " ..." * (len(left) > 1)
            )
        return draft.finish(sorted(draft.categories, key=lambda label: (numbers[label], label)))


class _Region(NamedTuple):
    """A segment on a slice of an image."""

    image: str
    page: int
    number: int
    label: str
    region: Rle


class _Slices:
    """Finds the slices of all images that frames of segments belong to."""

    def __init__(self, images: dict[str, list[Slice]]) -> None:
        self._of_object: dict[str, list[tuple[str, int, Slice]]] = defaultdict(list)
        self._of_frame: dict[str, list[tuple[str, int, Slice]]] = defaultdict(list)
        for name, slices in images.items():
            for page, each in enumerate(slices):
                item = name, page, each
                self._of_object[str(each.header.get("SOPInstanceUID"))].append(item)
                self._of_frame[str(each.header.get("FrameOfReferenceUID"))].append(item)

    def find(self, frame: Slice, sources: set[tuple[str, int | None]]) -> tuple[str, int]:
        """The image and page of a frame.

        Args:
            frame: Its place.
            sources: The objects that it names, with a frame, from 0, or None for any.

        Raises:
            SegkitError: There is none, there are several, or it lies elsewhere.
        """
        named = [
            item
            for uid, number in sources
            for item in self._of_object.get(uid, [])
            if number in (None, item[2].frame)
        ]
        near = named or self._of_frame[str(frame.header.get("FrameOfReferenceUID"))]
        shifts = [(self._measure(frame, each), name, page) for name, page, each in near]
        found = [item for item in shifts if item[0] is not None and item[0] < _APART]
        if not found and len(named) == 1 and shifts[0][0] is None:  # no places to be compared
            found = shifts
        if len(found) == 1:
            return found[0][1:]
        if found:
            raise SegkitError(
                f"frame {frame.frame + 1} lies on {found[0][1]} and on {found[1][1]}, and names"
                " neither: keep one of these series"
            )
        if not near:
            raise SegkitError("none of the DICOM images below data.root is the one it was drawn on")
        raise SegkitError(
            f"frame {frame.frame + 1} ({frame.size[0]} x {frame.size[1]}) lies on no slice of"
            f" {near[0][0]} ({near[0][2].size[0]} x {near[0][2].size[1]}): write the segments on"
            " the grid of the series, or add the slices that are missing"
        )

    @staticmethod
    def _measure(frame: Slice, each: Slice) -> float | None:
        """How many pixels they lie apart; None if that is not known."""
        if frame.size != each.size:
            return np.inf
        places = frame.find_place(), each.find_place()
        if places[0] is None or places[1] is None:
            return None
        return find_shift((places[0], places[1]), (frame.size, each.size))


def _is_segmentation(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(_START)
    except OSError:  # a folder, or a file that is no more
        return False
    return b"DICM" in start and _KIND.search(start) is not None


def _list_images(tree: FileTree, draft: Draft) -> dict[str, list[Slice]]:
    """The slices of all series and single files below the root."""
    found: dict[str, list[Slice]] = {}
    for name in list_files(tree.root).images:
        path = tree.path(name)
        if find_format(path) is not Dicom:
            continue
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        files = [file for file in inside if not _is_segmentation(file)]
        if not files:
            continue
        try:
            with wrap_errors(path):
                found[name] = list_slices(path)
        except SegkitError as error:
            # a folder of images, and not of the slices of one
            single = _list_single(tree, files) if len(files) > 1 else {}
            if not single:
                draft.notes.append(f"not used: {explain(error)}")
            found |= single
    return found


def _list_single(tree: FileTree, files: Sequence[Path]) -> dict[str, list[Slice]]:
    """The slices of files that are of a series each; none if they are not."""
    try:
        found = {tree.relative(file): list_slices(file) for file in files}
    except Exception:  # pydicom raises anything; the folder's error is told
        return {}
    series = {str(slices[0].header.get("SeriesInstanceUID")) for slices in found.values()}
    return found if len(series) == len(found) else {}


def _read_regions(path: Path, slices: _Slices, draft: Draft) -> list[_Region]:
    """Draw the frames of a file, in the order of the segments.

    Raises:
        SegkitError: A frame belongs to no slice, or to no segment that the file describes.
    """
    file = load_dataset(path)
    kind = str(file.get("SegmentationType") or "BINARY")
    labels = {int(item.SegmentNumber): _name(item) for item in file.get("SegmentSequence") or []}
    if kind == "FRACTIONAL":
        draft.count("fractional segments are inside from a half on")
    if file.get("SegmentsOverlap") == "YES":
        draft.count("files say that segments overlap: head=multilabel keeps all of them")
    regions = []
    for frame in list_frames(path, file):
        groups = _list_groups(file, frame.frame)
        with quiet():
            values = decode_frame(file, frame)
        for number, inside in _list_segments(file, kind, groups, values):
            if number not in labels:
                raise SegkitError(
                    f"frame {frame.frame + 1} has the segment {number}, which the file does not"
                    f" describe, only {', '.join(map(str, labels))}"
                )
            if inside.any():
                image, page = slices.find(frame, _list_sources(groups))
                region = encode_mask(inside, frame.size)
                regions.append(_Region(image, page, number, labels[number], region))
    return sorted(regions, key=lambda each: each.number)


def _name(segment: Any) -> str:
    return str(segment.get("SegmentLabel") or "").strip() or f"segment {segment.SegmentNumber}"


def _list_groups(file: Any, frame: int) -> list[Any]:
    """What is stated of a frame, and of all frames."""
    own = file.get("PerFrameFunctionalGroupsSequence") or []
    return [*own[frame : frame + 1], *(file.get("SharedFunctionalGroupsSequence") or [])]


def _list_segments(
    file: Any, kind: str, groups: list[Any], values: NDArray[Any]
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """The segments of a frame and where they are."""
    if kind == "LABELMAP":
        for number in np.unique(values[values != 0]).tolist():
            yield int(number), values == number
        return
    named = [item for group in groups for item in group.get("SegmentIdentificationSequence") or []]
    if not named:
        raise SegkitError("a frame names no segment")
    # half of the values that mean all of a pixel
    half = (int(file.MaximumFractionalValue) + 1) // 2 if kind == "FRACTIONAL" else 1
    yield int(named[0].ReferencedSegmentNumber), values >= half


def _list_sources(groups: list[Any]) -> set[tuple[str, int | None]]:
    """The objects that a frame of segments was drawn on, with a frame, from 0, or None for any."""
    items = (
        source
        for group in groups
        for derivation in group.get("DerivationImageSequence") or []
        for source in derivation.get("SourceImageSequence") or []
    )
    found = set[tuple[str, int | None]]()
    for item in items:
        uid, frames = str(item.get("ReferencedSOPInstanceUID")), item.get("ReferencedFrameNumber")
        if frames is None:
            found.add((uid, None))
        else:
            numbers = [frames] if isinstance(frames, int | str) else frames
            found |= {(uid, int(number) - 1) for number in numbers}
    return found
