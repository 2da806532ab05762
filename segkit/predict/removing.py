"""Removing what earlier runs wrote."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from segkit.core.errors import SegkitError
from segkit.images.zarr_store import is_zarr


def remove(path: Path) -> None:
    """Remove a file or a zarr; it may be gone already.

    Raises:
        SegkitError: It cannot be removed.
    """
    try:
        if is_zarr(path):
            old = path.with_name(f".{secrets.token_hex(8)}.old")
            path.rename(old)  # at once: half of a mask would pass for a finished one
            shutil.rmtree(old)
        else:
            path.unlink(missing_ok=True)
    except NotADirectoryError:  # a file is in the place of the folder
        return
    except OSError as error:
        raise SegkitError(
            f"cannot remove '{path}', in whose place the results belong:"
            f" {error.strerror or error}. Remove it, or name another output folder."
        ) from error


def remove_empty(folders: Iterable[Path], root: Path) -> None:
    """Remove folders that nothing is left in, and those above them, up to a root that stays."""
    for folder in folders:
        while folder != root and folder.is_relative_to(root):
            with suppress(OSError):
                folder.rmdir()
            if folder.exists():
                break
            folder = folder.parent
