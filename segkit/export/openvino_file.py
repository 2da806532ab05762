"""OpenVINO: model.xml and model.bin, made of the ONNX model."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from segkit.core.errors import SegkitError
from segkit.export.onnx_file import missing
from segkit.inference.runtimes.exported import KEY, Contents

if TYPE_CHECKING:
    from onnx import ModelProto


def write_openvino(proto: ModelProto, contents: Contents, path: Path) -> None:
    """Write an ONNX model as the two files of OpenVINO, with its metadata.

    Args:
        proto: The ONNX model; a quantised one stays quantised.
        contents: What the file is to hold besides.
        path: The ``.xml`` file, in a folder of its own: what is half-written there is not removed.

    Raises:
        SegkitError: OpenVINO is not installed or cannot translate the network, or the disk is full.
    """
    try:
        import openvino
    except ImportError as error:
        raise missing("OpenVINO", "openvino") from error
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        source = Path(folder, "model.onnx")
        try:
            source.write_bytes(proto.SerializeToString())
            model = openvino.Core().read_model(source)
            model.set_rt_info(contents.to_json(), [KEY])
            # half precision, the default, would not be the network any more
            openvino.save_model(model, path, compress_to_fp16=False)
        except OSError as error:
            raise SegkitError(
                f"cannot write '{path}': {error.strerror or error}. Check that its folder may be"
                " written to and that the disk is not full."
            ) from error
        except Exception as error:  # of C++
            reason = str(error).strip().partition("\n")[0]
            raise SegkitError(
                f"OpenVINO cannot write the network of encoder={contents.card.encoder['name']}:"
                f" {reason}. Use format=onnx, or make room on the disk if it is full."
            ) from error
