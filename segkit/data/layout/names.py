"""Which image and which mask belong together, by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

from segkit.core.errors import SegkitError
from segkit.images.formats.base import MARK

TRIED = 50
"""Names that a rule is tried on before it is tried on all."""
MOST_PARTS = 4
"""Ends of the common part of names at which an ID may begin."""
MOST_ALIKE = 10
"""Masks that may begin or end like one image; more have only a common word."""


class Rule(NamedTuple):
    """Image names are image_before + ID + image_after, mask names likewise; without endings."""

    image_before: str
    image_after: str
    mask_before: str
    mask_after: str

    def image_id(self, stem: str) -> str | None:
        """The ID in an image's name."""
        return _cut(stem, self.image_before, self.image_after)

    def mask_stem(self, image: str) -> str | None:
        """The name of an image's mask."""
        id = self.image_id(image)
        if id is None:
            return None
        folder, _, name = id.rpartition("/")
        return f"{folder}/" * bool(folder) + self.mask_before + name + self.mask_after

    @property
    def cuts_words(self) -> bool:
        """Whether an ID begins or ends amid a word, such as the 10 in IMG10."""
        ends = (self.image_before[-1:], self.image_after[:1], self.mask_before[-1:])
        return any(end.isalnum() for end in (*ends, self.mask_after[:1]))


SAME = Rule("", "", "", "")
"""Masks are named like their images."""


