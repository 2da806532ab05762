"""Data sets in the formats of the Hugging Face package `datasets`, from files or from the hub."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from huggingface_hub import constants
from numpy.typing import NDArray

from segkit.core.errors import NO_PATH, SegkitError, did_you_mean
from segkit.core.labels import IGNORE_INDEX, Mode
from segkit.data.layout.splits import Fraction, find_split
from segkit.data.mask_files import MaskDecoder, describe_rounding, list_known_values
from segkit.data.packages import divide, import_package
from segkit.data.sources.base import SPLITS, Byte, DataSource, Sample, Split
from segkit.images.raster import convert_channels
from segkit.images.reading import ImageReader, wrap_errors

if TYPE_CHECKING:
    from torch.utils.data import ConcatDataset

_NAMES = "id2label.json"
"""The file in which many data sets of the hub name their classes."""


class HuggingFaceSource(DataSource, name="huggingface"):
    """A data set of the package datasets with a column of images and a column of masks.

    The files in both columns are read as those of data=folder: with all their bits, masks with
    palettes as indices. No code of a data set is ever run.

    Args:
        mode: The head's mode.
        path: A folder that save_to_disk wrote, a folder of files (parquet, or images with
            metadata.csv), a parquet file, or the name of a data set on the hub, as OWNER/NAME.
        subset: The configuration, if the data set has several.
        revision: The branch, tag or commit on the hub; only a commit never changes.
        download: Whether the hub may be asked. With the environment variable HF_HUB_OFFLINE=1, what
            was downloaded before is taken.
        image: The column of the images.
        mask: The column of the masks.
        split_names: The splits that are read and what the data set calls them, such as
            {train: train, val: validation}; None: those whose names say so.
        val_fraction: Fraction of the training samples for validation if there is no such split.
        test_fraction: Fraction of the training samples for testing if there is no such split.
        seed: Seed of the random split.
        channels: "auto" keeps the channels of the images but alpha, whose transparent pixels are
            ignored; 1 converts all images to grey, 3 to RGB.
        instances: Whether masks hold object ids instead of classes.
        mask_values: Whether masks hold the "exact" values of their classes, and masks in JPEG are
            an error; or each takes the "nearest" one of ``class_colors``, else of ``label_map``,
            else of the classes, with a binary head 0 and 255.
        label_map: Labels of mask values that differ from their label, such as {11: 255}; the label
            255 means not labelled.
        class_column: A column of the type ClassLabel whose names are those of the classes.
        class_names: Names of the classes in label order; None without a label_map: those of
            ``class_column``, else of id2label.json beside the data, if there is one.
        class_colors: RGB colours of the classes in label order; masks of colours are decoded with
            them.
    """

    def __init__(
        self,
        mode: Mode,
        path: str,
        subset: str | None = None,
        revision: str | None = None,
        download: bool = False,
        image: str = "image",
        mask: str = "mask",
        split_names: dict[Split, str] | None = None,
        val_fraction: Fraction = 0.2,
        test_fraction: Fraction = 0.0,
        seed: int = 0,
        channels: Literal["auto", 1, 3] = "auto",
        instances: bool = False,
        mask_values: Literal["exact", "nearest"] = "exact",
        label_map: dict[int, Byte] | None = None,
        class_column: str | None = None,
        class_names: tuple[str, ...] | None = None,
        class_colors: tuple[tuple[Byte, Byte, Byte], ...] | None = None,
    ) -> None:
        loaded = _load(path, subset, revision, download)
        chosen, self._notes = _choose_splits(loaded, split_names)
        samples, first = dict[Split, list[Sample]](), 0
        for split, name in chosen.items():
            count = len(loaded[name])
            samples[split] = [Sample(f"{name}/{i:06d}", index=first + i) for i in range(count)]
            first += count
        self._splits = divide(samples, val_fraction, test_fraction, seed)
        parts = [loaded[name] for name in chosen.values()]
        self._images = _join_column(parts, "data.image", image)
        self._masks = _join_column(parts, "data.mask", mask)
        self.channels, self.instances, self.label_map = channels, instances, label_map
        if class_column is not None and class_names is None:
            class_names = _read_label_names(parts[0], class_column)
        if class_names is None and label_map is None and not instances:
            class_names = _read_id2label(path, revision)
        self.class_names, self.class_colors = class_names, class_colors
        self._decoder = MaskDecoder(
            layers=mode == "multilabel" and class_colors is None,
            nearest=list_known_values(
                mask_values, mode, class_colors, label_map, class_names, instances
            ),
        )

    def splits(self) -> dict[Split, list[Sample]]:
        """The samples by split, named after the split and the row that they have in the set."""
        return self._splits

    def notes(self) -> list[str]:
        """Splits that are left out, and what was done to masks that were read."""
        return [*self._notes, *describe_rounding(self._decoder)]

    def read_image(self, sample: Sample) -> NDArray[Any]:
        """(H, W, C) as stored, or converted to ``channels``; masked where it has no data."""
        with wrap_errors(sample.name), _open(self._images, sample) as reader:
            return convert_channels(reader.read_image(), self.channels)

    def read_mask(self, sample: Sample) -> NDArray[np.integer[Any]]:
        """(H, W) or (H, W, N) integers, as stored."""
        with wrap_errors(sample.name), _open(self._masks, sample) as reader:
            return self._decoder.read(reader.read())


def _load(path: str, subset: str | None, revision: str | None, download: bool) -> Mapping[str, Any]:
    """The splits of a data set by their names; rows are read from its files when they are needed.

    Raises:
        SegkitError: The package is missing, or the data set cannot be opened.
    """
    if not path:
        raise SegkitError(f"data.path: {NO_PATH}.")
    datasets = import_package("datasets", "huggingface")
    folder = Path(path)
    if not folder.exists():
        _require_hub(path, download, constants.HF_HUB_OFFLINE)
    elif revision is not None:
        raise SegkitError(f"data.revision is for data sets of the hub, but {path} is here.")
    try:
        if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(str(folder))
        else:
            options: dict[str, Any] = {"revision": revision} if revision is not None else {}
            if "trust_remote_code" in inspect.signature(datasets.load_dataset).parameters:
                options["trust_remote_code"] = False  # older releases would run code of the set
            where = str(folder.resolve()) if folder.exists() else path
            if folder.is_file():
                where, options["data_files"] = str(folder.resolve().parent), folder.name
            loaded = datasets.load_dataset(where, subset, **options)
    except ConnectionError as error:
        raise SegkitError(
            f"data.path: the Hugging Face hub cannot be reached for {path}: {_shorten(error)}."
            " HF_HUB_OFFLINE=1 takes what was downloaded before; a folder needs no hub."
        ) from error
    except Exception as error:  # the package may raise anything
        raise SegkitError(
            f"data.path: the package datasets cannot open {path}: {_shorten(error)}."
        ) from error
    return loaded if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}


def _require_hub(path: str, download: bool, offline: bool) -> None:
    """Refuse a name that is no folder, unless the hub or the cache may be asked for it."""
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise SegkitError(f"data.path: there is no folder {Path(path).resolve()}.")
    if not download and not offline:
        raise SegkitError(
            f"data.path: there is no folder {Path(path).resolve()}. If {path} is a data set of the"
            " Hugging Face hub, data.download=true downloads it, and the environment variable"
            " HF_HUB_OFFLINE=1 takes what was downloaded before."
        )


def _shorten(error: Exception) -> str:
    """What an error of the package says, as one line without the full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _choose_splits(
    loaded: Mapping[str, Any], given: dict[Split, str] | None
) -> tuple[dict[Split, str], list[str]]:
    """The names of the splits that are read, in the order train, val, test, and notes."""
    known = ", ".join(loaded)
    if given is not None:
        for split, name in given.items():
            if name not in loaded:
                raise SegkitError(
                    f"data.split_names: there is no split '{name}' for {split}."
                    f"{did_you_mean(name, loaded)} There are: {known}."
                )
        return {split: given[split] for split in SPLITS if split in given}, []
    if len(loaded) == 1:
        return {"train": next(iter(loaded))}, []
    found = dict[Split, str]()
    for name in loaded:
        meant = find_split(name)
        if meant is not None:
            found.setdefault(meant, name)
    if "train" not in found:
        raise SegkitError(
            f"data.path: none of the splits is called train, there are: {known}. Say which are"
            " read: 'data.split_names={train: NAME, val: NAME}'."
        )
    unused = [name for name in loaded if name not in found.values()]
    notes = [f"not read are the splits {', '.join(unused)} (data.split_names)"] if unused else []
    return {split: found[split] for split in SPLITS if split in found}, notes


