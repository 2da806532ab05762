"""Why a file that should be one of torch.save cannot be read as plain data."""

from __future__ import annotations

import zipfile
from pathlib import Path

from torch.serialization import get_unsafe_globals_in_checkpoint

_ZIP = b"PK\x03\x04"
"""How every file of torch.save begins."""


def fault(path: Path) -> str:
    """What is wrong with a file, as half a sentence; empty where nothing is seen to be.

    The whole file is read once: a damaged byte changes the checksum of its part, and ``torch.load``
    does not look at these. No code of the file is run.

    Args:
        path: an existing file.

    Raises:
        OSError: The file may not be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(_ZIP))
    if not start:
        return "it is empty: its writing or its copy was not finished"
    if not zipfile.is_zipfile(path):
        if _ZIP.startswith(start):
            return f"its end is missing: it was cut off after {size} bytes"
        return "it is no archive of torch.save"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        return f"it is damaged: {error}"
    if damaged is not None:
        return f"it is damaged: the checksum of its part {damaged} does not fit"
    if any(name.endswith("/constants.pkl") for name in names):
        return "it is a TorchScript model"
    if not any(name.endswith("/data.pkl") for name in names):
        return "it is a zip archive, but not one of torch.save"
    return _foreign(path)


def _foreign(path: Path) -> str:
    try:
        found = sorted(get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # of a pickle that is none; torch.load will say so
        return ""
    if not found:
        return ""
    return (
        f"it holds objects that only code could make ({', '.join(found)}); nothing of it was run,"
        " as segkit reads plain data alone"
    )
