"""A network in an ONNX file, run by ONNX Runtime. No torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segkit.core.errors import SegkitError
from segkit.core.memory import UNKNOWN_MEMORY, main_memory
from segkit.inference.runtimes.exported import (
    INPUT,
    KEY,
    Contents,
    ExportedNetwork,
    cpu_threads,
    raise_broken,
    raise_foreign,
)


class OnnxNetwork(ExportedNetwork):
    """A network that ``python -m segkit.export format=onnx`` wrote."""

    @classmethod
    def _open(cls, path: Path, device: str) -> tuple[Callable[[Any], Any], Contents, str, int]:
        try:
            import onnxruntime
        except ImportError as error:
            raise SegkitError(
                f"{path} needs ONNX Runtime, which is not installed: pip install"
                " 'segkit-torch[onnx]', or onnxruntime-gpu for a GPU."
            ) from error
        providers, used = choose_providers(device, onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cpu_threads() or 0  # 0: all cores
        options.log_severity_level = 3  # errors only
        try:
            session = onnxruntime.InferenceSession(os.fspath(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime has a dozen types
            raise_broken(path, "an ONNX model", error)
        found = session.get_modelmeta().custom_metadata_map
        if KEY not in found:
            raise_foreign(path, "an ONNX model")
        contents = Contents.from_json(found[KEY], path)
        if "CUDAExecutionProvider" not in session.get_providers():
            # ONNX Runtime falls back to the CPU if the libraries of CUDA are missing
            if device.startswith("cuda"):
                raise SegkitError(
                    f"device '{device}' cannot be used: ONNX Runtime could not load CUDA. Install"
                    " the CUDA and cuDNN that onnxruntime-gpu was built for, or use device=cpu."
                )
            used = "cpu"
        # ONNX Runtime does not report the memory of a GPU
        free = main_memory() if used == "cpu" else UNKNOWN_MEMORY
        return lambda batch: session.run(None, {INPUT: batch})[0], contents, used, free


def choose_providers(device: str, available: list[str]) -> tuple[list[Any], str]:
    """The execution providers of ONNX Runtime for a device, and the name of the device in use."""
    kind, _, number = device.partition(":")
    cuda = "CUDAExecutionProvider" in available
    if device == "cpu" or (device == "auto" and not cuda):
        return ["CPUExecutionProvider"], "cpu"
    if kind in ("auto", "cuda") and cuda and (not number or number.isdecimal()):
        options = {"device_id": int(number or 0)}
        providers = [("CUDAExecutionProvider", options), "CPUExecutionProvider"]
        return providers, "cuda" if device == "auto" else device
    known = "auto, cpu, cuda" if cuda else "auto, cpu; a GPU needs onnxruntime-gpu"
    raise SegkitError(f"device '{device}' cannot be used with an ONNX file here: use {known}.")
