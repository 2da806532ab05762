"""Encoders, the backbones of a network."""

from segkit.models.encoders.base import Encoder as Encoder
