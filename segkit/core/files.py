"""Writing files so that a reader never meets half of one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from segkit.core.errors import SegkitError


@contextmanager
def written_whole(path: Path | str) -> Iterator[BinaryIO]:
    """A file to write, which takes the name of the old one when all is written, and not before.

    Args:
        path: the file; folders above it are created.

    Raises:
        SegkitError: the file cannot be written (no permission, a folder of that name, a full disk).
    """
    path = Path(path)
    # In the same folder, because os.replace is atomic only within one file system.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    with wrap_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave the new name on an empty file
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def wrap_write_errors(path: Path | str) -> Iterator[None]:
    """Turn an OSError into a SegkitError that names the file that is written."""
    try:
        yield
    except OSError as error:
        raise SegkitError(
            f"cannot write '{path}': {error.strerror or error}. "
            "Check that its folder may be written to and that the disk is not full."
        ) from error


def write_whole(path: Path | str, data: bytes | memoryview | str) -> None:
    """Write a file whole or not at all: a failed write leaves the old file as it was.

    Args:
        path: the file; folders above it are created.
        data: its content; text is written as UTF-8 with the line ends that it has.

    Raises:
        SegkitError: See :func:`written_whole`.
    """
    with written_whole(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def make_folder(path: Path) -> None:
    """Make a folder that results are to go to, before any work is done.

    Raises:
        SegkitError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SegkitError(
            f"the folder '{path}' cannot be made: {error.strerror or error}. Name another one."
        ) from error
