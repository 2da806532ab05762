"""What is learned from labels and object ids."""

from segkit.targets.base import Target as Target
