"""Atomic writing of files."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from segkit.core.errors import SegkitError
from segkit.core.owners import Owner, is_abandoned

TEMPORARY = ".tmp"
"""The ending of files that are being written."""


@contextmanager
def written_whole(path: Path | str) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces ``path`` once everything is written; make its folders.

    Raises:
        SegkitError: The file cannot be written (no permission, a folder of that name, a full disk).
    """
    path = Path(path)
    with wrap_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = name_temporary(path)
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave the new name on an empty file
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def name_temporary(path: Path) -> Path:
    """A new name for a file that is about to replace ``path``, with its owner in it.

    In the same folder, because os.replace is atomic only within one file system. What killed
    processes have left there is removed.
    """
    _remove_abandoned(path.parent.resolve())
    return path.with_name(f".{Owner.current()}-{secrets.token_hex(4)}{TEMPORARY}")


@cache
def _remove_abandoned(folder: Path) -> None:
    with os.scandir(folder) as entries:
        named = [entry.name for entry in entries if entry.name.endswith(TEMPORARY)]
    for name in named:
        owner = name.removeprefix(".").removesuffix(TEMPORARY).rpartition("-")[0]
        if is_abandoned(folder / name, owner):
            remove_tree(folder / name)


def remove_tree(path: Path) -> None:
    """Remove a file or a folder, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def wrap_write_errors(path: Path | str) -> Iterator[None]:
    """Turn an OSError into a SegkitError that names the file."""
    try:
        yield
    except OSError as error:
        raise SegkitError(
            f"cannot write '{path}': {error.strerror or error}. "
            "Check that its folder may be written to and that the disk is not full."
        ) from error


def write_whole(path: Path | str, data: bytes | memoryview | str) -> None:
    """Write a file completely or leave the old one; text becomes UTF-8, line ends stay.

    Raises:
        SegkitError: See :func:`written_whole`.
    """
    with written_whole(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def make_folder(path: Path) -> None:
    """Make the folder of the results, or say why that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SegkitError(
            f"the folder '{path}' cannot be made: {error.strerror or error}. Name another one."
        ) from error
