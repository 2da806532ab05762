"""The machine that figures belong to, with the versions of all that is compared."""

from __future__ import annotations

import importlib.metadata
import os
from typing import Any

from segkit.benchmark import measuring

PEERS = ("onnxruntime", "openvino", "segmentation-models-pytorch", "monai")


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """What the benchmark command says of the machine, its load, and the versions of peers."""
    facts = measuring.describe_machine(device)
    versions = dict(facts.pop("versions"))
    for package in PEERS:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if hasattr(os, "getloadavg"):
        facts["load of the last minute"] = round(os.getloadavg()[0], 1)
    return facts | {"versions": versions}
