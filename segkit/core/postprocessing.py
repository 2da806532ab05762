"""What is done with the probabilities of a network, chosen on images that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True)
class Postprocessing:
    """Choices of ``python -m segkit.evaluate tune=true``, which a checkpoint keeps in its card.

    Attributes:
        thresholds: Probability above which a pixel belongs to a class: one number for a binary
            head, one per class where classes overlap, none where the most probable class is taken.
        min_size: Objects of fewer pixels are dropped; None: the limit of the training.
        fill_holes: Whether background enclosed by a single object joins it.
    """

    thresholds: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    min_size: Annotated[int, Field(ge=0)] | None = None
    fill_holes: bool = False
