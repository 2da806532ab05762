"""The graph that is exported: intensities to probabilities, for every size that the network takes.

``Segmenter`` pads in Python, depending on the size that it sees. Here the padded size is a formula
of the size, so that one graph holds for all of them.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from timm.layers.std_conv import ScaledStdConv2dSame, StdConv2dSame
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from segkit.checkpoint.values import Normalization
from segkit.core.errors import SegkitError, join_names
from segkit.inference.runtimes.exported import Contents
from segkit.inference.tiles.tiling import Windows
from segkit.models.segmenter import Segmenter

Crop = Callable[[Tensor, int, int], Tensor]
"""(B, N, H', W') to its upper left (B, N, height, width)."""
SAME_PADDING = (AvgPool2dSame, Conv2dSame, MaxPool2dSame, ScaledStdConv2dSame, StdConv2dSame)
"""Layers of timm that pad like TensorFlow, depending on the size of the input."""


class ExportGraph(nn.Module):
    """Computes (B, C, H, W) -> (B, num_logits, H, W), both float32.

    Args:
        model: The network, in eval mode.
        normalization: Lets the graph take intensities in the units of the training images; None:
            it takes normalized ones.
        activates: Whether it returns probabilities; else logits.
        crop: How the padding is removed again; formats differ in what they understand.
    """

    low: Tensor
    span: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: Segmenter,
        normalization: Normalization | None,
        activates: bool,
        crop: Crop,
    ) -> None:
        super().__init__()
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
        """(B, C, H, W) -> (B, num_logits, H, W); a smaller map from an unpadded network."""
        height, width = image.shape[-2:]
        x = self._normalize(image)
        if self._multiple:
            x = x.index_select(2, self._rows(height, x)).index_select(3, self._rows(width, x))
        logits = self.model(x)  # (B, num_logits, H', W'): of sizes that it need not pad
        maps = self.model.head.activate(logits) if self.activates else logits
        return self._crop(maps, height, width) if self._multiple else maps

    def _normalize(self, image: Tensor) -> Tensor:
        """The same as Normalization."""
        if not self._normalizes:
            return image
        return (((image - self.low) / self.span).clamp(0, 1) - self.mean) / self.std

    def _rows(self, size: int, x: Tensor) -> Tensor:
        """Indices of all rows, then the last one again up to a size that the network takes."""
        m = self._multiple
        # as in Segmenter: a multiple, and at least two pixels on the coarsest level
        padded = max(2, (size + m - 1) // m) * m
        return torch.arange(padded, device=x.device).clamp(max=size - 1)


class AverageGraph(nn.Module):
    """Computes the mean of the probabilities of several graphs, (B, num_logits, H, W)."""

    def __init__(self, members: Sequence[ExportGraph]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, num_logits, H, W)."""
        maps = [member(image) for member in self.members]
        return torch.stack(maps).mean(0)


def crop_by_slicing(maps: Tensor, height: int, width: int) -> Tensor:
    """Crop for ONNX and OpenVINO."""
    return maps[..., :height, :width]


def crop_by_padding(maps: Tensor, height: int, width: int) -> Tensor:
    """Crop for torch.export, which would fix for all sizes whether a slice is the whole."""
    return F.pad(maps, (0, width - maps.shape[-1], 0, height - maps.shape[-2]))


def list_sizes(windows: Windows) -> list[tuple[int, int]]:
    """Sizes of images to check, odd ones too if the network takes them."""
    if windows.fixed:
        return [windows.fixed]
    if windows.context:
        side, step = windows.smallest + 2 * windows.context, windows.step
        return [(side, side), (side, side + step), (side + 3 * step, side + 2 * step)]
    m = windows.step
    return [(1, 1), (2 * m, 2 * m), (m + 1, 2 * m + 3), (3 * m, 2 * m), (2 * m + 1, 3 * m + 3)]


