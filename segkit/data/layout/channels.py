"""Images whose channels lie in several files: which files belong together, and in which order."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from segkit.config.quoting import quote_option
from segkit.data.layout.files import Files, describe_unused, strip_suffix
from segkit.data.layout.names import Pattern
from segkit.data.layout.pairs import Layout, relative_path
from segkit.images.formats.base import MARK, drop_channels, join_channels

NAMED = 5
"""Images that a problem names."""
MOST_BYTES = 2**24
"""Size of a dataset.json, at most: it may list all files."""
_NUMBER = re.compile(r"\d{4}")
_NUMBERED = re.compile(r"(.+)_(\d{4})")
"""nnU-Net's name of a file: a case and the number of a channel."""

Part = tuple[str, str]
"""The channel that a file holds, and its path with MARK in place of the channel's name."""


def find_channel(path: str, channels: Sequence[str], pattern: str = "") -> Part | None:
    """The channel in the path of a file; None if it has none.

    It is a word of the name, the last one that is called like a channel, or else of a folder above.
    The same word of folders is the channel's too: "train_red/red_1.tif". Four digits are at the end
    of the name.

    Args:
        path: with "/".
        channels: Their names.
        pattern: The data.image_pattern of the training; what it says of names of files counts.
    """
    folders, slash, name = path.rpartition("/")
    of_names = pattern.rpartition("/")[2].partition("::")[0]
    if not pattern and all(map(_NUMBER.fullmatch, channels)):
        of_names = "{id}_{channel}.*"  # nnU-Net's: a case may be called like a channel
    found = None
    if "{channel}" in of_names and "{id}" in of_names:
        part = Pattern(of_names, "data.image_pattern", channels).match(name)
        if part is None:
            return None
        found, name = part.channel, part.place
    else:
        ending = name[len(strip_suffix(name)) :]
        stem = name.removesuffix(ending)
        *_, last = [None, *_find_words(stem, channels)]
        if last is not None:
            found = last[0]
            name = stem[: last.start()] + MARK + stem[last.end() :] + ending
    if found is None:
        *_, last = [None, *_find_words(folders, channels)]
        if last is None:
            return None
        found = last[0]
    words = [*_find_words(folders, [found])]
    for word in reversed(words):
        folders = folders[: word.start()] + MARK + folders[word.end() :]
    return found, folders + slash + name


def _find_words(text: str, names: Sequence[str]) -> list[re.Match[str]]:
    """Where names are that neither begin nor end amid letters or amid a number."""
    found = list[re.Match[str]]()
    for name in names:
        before, after = (_BESIDE[_tell_kind(end)] for end in (name[0], name[-1]))
        regex = f"(?<!{before}){re.escape(name)}(?!{after})"
        found += re.finditer(regex, text)
    return sorted(found, key=lambda match: (match.end(), -match.start()))


_BESIDE = {"letter": r"[^\W\d_]", "digit": r"\d", "": r"(?!)"}
"""What may not stand beside a name that ends with such a character."""


def _tell_kind(character: str) -> str:
    return "letter" if character.isalpha() else "digit" if character.isdecimal() else ""


def join_files(
    files: Files, parts: Mapping[str, Part], wanted: Sequence[str], layout: Layout
) -> dict[str, str]:
    """Make images of files that hold a channel each.

    The images are added to ``files.channels``, the channels to the layout, and images that lack one
    to its problems.

    Args:
        files: Where the files are.
        parts: Their channels, by path.
        wanted: The channels in the order of an image; empty: all, sorted.
        layout: What was found before.

    Returns:
        The place of each image, by its name.
    """
    places: dict[str, set[str]] = {}
    for channel, place in parts.values():
        places.setdefault(place, set()).add(channel)
    channels = tuple(wanted) or sort_channels(set[str]().union(*places.values()))
    if layout.channels not in ((), channels):
        layout.problems.append(
            f"the channels of images in {files.folder} are {', '.join(channels)}, those of others"
            f" {', '.join(layout.channels)}: data.channel_files=[...] says which are used"
        )
    layout.channels = channels
    images = dict[str, str]()
    for place in places:
        ending = place[len(strip_suffix(place)) :]
        stem = drop_channels(strip_suffix(place)) or "-".join(channels)
        images[stem + ending] = place
        files.channels[stem + ending] = join_channels(place, channels)
    for channel in channels:
        lacking = [name for name, place in images.items() if channel not in places[place]]
        if lacking:
            shown = ", ".join(lacking[:NAMED]) + (" ..." if len(lacking) > NAMED else "")
            absent = images[lacking[0]].replace(MARK, channel)
            rest = [each for each in channels if each != channel]
            layout.problems.append(
                f"{len(lacking)} of {len(images)} images in {files.folder} lack the channel"
                f" {channel}: {shown}. Add their files, such as {absent}, or leave the channel out:"
                f" {quote_option('data.channel_files', rest)}"
            )
    return images


def sort_channels(names: set[str]) -> tuple[str, ...]:
    """Names of channels in natural order: 2 before 10."""
    split = {name: re.split(r"(\d+)", name) for name in names}
    return tuple(
        sorted(
            names,
            key=lambda name: [(int(s), "") if s.isdecimal() else (-1, s) for s in split[name]],
        )
    )


def group_images(
    root: Path, images: Files, masks: Files, wanted: Sequence[str], layout: Layout
) -> Files:
    """The images of files that hold a channel each, if they are named so."""
    channels = wanted or _find_numbers(images, masks)
    if not channels:
        return images
    parts = {path: part for path in images.images if (part := find_channel(path, channels))}
    if not parts and images.images:
        layout.problems.append(
            f"no image in {images.folder} is called like one of {', '.join(channels)}"
            f" (data.channel_files): there is {images.images[0]}"
        )
        return images
    left = sorted({*images.images} - {*parts})
    layout.notes += describe_unused(left, relative_path(images.folder, root))
    found = Files(images.folder, others=images.others)
    found.images = sorted(join_files(found, parts, channels, layout))
    return found


def _find_numbers(images: Files, masks: Files) -> tuple[str, ...]:
    """The channels of nnU-Net's files, whose masks are called like cases; empty if they are not."""
    found = [_NUMBERED.fullmatch(strip_suffix(name)) for name in images.images]
    cases = {each[1] for each in found if each}
    numbers = {each[2] for each in found if each}
    known = {*map(strip_suffix, masks.images)}
    if None in found or "0000" not in numbers or len(numbers) < 2 or not cases & known:
        return ()
    return sort_channels(numbers) if known.isdisjoint(map(strip_suffix, images.images)) else ()


def describe_channels(root: Path, channels: Sequence[str]) -> str:
    """A note on the channels and their order, with their names in nnU-Net's dataset.json."""
    titles = _read_titles(root / "dataset.json")
    shown = []
    for channel in channels:
        title = titles.get(int(channel)) if channel.isdecimal() else None
        shown.append(f"{channel} ({title})" if title else channel)
    if len(shown) == 1:
        return f"images are the files of the channel {shown[0]} alone (data.channel_files)"
    return (
        f"images are made of the files of the channels {', '.join(shown)} in this order;"
        f" {quote_option('data.channel_files', list(channels))} changes it, or leaves some out"
    )


def _read_titles(path: Path) -> dict[int, str]:
    """What nnU-Net calls the channels; empty if there is no such file."""
    try:
        if path.stat().st_size > MOST_BYTES:
            return {}
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        names = content.get("channel_names") or content.get("modality") or {}
        return {int(number): str(name) for number, name in names.items()}
    except (OSError, ValueError, AttributeError):
        return {}
