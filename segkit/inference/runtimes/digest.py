"""The SHA-256 in files of ONNX and OpenVINO, as their runtimes compute with damaged weights.

It stands inside the file that it belongs to, which is hashed with zeros in its place. This guards
against accidents: whoever changes a file on purpose can change the digest too.
"""

from __future__ import annotations

import hashlib
from mmap import ACCESS_READ, ACCESS_WRITE, mmap
from pathlib import Path

_MARK = b"sha256:"
UNSET = "sha256:" + 64 * "0"
"""What the metadata hold until :func:`write_digest`."""


class DigestError(Exception):
    """A file is not as it was written."""


def write_digest(path: Path, *beside: Path) -> None:
    """Put the digest of a file, and of those that belong to it, in place of its last UNSET."""
    with path.open("r+b") as file, mmap(file.fileno(), 0, access=ACCESS_WRITE) as data:
        at, digest = _compute(data, beside)
        data[at : at + len(digest)] = digest


def check_digest(path: Path, *beside: Path) -> None:
    """Compare the digest in a file with its content. Files of segkit 0.1.0 have none.

    Raises:
        DigestError: The content is not what was written.
    """
    if not path.stat().st_size:  # cannot be mapped
        return
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        at, digest = _compute(data, beside)
        if at >= 0 and data[at : at + len(digest)] != digest:
            raise DigestError(
                "its SHA-256 does not fit: it was damaged or changed after its export"
            )


def _compute(data: mmap, beside: tuple[Path, ...]) -> tuple[int, bytes]:
    """Where the digest stands, -1 for nowhere, and what should stand there."""
    at = data.rfind(_MARK)
    if at < 0:
        return at, b""
    with memoryview(data) as view:
        found = hashlib.sha256(view[:at])
        found.update(UNSET.encode())
        found.update(view[at + len(UNSET) :])
    for other in beside:
        with other.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return at, _MARK + found.hexdigest().encode()
