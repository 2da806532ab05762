"""A network in a .pt2 file of torch.export. Needs torch, but neither timm nor Lightning."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.core.machine import free_memory
from segkit.inference.runtimes.exported import (
    KEY,
    Contents,
    ExportedNetwork,
    broken,
    foreign,
    guarded,
    require_file,
)
from segkit.inference.runtimes.torch_network import choose_device

ENTRY = f"{KEY}.json"
"""Of the archive, among its extra files."""


class TorchExportNetwork(ExportedNetwork):
    """A network that ``python -m segkit.export format=torch_export`` wrote; see :meth:`read`."""

    xp = torch

    def __init__(
        self,
        path: Path,
        module: torch.nn.Module,
        contents: Contents,
        device: torch.device,
        tile: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(contents, str(device), tile, batch_size, free_memory(device))
        self._path, self._module, self._device = path, module, device

    @classmethod
    def read(
        cls,
        path: Path,
        device: str = "auto",
        tile: int | None = None,
        batch_size: int | None = None,
    ) -> TorchExportNetwork:
        """The network in a file.

        A .pt2 file is a program. Pickled objects in it are refused, but torch reads it as that of
        somebody who is trusted: take .onnx files from others.

        Args:
            path: The file.
            device: "auto" takes a GPU if there is one.
            tile: Side of the tiles in pixels, None to choose.
            batch_size: Tiles in a batch, None to choose.

        Raises:
            SegkitError: There is no such file, it is none of segkit, or it holds pickled objects.
        """
        require_file(path)
        try:
            with zipfile.ZipFile(path) as archive:
                entries = {n.partition("/")[2]: archive.read(n) for n in _small(archive)}
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            broken(path, "a program of torch.export", error)
        text = entries.get(f"extra/{ENTRY}") or entries.get(f"extra_files/{ENTRY}")
        if text is None:
            foreign(path, "a .pt2 file")
        contents = Contents.from_json(text.decode(), path)
        _require_data(entries, path)
        chosen = choose_device(device)
        try:
            program = torch.export.load(path)
            if chosen.type != "cpu":
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, chosen)
            module = program.module()
        except Exception as error:  # each layer of torch has its own
            broken(path, "a program of torch.export", error)
        return cls(path, module, contents, chosen, tile, batch_size)

    def array(self, values: NDArray[np.float32]) -> Tensor:
        """An array of numpy on the network's device."""
        return torch.from_numpy(values).to(self._device, non_blocking=True)

    def numpy(self, array: Tensor) -> NDArray[np.float32]:
        """The inverse of :meth:`array`."""
        return array.cpu().numpy()

    def _run(self, batch: NDArray[np.float32]) -> Tensor:
        """What the graph gives for a batch (B, C, h, w)."""
        with torch.inference_mode():
            return guarded(lambda: self._module(self.array(batch)), self._path, batch.shape)

    def _activate(self, logits: Tensor) -> Tensor:
        """Logits of torch to probabilities, as the heads do it."""
        return torch.softmax(logits, 1) if self.card.mode == "multiclass" else logits.sigmoid()


def _small(archive: zipfile.ZipFile) -> list[str]:
    """The entries other than weights."""
    return [name for name in archive.namelist() if "/weights/weight_" not in name]


def _require_data(entries: dict[str, bytes], path: Path) -> None:
    """Refuse what only unpickling could read: it may run code."""
    for name, content in entries.items():
        refused = ""
        if name.endswith("_config.json"):
            pickled = [
                key
                for key, entry in json.loads(content).get("config", {}).items()
                if isinstance(entry, dict) and entry.get("use_pickle")
            ]
            refused = ", ".join(pickled)
        elif name.endswith(".pt"):
            try:
                torch.load(io.BytesIO(content), weights_only=True)
            except Exception:
                refused = name
        if refused:
            raise SegkitError(
                f"{path} holds pickled objects ({refused}), which could run code when they are"
                " read. Export the checkpoint again, to ONNX for instance."
            )
