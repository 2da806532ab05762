"""Problems of a data set, as one line each with the samples and the remedy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from segkit.config.quoting import quote_option
from segkit.core.labels import (
    IGNORE_INDEX,
    color_to_value,
    describe_colors,
    describe_values,
    value_to_color,
)
from segkit.data.checks.classes import (
    MOST_LEVELS,
    Classes,
    count_pixels_of_all,
    find_written,
    has_option,
    list_levels,
    name_values,
    propose_maps,
    state_map,
)
from segkit.data.checks.facts import Facts, join_names
from segkit.data.mask_files import TRANSPARENT, UNLABELLED
from segkit.data.sources.base import DataSource, Sample, Split

SHOWN = 20
"""Number of problems of one kind that are listed."""
MOST_BANDS = 4
"""Channels of pictures; masks with more, as many as their images, are stacks."""
MOST_COLORS = 64
"""Colours that masks of classes can have."""


def find_repeated_names(splits: dict[Split, list[Sample]]) -> list[str]:
    """Report names that several samples have."""
    counts = Counter(sample.name for samples in splits.values() for sample in samples)
    return [
        f"{count} samples are named '{name}': give each its own name"
        for name, count in counts.items()
        if count > 1
    ]


def find_empty_splits(
    splits: dict[Split, list[Sample]], needed: tuple[Split, ...], source: DataSource
) -> list[str]:
    """Report the needed splits without a sample, or that there is no sample at all."""
    if not any(splits.values()):
        return ["the data set has no samples in train, val or test"]
    count = sum(map(len, splits.values()))
    remedy = "add images, or give it a fraction, a list or a folder"
    if count == 1:
        remedy = "add images"
        if has_option(source, "tile_size"):
            remedy += (
                ", or divide the one into blocks for training and validation: data.split=tiles"
            )
    return [
        f"the split '{split}' has no samples, of {count} in all: {remedy}"
        for split in needed
        if not splits.get(split)
    ]


def find_differences(facts: list[Facts], classes: Classes, source: DataSource) -> list[list[str]]:
    """By kind: masks of another size or depth, images with other channels or types than most."""
    if not facts:
        return []
    sizes = [
        (
            f.sample.name,
            f"the image has {f.shape[0]} x {f.shape[1]} pixels (height x width), its mask"
            f" {f.mask_shape[0]} x {f.mask_shape[1]}: both must have the same size"
            + _hint_at_size(f, source),
        )
        for f in facts
        if f.mask_shape[:2] != f.shape[:2]
    ]
    depths = []
    for f in facts:
        if f.layered and MOST_BANDS < f.mask_shape[2] == f.shape[2]:
            text = (
                f"the image and the mask have {f.shape[2]} channels each: if these are slices,"
                " write both as TIFFs with as many pages"
            )
        elif f.layered and classes.mode != "multilabel":
            text = (
                f"the mask has {f.mask_shape[2]} channels: make it one label for each pixel, or use"
                " head=multilabel if each channel is the map of a class"
            )
        elif f.layered != classes.layered:
            text = (
                f"the mask has the shape {f.mask_shape}, unlike most: all masks must have one"
                " layer of labels, or all a layer for each class"
            )
        elif f.layered and f.mask_shape[2] != classes.count:
            text = f"the mask has {f.mask_shape[2]} layers, but there are {classes.count} classes"
        else:
            continue
        depths.append((f.sample.name, text))

    counts = Counter(f.shape[2] for f in facts)
    usual, remedy = counts.most_common(1)[0][0], "give all images the same channels"
    if set(counts) <= {1, 2, 3, 4} and has_option(source, "channels"):
        remedy = "data.channels=1 or data.channels=3 converts all of them"
    channels = [
        (f.sample.name, f"the image has {f.shape[2]} channels, most have {usual}: {remedy}")
        for f in facts
        if f.shape[2] != usual
    ]
    dtype = Counter(f.dtype for f in facts).most_common(1)[0][0]
    dtypes = [
        (f.sample.name, f"the image is {f.dtype}, most are {dtype}: convert it, in the same units")
        for f in facts
        if f.dtype != dtype
    ]
    return [*map(list_by_message, (sizes, depths, channels, dtypes))]


def _hint_at_size(facts: Facts, source: DataSource) -> str:
    if not has_option(source, "orientation"):
        return ""
    if facts.mask_shape[:2] == facts.shape[1::-1]:
        return (
            " (data.orientation=stored, if the image is turned by its EXIF data and the mask was"
            " drawn on the pixels as stored)"
        )
    return " (data.resize_masks=true resizes masks)"


def find_unknown_colors(facts: list[Facts], classes: Classes, source: DataSource) -> list[str]:
    """Report colours that are not the colour of a class, with all colours and their shares."""
    if source.instances or not has_option(source, "class_colors"):
        return []
    pixels = Counter[int]()
    for f in facts:
        for layer in f.layers:
            for value, count in layer.items():
                written = find_written(value, classes.coding)
                if written is not None:
                    pixels[written] += count
    unknown = sorted(filter(classes.is_unknown_color, pixels))
    if not unknown:
        return []
    order = sorted(pixels, key=lambda v: (v != 0, -pixels[v]))
    total = pixels.total()
    shares = ", ".join(
        f"{describe_colors([v])} {pixels[v] / total:.2%}" for v in order[:MOST_COLORS]
    )
    found = [f.sample.name for f in facts if not f.values.isdisjoint(unknown)]
    where = f"{len(found)} of {len(facts)} masks ({join_names(found)}) hold"
    if len(order) > MOST_COLORS:
        return [
            f"{where} colours, {len(order)} in all ({shares} ...), like photographs or masks with"
            " soft edges or saved with loss: 'data.class_colors=[[R,G,B],...]' with"
            " data.mask_values=nearest takes the nearest colour of a class"
        ]

    def propose(values: Iterable[int]) -> str:
        return ",".join("[{},{},{}]".format(*value_to_color(value)) for value in values)

    if source.class_colors is None:
        return [
            f"{where} colours. All colours: {shares}. Say which are classes, in label order:"
            f" head=multiclass 'data.class_colors=[{propose(order)}]', and their names with"
            " 'data.class_names=[...]'"
        ]
    known = list(map(color_to_value, source.class_colors))
    remedy = f"head=multiclass 'data.class_colors=[{propose([*known, *unknown])}]'"
    if source.class_names:
        names = [*source.class_names, *map(describe_colors, ([value] for value in unknown))]
        remedy += f" {quote_option('data.class_names', names)}"
    meant = {**(source.label_map or {}), **dict.fromkeys(unknown, IGNORE_INDEX)}
    return [
        f"{where} {describe_colors(unknown)}, which is no colour of a class. All colours:"
        f" {shares}. Add classes, {remedy}, or say that they are not labelled,"
        f" {state_map(meant)}"
    ]


def find_wrong_values(facts: list[Facts], classes: Classes, source: DataSource) -> list[str]:
    """Report the masks with values outside the classes, with remedies in the last line."""
    count = 2 if classes.layered else classes.count
    facts = [f for f in facts if f.layered == classes.layered]
    labels = {v: classes.coding.label_of(v) for f in facts for v in f.values}
    wrong = {
        v
        for v, label in labels.items()
        if not (0 <= label < count or label == IGNORE_INDEX or classes.is_unknown_color(v))
    }
    problems = list_by_message(
        (
            f.sample.name,
            f"the mask has the values {describe_values(sorted(wrong & f.values))}, which are"
            f" outside the {count} classes 0 to {count - 1}",
        )
        for f in facts
        if wrong & f.values
    )
    if not problems:
        return []
    remedies = []
    if has_option(source, "instances"):
        remedies.append("use data.instances=true if these are object ids")
    written = {find_written(v, classes.coding) for v in labels if not classes.is_unknown_color(v)}
    levels = list_levels({v for v in written if v is not None}, source)
    is_short = has_option(source, "label_map") and len(levels) <= MOST_LEVELS
    more = propose_maps(levels, source)[0] if is_short else "for more classes"
    if classes.mode == "binary":
        remedies.append(f"use head=multiclass {more}")
    else:
        remedies.append("use head.num_classes for more classes")
    if is_short:
        meant = ", ".join(f"{v}: LABEL" for v in sorted(wrong))
        remedies.append(f"'data.label_map={{{meant}}}' gives them labels")
    remedies.append(f"the label {IGNORE_INDEX} means 'not labelled'")
    if len(wrong) > 3:
        remedies.append(
            "values in between come from JPEG, soft edges or resizing: save masks as PNG and resize"
            " them with nearest neighbour"
            + (
                ", or let data.mask_values=nearest take the nearest known value"
                if has_option(source, "mask_values")
                else ""
            )
        )
    problems[-1] += f". To fix this: {'; '.join(remedies)}"
    return problems


def find_mixed_masks(facts: list[Facts], classes: Classes, source: DataSource) -> list[str]:
    """Report black-and-white masks among masks of 0 and 1, where 255 could mean two things."""
    coding = classes.coding
    two = classes.layered or classes.count == 2
    if not two or coding.foreground or IGNORE_INDEX in (source.label_map or {}):
        return []
    white = [f for f in facts if IGNORE_INDEX in f.values]
    ones = [f for f in facts if any(coding.label_of(v) == 1 for v in f.values)]
    if not white or not ones or any(IGNORE_INDEX in f.values for f in ones):
        return []
    remedy = "write all masks with 0 and 1, or all with 0 and 255"
    if has_option(source, "label_map"):
        remedy = "data.label_map={255: 1} makes it class 1, data.label_map={255: 255} not labelled"
    return [
        f"{len(white)} masks have the value 255 and no 1 ({white[0].sample.name}), {len(ones)}"
        f" have 1 and no 255 ({ones[0].sample.name}), so 255 is ambiguous: {remedy}"
    ]


def find_missing_foreground(
    facts: list[Facts], classes: Classes, needed: tuple[Split, ...], source: DataSource
) -> list[str]:
    """Report training masks without any foreground, or without any label, and what hides it."""
    train = [f for f in facts if f.split == "train"]
    if "train" not in needed or not train:
        return []
    of_class, labelled = count_pixels_of_all(train, classes)
    if not labelled.any():
        return [
            f"no pixel of the training masks is labelled{_describe_hidden(train, classes, source)}"
        ]
    if classes.mode == "binary" and not of_class[1]:
        name = classes.names[1]
        return [
            f"no training mask has a pixel of the class '{name}', so there is nothing to learn"
            + _describe_hidden(train, classes, source)
        ]
    return []


def _describe_hidden(facts: list[Facts], classes: Classes, source: DataSource) -> str:
    """What masks without foreground hold instead, and the options that may have hidden it."""
    meaning = {IGNORE_INDEX: "not labelled"} | dict(enumerate(classes.names))
    values = sorted({value for f in facts for value in f.values})
    held = [
        f"{name_values([value], facts, source)}"
        f" ({meaning.get(classes.coding.label_of(value), 'no class')})"
        for value in values
    ]
    text = f": the masks hold {', '.join(held) or 'nothing'}"
    remedies = []
    if UNLABELLED in values and any(f.sample.mask is not None for f in facts):
        remedies.append("remove the nodata value from masks, as with gdal_edit.py -unsetnodata")
    if TRANSPARENT in values:
        remedies.append("what lies below transparent pixels is not read: save masks without alpha")
    if source.label_map and any(value != UNLABELLED for value in source.label_map):
        remedies.append("data.label_map says what values mean")
    if empty := sum(bool(f.empty) for f in facts):
        remedies.append(f"{empty} images have pixels without data, which do not count")
    nearest = getattr(source, "nearest", None)
    if nearest is not None:
        remedies.append(
            f"data.mask_values=nearest has made all values one of {describe_values(nearest)}: name"
            " those of the masks, as in 'data.label_map={1: 1}'"
        )
    return "; ".join([text, *remedies])


def list_by_message(problems: Iterable[tuple[str, str]]) -> list[str]:
    """One line for each message, after the sample or the first samples that it is about."""
    by_message: dict[str, list[str]] = {}
    for name, message in problems:
        by_message.setdefault(message, []).append(name)
    return [
        f"{names[0] if len(names) == 1 else f'{len(names)} samples ({join_names(names)})'}:"
        f" {message}"
        for message, names in by_message.items()
    ]


def shorten(lines: list[str]) -> list[str]:
    """The first of many lines, and the last, which may hold the remedy for all."""
    if len(lines) <= SHOWN + 1:
        return lines
    return [*lines[:SHOWN], f"... and {len(lines) - SHOWN - 1} more like these", lines[-1]]
