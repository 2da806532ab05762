"""torch.export: the program itself, as a .pt2 file."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from segkit.core.errors import SegkitError
from segkit.core.files import write_whole
from segkit.export.graph import crop_by_padding, quiet, trace
from segkit.inference.runtimes.exported import Contents
from segkit.inference.runtimes.torch_export_network import ENTRY
from segkit.models.segmenter import Segmenter


def write_torch_export(
    model: Segmenter, contents: Contents, sizes: list[tuple[int, int]], path: Path
) -> None:
    """Write the network as a program of torch.export, with its metadata.

    Args:
        model: The network, in eval mode on the CPU.
        contents: What the file is to hold besides.
        sizes: Sizes that the network takes.
        path: The file, ``.pt2``.

    Raises:
        SegkitError: torch.export cannot make one graph of the network, or the disk is full.
    """
    program = trace(model, contents, crop_by_padding, sizes)
    buffer = io.BytesIO()
    try:
        with quiet():
            torch.export.save(program, buffer, extra_files={ENTRY: contents.to_json()})
    except Exception as error:  # each layer of torch has its own
        reason = str(error).strip().partition("\n")[0]
        raise SegkitError(
            f"the network of encoder={contents.card.encoder['name']} cannot be written by"
            f" torch.export: {reason}. Use format=onnx."
        ) from error
    write_whole(path, buffer.getvalue())
