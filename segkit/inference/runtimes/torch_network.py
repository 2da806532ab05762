"""PyTorch networks, run on tiles, and on whole images during training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.checkpoint.card import ModelCard
from segkit.checkpoint.on_device import standardize
from segkit.config.settings import OVERLAP, Precision
from segkit.core.errors import SegkitError
from segkit.core.memory import find_main_memory
from segkit.inference.objects.merging import ObjectMerger
from segkit.inference.runtimes.network import Network
from segkit.inference.tiles.tiling import Windows, choose_side, plan_batches, plan_grid
from segkit.models.cost import peak_bytes
from segkit.models.fast import for_inference
from segkit.models.segmenter import Segmenter
from segkit.models.sizes import valid_input, valid_output


class FullPrecisionWarning(UserWarning):
    """A network cannot predict in half precision."""


class TorchNetwork(Network):
    """A segkit model on the CPU or a GPU.

    Args:
        model: The model.
        card: Its card.
        device: Name of the device; "auto" is a GPU if there is one.
        tile: Side of the tiles in pixels. None: as large as memory allows, up to 1024 or the size
            of the training's crops, whichever is larger.
        batch_size: Tiles in a batch. None: as many as memory allows.
        precision: float32, or auto: in half of it where the device is faster so.
    """

    xp = torch

    def __init__(
        self,
        model: Segmenter,
        card: ModelCard,
        device: str = "auto",
        tile: int | None = None,
        batch_size: int | None = None,
        precision: Precision = "auto",
    ) -> None:
        self._device = choose_device(device)
        self._half = choose_half(self._device) if precision == "auto" else None
        self.device = str(self._device)
        self._model = model.to(self._device)
        self.card = card
        self._tile, self._batch_size = tile, batch_size
        self._is_finite: Tensor | None = None
        self.is_asynchronous = self._device.type == "cuda"
        if self.is_asynchronous:
            # for the copies of the next batch and for what follows the network, beside it
            # (torch has no types of them)
            self._loading = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self._finishing = torch.cuda.Stream(self._device, priority=-1)  # type: ignore[no-untyped-call]

    @cached_property
    def _plan(self) -> tuple[Windows, int]:
        model, tile, batch_size = self._model, self._tile, self._batch_size
        if tile is not None and batch_size is not None:
            return find_windows(model, tile), batch_size
        return plan_batches(
            lambda side: find_windows(model, side),
            choose_side(self.card),
            tile,
            batch_size,
            free_memory(self._device),
            (self.card.bytes_per_pixel or peak_bytes(model, self.card.in_channels))
            / (1 if self._half is None else 2),
            self._device.type,
        )

    @property
    def windows(self) -> Windows:  # type: ignore[override]  # planned when it is needed
        """See :class:`Network`."""
        return self._plan[0]

    @property
    def batch_size(self) -> int:  # type: ignore[override]  # as above
        """See :class:`Network`."""
        return self._plan[1]

    @cached_property
    def model(self) -> Segmenter:
        """The copy that predicts, made for the first batch so that loading stays fast."""
        return for_inference(self._model, self._half)

    @property
    def num_logits(self) -> int:
        """Channels of the probabilities."""
        return self._model.head.num_logits

    def prepare(self, window: NDArray[Any]) -> NDArray[Any]:
        """(h, w, C) as read -> the same from 0 to 1, or 8 bits: a quarter of the bytes."""
        image = self.card.convert_channels(window)
        return self.card.normalization.to_unit(self.card.normalization.convert(image))

    def load_batch(self, parts: Sequence[NDArray[Any]]) -> Tensor:
        """See :class:`Network`. The channels come last in memory, as in images."""
        if len({part.dtype for part in parts}) > 1:  # images of 8 bits among others
            parts = [
                part * np.float32(1 / 255) if part.dtype == np.uint8 else part for part in parts
            ]
        if not self.is_asynchronous:
            return self.from_numpy(np.stack(parts)).permute(0, 3, 1, 2)
        pinned = _pin((len(parts), *parts[0].shape), torch.from_numpy(parts[0][:0].copy()).dtype)
        np.stack(parts, out=pinned.numpy())
        with torch.cuda.stream(self._loading):
            batch = pinned.to(self._device, non_blocking=True)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._loading)
        batch.record_stream(computing)
        return batch.permute(0, 3, 1, 2)

    def _compute(self, batch: Tensor) -> Tensor:
        with torch.inference_mode():
            given = standardize(batch, self.card.normalization)
            if self._half is None:
                return self.model.head.activate(self.model(given).float())
            with torch.autocast(self._device.type, self._half):
                logits = self.model(given).float()
            is_finite = logits.isfinite().all()  # not read here, as this would wait for the GPU
            self._is_finite = is_finite if self._is_finite is None else self._is_finite & is_finite
            return self.model.head.activate(logits)

    def begin_check(self) -> Callable[[], bool]:
        """See :class:`Network`: in half precision, whether all logits were finite."""
        is_finite, self._is_finite = self._is_finite, None
        if is_finite is None:
            is_finite = torch.ones((), dtype=torch.bool, device=self._device)
        found: list[bool] = []
        wait = self.fetch(is_finite, lambda value: found.append(bool(value)))

        def check() -> bool:
            if wait is not None:
                wait()
            if not found[0]:
                self._leave_half_precision()
            return found[0]

        return check

    def _leave_half_precision(self) -> None:
        """Compute in float32 from now on: values of the network exceed the largest half number."""
        if self._half is None:  # the batch after the one that said so
            return
        warnings.warn(
            "this network has values that half precision does not hold, so it predicts in float32."
            " precision=float32 does so from the start.",
            FullPrecisionWarning,
            stacklevel=2,
        )
        self._half = None
        del self.model

    @contextmanager
    def finish_beside(self, probabilities: Tensor) -> Iterator[None]:
        """See :class:`Network`. What is allocated in the block must be used in such blocks only."""
        if not self.is_asynchronous:
            yield
            return
        probabilities.record_stream(self._finishing)
        with torch.cuda.stream(self._finishing):
            yield

    def fetch(
        self, array: Tensor, take: Callable[[NDArray[Any]], object]
    ) -> Callable[[], object] | None:
        """See :class:`Network`."""
        if not self.is_asynchronous:
            return super().fetch(array, take)
        pinned = _pin(array.shape, array.dtype)
        pinned.copy_(array, non_blocking=True)
        copied = torch.cuda.current_stream(self._device).record_event()

        def finish() -> None:
            copied.synchronize()
            take(pinned.numpy())

        return finish

    def decide(
        self, probabilities: Tensor, threshold: float | Sequence[float] | None = None
    ) -> Tensor:
        """Decide labels as the head does, or at the given threshold."""
        if threshold is not None:
            return super().decide(probabilities, threshold)
        # of a head of a plugin they may be of another type
        return self.model.head.decide(probabilities).to(torch.uint8)


def _pin(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Memory of the host that a GPU copies from and to while both go on."""
    return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)


