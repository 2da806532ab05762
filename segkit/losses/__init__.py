"""Losses by name. Importing any module of this package registers all the built-in ones."""

from segkit.losses.base import Loss
from segkit.losses.bce import BinaryCrossEntropy
from segkit.losses.cross_entropy import CrossEntropy
from segkit.losses.dice import Dice
from segkit.losses.focal import Focal
from segkit.losses.sum import WeightedSum

__all__ = ["BinaryCrossEntropy", "CrossEntropy", "Dice", "Focal", "Loss", "WeightedSum"]
