"""Data sets of other Python packages: how their classes are opened, divided, named and read."""

from __future__ import annotations

import importlib
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from segkit.core.errors import SegkitError, did_you_mean
from segkit.data.layout.splits import ALIASES, Divided, split_by_ratio
from segkit.data.sources.base import SPLITS, Sample, Split

_ARGUMENTS = ("split", "image_set")
"""What classes call the argument that chooses a split."""
_RESERVED = ("root", "download", "transform", "target_transform", "transforms")
"""Arguments that are no options: other options of the source give them, or nothing does."""
_FILES = ("images", "_images", "ids", "files")
"""Attributes that list the files or the names of the items."""


class Opened(NamedTuple):
    """The splits of a set, and what the user should know of them."""

    parts: dict[Split, Any]
    notes: list[str]

    def divide(self, root: Path, val: float, test: float, seed: int) -> Divided:
        """The samples of each split, numbered through in the order train, val, test.

        Splits that are not there are taken from the training samples, by fractions.
        """
        samples, first = dict[Split, list[Sample]](), 0
        for split in SPLITS:
            if split in self.parts:
                names = _name_items(self.parts[split], split, root)
                samples[split] = [Sample(name, index=first + i) for i, name in enumerate(names)]
                first += len(names)
        return divide(samples, val, test, seed)


class SetClass(NamedTuple):
    """A class of another package whose objects are sets of images and masks.

    Attributes:
        package: The package, as messages call it.
        kind: The class.
        root: The folder of the data.
        options: Arguments of the class, as the command line writes them.
        download: Whether the class may download what is missing.
        find_fault: What is wrong with an item of a set; None if it has an image and a mask.
    """

    package: str
    kind: Callable[..., Any]
    root: Path
    options: dict[str, Any]
    download: bool
    find_fault: Callable[[Any], str | None]

    @property
    def title(self) -> str:
        """Package and class, for messages."""
        return f"{self.package}'s {self.kind.__name__}"

    def open_splits(self, names: dict[Split, str] | None) -> Opened:
        """Open the splits with these names; else those that the class has.

        A set that is not divided is the training split. A test split whose files are not there or
        that has no masks is left out, with a note.

        Raises:
            SegkitError: An option is wrong, or another split cannot be opened or has no masks.
        """
        self._check_options()
        argument = next((a for a in _ARGUMENTS if a in self._arguments), None)
        if argument is None or argument in self.options:
            if names is not None:
                raise SegkitError(
                    f"data.split_names: {self.title} is not divided, or data.options says which"
                    " split is read: remove data.split_names."
                )
            return Opened({"train": self._open_undivided()}, [])
        parts, notes = dict[Split, Any](), list[str]()
        for split in SPLITS if names is None else names:
            tried = _list_names(split) if names is None else [names[split]]
            try:
                part = self._open_first(argument, tried, split == "train" or names is not None)
            except SegkitError as error:
                if split == "test" and names is None:
                    notes.append(f"the test split is left out: {error}")
                    continue
                if split == "val" and names is None:
                    raise SegkitError(
                        f"{error} 'data.split_names={{train: {_list_names('train')[0]}}}' takes the"
                        " validation samples from the training samples instead."
                    ) from error
                raise
            if part is not None:
                parts[split] = part
        return Opened(parts, notes)

    def _open_first(self, argument: str, tried: Sequence[str], required: bool) -> Any:
        """Open the first of these splits that the class knows; None if it may lack them all."""
        reason = ""
        for name in tried:
            try:
                return self._open_checked({**self.options, argument: name})
            except (ValueError, AssertionError, KeyError) as error:  # no such split, or option
                reason = f" ({error})" if str(error) else ""
        if not required:
            return None
        raise SegkitError(
            f"{self.title} takes none of {argument}={', '.join(tried)}{reason}: see data.options,"
            " or name its splits with 'data.split_names={train: NAME, val: NAME}'."
        )

    def _open_undivided(self) -> Any:
        try:
            return self._open_checked(self.options)
        except (ValueError, AssertionError, KeyError) as error:
            raise SegkitError(
                f"data.options: {self.title} does not take them: {error!r}."
            ) from error

    def _open_checked(self, arguments: dict[str, Any]) -> Any:
        """Open a set whose first item has an image and a mask."""
        opened = self._open(arguments)
        if len(opened) == 0:
            raise SegkitError(f"data.root: {self.title} finds no items in {self.root.resolve()}.")
        try:
            fault = self.find_fault(opened[0])
        except Exception as error:  # the package may raise anything
            raise SegkitError(f"{self.title} cannot read its first item: {error!r}.") from error
        if fault is not None:
            raise SegkitError(
                f"data.dataset: {self.title} {fault}; segkit needs an image and its mask. Other"
                f" data.options may help: {', '.join(self._list_options()) or 'it has none'}."
            )
        return opened

    def _open(self, arguments: dict[str, Any]) -> Any:
        fitted = _fit_options(self.kind, arguments)
        try:
            try:
                return self.kind(root=str(self.root), **fitted)
            except (RuntimeError, OSError):
                # only now: some classes unpack everything again if they may download
                if not self.download:
                    raise
                return self.kind(root=str(self.root), **fitted, download=True)
        except (ValueError, AssertionError, KeyError):
            raise
        except Exception as error:  # the package may raise anything
            can = "download" in self._arguments and not self.download
            remedy = " data.download=true downloads it, if it is missing." if can else ""
            reason = str(error).rstrip(".") or type(error).__name__
            raise SegkitError(
                f"data.root: {self.title} cannot be opened in {self.root.resolve()}:"
                f" {reason}.{remedy}"
            ) from error

    def _check_options(self) -> None:
        for key in self.options:
            if key in self._list_options():
                continue
            if key in _RESERVED:
                raise SegkitError(
                    f"data.options has '{key}': use data.root and data.download; transforms are"
                    " those of augment."
                )
            raise SegkitError(
                f"data.options: {self.title} has no argument '{key}'."
                f"{did_you_mean(key, self._list_options())}"
                f" It has: {', '.join(self._list_options()) or 'none'}."
            )
        if self.download and "download" not in self._arguments:
            raise SegkitError(
                f"data.download: {self.title} cannot download its data: put them into data.root as"
                " its documentation says."
            )

    def _list_options(self) -> list[str]:
        return [name for name in self._arguments if name not in _RESERVED]

    @property
    def _arguments(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.kind).parameters


