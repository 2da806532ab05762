"""Reading a file of torch.save as plain data, and why that fails."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

_ZIP = b"PK\x03\x04"
"""The first bytes of every archive of torch.save."""
_NO_ARCHIVE = "it is no archive of torch.save"


class UnreadableError(Exception):
    """A file cannot be read as plain data; the message is half a sentence that says why."""


def load_data(path: Path) -> Any:
    """What a file of torch.save holds, on the CPU. No code of the file is run.

    Raises:
        UnreadableError: The file is damaged, is not one of torch.save, or holds more than data.
        OSError: The file may not be read.
    """
    fault = find_fault(path)
    if fault and fault != _NO_ARCHIVE:  # torch before 1.6 wrote none
        raise UnreadableError(fault)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:  # its message advises to run the file's code
        raise UnreadableError(fault or "its pickle is damaged") from error
    except Exception as error:  # torch has many
        said = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise UnreadableError(fault or said) from error


def find_fault(path: Path) -> str:
    """Why a file cannot be read, as half a sentence; empty if no reason is found.

    The whole file is read once: a damaged byte changes the checksum of its part, which
    ``torch.load`` does not check.

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
        return _NO_ARCHIVE
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            damaged = archive.testzip()
            # torch would read nothing of such a part, and give what was in memory
            folders = any(part.external_attr & 0x10 for part in archive.infolist())
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        return f"it is damaged: {error}"
    if damaged is not None:
        return f"it is damaged: the checksum of its part {damaged} does not fit"
    if folders:
        return "it is damaged: a part is marked as a folder"
    if any(name.endswith("/constants.pkl") for name in names):
        return "it is a TorchScript model"
    if not any(name.endswith("/data.pkl") for name in names):
        return "it is a zip archive, but not one of torch.save"
    try:
        unsafe = sorted(get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # not a valid pickle; torch.load will say so
        return ""
    if not unsafe:
        return ""
    return (
        f"it holds objects that only code could make ({', '.join(unsafe)}); nothing of it was run,"
        " as segkit reads plain data alone"
    )
