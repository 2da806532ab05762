"""Necks, which turn the maps of an encoder into one."""

from segkit.models.necks.base import Neck as Neck
