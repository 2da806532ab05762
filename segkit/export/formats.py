"""The formats: a network as a file of ONNX, OpenVINO or torch.export, with its metadata inside.

ONNX is the traced program of torch.export, translated; OpenVINO is made from ONNX.
"""

from __future__ import annotations

import importlib
import io
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import torch

from segkit.core.errors import SegkitError
from segkit.core.files import write_whole
from segkit.export.graph import (
    crop_by_padding,
    crop_by_slicing,
    explain_failure,
    name_networks,
    trace,
)
from segkit.inference.runtimes.digest import UNSET, write_digest
from segkit.inference.runtimes.exported import INPUT, KEY, Contents
from segkit.inference.runtimes.torch_export_network import ENTRY
from segkit.models.segmenter import Segmenter

if TYPE_CHECKING:
    from onnx import ModelProto

Format = Literal["onnx", "openvino", "torch_export"]
ENDINGS: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch_export": ".pt2"}
OPSET = 18
"""The oldest that torch's exporter writes; ONNX Runtime 1.14 and newer read it."""
LIMIT = 2 * 1024**3 - 16 * 1024**2
"""Bytes of weights that fit into one file: protobuf ends at 2 GB."""
AXES = ("batch", None, "height", "width")
DIGEST = f"{KEY}_digest"
"""Key of the digest in the metadata of a file."""


def write_network(
    models: Sequence[Segmenter], contents: Contents, kind: Format, path: Path
) -> ModelProto | None:
    """Write a network, in eval mode on the CPU, to a file in a new folder.

    Args:
        models: The network, or several whose probabilities the file averages.
        contents: The metadata of the file.
        kind: The format.
        path: The file.

    Returns:
        The ONNX model if there is one.

    Raises:
        SegkitError: The network cannot be exported, packages are missing, or the disk is full.
    """
    if kind != "torch_export":
        proto = make_onnx(models, contents)
        write_onnx(proto, contents, kind, path)
        return proto
    program = trace(models, contents, crop_by_padding)
    buffer = io.BytesIO()
    what = f"torch.export cannot write {name_networks(contents)}"
    with explain_failure(what, "Use format=onnx."):
        torch.export.save(program, buffer, extra_files={ENTRY: contents.to_json()})
    write_whole(path, buffer.getvalue())
    return None


def list_files(kind: Format, path: Path) -> list[Path]:
    """The files of a format, the named one last."""
    return [path.with_suffix(".bin"), path] if kind == "openvino" else [path]


def make_onnx(models: Sequence[Segmenter], contents: Contents) -> ModelProto:
    """Make the ONNX model of a network, or of several; see :func:`write_network`."""
    weights = [weight for model in models for weight in model.state_dict().values()]
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    if size > LIMIT:
        raise SegkitError(
            f"the weights are {size / 1e9:.1f} GB, and one ONNX file holds 2 GB: use"
            " format=torch_export."
        )
    try:
        import onnx

        importlib.import_module("onnxscript")  # torch translates with it
    except ImportError as error:
        raise_missing("ONNX", "onnx", error)
    program = trace(models, contents, crop_by_slicing)
    what = f"{name_networks(contents)} cannot be written as ONNX"
    with explain_failure(what, "Use format=torch_export."), torch.no_grad():
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
    _name_axes(proto)
    for node in proto.graph.node:  # they hold paths of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    add_metadata(proto, contents)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def add_metadata(proto: ModelProto, contents: Contents) -> None:
    """Put the metadata into an ONNX model."""
    takes = "intensities as in the training" if contents.normalizes else "normalized intensities"
    del proto.metadata_props[:]
    for key, value in ((KEY, contents.to_json()), (DIGEST, UNSET)):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    proto.producer_name, proto.producer_version = KEY, contents.versions.get("segkit", "")
    proto.doc_string = (
        f"Segmentation into {', '.join(contents.card.class_names)}. {INPUT}: float32 (batch,"
        f" {contents.card.in_channels}, height, width), {takes}. {contents.output}: float32"
        f"{describe_average(contents)}."
    )


def describe_average(contents: Contents) -> str:
    """What a sentence about the output adds if it is of several networks."""
    count = len(contents.cards)
    return f", the mean of {count} networks" if count > 1 else ""


def write_onnx(proto: ModelProto, contents: Contents, kind: Format, path: Path) -> None:
    """Write an ONNX model as a file of ONNX or the two files of OpenVINO."""
    if kind == "onnx":
        write_whole(path, proto.SerializeToString())
        write_digest(path)
        return
    try:
        import openvino
    except ImportError as error:
        raise_missing("OpenVINO", "openvino", error)
    what = f"OpenVINO cannot write {name_networks(contents)}"
    remedy = "Use format=onnx, or make room on the disk if it is full."
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, explain_failure(what, remedy):
        source = Path(folder, "model.onnx")
        write_whole(source, proto.SerializeToString())
        model = openvino.Core().read_model(source)
        model.set_rt_info(contents.to_json(), [KEY])
        model.set_rt_info(UNSET, [DIGEST])
        # half precision, the default, would not be the same network
        openvino.save_model(model, path, compress_to_fp16=False)
        write_digest(path, path.with_suffix(".bin"))


def raise_missing(name: str, extra: str, error: ImportError) -> NoReturn:
    """Raise the error for a format whose packages are not installed."""
    raise SegkitError(
        f"{name} needs packages that are not installed: pip install 'segkit-torch[{extra}]'."
    ) from error


def _name_axes(proto: Any) -> None:
    """Give the free axes of the input their names everywhere in the graph."""
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    names = {d.dim_param: name for d, name in zip(dims, AXES, strict=True) if d.dim_param and name}
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b")
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = pattern.sub(lambda found: names[found[0]], dim.dim_param)
