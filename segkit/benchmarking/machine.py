"""The machine that figures are of, as plain data: without it they mean nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

from segkit import __version__
from segkit.core.memory import GB, main_memory

PACKAGES = (
    "torch",
    "timm",
    "lightning",
    "onnxruntime",
    "openvino",
    "segmentation-models-pytorch",
    "monai",
)


def machine_facts(device: str = "cpu") -> dict[str, Any]:
    """Processor, memory, threads, system, load and versions.

    Args:
        device: Where is computed; a GPU is named.
    """
    facts: dict[str, Any] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory, GB": round(main_memory() / GB, 1),
        "system": platform.platform(),
        "device": device,
    }
    if device.startswith("cuda"):
        facts["device"] = f"{device}: {torch.cuda.get_device_name(device)}"
        facts["CUDA"] = torch.version.cuda
    if hasattr(os, "getloadavg"):
        facts["load of the last minute"] = round(os.getloadavg()[0], 1)
    return facts | {"versions": versions()}


def versions() -> dict[str, str]:
    """Of Python, segkit and what the figures depend on, as far as it is installed."""
    found = {"python": platform.python_version(), "segkit": __version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The name of the processor, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
