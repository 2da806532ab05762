"""What is found below a folder of data: pairs of images and masks, problems and notes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from segkit.data.sources.base import Split


class Pair(NamedTuple):
    """An image and its mask, with its path below the root as name and the split of its folder."""

    name: str
    image: Path
    mask: Path
    split: Split | None


@dataclass
class Layout:
    """What was found below a folder.

    Attributes:
        pairs: Images with their masks.
        problems: What is wrong with single files.
        notes: What the user should know, such as files that are not used.
        channels: The names of channels that lie in files of their own, in their order.
        no_rule: Whether no rule of names pairs the files of some folders.
        is_discovered: Whether no names of folders say which files are images and masks.
    """

    pairs: list[Pair] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    channels: tuple[str, ...] = ()
    no_rule: bool = False
    is_discovered: bool = False


class Names(NamedTuple):
    """What the config says about names: of folders, masks and channels, and patterns of paths."""

    images: str = "images"
    masks: str = "masks"
    mask_suffix: str = ""
    image_pattern: str | None = None
    mask_pattern: str | None = None
    channel_files: tuple[str, ...] = ()


NAMES = Names()
"""Where the config says nothing."""


def relative_path(path: Path, root: Path) -> str:
    """A path below the root as messages name it, with "/"; of the root itself its name."""
    return Path(os.path.relpath(path, root)).as_posix() if path != root else root.name
