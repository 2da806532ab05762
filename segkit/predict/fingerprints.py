"""By what files are known again in a later run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def content_hash(paths: Iterable[Path]) -> list[str]:
    """SHA-256 of files, so that a checkpoint is known by what is in it; of OpenVINO both files."""
    hashes = []
    for path in paths:
        weights = path.with_suffix(".bin")
        parts = [path, weights] if path.suffix.lower() == ".xml" and weights.is_file() else [path]
        digest = hashlib.sha256()
        for part in parts:
            with part.open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
        hashes.append(digest.hexdigest())
    return hashes


def state(path: Path) -> list[int]:
    """What changes where an image does: the time of its last change, and its size; of a zarr those
    of all that is in it."""
    try:
        found = [path.stat()]
        if path.is_dir():
            found = [part.stat() for part in path.rglob("*") if part.is_file()] or found
    except OSError:  # gone since it was listed
        return []
    return [max(each.st_mtime_ns for each in found), sum(each.st_size for each in found)]


def place(path: Path) -> str:
    """Where a file or folder really is."""
    return str(path.resolve())
