"""Training, validation and test: by ratio, by blocks or by lists."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

from segkit.core.errors import SegkitError
from segkit.data.sources.base import SPLITS, Sample, Split

Divided = dict[Split, list[Sample]]


def by_ratio(samples: list[Sample], val: float, test: float, seed: int | None) -> Divided:
    """Divide samples by shares.

    Args:
        samples: The samples.
        val: Share of the validation samples; at least one sample where it is not 0.
        test: The same of the test samples.
        seed: Draws the samples; None takes the last of them in the natural order of their names,
            first validation, then test.

    Returns:
        The samples by split, each in the order of the names. Too few of them all go to "train":
        whoever needs the other splits finds them empty.
    """
    order = sorted(samples, key=natural)
    if seed is not None:
        random.Random(seed).shuffle(order)
    n_val, n_test = (max(1, round(len(order) * share)) if share else 0 for share in (val, test))
    cut = len(order) - n_val - n_test
    if cut < 1:
        return {"train": sorted(order, key=natural), "val": [], "test": []}
    parts = order[:cut], order[cut : cut + n_val], order[cut + n_val :]
    return {s: sorted(part, key=natural) for s, part in zip(SPLITS, parts, strict=True)}


def by_lists(samples: list[Sample], lists: dict[Split, Path]) -> tuple[Divided, list[str]]:
    """Divide samples by text files that name those of a split, one a line; the rest trains.

    A name is any end of a sample's path, with or without the ending: ``images/a/1.png``,
    ``a/1`` and ``1`` name the same file if there is no other such. All pages of a stack are named
    by its file, one by ``stack.tif#0003``.

    Returns:
        The samples by split, and the problems.

    Raises:
        SegkitError: There is no such file, or it is no text.
    """
    known: dict[str, list[Sample]] = {}
    for sample in samples:
        for name in _names(sample):
            known.setdefault(name, []).append(sample)
    problems: list[str] = []
    split_of: dict[str, Split] = {}
    for split, path in lists.items():
        for name in _lines(split, path):
            found = known.get(name, [])
            files = sorted({str(sample.image) for sample in found})
            if not found:
                problems.append(f"'{name}' is in {path.name}, but no sample has that name")
            if len(files) > 1:
                problems.append(
                    f"'{name}' in {path.name} is the name of {len(files)} images: {files[0]},"
                    f" {files[1]} ... Name it with its folder"
                )
            for sample in found:
                if split_of.setdefault(sample.name, split) != split:
                    problems.append(f"'{name}' is in the lists of two splits")
    divided: Divided = {split: [] for split in SPLITS}
    for sample in samples:
        divided[split_of.get(sample.name, "train")].append(sample)
    return divided, problems


def natural(sample: Sample) -> list[tuple[int, str]]:
    """A key that sorts names as people count: slice 9 before slice 10."""
    parts = re.split(r"(\d+)", sample.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _names(sample: Sample) -> Iterator[str]:
    file, page = sample.name, ""
    if sample.page is not None:
        file, page = file[: file.rindex("#")], file[file.rindex("#") :]
    parts = file.split("/")
    for first in range(len(parts)):
        end = "/".join(parts[first:])
        for name in dict.fromkeys((end, end.removesuffix(Path(end).suffix))):
            yield name
            if page:
                yield name + page


def _lines(split: Split, path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SegkitError(f"data.{split}_list: there is no file {path.resolve()}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SegkitError(f"data.{split}_list: {path} cannot be read: {error}.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
