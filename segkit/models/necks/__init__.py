"""Necks: importing the package makes all built-in members known."""

from segkit.models.necks.base import Neck
from segkit.models.necks.fcn import FCNNeck
from segkit.models.necks.fpn import FPNNeck
from segkit.models.necks.unet import UNetNeck

__all__ = ["FCNNeck", "FPNNeck", "Neck", "UNetNeck"]
