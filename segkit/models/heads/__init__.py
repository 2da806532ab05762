"""Heads, which turn a map into logits and logits into labels."""

from segkit.models.heads.base import Head as Head
