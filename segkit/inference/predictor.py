"""The trained model as a function from an image to labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit import checkpoint
from segkit.checkpoint import ModelCard
from segkit.data.channels import with_channels
from segkit.data.reading import read_image
from segkit.data.target import Target
from segkit.errors import SegkitError
from segkit.inference.instances import WAIST, Decoder, decode
from segkit.inference.tiling import OVERLAP, whole_logits
from segkit.models.segmenter import Segmenter

TTA = Literal["none", "flip", "d4"]


@dataclass(frozen=True)
class Prediction:
    """What a model says about an image.

    Attributes:
        labels: The class of each pixel, (H, W); of a multilabel model (C, H, W) of 0 and 1. uint8.
        probabilities: (C, H, W) float32, with one channel for a binary model.
        instances: Ids of objects (H, W), int32, where they were asked for.
    """

    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    instances: NDArray[np.int32] | None = None


class Predictor:
    """A trained model: an image in, labels out, whatever its size.

    Args:
        model: The network.
        card: What belongs to it; see :func:`load` for reading both from a checkpoint.
        device: Where to compute: "auto" takes a GPU if there is one.
        tta: Test-time augmentation: the mean over mirrored images ("flip"), or over all eight
            rotations and reflections ("d4").
        instances: How objects are told apart, see :func:`segkit.inference.instances.decode`:
            "components", "watershed", "border_core", "distance", or None, not at all.
        min_size: Pixels below which an object is dropped.
        waist: For "watershed" and "distance": two parts are two objects where they hang together by
            less than this share of the smaller one's width.
        fill_holes: Whether background that one object encloses becomes part of it.
        tile: Side of the tiles of large images in pixels, None to choose.
        overlap: Share of a tile that it has in common with the next.

    Example:
        >>> predictor = load("best.ckpt")  # doctest: +SKIP
        >>> predictor("image.png").labels.shape  # doctest: +SKIP
        (512, 512)
    """

    def __init__(
        self,
        model: Segmenter,
        card: ModelCard,
        *,
        device: str = "auto",
        tta: TTA = "none",
        instances: Decoder | None = None,
        min_size: int = 0,
        waist: float = WAIST,
        fill_holes: bool = False,
        tile: int | None = None,
        overlap: float = OVERLAP,
    ) -> None:
        for option, value, allowed in (
            ("tta", tta, get_args(TTA)),
            ("instances", instances, (None, *get_args(Decoder))),
        ):
            if value not in allowed:
                known = ", ".join(str(a) for a in allowed)
                raise SegkitError(f"{option} is '{value}', which is not one of {known}.")
        if not (isinstance(overlap, int | float) and 0 <= overlap < 1):
            raise SegkitError(f"overlap is {overlap!r}: give 0 or more, below 1.")
        if not 0 < waist <= 1:
            raise SegkitError(f"waist is {waist!r}: give a share above 0, up to 1.")
        if tile is not None and not (isinstance(tile, int) and tile >= 1):
            raise SegkitError(f"tile is {tile!r}: give a number of pixels, or None.")
        options = {k: v for k, v in card.target.items() if k != "name"}
        self.target = Target.build(card.target["name"], **options)
        fit = self.target.decoders_for(model.head.mode)
        if instances is not None and instances not in fit:
            raise SegkitError(
                f"instances={instances} cannot be used on a model of target={self.target.name} with"
                f" head={model.head.name}: use {' or '.join(fit) or 'none'}, or train with another"
                " target."
            )
        self.device = choose_device(device)
        self.model = model.to(self.device).eval()
        self.card = card
        self.tta, self.instances = tta, instances
        self.min_size, self.waist, self.fill_holes = min_size, waist, fill_holes
        self.tile, self.overlap = tile, overlap

    def __call__(self, image: Path | str | NDArray[Any], page: int | None = None) -> Prediction:
        """Predict one image.

        Args:
            image: A file, or an array (H, W) or (H, W, C) of 8 or 16 bit or float.
            page: Page of a multi-page file.

        Raises:
            SegkitError: The image cannot be read, or its channels or its type do not fit the
                training.
        """
        array = read_image(Path(image), page) if isinstance(image, (str, Path)) else image
        if not isinstance(array, np.ndarray) or array.ndim not in (2, 3) or 0 in array.shape:
            what = array.shape if isinstance(array, np.ndarray) else type(array).__name__
            raise SegkitError(
                f"an image is a path, or a numpy array (H, W) or (H, W, C), not {what}."
            )
        array = with_channels(array[..., None] if array.ndim == 2 else array, self.card.in_channels)
        normalized = self.card.normalization(array)
        x = torch.from_numpy(np.ascontiguousarray(normalized.transpose(2, 0, 1)))[None]
        with torch.inference_mode():
            probabilities = self.probabilities(x.to(self.device))
            labels = self.model.head.decide(probabilities)[0].cpu().numpy().astype(np.uint8)
        maps = probabilities[0].cpu().numpy()
        found = None if self.instances is None else self.objects(maps, labels)
        return Prediction(labels, maps, found)

    def objects(
        self, probabilities: NDArray[np.float32], labels: NDArray[Any]
    ) -> NDArray[np.int32]:
        """Ids of the objects (H, W) in a prediction (C, H, W) and the labels decided from it."""
        assert self.instances is not None
        return decode(
            self.instances,
            probabilities,
            labels,
            self.model.head.mode,
            gap=self.target.gap,
            min_size=self.min_size,
            waist=self.waist,
            fill_holes=self.fill_holes,
        )

    def probabilities(self, x: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) to probabilities (B, num_logits, H, W), float32."""
        views = {"none": [(0, False)], "flip": [(0, False), (0, True), (2, False), (2, True)]}.get(
            self.tta, [(turns, flip) for turns in range(4) for flip in (False, True)]
        )
        total: Tensor | None = None
        for turns, flip in views:
            view = torch.rot90(x.flip(-1) if flip else x, turns, (-2, -1))
            logits = whole_logits(self.model, view, self.tile, self.overlap)
            back = torch.rot90(self.model.head.activate(logits), -turns, (-2, -1))
            back = back.flip(-1) if flip else back
            total = back if total is None else total + back
        assert total is not None
        return total / len(views)


def load(path: Path | str, **options: Any) -> Predictor:
    """The predictor of a checkpoint, which needs only the file: no network, no training data.

    Args:
        path: A ``best.ckpt`` or ``last.ckpt`` of a run.
        options: Those of :class:`Predictor`: device, tta, instances, min_size, waist,
            fill_holes, tile, overlap.

    Raises:
        SegkitError: There is no such file, or it is no checkpoint of segkit.
    """
    model, card = checkpoint.read(path)
    return Predictor(model, card, **options)


def choose_device(device: str) -> torch.device:
    """The device of that name; "auto" is a GPU if there is one, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise SegkitError(f"device '{device}' cannot be used: {error}") from error
    return chosen
