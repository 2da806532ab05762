"""Heads: importing the package makes all built-in members known."""

from segkit.models.heads.base import Head
from segkit.models.heads.binary import BinaryHead
from segkit.models.heads.multiclass import MulticlassHead
from segkit.models.heads.multilabel import MultilabelHead

__all__ = ["BinaryHead", "Head", "MulticlassHead", "MultilabelHead"]
