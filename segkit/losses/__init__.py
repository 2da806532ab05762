"""Losses by name. Importing any module of this package registers all the built-in ones."""

from segkit.losses.base import Loss
from segkit.losses.bce import BinaryCrossEntropy
from segkit.losses.boundary import Boundary
from segkit.losses.cldice import CenterlineDice
from segkit.losses.cross_entropy import CrossEntropy
from segkit.losses.dice import Dice
from segkit.losses.focal import Focal
from segkit.losses.jaccard import Jaccard
from segkit.losses.lovasz import Lovasz
from segkit.losses.sum import WeightedSum
from segkit.losses.tversky import Tversky

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
