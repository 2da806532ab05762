"""Checkpoints of a training, written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from segkit.errors import SegkitError
from segkit.files import write_whole


class CheckpointNotWrittenError(SegkitError):
    """A checkpoint could not be written, so that another one cannot either."""


class WholeCheckpoints(TorchCheckpointIO):
    """Writes as all other files are written: beside the old one, which is replaced at the end.

    Lightning's own way writes to the folder for temporary files and moves from there. Between two
    disks that is a copy, which leaves half a checkpoint in the place of the last good one when the
    disk is full.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            CheckpointNotWrittenError: The disk is full, say.
        """
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            write_whole(path, buffer.getbuffer())
        except SegkitError as error:
            raise CheckpointNotWrittenError(str(error)) from error