def choose_example(windows: Windows) -> tuple[int, int]:
    """The size to trace a graph with: neither square nor a multiple of anything.

    It is large, as a side of one pixel on some coarse map would be taken for one of every size.
    """
    if windows.fixed or windows.context:
        return list_sizes(windows)[-1]
    return 9 * windows.step + 1, 11 * windows.step + 3


def trace(models: Sequence[Segmenter], contents: Contents, crop: Crop) -> ExportedProgram:
    """Trace a network, in eval mode on the CPU, for any batch and, if possible, any size.

    Of several networks the mean of their probabilities is traced.
    """
    members = [
        ExportGraph(
            replace_same_padding(model),
            card.normalization if contents.normalizes else None,
            contents.activates,
            crop,
        )
        for model, card in zip(models, contents.cards, strict=True)
    ]
    graph = members[0] if len(members) == 1 else AverageGraph(members)
    axes = (0,) if contents.windows.fixed else (0, 2, 3)
    example = torch.zeros(2, contents.card.in_channels, *choose_example(contents.windows))
    with (
        explain_failure(
            f"torch.export cannot trace {name_networks(contents)}",
            "Use the checkpoint itself, or train with another encoder.",
        ),
        torch.no_grad(),
    ):
        program = torch.export.export(
            graph.eval(), (example,), dynamic_shapes=(dict.fromkeys(axes, Dim.AUTO),), strict=True
        )
    for node in program.graph.nodes:  # it holds paths of this machine
        node.meta.pop("stack_trace", None)
    return program


def name_networks(contents: Contents) -> str:
    """How messages call what is exported."""
    encoders = list(dict.fromkeys(str(card.encoder["name"]) for card in contents.cards))
    kind = "networks" if contents.others else "network"
    return f"the {kind} of encoder={join_names(encoders)}"


def replace_same_padding(model: Segmenter) -> Segmenter:
    """Give layers that pad like TensorFlow a constant padding; the model itself stays as it is.

    A layer of stride s only gets multiples of s in the graph, for which this padding is constant.
    As formulas of the size, which grow from layer to layer, it keeps torch.export busy for many
    minutes.
    """
    if not any(isinstance(layer, SAME_PADDING) for layer in model.modules()):
        return model
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, SAME_PADDING) and getattr(layer, "same_pad", True):
                setattr(parent, name, _pad_constantly(layer))
    return model


def _pad_constantly(layer: Any) -> nn.Module:
    kernel, stride = layer.kernel_size, layer.stride
    dilation = getattr(layer, "dilation", (1, 1))
    down, across = (max((kernel[i] - 1) * dilation[i] + 1 - stride[i], 0) for i in (0, 1))
    sides = (across // 2, across - across // 2, down // 2, down - down // 2)
    fill = -float("inf") if isinstance(layer, MaxPool2dSame) else 0.0
    inner: nn.Module
    if isinstance(layer, AvgPool2dSame):
        inner = nn.AvgPool2d(kernel, stride, 0, layer.ceil_mode, layer.count_include_pad)
    elif isinstance(layer, MaxPool2dSame):
        inner = nn.MaxPool2d(kernel, stride, 0, dilation, ceil_mode=layer.ceil_mode)
    elif isinstance(layer, Conv2dSame):
        inner = nn.Conv2d(
            *(layer.in_channels, layer.out_channels, kernel, stride, 0, dilation, layer.groups),
            bias=layer.bias is not None,
        )
        inner.weight, inner.bias = layer.weight, layer.bias
    else:
        layer.same_pad = False
        inner = layer
    return nn.Sequential(nn.ConstantPad2d(sides, fill), inner)


@contextmanager
def explain_failure(what: str, remedy: str) -> Iterator[None]:
    """Turn any error into a SegkitError "what: reason. remedy"; silence the exporters."""
    try:
        with silence_exporters():
            yield
    except SegkitError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or repr(error)
        raise SegkitError(f"{what}: {reason}. {remedy}") from error


@contextmanager
def silence_exporters() -> Iterator[None]:
    """Hide what exporters warn and log about their internals."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning, UserWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        logging.disable(before)
