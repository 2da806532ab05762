"""int8: weights and activations of 8 bits with scales measured on real images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.checkpoint.card import ModelCard
from segkit.core.files import write_whole
from segkit.export.formats import add_metadata, raise_missing
from segkit.export.graph import explain_failure
from segkit.export.images import RealImages
from segkit.inference.predictor import Predictor
from segkit.inference.runtimes.exported import INPUT, Contents
from segkit.inference.runtimes.network import Network
from segkit.metrics.confusion import ConfusionMatrix, score_matrix

if TYPE_CHECKING:
    from onnx import ModelProto

QUANTIZED = ["Add", "Concat", "Conv", "Gemm", "MatMul", "MaxPool", "Relu", "Resize"]
"""Operations with an int8 kernel, or that pass int8 on unchanged."""
RUNS = 9
"""Runs of each network when their speeds are compared."""
FASTER = 1.05
"""A smaller ratio of speeds may be chance."""


class Quantized(NamedTuple):
    """The speed of int8 relative to float32, and the IoU before and after, against a reference."""

    ratio: float
    before: float
    after: float
    against: str

    @property
    def is_faster(self) -> bool:
        """Whether int8 is faster on this machine."""
        return self.ratio > FASTER

    @property
    def loss(self) -> float:
        """Loss of IoU."""
        return self.before - self.after

    def __str__(self) -> str:
        return (
            f"int8: {self.ratio:.2f} times the speed of float32 on this machine; IoU"
            f" {self.after:.4f} instead of {self.before:.4f} against {self.against}, a loss of"
            f" {self.loss:.4f}"
        )


def quantize(
    proto: ModelProto,
    contents: Contents,
    batches: Sequence[NDArray[np.float32]],
    folder: Path,
    *,
    keep_ends: bool = False,
) -> ModelProto:
    """Quantize after the training: weights per channel, activations by their observed range.

    Args:
        proto: The ONNX model in float32.
        contents: The metadata of its file.
        batches: Inputs for the calibration, each (B, C, h, w).
        folder: For temporary files.
        keep_ends: Leave the first and the last convolution in float32.
    """
    try:
        from onnxruntime.quantization import (
            CalibrationDataReader,
            QuantFormat,
            QuantType,
            quantize_static,
        )
    except ImportError as error:
        raise_missing("int8", "onnx", error)
    import onnx

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
        """Returns the batches one after the other, then None."""

        def __init__(self) -> None:
            self._inputs = iter([{INPUT: batch} for batch in batches])

        def get_next(self) -> dict[str, Any] | None:
            """The next one."""
            return next(self._inputs, None)

    source, target = folder / "float32.onnx", folder / "int8.onnx"
    with explain_failure("the network cannot be quantized", "Export it with quantize=none."):
        write_whole(source, proto.SerializeToString())
        quantize_static(
            source,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED,
            nodes_to_exclude=find_ends(proto) if keep_ends else [],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        made = onnx.load(target)
    add_metadata(made, replace(contents, precision="int8"))
    return made


def find_ends(proto: ModelProto) -> list[str]:
    """The names of the convolutions that no other one comes before or after, in their order.

    They are the first and the last of each network.
    """
    nodes = list(proto.graph.node)
    first = _find_outermost(nodes, lambda node: (node.input, node.output))
    last = _find_outermost(nodes[::-1], lambda node: (node.output, node.input))
    return [node.name for node in nodes if node.name in first | last]


def _find_outermost(nodes: Iterable[Any], ends: Callable[[Any], tuple[Any, Any]]) -> set[str]:
    """Names of the convolutions that one meets first, going from node to node one way."""
    behind, found = set[str](), set[str]()
    for node in nodes:
        near, far = (set(names) - {""} for names in ends(node))  # "" is left out
        if node.op_type == "Conv":
            found |= set() if near & behind else {node.name}
        if node.op_type == "Conv" or near & behind:
            behind |= far
    return found


def measure(
    reference: Network, quantized: Network, real: RealImages, tiles: Sequence[NDArray[Any]]
) -> Quantized:
    """Compare the speed on tiles (h, w, C) and the IoU on images with those of float32.

    The IoU is against the masks if known, else against the labels of float32.
    """
    labels = [_predict_labels(network, real.images) for network in (reference, quantized)]
    truths, against = real.truths, "the masks"
    if truths is None:
        truths, against = labels[0], "the labels of float32"
    before, after = (_score_iou(found, truths, reference.card) for found in labels)
    return Quantized(_compare_speed(reference, quantized, tiles), before, after, against)


def _predict_labels(network: Network, images: Sequence[NDArray[Any]]) -> list[Tensor]:
    predictions = Predictor(network, instances=None).stream(images)
    return [torch.from_numpy(one.labels).long() for one in predictions]


def _score_iou(labels: Iterable[Tensor], truths: Iterable[Tensor], card: ModelCard) -> float:
    confusion = ConfusionMatrix(card.mode, card.num_classes)
    for found, truth in zip(labels, truths, strict=True):
        confusion.update(found[None], truth[None])
    return float(score_matrix(confusion.compute(), card.mode, card.class_names).mean["iou"])


def _compare_speed(first: Network, second: Network, tiles: Sequence[NDArray[Any]]) -> float:
    """Speed of the second relative to the first, in alternating runs as the machine may be busy."""
    times: tuple[list[float], list[float]] = ([], [])
    for run in range(RUNS + 1):
        for network, own in zip((first, second), times, strict=True):
            batch = network.load_batch([network.prepare(tiles[run % len(tiles)])])
            start = time.perf_counter()
            network.predict_batch(batch)
            if run:  # the first one is the warm-up
                own.append(time.perf_counter() - start)
    return median(times[0]) / median(times[1])