def _join_column(parts: list[Any], option: str, column: str) -> ConcatDataset[Any]:
    """A column of images of all splits, whose rows are files that are not decoded yet."""
    from datasets import Image

    joined = []
    for part in parts:
        features = part.features
        if column not in features:
            raise SegkitError(
                f"{option}: there is no column '{column}'."
                f"{did_you_mean(column, features)} The columns are: {', '.join(features)}."
            )
        if not isinstance(features[column], Image):
            raise SegkitError(
                f"{option}: the column '{column}' has the type"
                f" {type(features[column]).__name__}, not Image. Columns of images:"
                f" {', '.join(k for k, v in features.items() if isinstance(v, Image)) or 'none'}."
            )
        joined.append(part.select_columns([column]).cast_column(column, Image(decode=False)))
    from torch.utils.data import ConcatDataset  # not for the other sources

    return ConcatDataset(joined)


def _open(column: ConcatDataset[Any], sample: Sample) -> ImageReader:
    """Open the file in a row; reading memory-mapped Arrow tables needs no lock."""
    (file,) = column[sample.index].values()
    if file is None or (file["bytes"] is None and file["path"] is None):
        raise SegkitError("the row has no image or no mask")
    return ImageReader(file["path"] if file["bytes"] is None else file["bytes"])


def _read_label_names(part: Any, column: str) -> tuple[str, ...]:
    """The names of a ClassLabel, or of a list of them."""
    kind = part.features.get(column)
    while kind is not None and not hasattr(kind, "names"):
        kind = kind[0] if isinstance(kind, list) else getattr(kind, "feature", None)
    if kind is None:
        raise SegkitError(
            f"data.class_column: there is no column '{column}' of the type ClassLabel. The columns"
            f" are: {', '.join(f'{k} ({type(v).__name__})' for k, v in part.features.items())}."
        )
    return tuple(kind.names)


def _read_id2label(path: str, revision: str | None) -> tuple[str, ...] | None:
    """The class names in id2label.json of a folder or of a data set of the hub; None without it.

    Ids that it leaves out are named "class 7"; 255 is not labelled.
    """
    file = Path(path) / _NAMES
    if not Path(path).exists():
        from huggingface_hub import hf_hub_download

        with suppress(Exception):  # most data sets have none: it is a matter of names
            file = Path(hf_hub_download(path, _NAMES, repo_type="dataset", revision=revision))
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        names = {int(key): str(name) for key, name in content.items()}
    except (ValueError, AttributeError) as error:
        raise SegkitError(
            f"{file}: must map ids to names, as {{'0': 'background'}}: {error}. Or give"
            " data.class_names."
        ) from error
    last = max((key for key in names if 0 <= key < IGNORE_INDEX), default=-1)
    return tuple(names.get(key, f"class {key}") for key in range(last + 1)) or None
