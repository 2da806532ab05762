"""A trained network as a function on tiles, whatever runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.checkpoint.card import ModelCard
from segkit.core.errors import SegkitError
from segkit.core.labels import decide
from segkit.images.channels import convert_channels
from segkit.inference.tiles.tiling import Windows


class TooLittleMemoryError(SegkitError):
    """A batch does not fit into the memory of the device."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of numpy, torch or another runtime says that memory is full."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in said for words in ("out of memory", "not enough memory", "allocate", "bad_alloc")
    )


class Network(ABC):
    """Computes the probabilities of tiles. A member says how, and on which kind of arrays.

    Attributes:
        card: What belongs to the network.
        windows: Which tiles it takes.
        batch_size: Tiles of the largest window that one call takes.
        xp: numpy or torch: the library of the arrays that :meth:`probabilities` gives.
        device: Where it computes, to be shown.
    """

    card: ModelCard
    windows: Windows
    batch_size: int = 1
    xp: ModuleType = np
    device: str = "cpu"

    @property
    def num_logits(self) -> int:
        """Channels of the probabilities."""
        return self.card.num_logits

    def prepare(self, window: NDArray[Any]) -> NDArray[np.float32]:
        """What the network is given for a part of an image: (h, w, C) as read -> (C, h, w).

        Raises:
            SegkitError: The type, the channels or the values do not fit the training.
        """
        image = convert_channels(window, self.card.in_channels)
        return np.ascontiguousarray(self.card.normalization(image).transpose(2, 0, 1))

    @abstractmethod
    def probabilities(self, batch: NDArray[np.float32]) -> Any:
        """(B, C, h, w) -> (B, num_logits, h - 2 context, w - 2 context) float32, of ``xp``.

        Raises:
            TooLittleMemoryError: The batch does not fit into memory; smaller ones may.
        """

    def too_little_memory(self, shape: tuple[int, ...]) -> TooLittleMemoryError:
        """The error of a batch that does not fit into memory.

        Raise it outside of the ``except`` block: the error of the runtime holds the tensors.
        """
        return TooLittleMemoryError(
            f"device {self.device} has too little memory for a batch of the shape {shape}. Use"
            " smaller tiles and batches: tile=256 batch_size=1."
        )

    def decide(self, probabilities: Any, threshold: float | None = None) -> Any:
        """(B, num_logits, H, W) of ``xp`` to labels (B, H, W), or (B, N, H, W) where they overlap.

        Args:
            probabilities: Of :meth:`probabilities`.
            threshold: Probability above which a pixel belongs to a class; None: the model's own.
        """
        own = self.card.threshold if threshold is None else threshold
        return decide(probabilities, self.card.mode, own)

    def array(self, values: NDArray[Any]) -> Any:
        """An array of numpy as one of ``xp``, where the network computes."""
        return values

    def numpy(self, array: Any) -> NDArray[Any]:
        """The inverse of :meth:`array`."""
        return array
