"""What a frozen encoder gives for each image, computed once instead of in every epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.config.schema import Augment, TrainConfig
from segkit.data.checks.summary import DataSummary
from segkit.data.loading import ArrayCache
from segkit.models.segmenter import Segmenter

Features = list[Tensor]
"""What :meth:`Segmenter.extract` gives for images."""


class FeatureCache:
    """Keeps the features of a frozen encoder in the cache of a run.

    Each image of a training is encoded by itself, so that its features do not depend on the batch
    in which it came first, and a resumed run computes the same ones.
    """

    def __init__(
        self,
        extract: Callable[[Tensor], Features],
        arrays: ArrayCache,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self._extract, self._arrays, self._layout = extract, arrays, layout

    def fetch_each(self, images: Tensor, index: Tensor) -> Features:
        """The features of the training images (B, C, H, W) with these numbers (B,)."""
        one_by_one = [
            self.fetch(("train", number), images[i : i + 1])
            for i, number in enumerate(index.tolist())
        ]
        return [torch.cat(level) for level in zip(*one_by_one, strict=True)]

    @torch.no_grad()
    def fetch(self, key: tuple[Any, ...], images: Tensor) -> Features:
        """The features of images (B, C, H, W) that are the same whenever the key is."""

        def make() -> NDArray[np.uint8]:
            found = {str(i): m.contiguous() for i, m in enumerate(self._extract(images))}
            return np.frombuffer(safetensors.torch.save(found), np.uint8)

        stored = safetensors.torch.load(self._arrays.fetch(key, "features", make).tobytes())
        return [
            stored[str(i)].to(images.device).contiguous(memory_format=self._layout)
            for i in range(len(stored))
        ]


def find_obstacles(settings: TrainConfig, summary: DataSummary, model: Segmenter) -> list[str]:
    """Reasons why an encoder does not give the same features for an image in every epoch."""
    problems = []
    if settings.trainer.strategy == "fsdp":  # one that finds its image cached would not join in
        problems.append("processes hold parts of the encoder: leave trainer.strategy=fsdp out")
    if settings.encoder.options.get("adapter", "none") != "none":
        problems.append("the adapters of the encoder are trained: leave encoder.adapter out")
    elif any(p.requires_grad for p in model.encoder.backbone_parameters()):
        problems.append("the encoder is trained: use encoder.freeze=all")
    if model.encoder.query_channels:
        problems.append("queries go through blocks of the encoder: use encoder.query_blocks=0")
    if settings.augment != Augment():
        problems.append("the augmentation changes the images: use augment=none")
    sizes = [summary.sizes[sample.name] for sample in summary.splits["train"]]
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    crop = settings.data.crop_size
    if crop[0] < height or crop[1] < width:
        problems.append(
            f"crops of {crop[0]} x {crop[1]} pixels are drawn at other places: use"
            f" data.crop_size=[{height},{width}], the size of the largest image"
        )
    return problems