def find_rules(images: Sequence[str], masks: Sequence[str]) -> list[tuple[Rule, int]]:
    """Rules that pair images and masks whose names differ, with the number of pairs, best first.

    Of rules with as many pairs the best is short, and begins and ends the ID where words do.
    Affixes are what all images or all masks have in common, and what is left of a mask's name
    beside a part of the first image's.
    """
    if not images or not masks:
        return []
    known = set(masks)
    found: dict[Rule, int] = {}
    tried = images[:: -(-len(images) // TRIED)]
    for rule in {*_rules_of_common_parts(images, masks), *_rules_of_first(images[0], masks)}:
        if rule != SAME and any(rule.mask_stem(stem) in known for stem in tried):
            found[rule] = sum(rule.mask_stem(stem) in known for stem in images)

    def rank(item: tuple[Rule, int]) -> tuple[Any, ...]:
        rule, count = item
        # A start in common keeps sub-folders out of the ID, and long ends are names of one folder.
        return -count, bool(rule.image_before), rule.cuts_words, sum(map(len, rule)), rule

    return sorted(found.items(), key=rank)


def find_kinds(images: Sequence[str], masks: Sequence[str]) -> list[Rule]:
    """The best rule for each kind of masks, of which images have one each.

    None if masks are left that are of no kind: the rules only pair some names by chance, such as
    ``img_1`` with ``mask_01`` where there is a ``mask_10``. Images may be left, without a mask.
    """
    rules = find_rules(images, masks)
    kinds: dict[tuple[str | None, ...], Rule] = {}
    for rule, count in rules:
        if count == rules[0][1]:
            kinds.setdefault(tuple(map(rule.mask_stem, images)), rule)
    pairs_all = bool(rules) and rules[0][1] == len(images)
    return list(kinds.values()) if pairs_all or set(masks) <= set().union(*kinds) else []


def _rules_of_common_parts(images: Sequence[str], masks: Sequence[str]) -> Iterator[Rule]:
    sides = []
    for stems in (images, masks):
        names = [stem.rpartition("/")[2] for stem in stems]
        before = _find_common_start(names)
        after = _find_common_start([name[::-1] for name in names])[::-1]
        shortest = min(map(len, names))
        # only whole words: of IMG_10 and IMG_11 not IMG_1
        befores = [part for part in _parts(names[0]) if before.startswith(part)]
        ends = [part[::-1] for part in _parts(names[0][::-1])]
        afters = [part for part in ends if after.endswith(part)]
        pairs = product({"", *befores[-MOST_PARTS:]}, {"", *afters[-MOST_PARTS:]})
        sides.append([(b, a) for b, a in pairs if len(b) + len(a) < shortest])
    for (image_before, image_after), (mask_before, mask_after) in product(*sides):
        yield Rule(image_before, image_after, mask_before, mask_after)


def _rules_of_first(image: str, masks: Iterable[str]) -> Iterator[Rule]:
    """Rules by which few masks belong to this image."""
    folder, _, name = image.rpartition("/")
    inside = [m.rpartition("/")[2] for m in masks if m.rpartition("/")[0] == folder]
    for part in _parts(name)[1:]:
        core = part.rstrip("_-. ")
        alike = [mask for mask in inside if core and mask.startswith(core)]
        if len(alike) <= MOST_ALIKE:
            for mask in alike:
                yield Rule("", name[len(core) :], "", mask[len(core) :])
    for part in _parts(name[::-1])[1:]:
        core = part[::-1].lstrip("_-. ")
        alike = [mask for mask in inside if core and mask.endswith(core)]
        if len(alike) <= MOST_ALIKE:
            for mask in alike:
                yield Rule(name[: -len(core)], "", mask[: -len(core)], "")


def _find_common_start(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    end = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:end]


def _parts(text: str) -> list[str]:
    """The beginnings of a text that end where a word does, from none to all of it."""
    ends = [match.end() for match in re.finditer(r"[A-Za-z]+|\d+|[^A-Za-z\d]", text)]
    return list(dict.fromkeys(["", *(text[:end] for end in ends), text]))


def _cut(text: str, before: str, after: str) -> str | None:
    folder, slash, name = text.rpartition("/")
    if len(name) <= len(before) + len(after):
        return None
    if not (name.startswith(before) and name.endswith(after)):
        return None
    return folder + slash + name[len(before) : len(name) - len(after)]


class Match(NamedTuple):
    """What a pattern finds in a path.

    Attributes:
        id: What an image and its mask have in common.
        split: The name of a split; empty if the pattern has none.
        channel: The name of a channel likewise.
        place: The path with MARK in place of the channel's name.
        stars: What each * stands for.
    """

    id: str
    split: str
    channel: str
    place: str
    stars: tuple[str, ...]

    @property
    def above(self) -> list[str]:
        """The split and what * stands for."""
        return [part for part in (self.split, *self.stars) if part]


class Pattern:
    """A pattern of paths with ``{id}``, and on request ``{split}``, ``{channel}`` and ``*``.

    ``{id}.h5::raw`` is the array ``raw`` of the files that match.

    Args:
        text: The pattern.
        option: The option that gives it, for messages.
        channels: What ``{channel}`` may stand for; empty: anything.

    Raises:
        SegkitError: It has no ``{id}``.
    """

    def __init__(self, text: str, option: str, channels: Sequence[str] = ()) -> None:
        path, mark, array = text.partition("::")
        self.array = array if mark else None
        if "{id}" in array or "{channel}" in array:
            raise SegkitError(
                f"{option}={text}: {{id}} and {{channel}} stand for a part of a path, and not of"
                " the name of an array. List arrays of one file in a table, with"
                " data.pairs=FILE.csv; '{id}.h5::{red,nir}' are the channels of an image."
            )
        self.has_channel = "{channel}" in path
        if "{id}" not in path:
            raise SegkitError(
                f"{option}={text} has no {{id}}, which stands for what an image and its mask have"
                " in common, such as '{id}_RGB.tif' and '{id}_label.tif'."
            )
        self.text = text
        names = "|".join(map(re.escape, sorted(channels, key=len, reverse=True)))
        groups = {"id": ".+", "split": "[^/]+", "channel": names or r"[^/,{}]+?"}
        regex, self._marks = "", 0
        for part in re.split(r"(\{id\}|\{split\}|\{channel\}|\*)", path):
            name = part[1:-1]
            if part == "*":
                regex += "([^/]*)"
            elif not part.startswith("{") or name not in groups:
                regex += re.escape(part)
            else:
                again = f"(?P={name})" if f"(?P<{name}>" in regex else f"(?P<{name}>{groups[name]})"
                if name == "channel":
                    again, self._marks = f"(?P<mark{self._marks}>{again})", self._marks + 1
                regex += again
        self._regex = re.compile(regex)

    def match(self, path: str) -> Match | None:
        """What it finds in a path; None if that does not match."""
        found = self._regex.fullmatch(path)
        if found is None:
            return None
        groups, place = found.groupdict(), path
        for number in reversed(range(self._marks)):
            start, end = found.span(f"mark{number}")
            place = place[:start] + MARK + place[end:]
        named = self._regex.groupindex.values()
        stars = tuple(text for n, text in enumerate(found.groups(), start=1) if n not in named)
        split, channel = groups.get("split") or "", groups.get("channel") or ""
        return Match(groups["id"], split, channel, place, stars)
