"""The data sets of torchvision whose items are an image and its mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from segkit.core.errors import SegkitError, did_you_mean
from segkit.core.labels import IGNORE_INDEX, Mode
from segkit.data.layout.splits import Fraction
from segkit.data.mask_files import MaskDecoder
from segkit.data.packages import Items, SetClass
from segkit.data.sources.base import Byte, DataSource, Sample, Split
from segkit.images.formats.picture import convert_picture
from segkit.images.raster import Raster, convert_channels
from segkit.images.reading import render, wrap_errors


class Meaning(NamedTuple):
    """What is known of the masks of a class, and the arguments that make it return them."""

    options: dict[str, Any]
    class_names: tuple[str, ...] | None = None
    label_map: dict[int, int] | None = None
    class_colors: tuple[tuple[int, int, int], ...] | None = None
    split_names: dict[Split, str] | None = None


VOC_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
_KNOWN = {
    "VOCSegmentation": Meaning({}, VOC_NAMES),
    "SBDataset": Meaning({"mode": "segmentation"}, VOC_NAMES),
    # 1 is the pet, 2 the background, 3 the outline, which is not classified
    "OxfordIIITPet": Meaning(
        {"target_types": "segmentation"}, ("background", "pet"), {2: 0, 3: IGNORE_INDEX}
    ),
    # the masks of its test split are withheld
    "Cityscapes": Meaning(
        {"target_type": "semantic"}, split_names={"train": "train", "val": "val"}
    ),
}


class TorchvisionSource(DataSource, name="torchvision"):
    """A data set of torchvision whose items are an image and its mask, such as VOCSegmentation.

    Of VOCSegmentation, SBDataset, OxfordIIITPet and Cityscapes the arguments and the meaning of
    the masks are known; images are as torchvision returns them, without regard to EXIF.

    Args:
        mode: The head's mode.
        dataset: The class in torchvision.datasets, such as "VOCSegmentation".
        root: The folder that the class takes as its root.
        options: Other arguments of the class, such as {year: "2012"}.
        download: Whether the class may download the data into root.
        split_names: The splits that are read and what the class calls them, such as
            {train: train_noval, val: val}; None: its train, val and test, as far as there are any.
        val_fraction: Fraction of the training samples for validation if there is no such split.
        test_fraction: Fraction of the training samples for testing if there is no such split.
        seed: Seed of the random split.
        channels: "auto" keeps the channels of the images; 1 converts all images to grey, 3 to RGB.
        label_map: Labels of mask values that differ from their label, such as {11: 255}; the label
            255 means not labelled. None: that of the class, if known.
        class_names: Names of the classes in label order; None without a label_map: those of the
            class, if known.
        class_colors: RGB colours of the classes in label order; masks of colours are decoded with
            them. None likewise.
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
        label_map: dict[int, Byte] | None = None,
        class_names: tuple[str, ...] | None = None,
        class_colors: tuple[tuple[Byte, Byte, Byte], ...] | None = None,
    ) -> None:
        kind = _find_class(dataset)
        known = _KNOWN.get(dataset, Meaning({}))
        given = {**known.options, **(options or {})}
        opened = SetClass("torchvision", kind, root, given, download, _find_fault).open_splits(
            split_names or (None if "split" in given else known.split_names)
        )
        self._splits = opened.divide(root, val_fraction, test_fraction, seed)
        self._notes, self.channels = opened.notes, channels
        self._items = Items(opened.parts, _load)
        if label_map is None:
            known = _read_meaning(kind, known)
            label_map = known.label_map
            class_names = class_names or known.class_names
            class_colors = class_colors or known.class_colors
        self.label_map, self.class_names, self.class_colors = label_map, class_names, class_colors
        self._decoder = MaskDecoder(layers=mode == "multilabel" and class_colors is None)

    def splits(self) -> dict[Split, list[Sample]]:
        """The samples by split, named after their files."""
        return self._splits

    def notes(self) -> list[str]:
        """Splits that are left out."""
        return self._notes

    def read_image(self, sample: Sample) -> NDArray[Any]:
        """(H, W, C) as torchvision returns it, or converted to ``channels``."""
        with wrap_errors(sample.name):
            return convert_channels(render(self._items[sample][0]), self.channels)

    def read_mask(self, sample: Sample) -> NDArray[np.integer[Any]]:
        """(H, W) integers, of a palette the indices."""
        with wrap_errors(sample.name):
            return self._decoder.read(self._items[sample][1])


def _find_class(name: str) -> Any:
    """The class of torchvision.datasets with this name."""
    import torchvision.datasets as known

    if name not in known.__all__:
        hint = did_you_mean(name, known.__all__)
        raise SegkitError(
            f"data.dataset: torchvision.datasets has no '{name}'.{hint} segkit knows the masks"
            f" of {', '.join(_KNOWN)}."
        )
    return getattr(known, name)


def _find_fault(item: Any) -> str | None:
    """What is wrong with an item; None if it is an image and a mask."""
    if isinstance(item, tuple) and len(item) == 2 and all(isinstance(x, Image) for x in item):
        _load((item[0], item[1]))  # closes their files
        return None
    kinds = [type(x).__name__ for x in (item if isinstance(item, tuple) else [item])]
    return f"gives {', '.join(kinds)}"


def _load(item: tuple[Image, Image]) -> tuple[Raster, Raster]:
    """The pixels of an item."""
    image, mask = item
    for picture in item:
        picture.load()
    return convert_picture(image), convert_picture(mask)


def _read_meaning(kind: Any, known: Meaning) -> Meaning:
    """What is known of a class, completed by its own list of classes, as Cityscapes has one."""
    listed = getattr(kind, "classes", None)
    if not isinstance(listed, list) or not all(hasattr(each, "train_id") for each in listed):
        return known
    learned = sorted(
        (c for c in listed if 0 <= c.train_id < IGNORE_INDEX), key=lambda c: c.train_id
    )
    return known._replace(
        class_names=tuple(each.name for each in learned),
        class_colors=tuple(tuple(each.color) for each in learned),
        label_map={
            each.id: each.train_id if each in learned else IGNORE_INDEX
            for each in listed
            if each.id >= 0
        },
    )
