"""A trained network as a function on tiles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.checkpoint.card import ModelCard
from segkit.core.errors import SegkitError
from segkit.core.labels import decide
from segkit.inference.tiles.tiling import Windows


class TooLittleMemoryError(SegkitError):
    """A batch does not fit into the memory of the device."""


class SmallerBatchWarning(UserWarning):
    """Batches are smaller than requested because memory is short."""


class Network(ABC):
    """Computes the probabilities of tiles. A member says how, and on which kind of arrays.

    Attributes:
        card: The model's card.
        windows: The tiles that it takes.
        batch_size: Tiles of the largest window in one call.
        xp: numpy or torch, the library of the arrays that :meth:`predict_batch` returns.
        device: Name of the device.
        is_asynchronous: Whether it returns probabilities that are still being computed.
    """

    card: ModelCard
    windows: Windows
    batch_size: int = 1
    xp: ModuleType = np
    device: str = "cpu"
    is_asynchronous: bool = False

    @property
    def num_logits(self) -> int:
        """Channels of the probabilities."""
        return self.card.num_logits

    def prepare(self, window: NDArray[Any]) -> NDArray[Any]:
        """Convert a part of an image, (h, w, C) as read, to what :meth:`load_batch` takes.

        Raises:
            SegkitError: The type, the channels or the values do not fit the training.
        """
        image = self.card.convert_channels(window)
        return np.ascontiguousarray(self.card.normalization(image).transpose(2, 0, 1))

    def load_batch(self, parts: Sequence[NDArray[Any]]) -> Any:
        """Prepared parts of one size as a batch (B, C, h, w), an array of ``xp``."""
        return self.from_numpy(np.stack(parts))

    def predict_batch(self, batch: Any) -> Any:
        """A batch (B, C, h, w) to probabilities, float32 arrays of ``xp``.

        Their shape is (B, num_logits, h - 2 context, w - 2 context), with one more channel of a
        model that tells objects apart: their numbers, 0 for none. They can be used once
        :meth:`begin_check` says so; a GPU may still be computing them.

        Raises:
            TooLittleMemoryError: The batch does not fit into memory; smaller ones may.
        """
        try:
            return self._compute(batch)
        except Exception as error:  # each runtime has its own types
            if not is_out_of_memory(error):
                raise
        # raised here, because the error of the runtime holds the tensors
        raise TooLittleMemoryError(
            f"device {self.device} has too little memory for a batch of the shape"
            f" {tuple(batch.shape)}. Use smaller tiles and batches: tile=256 batch_size=1."
        )

    @abstractmethod
    def _compute(self, batch: Any) -> Any:
        """Compute what :meth:`predict_batch` returns."""

    def begin_check(self) -> Callable[[], bool]:
        """Ask for the end of all computations so far: what is returned waits for it.

        It tells whether their probabilities are right. If not, they must be computed again, which
        the network then does otherwise.
        """
        return lambda: True

    def finish_beside(self, probabilities: Any) -> AbstractContextManager[object]:
        """Use checked probabilities in the ``with`` block, while the network goes on."""
        return nullcontext()

    def decide(self, probabilities: Any, threshold: float | Sequence[float] | None = None) -> Any:
        """Decide labels: (B, num_logits, H, W) -> (B, H, W), or (B, N, H, W) where they overlap.

        They are uint8. ``threshold``, one or one for each channel, replaces the model's own.
        """
        own = self.card.threshold if threshold is None else threshold
        labels = decide(probabilities[:, : self.num_logits], self.card.mode, own)
        return labels.astype(np.uint8) if self.xp is np else labels.to(self.xp.uint8)

    def from_numpy(self, values: NDArray[Any]) -> Any:
        """Convert a numpy array to one of ``xp``, where the network computes."""
        if self.xp is np:
            return values
        is_cuda = self.device.startswith("cuda")
        return self.xp.from_numpy(values).to(self.device, non_blocking=is_cuda)

    def make_zeros(self, shape: tuple[int, ...]) -> Any:
        """Zeros of float32 where the network computes."""
        if self.xp is np:
            return np.zeros(shape, np.float32)
        return self.xp.zeros(shape, dtype=self.xp.float32, device=self.device)

    def to_numpy(self, array: Any) -> NDArray[Any]:
        """The inverse of :meth:`from_numpy`."""
        return array if self.xp is np else array.cpu().numpy()

    def fetch(
        self, array: Any, take: Callable[[NDArray[Any]], object]
    ) -> Callable[[], object] | None:
        """Hand an array of ``xp`` to ``take`` as one of numpy, which ``take`` must not keep.

        If that would mean to wait for a device, it happens when the returned function is called.
        """
        take(self.to_numpy(array))
        return None


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of numpy, torch or another runtime says that memory is full."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in said for words in ("out of memory", "not enough memory", "allocate", "bad_alloc")
    )
