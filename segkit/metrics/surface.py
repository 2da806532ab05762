"""Surface Dice at a tolerance, also called normalised surface distance (NSD)."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from segkit.core.errors import SegkitError
from segkit.core.labels import Mode
from segkit.metrics.base import Metric, ScoredImage, average_defined, divide
from segkit.metrics.boundary import count_boundaries

_MICROMETRES = {"um": 1.0, "mm": 1e3}


class SurfaceDice(Metric, name="surface_dice"):
    """Share of the boundaries that are right up to a tolerance, per class.

    With the boundary pixels P of the prediction and T of the truth of a class, in all images::

        surface dice = (|{p in P: at most t from T}| + |{q in T: at most t from P}|) / (|P| + |T|)

    Boundaries are those of :func:`segkit.metrics.boundary.count_boundaries`: ignored pixels and
    the border of the image have none. A class without predicted and true boundary has no value; if
    one of the two is missing in an image, nothing of the other one is right.

    Nikolov et al., "Clinically Applicable Segmentation of Head and Neck Anatomy for Radiotherapy",
    2021; they measure areas of surface elements, here each boundary pixel counts once.

    Args:
        mode: The mode of the head.
        num_classes: Number of classes, background included.
        tolerance: Accepted distance t between boundaries, from centre to centre of their pixels: as
            large as two people who draw the same boundary differ.
        unit: Unit of the tolerance: px, or um or mm, where the files of all images say how large
            their pixels are.
    """

    def __init__(
        self,
        mode: Mode,
        num_classes: int,
        tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0,
        unit: Literal["px", "um", "mm"] = "px",
    ) -> None:
        super().__init__(mode, num_classes)
        self.tolerance, self.unit = tolerance, unit
        self.needs_pixel_size = unit != "px"

    def count(self, image: ScoredImage) -> NDArray[np.float64]:
        """Boundary pixels of each class: right and all predicted, right and all true, (C, 4)."""
        spacing, tolerance = (1.0, 1.0), self.tolerance
        if self.unit != "px":
            if image.pixel_size is None:
                raise SegkitError(
                    f"surface_dice with unit={self.unit} needs the size of the pixels: give a"
                    " tolerance in pixels, unit=px."
                )
            spacing = image.pixel_size
            tolerance *= _MICROMETRES[self.unit]
        counts = count_boundaries(
            image.labels, image.target, self.mode, self.num_classes, tolerance, spacing
        )
        return counts[:, :4]

    def score(self, sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The mean over the classes that have a value."""
        return {k: average_defined(v) for k, v in self.score_classes(sums).items()}

    def score_classes(self, sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The score of each class, (..., C)."""
        near, predicted, found, true = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
        return {"surface_dice": divide(near + found, predicted + true)}
