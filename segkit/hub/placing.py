"""Where the files of a model may go: what a folder or a repository holds already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from pathlib import Path

from segkit.core.errors import SegkitError, all_at_once
from segkit.core.files import wrap_write_errors
from segkit.core.published import CARD, HASHES, WEIGHTS, is_card
from segkit.hub.model import PAGE, PICTURES


def choose_files(
    draft: Path,
    place: str,
    present: Collection[str],
    read: Callable[[str], bytes],
    overwrite: bool,
) -> tuple[list[str], list[str], list[str]]:
    """Choose the files to write, and those of an earlier model that are to be removed.

    Files that segkit did not write are never replaced, and a page that was edited stays, unless
    with ``overwrite``.

    Args:
        draft: The folder of the new files.
        place: The folder or the repository, for messages.
        present: The names of the files that are there.
        read: Reads one of them.
        overwrite: Whether to replace any file.

    Returns:
        Names of the files to write, the card last; of those to remove; notes.

    Raises:
        SegkitError: Files of somebody else are in the way.
    """
    own = _read_hashes(read(CARD)) if CARD in present else {}
    names = [path.name for path in draft.iterdir()]
    foreign = [name for name in sorted(names) if name in present and own.get(name) is None]
    gone = [name for name in PICTURES if name in own and name in present and name not in names]
    notes = []
    if overwrite:
        foreign = []
    elif PAGE in foreign or (PAGE in present and _hash(read(PAGE)) != own.get(PAGE)):
        foreign = [name for name in foreign if name != PAGE]
        names.remove(PAGE)
        notes.append(
            f"the {PAGE} of {place} was not written by segkit, or was edited: it stays as it is"
            " (overwrite=true replaces it)"
        )
    if foreign:
        raise all_at_once(
            f"{place} holds files that segkit did not write. Name another place, or replace them"
            " with overwrite=true:",
            foreign,
        )
    return sorted(names, key=lambda name: (name == CARD, name)), gone, notes


def _read_hashes(content: bytes) -> dict[str, str]:
    """The files that belong to a card of segkit, with their hashes, and itself; else none."""
    try:
        stored = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    if not is_card(stored):
        return {}
    own = {Path(name).name: str(found) for name, found in stored[HASHES].items()}
    return {**own, CARD: "", WEIGHTS: own.get(WEIGHTS, "")}


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def place_files(draft: Path, folder: Path, overwrite: bool) -> list[str]:
    """Move the files of a model into a folder; returns notes.

    Raises:
        SegkitError: As :func:`choose_files`, or the folder cannot be written to.
    """
    present = [path.name for path in folder.iterdir()]
    read = _make_reader(folder)
    names, gone, notes = choose_files(draft, str(folder), present, read, overwrite)
    with wrap_write_errors(folder):
        for name in names:
            (draft / name).replace(folder / name)
        for name in gone:
            (folder / name).unlink()
    return notes


def _make_reader(folder: Path) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        try:
            return (folder / name).read_bytes()
        except OSError as error:
            raise SegkitError(
                f"{folder / name} cannot be read: {error.strerror or error}. Name another folder."
            ) from error

    return read
