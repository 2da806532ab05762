"""Losses by name. Importing any module of this package registers all the built-in ones."""

from segkit.losses.base import Loss
from segkit.losses.boundary import Boundary
from segkit.losses.cldice import CenterlineDice
from segkit.losses.cross_entropy import BinaryCrossEntropy, CrossEntropy
from segkit.losses.focal import Focal
from segkit.losses.lovasz import Lovasz
from segkit.losses.overlap import Dice, Jaccard, Tversky
from segkit.losses.sum import WeightedSum

__all__ = [
    "BinaryCrossEntropy",
    "Boundary",
    "CenterlineDice",
    "CrossEntropy",
    "Dice",
    "Focal",
    "Jaccard",
    "Loss",
    "Lovasz",
    "Tversky",
    "WeightedSum",
]
