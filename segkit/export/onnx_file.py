"""ONNX: the program of torch.export, translated, with the metadata inside."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from segkit.core.errors import SegkitError
from segkit.core.files import write_whole
from segkit.export.graph import crop_by_slicing, quiet, trace
from segkit.inference.runtimes.exported import INPUT, KEY, Contents
from segkit.models.segmenter import Segmenter

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18
"""The oldest that torch's exporter writes, so that runtimes from ONNX Runtime 1.14 on read it."""
LIMIT = 2 * 1024**3 - 16 * 1024**2
"""Bytes of weights that one file takes: protobuf ends at 2 GB."""
AXES = ("batch", None, "height", "width")


def onnx_model(model: Segmenter, contents: Contents, sizes: list[tuple[int, int]]) -> ModelProto:
    """The network as an ONNX model, with its metadata.

    Args:
        model: The network, in eval mode on the CPU.
        contents: What the file is to hold besides.
        sizes: Sizes that the network takes.

    Raises:
        SegkitError: The network is too large for one file, cannot be translated, or packages are
            missing.
    """
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    if size > LIMIT:
        raise SegkitError(
            f"the weights are {size / 1e9:.1f} GB, and one ONNX file holds 2 GB: use"
            " format=torch_export."
        )
    try:
        import onnx
        import onnxscript  # noqa: F401  what torch translates with
    except ImportError as error:
        raise missing("ONNX", "onnx") from error
    program = trace(model, contents, crop_by_slicing, sizes)
    try:
        with quiet(), _silent(), torch.no_grad():
            translated = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[contents.output],
                verbose=False,
            )
        assert translated is not None
        proto: ModelProto = translated.model_proto
    except Exception as error:  # each layer of torch has its own
        reason = str(error).strip().partition("\n")[0]
        raise SegkitError(
            f"the network of encoder={contents.card.encoder['name']} cannot be written as ONNX:"
            f" {reason}. Use format=torch_export."
        ) from error
    _name_axes(proto)
    for node in proto.graph.node:  # paths of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    describe(proto, contents)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def describe(proto: ModelProto, contents: Contents) -> None:
    """Put the metadata into an ONNX model."""
    takes = "intensities as in the training" if contents.normalizes else "normalised intensities"
    del proto.metadata_props[:]
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, contents.to_json()
    proto.producer_name, proto.producer_version = KEY, contents.versions.get("segkit", "")
    proto.doc_string = (
        f"Segmentation into {', '.join(contents.card.class_names)}. {INPUT}: float32 (batch,"
        f" {contents.card.in_channels}, height, width), {takes}. {contents.output}: float32."
    )


def write_onnx(proto: ModelProto, path: Path) -> None:
    """Write an ONNX model whole or not at all, weights inside."""
    write_whole(path, proto.SerializeToString())


def missing(name: str, extra: str) -> SegkitError:
    """The error of a format whose packages are not installed."""
    return SegkitError(
        f"{name} needs packages that are not installed: pip install 'segkit-torch[{extra}]'."
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Without what the translators log about each step."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _name_axes(proto: Any) -> None:
    """Give the free axes of the input their names, everywhere in the graph."""
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    names = {
        dim.dim_param: name for dim, name in zip(dims, AXES, strict=True) if dim.dim_param and name
    }
    if not names:
        return
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b")
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = pattern.sub(lambda found: names[found[0]], dim.dim_param)