def _fit_options(kind: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Convert options to the types of the class's defaults that a command line cannot write.

    Numbers become text where the default is text, as the year "2012", and lists become tuples.
    """
    parameters, fitted = inspect.signature(kind).parameters, dict(options)
    for key, value in options.items():
        default = parameters[key].default if key in parameters else None
        if isinstance(default, str) and type(value) is int:
            fitted[key] = str(value)
        elif isinstance(default, tuple) and isinstance(value, list):
            fitted[key] = tuple(value)
    return fitted


def import_package(module: str, source: str) -> Any:
    """Import a package whose data sets a source reads.

    Raises:
        SegkitError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SegkitError(
            f"data={source} needs packages of an extra ({error}): pip install"
            f" 'segkit-torch[{source}]'."
        ) from error


def divide(given: dict[Split, list[Sample]], val: float, test: float, seed: int) -> Divided:
    """Take the splits that are not given from the training samples, by fractions."""
    missing = [0.0 if split in given else share for split, share in (("val", val), ("test", test))]
    parts = split_by_ratio(given.get("train", []), missing[0], missing[1], seed)
    return {**{split: given.get(split, parts[split]) for split in SPLITS}, "train": parts["train"]}


class Items:
    """The items of all splits by the index of their sample. Several threads may read at once.

    Each thread keeps its last item, because image and mask of a sample are asked for in turn.

    Args:
        opened: The splits.
        reduce: What is kept of an item; a function of a module, so that it can be pickled.
        one_at_a_time: Whether the package is not known to read in several threads at once.
    """

    def __init__(
        self, opened: Mapping[Split, Any], reduce: Callable[[Any], Any], one_at_a_time: bool = False
    ) -> None:
        self._opened, self._reduce, self._one_at_a_time = opened, reduce, one_at_a_time
        from torch.utils.data import ConcatDataset  # not for the other sources

        self._items: ConcatDataset[Any] = ConcatDataset(
            [opened[split] for split in SPLITS if split in opened]
        )
        self._last = threading.local()
        self._lock = threading.Lock() if one_at_a_time else nullcontext()

    def __getitem__(self, sample: Sample) -> Any:
        if getattr(self._last, "index", None) != sample.index:
            with self._lock:
                item = self._reduce(self._items[sample.index])
            self._last.index, self._last.item = sample.index, item
        return self._last.item

    def __reduce__(self) -> tuple[type[Items], tuple[Any, ...]]:
        return Items, (self._opened, self._reduce, self._one_at_a_time)


def _list_names(split: Split) -> list[str]:
    """What a split may be called, the usual name first."""
    names = [name for name, meant in ALIASES.items() if meant == split]
    return [*names, "trainval"] if split == "train" else names


def _name_items(opened: Any, split: Split, root: Path) -> list[str]:
    """The file names of the items, if the set lists them, else their numbers in the split."""
    for attribute in _FILES:
        found = getattr(opened, attribute, None)
        if not isinstance(found, Sequence) or len(found) != len(opened):
            continue
        files = [file.get("image") if isinstance(file, Mapping) else file for file in found]
        if not all(isinstance(file, str | Path) for file in files):
            continue
        names = [_shorten(str(file).strip(), root) for file in files]
        if len(set(names)) == len(names):
            return names
    return [f"{split}/{number:06d}" for number in range(len(opened))]


def _shorten(file: str, root: Path) -> str:
    """The path relative to the root of the data, if it is below."""
    path = Path(file)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
