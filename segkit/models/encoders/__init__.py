"""Encoders: importing the package makes all built-in members known."""

from segkit.models.encoders.base import Encoder
from segkit.models.encoders.timm import TimmEncoder
from segkit.models.encoders.unet import UNetEncoder

__all__ = ["Encoder", "TimmEncoder", "UNetEncoder"]
