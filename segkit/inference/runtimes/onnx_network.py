"""A network in an ONNX file, run by ONNX Runtime. No torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.core.memory import UNKNOWN_MEMORY, main_memory
from segkit.inference.runtimes.exported import (
    INPUT,
    KEY,
    Contents,
    ExportedNetwork,
    broken,
    foreign,
    guarded,
    require_file,
)


class OnnxNetwork(ExportedNetwork):
    """A network that ``python -m segkit.export format=onnx`` wrote; see :meth:`read`."""

    def __init__(
        self,
        path: Path,
        session: Any,
        contents: Contents,
        device: str,
        tile: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        # ONNX Runtime does not tell the memory of a GPU
        free = main_memory() if device == "cpu" else UNKNOWN_MEMORY
        super().__init__(contents, device, tile, batch_size, free)
        self._path, self._session = path, session

    @classmethod
    def read(
        cls,
        path: Path,
        device: str = "auto",
        tile: int | None = None,
        batch_size: int | None = None,
        threads: int | None = None,
    ) -> OnnxNetwork:
        """The network in a file.

        Args:
            path: The file.
            device: "auto" takes a GPU if this ONNX Runtime can; "cpu", "cuda", "cuda:1".
            tile: Side of the tiles in pixels, None to choose.
            batch_size: Tiles in a batch, None to choose.
            threads: Threads of the CPU; None: what OMP_NUM_THREADS says, else all cores.

        Raises:
            SegkitError: There is no such file, it is none of segkit, or ONNX Runtime or the device
                are not there.
        """
        require_file(path)
        try:
            import onnxruntime
        except ImportError as error:
            raise SegkitError(
                f"{path} needs ONNX Runtime, which is not installed: pip install"
                " 'segkit-torch[onnx]', or onnxruntime-gpu for a GPU."
            ) from error
        providers, wanted = _providers(device, onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or _threads()
        options.log_severity_level = 3  # errors; what it says of its own optimisations is no news
        try:
            session = onnxruntime.InferenceSession(os.fspath(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime has a dozen of them
            broken(path, "an ONNX model", error)
        found = session.get_modelmeta().custom_metadata_map
        if KEY not in found:
            foreign(path, "an ONNX model")
        contents = Contents.from_json(found[KEY], path)
        if "CUDAExecutionProvider" not in session.get_providers():
            # it falls back to the CPU where the libraries of CUDA are missing
            if device.startswith("cuda"):
                raise SegkitError(
                    f"device '{device}' cannot be used: ONNX Runtime could not load CUDA. Install"
                    " the CUDA and cuDNN that onnxruntime-gpu was built for, or use device=cpu."
                )
            wanted = "cpu"
        return cls(path, session, contents, wanted, tile, batch_size)

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the graph gives for a batch (B, C, h, w)."""
        return guarded(lambda: self._session.run(None, {INPUT: batch})[0], self._path, batch.shape)


def _providers(device: str, available: list[str]) -> tuple[list[Any], str]:
    """What ONNX Runtime is to compute with, and its name as a device."""
    kind, _, number = device.partition(":")
    cuda = "CUDAExecutionProvider" in available
    if device == "cpu" or (device == "auto" and not cuda):
        return ["CPUExecutionProvider"], "cpu"
    if kind in ("auto", "cuda") and cuda and (not number or number.isdecimal()):
        options = {"device_id": int(number or 0)}
        return [("CUDAExecutionProvider", options), "CPUExecutionProvider"], (
            "cuda" if device == "auto" else device
        )
    known = "auto, cpu, cuda" if cuda else "auto, cpu; a GPU needs onnxruntime-gpu"
    raise SegkitError(f"device '{device}' cannot be used with an ONNX file here: use {known}.")


def _threads() -> int:
    """What the environment says; 0 leaves it to ONNX Runtime, which takes all cores."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdecimal() else 0
