"""The data sets of torchgeo whose items are an image and its mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from segkit.core.errors import SegkitError, did_you_mean
from segkit.core.labels import Mode
from segkit.data.layout.splits import Fraction
from segkit.data.packages import Items, SetClass, import_package
from segkit.data.sources.base import Byte, DataSource, Sample, Split
from segkit.images.raster import convert_channels
from segkit.images.reading import wrap_errors

_COLORS = ("cmap", "colormap", "palette")
"""What classes call the colours of their classes."""


class TorchgeoSource(DataSource, name="torchgeo"):
    """A data set of torchgeo whose items are an image and its mask, such as LandCoverAI100.

    These are its NonGeoDatasets with an ``image`` (C, H, W) and a ``mask``. Channels are the bands
    in the order of the class, float images keep their values. Names and colours of the classes are
    those of the class, if it has any.

    Args:
        mode: The head's mode.
        dataset: The class in torchgeo.datasets, such as "LandCoverAI100".
        root: The folder that the class takes as its root.
        options: Other arguments of the class, such as {bands: [B04, B03, B02]}.
        download: Whether the class may download the data into root.
        split_names: The splits that are read and what the class calls them, such as
            {train: train, test: val}; None: its train, val and test, as far as there are any.
        val_fraction: Fraction of the training samples for validation if there is no such split.
        test_fraction: Fraction of the training samples for testing if there is no such split.
        seed: Seed of the random split.
        channels: "auto" keeps the channels of the images; 1 converts all images to grey, 3 to RGB.
        instances: Whether masks hold object ids instead of classes.
        label_map: Labels of mask values that differ from their label, such as {11: 255}; the label
            255 means not labelled.
        class_names: Names of the classes in label order; None without a label_map: those of the
            class.
        class_colors: RGB colours of the classes in label order. None likewise.
    """

    def __init__(
        self,
        mode: Mode,
        dataset: str,
        root: Path,
        options: dict[str, Any] | None = None,
        download: bool = False,
        split_names: dict[Split, str] | None = None,
        val_fraction: Fraction = 0.2,
        test_fraction: Fraction = 0.0,
        seed: int = 0,
        channels: Literal["auto", 1, 3] = "auto",
        instances: bool = False,
        label_map: dict[int, Byte] | None = None,
        class_names: tuple[str, ...] | None = None,
        class_colors: tuple[tuple[Byte, Byte, Byte], ...] | None = None,
    ) -> None:
        kind = _find_class(dataset)
        found = SetClass("torchgeo", kind, root, options or {}, download, _find_fault)
        opened = found.open_splits(split_names)
        self._splits = opened.divide(root, val_fraction, test_fraction, seed)
        # torchgeo does not say whether its classes may be read in several threads
        self._items = Items(opened.parts, _load, one_at_a_time=True)
        first = next(iter(opened.parts.values()))
        self._notes = [*opened.notes, *_describe_bands(first)]
        self.channels, self.instances, self.label_map = channels, instances, label_map
        if label_map is None and not instances:
            own = _read_names(first)
            if own is not None and len(own) == len(class_names or own):
                class_colors = class_colors or _read_colors(first, len(own))
            class_names = class_names or own
        self.class_names, self.class_colors = class_names, class_colors

    def splits(self) -> dict[Split, list[Sample]]:
        """The samples by split, named after their files if the class lists them."""
        return self._splits

    def notes(self) -> list[str]:
        """Splits that are left out, and the bands."""
        return self._notes

    def read_image(self, sample: Sample) -> NDArray[Any]:
        """(H, W, C) of the bands, or converted to ``channels``."""
        with wrap_errors(sample.name):
            values = self._items[sample][0]
            if values.ndim != 3:
                raise SegkitError(
                    f"the image has the shape {values.shape}, not (C, H, W): segkit reads single"
                    " images, not series or pairs of them. data.options may choose one"
                )
            if values.dtype not in (np.uint8, np.uint16):
                values = values.astype(np.float32)
            image = np.array(values.transpose(1, 2, 0), order="C")
            return convert_channels(image, self.channels)

    def read_mask(self, sample: Sample) -> NDArray[np.integer[Any]]:
        """(H, W) integers; (H, W, N) of a mask (N, H, W)."""
        with wrap_errors(sample.name):
            values = self._items[sample][1]
            if values.ndim == 3:
                values = values[0] if len(values) == 1 else values.transpose(1, 2, 0)
            if values.ndim not in (2, 3):
                raise SegkitError(f"the mask has the shape {values.shape}, not (H, W)")
            if values.dtype.kind == "f" and not (values == np.trunc(values)).all():
                raise SegkitError(
                    "the mask holds fractions or NaN, as measurements have them, not classes"
                )
            if values.dtype.kind not in "ui" or values.dtype.itemsize > 4:
                values = values.astype(np.int32)
            return np.array(values, order="C")


def _find_class(name: str) -> Any:
    """The class of torchgeo.datasets with this name, whose items have a number."""
    known = import_package("torchgeo.datasets", "torchgeo")
    found = getattr(known, name, None)
    if not isinstance(found, type):
        raise SegkitError(
            f"data.dataset: torchgeo.datasets has no '{name}'.{did_you_mean(name, known.__all__)}"
        )
    if issubclass(found, known.GeoDataset):
        raise SegkitError(
            f"data.dataset: torchgeo's {name} is a GeoDataset, whose images are cut by coordinates"
            " with a sampler, which segkit does not support: take a NonGeoDataset, or write images"
            " and masks to files for data=folder."
        )
    if not issubclass(found, known.NonGeoDataset):
        raise SegkitError(f"data.dataset: torchgeo's {name} is no data set.")
    return found


def _find_fault(item: Any) -> str | None:
    """What is wrong with an item; None if it has an image and a mask."""
    if isinstance(item, Mapping) and {"image", "mask"} <= item.keys():
        return None
    return (
        f"gives {', '.join(map(str, item)) if isinstance(item, Mapping) else type(item).__name__}"
    )


def _load(item: Mapping[str, Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Image and mask of an item, without its other entries."""
    return np.asarray(item["image"]), np.asarray(item["mask"])


def _describe_bands(opened: Any) -> list[str]:
    """Note the bands that are the channels."""
    bands = getattr(opened, "bands", None)
    if not isinstance(bands, Sequence) or isinstance(bands, str) or not bands:
        return []
    return [f"the channels are the bands {', '.join(map(str, bands))}, in this order"]


def _read_names(opened: Any) -> tuple[str, ...] | None:
    """The names of the classes of a set, if it has them."""
    names = getattr(opened, "classes", None)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names) or None


def _read_colors(opened: Any, count: int) -> tuple[tuple[int, int, int], ...] | None:
    """The colours of the classes of a set, if it has one for each: as numbers, names or #RRGGBB."""
    for attribute in _COLORS:
        given = getattr(opened, attribute, None)
        if isinstance(given, Mapping):
            given = [given.get(label) for label in range(count)]
        if not isinstance(given, list | tuple) or len(given) != count or not count:
            continue
        try:
            colors = [ImageColor.getrgb(c) if isinstance(c, str) else c for c in given]
            return tuple((int(red), int(green), int(blue)) for red, green, blue, *_ in colors)
        except (TypeError, ValueError):  # another kind of table
            continue
    return None
