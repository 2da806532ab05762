"""Patterns of paths of the images and masks below a folder whose layout has no usual names.

Folders and files that are called like masks tell masks from images, and the rules of names that
pair most of both become patterns.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from segkit.data.layout.files import strip_suffix
from segkit.data.layout.names import SAME, Match, Pattern, find_kinds
from segkit.data.layout.splits import ALIASES, find_split
from segkit.data.sources.base import Split


def _read_words(text: str) -> frozenset[str]:
    return frozenset(text.split())


OF_MASKS = _read_words(
    "mask masks label labels lab labs annotation annotations annot anno ann gt gts ground "
    "groundtruth truth segmentation segmentations seg segs target targets manual semantic "
    "map trimap trimaps matte mattes msk lbl"
)
"""Words in the names of masks and of their folders."""
OF_IMAGES = _read_words(
    "image images img imgs im input inputs original originals org rgb sat photo photos "
    "picture pictures scans tissue top"
)
"""Words in the names of images and of their folders."""
NEVER_IMAGES = _read_words(
    "vis viz visualization overlay overlays instance instances panoptic object edge edges "
    "boundary boundaries contour contours superpixels colormap colormaps"
)
"""Words in the names of other files that belong to masks, and are neither images nor labels."""
FOR_EYES = NEVER_IMAGES | {"rgb", "color", "colors", "colour", "colours"}
"""Words in the names of masks that are taken if there are no other ones."""
COMPOUND = ("mask", "masks", "label", "labels")
"""What words end in that are made of two, such as inklabels."""
SHORT_SPLITS = _read_words("tr te ts vd")
"""Words for splits that may mean something else, so that such folders are not taken together."""
_WORD = rf"(?<![A-Za-z])({'|'.join(ALIASES)})(?![A-Za-z])"
_SPLIT = re.compile(rf"{_WORD}([^A-Za-z]+{_WORD})*", re.IGNORECASE)


class Choice(NamedTuple):
    """Images and masks that belong together.

    Attributes:
        image: The pattern of paths of images.
        mask: That of masks.
        file: The first mask.
        pairs: How many images have a mask.
        is_named: Whether the masks are called masks, so that they are not mixed up with images.
    """

    image: str
    mask: str
    file: str
    pairs: int
    is_named: bool


class _Kind(NamedTuple):
    """Files in folders of one pattern.

    Attributes:
        folder: The pattern of the folders, with a slash at the end, or empty.
        stem: The name of all files, if it is the same, else empty.
        ending: What follows the name.
        words: What the folders and files are called.
        is_mask: Whether they are called masks, or like what belongs to masks.
        paths: The paths by what tells them apart: split, folders that differ, and name.
    """

    folder: str
    stem: str
    ending: str
    words: frozenset[str]
    is_mask: bool
    paths: dict[str, str]

    def state(self, before: str, after: str) -> str:
        """The pattern of the paths, with what is around the ID in names."""
        if not self.stem:
            return f"{self.folder}{before}{{id}}{after}{self.ending}"
        head, _, tail = self.folder.rpartition("*")  # the last folder that differs is the ID
        return f"{head}{{id}}{tail}{self.stem}{self.ending}"


def discover(names: Sequence[str]) -> list[Choice]:
    """The images and masks among files, given by their paths; several where there is a doubt.

    Those whose masks are not called masks, but pair as well, come last.
    """
    usable = [name for name in names if not set("{}*") & set(name)]
    found = [_discover(_group(usable, with_stars)) for with_stars in (True, False)]
    for choices in found:
        if any(not split_words(choice.mask) & FOR_EYES for choice in choices):
            return choices
    return found[0] or found[1]


def _discover(kinds: Sequence[_Kind]) -> list[Choice]:
    images, masks = [k for k in kinds if not k.is_mask], [k for k in kinds if k.is_mask]
    if not masks:
        named = [kind for kind in images if kind.words & OF_IMAGES]
        found = [each for k in images if k not in named for each in _find_images(k, named)]
        if not found:
            return [choice for kind in images for choice in _match_unnamed(kind, images)]
        return [choice for _, choice in found]
    found = [each for kind in masks for each in _find_images(kind, images)]
    most = max((choice.pairs for _, choice in found), default=0)
    found = [(kind, choice) for kind, choice in found if 2 * choice.pairs >= most]
    found = [(k, c) for k, c in found if not split_words(c.mask) & FOR_EYES] or found
    found = [(k, c) for k, c in found if k.words & OF_IMAGES] or found
    used = [kind for kind in images if any(kind is k for k, _ in found)]
    others = [kind for kind in images if all(kind is not k for k in used)]
    found += [each for kind in others for each in _find_images(kind, used)]
    return [choice for _, choice in found if 2 * choice.pairs >= most]


def _find_images(masks: _Kind, images: Sequence[_Kind]) -> list[tuple[_Kind, Choice]]:
    """The choices for a kind of masks, with the images of the same names, or else the nearest."""
    found = [(kind, _match(kind, masks)) for kind in images]
    found = [(kind, match) for kind, match in found if match.choices]
    found = [(kind, match) for kind, match in found if match.is_same] or found
    near = [
        (
            _count_shared(kind.folder.split("/"), masks.folder.split("/")),
            len(kind.words & masks.words),
        )
        for kind, _ in found
    ]
    return [
        (kind, choice)
        for (kind, match), count in zip(found, near, strict=True)
        for choice in match.choices
        if count == max(near)
    ]


def _count_shared(*folders: Sequence[str]) -> int:
    """How many folders are the same at the start of all paths."""
    same = [len(set(each)) == 1 for each in zip(*folders, strict=False)]
    return [*same, False].index(False)


def _group(names: Sequence[str], with_stars: bool) -> list[_Kind]:
    folders = {name: tuple(name.split("/")[:-1]) for name in names}
    patterns = _find_patterns(set(folders.values()), with_stars)
    shared = _count_shared(*folders.values())
    stems = {name: strip_suffix(name) for name in names}
    words = {
        name: split_words(*folder[shared:], stems[name].rpartition("/")[2])
        for name, folder in folders.items()
    }
    found: dict[tuple[str, str, bool], list[str]] = defaultdict(list)
    for name, folder in folders.items():
        is_mask = _is_mask(folder[shared:], stems[name].rpartition("/")[2])
        found[patterns[folder], name[len(stems[name]) :], is_mask].append(name)
    kinds = list[_Kind]()
    for (place, ending, is_mask), inside in found.items():
        pattern = Pattern(place + "{id}", "data.image_pattern")
        matches = {name: match for name in inside if (match := pattern.match(stems[name]))}
        ids = {name: _state_split(match) for name, match in matches.items()}
        if not all("{split}" in id for id in ids.values()):
            ids = {name: match.id for name, match in matches.items()}
        # in a folder for each sample the files of all have the same few names
        counts = Counter(ids.values())
        if "*" in place and all(n > 1 and not re.search(r"\d", id) for id, n in counts.items()):
            for stem in counts:
                alike = [name for name, id in ids.items() if id == stem]
                paths = {"/".join(matches[name].above): name for name in alike}
                kinds.append(_Kind(place, stem, ending, _join(words, alike), is_mask, paths))
            continue
        for of_tail in _split_by_tails(ids):
            paths = {"/".join([*matches[name].above, ids[name]]): name for name in of_tail}
            kinds.append(_Kind(place, "", ending, _join(words, of_tail), is_mask, paths))
    return kinds


def _is_mask(folders: Sequence[str], stem: str) -> bool:
    """Whether a file is called like a mask, or else the folder next to it that says what it is."""
    for name in (stem, *reversed(folders)):
        words = split_words(name)
        if words & (OF_MASKS | NEVER_IMAGES) or any(word.endswith(COMPOUND) for word in words):
            return True
        if words & OF_IMAGES and name is not stem:
            return False
    return False


def _join(words: dict[str, frozenset[str]], names: Sequence[str]) -> frozenset[str]:
    return frozenset[str]().union(*(words[name] for name in names))


def _split_by_tails(ids: dict[str, str]) -> list[list[str]]:
    """Files by the word at the end of their names, such as rgb, if each has the same names before.

    Words that do not say what files are, as left and right, belong to the ID.
    """
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for name, id in ids.items():
        tail = re.findall("[A-Za-z]*$", id)[0]
        found[tail][name.rpartition("/")[0] + id.removesuffix(tail)] = name
    heads = {frozenset(inside) for inside in found.values()}
    says_what = any(split_words(tail) & (OF_IMAGES | OF_MASKS | FOR_EYES) for tail in found)
    if not says_what or "" in found or len(heads) > 1 or any("" in head for head in heads):
        return [list(ids)]
    return [list(inside.values()) for inside in found.values()]


def _state_split(match: Match) -> str:
    """An ID with {split} where the split of its folder is in it, such as 21_training."""
    if not match.split:
        return match.id
    word = rf"(?<![A-Za-z0-9]){re.escape(match.split)}(?![A-Za-z0-9])"
    return re.sub(word, "{split}", match.id)


def _find_patterns(folders: set[tuple[str, ...]], with_stars: bool) -> dict[tuple[str, ...], str]:
    """The pattern of each folder: {split} for splits, * for names that say nothing."""
    patterns: dict[tuple[str, ...], str] = {(): ""}
    level = {folder[:n] for folder in folders for n in range(1, len(folder) + 1)}
    for depth in range(1, max(map(len, level), default=0) + 1):
        beside: dict[str, set[str]] = defaultdict(set)
        here = [folder for folder in level if len(folder) == depth]
        for *above, name in here:
            beside[patterns[tuple(above)]].add(name)
        for folder in here:
            *above, name = folder
            place = patterns[tuple(above)]
            patterns[folder] = f"{place}{_find_part(name, beside[place], with_stars)}/"
    return patterns


def _find_part(name: str, beside: set[str], with_stars: bool) -> str:
    """What stands in a pattern for a folder, given the names of all that lie in its place."""
    if find_split(name) is not None:  # never mixed with those beside it
        splits: dict[str, set[Split | None]] = defaultdict(set)
        for each in beside:
            splits[_SPLIT.sub("{split}", each)].add(find_split(each))
        are_splits = any("train" in found and len(found) > 1 for found in splits.values())
        return _SPLIT.sub("{split}", name) if are_splits else name
    if not with_stars:
        return name
    part = re.sub(r"\d+", "*", name)
    if part.count("*") == 1 and sum(re.sub(r"\d+", "*", each) == part for each in beside) > 1:
        return part
    with_role = OF_MASKS | OF_IMAGES | NEVER_IMAGES | SHORT_SPLITS
    free = [each for each in beside if not split_words(each) & with_role and not find_split(each)]
    return "*" if name in free and len(free) > 1 else name


class _Match(NamedTuple):
    """The choices of two kinds of files, and whether images and masks have the same names."""

    choices: list[Choice]
    is_same: bool


def _match(images: _Kind, masks: _Kind) -> _Match:
    """The rules that pair images and masks, as patterns."""
    own, other = images.paths, masks.paths
    if len({find_split(kind.folder) for kind in (images, masks)} - {None}) > 1:
        return _Match([], False)
    if not (images.stem or masks.stem) and images.folder.count("*") != masks.folder.count("*"):
        own, other = _flatten(own), _flatten(other)
    is_same = bool(own.keys() & other.keys()) and bool(images.stem) == bool(masks.stem)
    rules = [SAME] if is_same else []
    if not (is_same or images.stem or masks.stem):
        rules = find_kinds(list(own), list(other))
    found = []
    for rule in rules:
        pairs = [stem for key in own if (stem := rule.mask_stem(key)) in other]
        if len(pairs) > 1 or (pairs and len(other) < 3):  # else by chance
            image = images.state(rule.image_before, rule.image_after)
            mask = masks.state(rule.mask_before, rule.mask_after)
            found.append(Choice(image, mask, other[pairs[0] or ""], len(pairs), masks.is_mask))
    return _Match(found, is_same)


def _match_unnamed(kind: _Kind, kinds: Sequence[_Kind]) -> list[Choice]:
    """What may be masks beside images: PNGs beside JPEGs, or names that go on."""
    lossy = ".jpg", ".jpeg"
    others = [k for k in kinds if k.folder == kind.folder and k.ending.lower() not in lossy]
    if kind.ending.lower() in lossy and others:
        return [choice for other in others for choice in _match(kind, other).choices]
    longer = {}
    for key in kind.paths:
        starts = (key[: m.start()] for m in re.finditer(r"[^A-Za-z\d/]", key))
        if any(start in kind.paths for start in starts):
            longer[key] = kind.paths[key]
    shorter = {key: path for key, path in kind.paths.items() if key not in longer}
    if not longer or kind.stem:
        return []
    return _match(kind._replace(paths=shorter), kind._replace(paths=longer)).choices


def _flatten(paths: dict[str, str]) -> dict[str, str]:
    """Paths by names only, if these differ."""
    flat = {key.rpartition("/")[2]: path for key, path in paths.items()}
    return flat if len(flat) == len(paths) else {}


def split_words(*names: str) -> frozenset[str]:
    """The words in names, in lower case.

    Example:
        >>> sorted(split_words("gtFine_labelIds2", "GroundTruth"))
        ['fine', 'ground', 'gt', 'ids', 'label', 'truth']
    """
    found = (re.findall("[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name) for name in names)
    return frozenset(word.lower() for words in found for word in words)
