"""The graph that is exported: intensities to probabilities, for every size that the network takes.

``Segmenter`` pads in Python, from the sizes that it sees. Here the padded size is a formula of the
size, so that one graph holds for all of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from segkit.checkpoint.normalization import Normalization
from segkit.core.errors import SegkitError
from segkit.inference.runtimes.exported import Contents
from segkit.models.segmenter import Segmenter

Crop = Callable[[Tensor, int, int], Tensor]
"""(B, N, H', W') to its upper left (B, N, height, width)."""


class ExportGraph(nn.Module):
    """What an exported file computes: (B, C, H, W) -> (B, num_logits, H, W), float32 both.

    Args:
        model: The network, in eval mode.
        normalization: Makes the graph take intensities in the units of the training; None: it takes
            normalised ones.
        activates: Whether it gives probabilities; else logits.
        crop: How the padding is taken off again; the formats differ in what they understand.
    """

    def __init__(
        self,
        model: Segmenter,
        normalization: Normalization | None,
        activates: bool,
        crop: Crop,
    ) -> None:
        super().__init__()
        self.low: Tensor
        self.span: Tensor
        self.mean: Tensor
        self.std: Tensor
        self.model, self.activates, self._crop = model, activates, crop
        own_size = model.encoder.padding == "valid" or model.encoder.fixed_size is not None
        self._multiple = 0 if own_size else model.encoder.multiple or model.encoder.strides[-1]
        self._normalizes = normalization is not None
        if normalization is not None:
            constants = {
                "low": normalization.low,
                "span": np.subtract(normalization.high, normalization.low),
                "mean": normalization.mean,
                "std": normalization.std,
            }
            for name, values in constants.items():
                constant = torch.tensor(values, dtype=torch.float32)  # (C,), or one number for all
                self.register_buffer(name, constant.reshape(-1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, num_logits, H, W); of an unpadded network the smaller map."""
        height, width = image.shape[-2:]
        x = self._normalized(image)
        if self._multiple:
            x = x.index_select(2, self._rows(height, x)).index_select(3, self._rows(width, x))
        logits = self.model(x)  # (B, num_logits, H', W'): of sizes that it need not pad
        maps = self.model.head.activate(logits) if self.activates else logits
        return self._crop(maps, height, width) if self._multiple else maps

    def _normalized(self, image: Tensor) -> Tensor:
        """As Normalization does it."""
        if not self._normalizes:
            return image
        return (((image - self.low) / self.span).clamp(0, 1) - self.mean) / self.std

    def _rows(self, size: int, x: Tensor) -> Tensor:
        """Indices of ``size`` rows and of the last one again, up to a size the network takes."""
        m = self._multiple
        # as in Segmenter: a multiple, and at least two pixels on the coarsest level
        padded = torch.sym_max(2, (size + m - 1) // m) * m
        return torch.arange(padded, device=x.device).clamp(max=size - 1)


def crop_by_slicing(maps: Tensor, height: int, width: int) -> Tensor:
    """What ONNX and OpenVINO are best at."""
    return maps[..., :height, :width]


def crop_by_padding(maps: Tensor, height: int, width: int) -> Tensor:
    """For torch.export, which would fix for ever whether a slice is the whole."""
    return F.pad(maps, (0, width - maps.shape[-1], 0, height - maps.shape[-2]))


def trace(
    model: Segmenter, contents: Contents, crop: Crop, sizes: list[tuple[int, int]]
) -> ExportedProgram:
    """The graph of a network as a program, for any batch and, where it can, any size.

    Args:
        model: The network, in eval mode on the CPU.
        contents: Says what is inside of the graph.
        crop: How the format crops.
        sizes: Sizes that the network takes; the last is run.

    Raises:
        SegkitError: torch.export cannot make one graph of it.
    """
    card = contents.card
    graph = ExportGraph(
        model, card.normalization if contents.normalizes else None, contents.activates, crop
    ).eval()
    axes = (0,) if contents.windows.fixed else (0, 2, 3)
    example = torch.zeros(2, card.in_channels, *sizes[-1])
    try:
        with torch.no_grad(), quiet(), _constant_padding():
            program = torch.export.export(
                graph, (example,), dynamic_shapes=(dict.fromkeys(axes, Dim.AUTO),), strict=True
            )
    except Exception as error:  # each layer of torch has its own
        reason = str(error).strip().partition("\n")[0]
        raise SegkitError(
            f"the network of encoder={card.encoder['name']} cannot be made one graph by"
            f" torch.export: {reason}. Use the checkpoint itself, or train with another encoder."
        ) from error
    for node in program.graph.nodes:  # paths of this machine
        node.meta.pop("stack_trace", None)
    return program


@contextmanager
def _constant_padding() -> Iterator[None]:
    """TensorFlow's "same" padding as a number instead of a formula of the size.

    A layer of stride s here only sees multiples of s, of which the padding does not depend on the
    size. As a formula, from layer to layer a longer one, it keeps torch.export busy for many
    minutes. Were it wrong anywhere, the check of the file would find it.
    """

    def padding(size: int, kernel: int, stride: int, dilation: int) -> int:
        return max((kernel - 1) * dilation + 1 - stride, 0)

    with patch("timm.layers.padding.get_same_padding", padding):
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Keep to themselves what exporters say about their own innards."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        yield
