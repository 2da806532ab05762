"""The machine that figures belong to, with the versions of all that is compared."""

from __future__ import annotations

import importlib.metadata
import os
from typing import Any

from segkit.benchmark import measuring

PEERS = ("onnxruntime", "openvino", "segmentation-models-pytorch", "monai")


def machine_facts(device: str = "cpu") -> dict[str, Any]:
    """What :func:`segkit.benchmark.measuring.machine_facts` says, the load, versions of peers."""
    facts = measuring.machine_facts(device)
    versions = dict(facts.pop("versions"))
    for package in PEERS:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if hasattr(os, "getloadavg"):
        facts["load of the last minute"] = round(os.getloadavg()[0], 1)
    return facts | {"versions": versions}
