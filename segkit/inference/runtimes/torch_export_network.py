"""A network in a .pt2 file of torch.export. Needs torch."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.inference.runtimes.exported import (
    EXPORT,
    KEY,
    Contents,
    ExportedNetwork,
    raise_broken,
    raise_foreign,
)
from segkit.inference.runtimes.torch_export_file import EXTRA, UnknownContentError, copy_program
from segkit.inference.runtimes.torch_network import choose_device, free_memory

ENTRY = f"{KEY}.json"
"""Name of the metadata among the extra files of the archive."""


class TorchExportNetwork(ExportedNetwork):
    """A network that ``python -m segkit.export format=torch_export`` wrote.

    A .pt2 file is a program, and torch runs code that it finds in one. What no network needs is
    refused or left out before torch reads the rest, see :mod:`torch_export_file`.
    """

    xp = torch

    @classmethod
    def _open(cls, path: Path, device: str) -> tuple[Callable[[Any], Any], Contents, str, int]:
        kind = "a program of torch.export"
        try:
            with zipfile.ZipFile(path) as archive:
                names = [n for n in archive.namelist() if n.partition("/")[2] == EXTRA + ENTRY]
                text = archive.read(names[0]).decode() if names else None
        except Exception as error:  # zipfile has many kinds
            raise_broken(path, kind, error)
        if text is None:
            raise_foreign(path, "a .pt2 file")
        contents = Contents.from_json(text, path)
        chosen = choose_device(device)
        try:
            with warnings.catch_warnings():
                # torch 2.11 about its own reading of the file
                warnings.filterwarnings("ignore", ".*buffer is not writable.*")
                program = torch.export.load(copy_program(path))
            if chosen.type != "cpu":
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, chosen)
            module = program.module()
        except UnknownContentError as error:
            raise SegkitError(
                f"{path} holds {error}, which segkit does not write into exported files and which"
                f" could run code; nothing of it was run. Export the checkpoint again: {EXPORT}."
            ) from error
        except Exception as error:  # each layer of torch has its own
            raise_broken(path, kind, error)

        def run(batch: Tensor) -> Tensor:
            with torch.inference_mode():
                return module(batch)

        return run, contents, str(chosen), free_memory(chosen)

    def _activate(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits, 1) if self.card.mode == "multiclass" else logits.sigmoid()
