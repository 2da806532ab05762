"""A network in the two files of OpenVINO, model.xml and model.bin. No torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from segkit.core.errors import SegkitError
from segkit.core.memory import main_memory
from segkit.inference.runtimes.exported import (
    KEY,
    Contents,
    ExportedNetwork,
    cpu_threads,
    raise_broken,
    raise_foreign,
)


class OpenVinoNetwork(ExportedNetwork):
    """A network that ``python -m segkit.export format=openvino`` wrote, by its .xml file."""

    @classmethod
    def _open(cls, path: Path, device: str) -> tuple[Callable[[Any], Any], Contents, str, int]:
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
        used = choose_device(device, core.available_devices)
        # the default is half precision on GPUs and on some CPUs
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if used == "CPU" and (threads := cpu_threads()) is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            model = core.read_model(path)
        except Exception as error:  # from C++
            raise_broken(path, "an OpenVINO model", error)
        if not model.has_rt_info([KEY]):
            raise_foreign(path, "an OpenVINO model")
        contents = Contents.from_json(model.get_rt_info([KEY]).astype(str), path)
        try:
            compiled = core.compile_model(model, used, options)
        except Exception as error:
            raise_broken(path, f"an OpenVINO model for the device '{device}'", error)
        # a copy: the next call writes into the same memory
        return lambda batch: np.array(compiled(batch)[0]), contents, used.lower(), main_memory()


def choose_device(device: str, available: list[str]) -> str:
    """OpenVINO's name of a device."""
    if device == "auto":
        return next((name for name in available if name.startswith("GPU")), "CPU")
    wanted = device.upper()
    if wanted in available or any(name.partition(".")[0] == wanted for name in available):
        return wanted
    known = ", ".join(["auto", *(name.lower() for name in available)])
    raise SegkitError(f"device '{device}' cannot be used with an OpenVINO file here: use {known}.")
