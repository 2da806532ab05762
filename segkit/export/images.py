"""The images for checking an exported file and for calibrating a quantized one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segkit.checkpoint.card import ModelCard
from segkit.checkpoint.values import Normalization
from segkit.config.schema import Data
from segkit.core.errors import SegkitError
from segkit.data.checks.folds import regroup
from segkit.data.checks.summary import list_splits
from segkit.data.loading import WholeDataset
from segkit.data.sources.base import DataSource
from segkit.data.sources.cells import draw
from segkit.images.reading import read_image
from segkit.inference.tiles.tiling import Windows, mirror_indices
from segkit.predict.inputs import find_images

T = TypeVar("T")
COUNT = 16
"""Largest number of images: more do not improve the calibration, and the check takes seconds."""
SIDE = 512
"""Largest side of a window that is cut out of an image."""


@dataclass(frozen=True)
class RealImages:
    """Images (H, W, C) like those that the model is used on.

    Attributes:
        origin: Where they come from, for messages.
        truths: Labels (H, W), or (N, H, W) for overlapping classes; None if unknown.
        note: Why they are not those of the training; empty if they are.
    """

    origin: str
    images: list[NDArray[Any]]
    truths: list[Tensor] | None = None
    note: str = ""


def find_real_images(card: ModelCard, given: list[str] | None) -> RealImages:
    """Take the given images, else the validation images of the training, else drawn ones."""
    if given:
        files = _thin_out(find_images(given, None, card.channel_files, card.image_pattern).files)
        images = [
            _prepare(read_image(file.path, None, card.keeps_alpha, card.is_upright), card)
            for file in files
        ]
        return RealImages(f"{len(images)} of the given images", images)
    try:
        return _find_validation_images(card)
    except (SegkitError, OSError, KeyError, ValueError) as error:  # the data may be elsewhere
        reason = str(error).strip().partition("\n")[0]
    return RealImages(
        "4 drawn images",
        [draw_image(card.normalization, i) for i in range(4)],
        note=f"the validation images of the training cannot be read ({reason}): drawn images"
        " replace them. input=FOLDER takes your images.",
    )


def draw_image(normalization: Normalization, number: int) -> NDArray[Any]:
    """Draw an image (128, 128, C) in the range of the training images."""
    channels = [draw(1000 * number + i, (128, 128)).image for i in range(len(normalization.mean))]
    unit = np.concatenate(channels, axis=2) / 255
    low, high = np.array(normalization.low), np.array(normalization.high)
    return (low + unit * (high - low)).astype(normalization.dtype)


def make_noise(
    normalization: Normalization, batch: int, size: tuple[int, int], seed: int
) -> list[NDArray[Any]]:
    """Make images (h, w, C) of noise, somewhat beyond the range of the training images."""
    rng = np.random.default_rng(seed)
    low, high = np.array(normalization.low), np.array(normalization.high)
    margin = (high - low) / 10
    shape = (batch, *size, len(normalization.mean))
    noise = rng.uniform(low - margin, high + margin, shape)
    if normalization.dtype != "float32":
        noise = noise.clip(0, np.iinfo(normalization.dtype).max)
    return list(noise.astype(normalization.dtype))


def cut_window(image: NDArray[Any], windows: Windows) -> NDArray[Any]:
    """Cut the network's input for the middle of an image, mirrored beyond its border."""
    indices = []
    for axis in (0, 1):
        size = image.shape[axis]
        window = windows.fixed[axis] if windows.fixed else windows.fit(min(size, SIDE))
        first = max(0, (size - window) // 2)
        begin, end = first - windows.context, first + window + windows.context
        indices.append(mirror_indices(begin, end, size))
    return image[indices[0]][:, indices[1]]


def _prepare(image: NDArray[Any], card: ModelCard) -> NDArray[Any]:
    """An image (H, W, C) with the model's channels and the training's type, nothing missing."""
    return card.normalization.convert(card.convert_channels(image))


def _find_validation_images(card: ModelCard) -> RealImages:
    data, target = Data.model_validate(card.config["data"]), card.build_target()
    mode = "binary" if target.from_ids else card.mode
    source = DataSource.build(data.name, mode=mode, **data.options)
    splits = list_splits(source)
    if data.val_names is not None:
        splits = regroup(splits, data.val_names)
    samples = _thin_out(splits.get("val", []))
    if not samples:
        raise SegkitError("the data set has none")
    dataset = WholeDataset(source, samples, card.coding, card.normalization, target)
    images = [_prepare(source.read_image(s), card) for s in samples]
    truths = [dataset.truth(i)["target"] for i in range(len(samples))]
    return RealImages(f"{len(images)} of the validation images of the training", images, truths)


def _thin_out(items: list[T]) -> list[T]:
    """At most COUNT items, evenly from the whole list."""
    count = min(COUNT, len(items))
    return [items[i * len(items) // count] for i in range(count)]
