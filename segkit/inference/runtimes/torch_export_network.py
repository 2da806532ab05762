"""A network in a .pt2 file of torch.export. Needs torch."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.inference.runtimes.exported import (
    KEY,
    Contents,
    ExportedNetwork,
    raise_broken,
    raise_foreign,
)
from segkit.inference.runtimes.torch_network import choose_device, free_memory

ENTRY = f"{KEY}.json"
"""Name of the metadata among the extra files of the archive."""


class TorchExportNetwork(ExportedNetwork):
    """A network that ``python -m segkit.export format=torch_export`` wrote.

    A .pt2 file is a program. Pickled objects in it are refused, but torch does not protect against
    malicious files: take .onnx files from people you do not trust.
    """

    xp = torch

    @classmethod
    def _open(cls, path: Path, device: str) -> tuple[Callable[[Any], Any], Contents, str, int]:
        try:
            with zipfile.ZipFile(path) as archive:
                names = (name for name in archive.namelist() if "/weights/weight_" not in name)
                entries = {name.partition("/")[2]: archive.read(name) for name in names}
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise_broken(path, "a program of torch.export", error)
        text = entries.get(f"extra/{ENTRY}") or entries.get(f"extra_files/{ENTRY}")
        if text is None:
            raise_foreign(path, "a .pt2 file")
        contents = Contents.from_json(text.decode(), path)
        _refuse_pickles(entries, path)
        chosen = choose_device(device)
        try:
            with warnings.catch_warnings():
                # torch 2.11 about its own reading of the file
                warnings.filterwarnings("ignore", ".*buffer is not writable.*")
                program = torch.export.load(path)
            if chosen.type != "cpu":
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, chosen)
            module = program.module()
        except Exception as error:  # each layer of torch has its own
            raise_broken(path, "a program of torch.export", error)

        def run(batch: Tensor) -> Tensor:
            with torch.inference_mode():
                return module(batch)

        return run, contents, str(chosen), free_memory(chosen)

    def _activate(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits, 1) if self.card.mode == "multiclass" else logits.sigmoid()


def _refuse_pickles(entries: dict[str, bytes], path: Path) -> None:
    """Refuse files that only unpickling could read: that may run code."""
    for name, content in entries.items():
        is_pickled = False
        if name.endswith("_config.json"):
            listed = json.loads(content).get("config", {}).values()
            is_pickled = any(isinstance(e, dict) and e.get("use_pickle") for e in listed)
        elif name.endswith(".pt"):
            try:
                torch.load(io.BytesIO(content), weights_only=True)
            except Exception:  # torch refuses anything but plain tensors
                is_pickled = True
        if is_pickled:
            raise SegkitError(
                f"{path} holds pickled objects ({name}), which could run code when they are read."
                " Export the checkpoint again, to ONNX for instance."
            )
