"""Checkpoints of a training, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from segkit.checkpoint.reading import without_training
from segkit.core.errors import SegkitError
from segkit.core.files import written_whole


class CheckpointNotWrittenError(SegkitError):
    """A checkpoint could not be written, so that another one cannot either."""


class WholeCheckpoints(TorchCheckpointIO):
    """Writes as all other files are written: beside the old one, which is replaced at the end.

    Lightning's own way writes to the folder for temporary files and moves from there. Between two
    disks that is a copy, which leaves half a checkpoint in the place of the last good one when the
    disk is full.

    best.ckpt is for prediction, and holds what that needs: a training is resumed from last.ckpt.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            CheckpointNotWrittenError: The disk is full, say.
        """
        if Path(path).name == "best.ckpt":
            checkpoint = without_training(checkpoint)
        try:
            with written_whole(path) as file:
                _save(checkpoint, file)
        except SegkitError as error:
            raise CheckpointNotWrittenError(str(error)) from error


def _save(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    """torch.save, that raises what the file raises: torch hides it behind an error of its own."""
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise cause from None
