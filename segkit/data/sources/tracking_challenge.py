"""The sets of the Cell Tracking Challenge, in the folders in which they are unpacked."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX, Mode
from segkit.data.sources.base import SPLITS, DataSource, Sample, Split
from segkit.data.sources.splitting import Divided, by_ratio
from segkit.data.sources.tracking_layout import TimeLapse, Truth, find_sequences
from segkit.images.channels import convert_channels
from segkit.images.reading import read_image, read_mask
from segkit.targets.partial import find_uncertain_pixels, find_unoutlined_markers, measure_reach

Fraction = Annotated[float, Field(ge=0, lt=1)]
# YAML reads 02 as a number
SequenceName = Annotated[str, BeforeValidator(lambda v: f"{v:02d}" if isinstance(v, int) else v)]

UNLABELLED = -1
"""The value of pixels that are not labelled; the files' 16 bits leave no room for it."""

_MARGIN = 1.25
"""The largest cells may be among those that nobody has outlined."""
_REACH_FRAMES = 24
"""Frames of a sequence that tell how far its cells extend, at most."""


class TrackingChallengeSource(DataSource, name="tracking_challenge"):
    """A two-dimensional training set of the Cell Tracking Challenge, as it is unpacked.

    The frames that have outlines are samples; their masks hold the ids of cells. In many of them
    only some cells are outlined, while all of them have a marker for the tracking. Where a cell may
    be that has a marker and no outline, the mask is :data:`UNLABELLED`: no gradient, no metric. A
    marker is without outline where no more than half of it lies on outlined cells. Its cell may be
    wherever no other is outlined, up to a quarter farther than any outlined cell of the sequence
    extends from its own marker; everywhere, where no outlined cell has one.

    Neighbouring frames are alike, and the same cells live on through a sequence: a split by
    ``val_sequences`` is the strict one, otherwise the last frames of each sequence are held out.

    Args:
        mode: The head's mode.
        root: The folder with 01, 01_GT ..., or the one above it.
        truth: "gold", outlined by people, or "silver", the majority of computers' outlines.
        val_sequences: The sequences that validate, as "02"; None takes ``val_fraction`` of each.
        test_sequences: The sequences to test with; None takes ``test_fraction`` of each.
        val_fraction: Share of the frames that validate, where ``val_sequences`` is None.
        test_fraction: Share of the frames to test with, where ``test_sequences`` is None.
        unoutlined: What becomes of cells that are marked but not outlined: "ignore" as described
            above, or "background".
        border: Width in pixels of the zone along the border whose background is not labelled: cells
            that lie in it as a whole, outside the challenge's field of interest, need not be
            outlined or marked. 50 for DIC-C2DH-HeLa and PhC-C2DH-U373.
        channels: "auto" takes the images as they are; 1 or 3 makes all of them grey or RGB.
    """

    instances = True
    class_names = ("background", "cell")

    def __init__(
        self,
        mode: Mode,
        root: Path,
        truth: Truth = "gold",
        val_sequences: tuple[SequenceName, ...] | None = None,
        test_sequences: tuple[SequenceName, ...] | None = None,
        val_fraction: Fraction = 0.2,
        test_fraction: Fraction = 0.0,
        unoutlined: Literal["ignore", "background"] = "ignore",
        border: Annotated[int, Field(ge=0)] = 0,
        channels: Literal["auto", 1, 3] = "auto",
    ) -> None:
        both = set(val_sequences or ()) & set(test_sequences or ())
        if both:
            raise SegkitError(
                f"data.val_sequences and data.test_sequences both name '{min(both)}': a sequence"
                " belongs to one split."
            )
        self.mode, self.root, self.truth = mode, root, truth
        self.sequences: dict[Split, tuple[str, ...] | None] = {
            "val": val_sequences,
            "test": test_sequences,
        }
        self.fractions = {"val": val_fraction, "test": test_fraction}
        self.unoutlined, self.border, self.channels = unoutlined, border, channels
        self.label_map = {UNLABELLED: IGNORE_INDEX}
        self._reaches: dict[str, float] = {}

    def splits(self) -> dict[Split, list[Sample]]:
        """The frames that have outlines, by split.

        Raises:
            SegkitError: The set is not there, has no such truth or is three-dimensional, or there
                is no sequence of a given name.
        """
        divided: Divided = {split: [] for split in SPLITS}
        given = {name: split for split, names in self.sequences.items() for name in names or ()}
        unknown = sorted(given.keys() - {sequence.name for sequence in self._listed})
        if unknown:
            raise SegkitError(
                f"data.{given[unknown[0]]}_sequences: there is no sequence '{unknown[0]}' with"
                f" {self.truth} outlines in {self.root}, only"
                f" {', '.join(sequence.name for sequence in self._listed)}."
            )
        val = self.fractions["val"] if self.sequences["val"] is None else 0.0
        test = self.fractions["test"] if self.sequences["test"] is None else 0.0
        for sequence in self._listed:
            if sequence.name in given:
                divided[given[sequence.name]] += sequence.samples
            else:
                for split, samples in by_ratio(sequence.samples, val, test, None).items():
                    divided[split] += samples
        return divided

    def problems(self) -> list[str]:
        """Outlines without an image, and without markers where those are needed."""
        found = []
        for sequence in self._listed:
            found += sequence.problems
            if self.unoutlined == "ignore":
                found += [
                    f"{sample.name} has outlines, but no markers: there is no {sequence.name}"
                    f"_GT/TRA/man_track{sample.name.rpartition('/t')[2]}.tif to tell whether all of"
                    " its cells are outlined; data.unoutlined=background takes it that they are"
                    for sample in sequence.samples
                    if sample.name not in sequence.markers
                ]
        return found

    def read_image(self, sample: Sample) -> NDArray[Any]:
        """(H, W, C) as stored, or with the ``channels`` that were asked for."""
        assert sample.image is not None
        image = read_image(sample.image)
        if self.channels == "auto":
            return image
        try:
            return convert_channels(image, self.channels)
        except SegkitError as error:
            raise SegkitError(f"{sample.image}: {error}") from error

    def read_mask(self, sample: Sample) -> NDArray[np.integer[Any]]:
        """(H, W) int32: ids of cells, 0 the background, :data:`UNLABELLED` what may be either."""
        assert sample.mask is not None
        ids = _read_ids(sample.mask)
        mask = ids.copy()
        markers = self.read_markers(sample) if self.unoutlined == "ignore" else None
        if markers is not None:
            if markers.shape != ids.shape:
                raise SegkitError(
                    f"{sample.mask} has {ids.shape[0]} x {ids.shape[1]} pixels, but its markers"
                    f" have {markers.shape[0]} x {markers.shape[1]}: they must be alike."
                )
            alone = find_unoutlined_markers(ids, markers)
            if alone.any():
                mask[find_uncertain_pixels(ids, alone, self._reach(sample))] = UNLABELLED
        if self.border:
            if 2 * self.border >= min(ids.shape):
                raise SegkitError(
                    f"{sample.mask} has {ids.shape[0]} x {ids.shape[1]} pixels:"
                    f" data.border={self.border} leaves nothing of it."
                )
            outer = np.ones(ids.shape, np.bool_)
            outer[self.border : -self.border, self.border : -self.border] = False
            mask[outer & (ids == 0)] = UNLABELLED
        return mask

    def read_markers(self, sample: Sample) -> NDArray[np.integer[Any]] | None:
        """(H, W) int32: the ids of all cells of the frame at their markers, or None."""
        sequence = self._sequence(sample)
        path = sequence.markers.get(sample.name)
        return None if path is None else _read_ids(path)

    def _sequence(self, sample: Sample) -> TimeLapse:
        name = sample.name.partition("/")[0]
        return next(sequence for sequence in self._listed if sequence.name == name)

    def _reach(self, sample: Sample) -> float:
        """How far cells may extend from their markers in the sequence of a sample, in pixels."""
        sequence = self._sequence(sample)
        if sequence.name not in self._reaches:
            known = [s for s in sequence.samples if s.name in sequence.markers]
            found = []
            for frame in known[:: -(-len(known) // _REACH_FRAMES)]:
                markers = self.read_markers(frame)
                assert frame.mask is not None
                assert markers is not None
                ids = _read_ids(frame.mask)
                if ids.shape == markers.shape:  # else it is a problem of that frame
                    found.append(measure_reach(ids, markers))
            seen = [distance for distance in found if distance is not None]
            self._reaches[sequence.name] = _MARGIN * max(seen) if seen else np.inf
        return self._reaches[sequence.name]

    @cached_property
    def _listed(self) -> list[TimeLapse]:
        return find_sequences(self.root, self.truth)


def _read_ids(path: Path) -> NDArray[np.int32]:
    ids = read_mask(path)
    if ids.ndim != 2:
        raise SegkitError(f"{path}: ids of cells have one channel, not {ids.shape[2]}.")
    return ids.astype(np.int32)
