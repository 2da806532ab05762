"""A network in the two files of OpenVINO, model.xml and model.bin. No torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.core.errors import SegkitError
from segkit.core.memory import main_memory
from segkit.inference.runtimes.exported import (
    KEY,
    Contents,
    ExportedNetwork,
    broken,
    foreign,
    guarded,
    require_file,
)


class OpenVinoNetwork(ExportedNetwork):
    """A network that ``python -m segkit.export format=openvino`` wrote; see :meth:`read`."""

    def __init__(
        self,
        path: Path,
        compiled: Any,
        contents: Contents,
        device: str,
        tile: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(contents, device, tile, batch_size, main_memory())
        self._path, self._compiled = path, compiled

    @classmethod
    def read(
        cls,
        path: Path,
        device: str = "auto",
        tile: int | None = None,
        batch_size: int | None = None,
        threads: int | None = None,
    ) -> OpenVinoNetwork:
        """The network in a file.

        Args:
            path: The .xml file; the .bin file is beside it.
            device: "auto" takes a GPU if OpenVINO has one; "cpu", "gpu", "npu" ...
            tile: Side of the tiles in pixels, None to choose.
            batch_size: Tiles in a batch, None to choose.
            threads: Threads of the CPU; None: what OMP_NUM_THREADS says, else all cores.

        Raises:
            SegkitError: There is no such file, it is none of segkit, or OpenVINO or the device are
                not there.
        """
        require_file(path)
        if not path.with_suffix(".bin").is_file():
            raise SegkitError(
                f"{path} has no weights: {path.with_suffix('.bin').name} must be beside it. Copy"
                " both files."
            )
        try:
            import openvino
        except ImportError as error:
            raise SegkitError(
                f"{path} needs OpenVINO, which is not installed: pip install"
                " 'segkit-torch[openvino]'."
            ) from error
        core = openvino.Core()
        chosen = _device(device, core.available_devices)
        # the default is half precision on GPUs and on some CPUs
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        count = threads or os.environ.get("OMP_NUM_THREADS", "")
        if chosen == "CPU" and str(count).isdecimal():
            options["INFERENCE_NUM_THREADS"] = int(count)
        try:
            model = core.read_model(path)
        except Exception as error:  # of C++
            broken(path, "an OpenVINO model", error)
        if not model.has_rt_info([KEY]):
            foreign(path, "an OpenVINO model")
        contents = Contents.from_json(model.get_rt_info([KEY]).astype(str), path)
        try:
            compiled = core.compile_model(model, chosen, options)
        except Exception as error:
            broken(path, f"an OpenVINO model for the device '{device}'", error)
        return cls(path, compiled, contents, chosen.lower(), tile, batch_size)

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the graph gives for a batch (B, C, h, w)."""
        # a copy: the next call writes into the same memory
        return guarded(lambda: np.array(self._compiled(batch)[0]), self._path, batch.shape)


def _device(device: str, available: list[str]) -> str:
    """The name that OpenVINO has for a device."""
    if device == "auto":
        return next((name for name in available if name.startswith("GPU")), "CPU")
    wanted = device.upper()
    if wanted in available or any(name.partition(".")[0] == wanted for name in available):
        return wanted
    known = ", ".join(["auto", *(name.lower() for name in available)])
    raise SegkitError(f"device '{device}' cannot be used with an OpenVINO file here: use {known}.")