def find_windows(model: Segmenter, side: int) -> Windows:
    """Find the tiles that a model takes, with windows of at most ``side`` pixels."""
    encoder = model.encoder
    if encoder.padding == "valid":
        depth = len(encoder.strides)
        smallest = valid_output(valid_input(1, depth), depth)
        assert smallest is not None
        context = (valid_input(smallest, depth) - smallest) // 2
        return Windows(side, 2 ** (depth - 1), smallest, context)
    multiple = encoder.multiple or encoder.strides[-1]
    if encoder.fixed_size is not None:
        return Windows(max(encoder.fixed_size), multiple, fixed=encoder.fixed_size)
    return Windows(side, multiple, 2 * multiple)  # at least two pixels on the coarsest level


def blend(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    windows: Windows,
    overlap: float = OVERLAP,
    merger: ObjectMerger | None = None,
) -> Tensor:
    """Run a network on a batch of whole images, in overlapping tiles if they are large.

    The plain counterpart of :mod:`segkit.inference.tiles.blending`, for images on one device.

    Args:
        network: (B, C, h, w) -> (B, N, h - 2 context, w - 2 context).
        images: (B, C, H, W), normalized.
        windows: The tiles that the network takes.
        overlap: Minimum share of a window that overlaps the next one.
        merger: Takes the last of the maps, numbers of objects; for a single image.

    Returns:
        (B, N, H, W) float32, without what ``merger`` has taken.
    """
    height, width = images.shape[-2:]
    grid = plan_grid(height, width, windows, overlap)

    def run(i: int, j: int, tiles: Tensor) -> Tensor:
        maps = network(tiles).float()
        if merger is None:
            return maps
        weights = grid.rows.weights[i][:, None] * grid.columns.weights[j]
        place = grid.rows.starts[i], grid.columns.starts[j]
        merger.add(*place, maps[0, -1].cpu().numpy(), weights)
        return maps[:, :-1]

    if (grid.rows.window, grid.columns.window) == (height, width) and not windows.context:
        return run(0, 0, images)
    total: Tensor | None = None
    for i, top in enumerate(grid.rows.starts):
        rows = torch.from_numpy(grid.rows.find_pixels(i)).to(images.device)
        down = torch.from_numpy(grid.rows.weights[i]).to(images.device)[:, None]
        for j, left in enumerate(grid.columns.starts):
            columns = torch.from_numpy(grid.columns.find_pixels(j)).to(images.device)
            across = torch.from_numpy(grid.columns.weights[j]).to(images.device)
            maps = run(i, j, images[..., rows, :][..., columns]) * (down * across)
            if total is None:
                total = maps.new_zeros(*maps.shape[:2], height, width)
            part = total[..., top : top + grid.rows.window, left : left + grid.columns.window]
            part += maps[..., : part.shape[-2], : part.shape[-1]]
    assert total is not None
    return total


def choose_device(device: str) -> torch.device:
    """Get a device by its name; "auto" is a GPU if there is one, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise SegkitError(f"device '{device}' cannot be used: {error}") from error
    return chosen


def choose_half(device: torch.device) -> torch.dtype | None:
    """The type in which a device predicts faster than in float32; None where it does not.

    float16 rounds to 11 bits and bfloat16 to 8: labels differ from those of float32 in 0.01 %
    instead of 0.05 % of the pixels. Its largest number is 65504, see :meth:`TorchNetwork._compute`.
    """
    is_fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)
    return torch.float16 if is_fast else None


def free_memory(device: torch.device) -> int:
    """Free bytes of a GPU, or all of main memory, which caches fill anyway."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return find_main_memory()
