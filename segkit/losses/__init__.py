"""Losses of logits and integer label maps."""

from segkit.losses.base import Loss as Loss
