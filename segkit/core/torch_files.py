"""Reading the files of torch.save as plain data."""

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
    """A file cannot be read as plain data; the message completes a sentence."""


def load_data(path: Path) -> Any:
    """Load a file of torch.save to the CPU without running code from it.

    Raises:
        UnreadableError: The file is damaged, not written by torch.save, or holds more than data.
        OSError: The file cannot be opened.
    """
    fault = find_fault(path)
    if fault and fault != _NO_ARCHIVE:  # torch before 1.6 wrote no archives
        raise UnreadableError(fault)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:  # the message recommends running the code
        raise UnreadableError(fault or "its pickle is damaged") from error
    except Exception as error:  # torch raises many kinds
        said = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise UnreadableError(fault or said) from error


def find_fault(path: Path) -> str:
    """Find out why a file cannot be read; the empty string if no reason is found.

    This reads the whole file: ``torch.load`` does not compare checksums.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(_ZIP))
    if not start:
        return "it is empty: its writing or its copy was not finished"
    try:
        if not zipfile.is_zipfile(path):
            if _ZIP.startswith(start):
                return f"its end is missing: it was cut off after {size} bytes"
            return _NO_ARCHIVE
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            # torch compresses nothing; a few MB could fill the memory
            packed = sum(part.file_size for part in archive.infolist()) > size
            damaged = None if packed else archive.testzip()
            # torch would skip such a part and return uninitialised memory
            folders = any(part.external_attr & 0x10 for part in archive.infolist())
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        return f"it is damaged: {error}"
    if damaged is not None:
        return f"it is damaged: the checksum of its part {damaged} does not fit"
    if packed:
        return "its parts are compressed or overlap: it was changed after torch.save"
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
