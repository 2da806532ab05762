"""What of an output folder is finished: so an interrupted run goes on, and never over other files.

In the output folder, ``.segkit/settings-<hash>.json`` holds the settings of a run. A process writes
a line into ``.segkit/finished-<rank>.jsonl`` right before it puts a mask in its place, which is the
last that is written for an image. So an image is finished if its line and its mask are there.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segkit.errors import SegkitError, all_at_once
from segkit.files import make_folder, write_whole
from segkit.predicting.inputs import FOLDER, ImageFile

SHOWN = 5
"""Files that a message names at most."""
_KEYS = {"file", "image", "settings", "time"}


@dataclass
class Unfinished:
    """What is left to do.

    Attributes:
        files: The images.
        finished: How many are left out, for their masks are there.
        reasons: How many are done anew, by the reason.
    """

    files: list[ImageFile] = field(default_factory=list)
    finished: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


class Record:
    """The record of an output folder.

    Args:
        output: The folder.
        settings: What the results depend on, as plain data.
        endings: Those that masks may have.
        rank: Which of the processes that share the folder this is.

    Attributes:
        folder: Where the record is.
        key: Short name of the settings, the same for the same settings.

    Raises:
        SegkitError: The folder cannot be written to.
    """

    def __init__(
        self, output: Path, settings: Mapping[str, Any], endings: Sequence[str], rank: int = 0
    ) -> None:
        self.output, self.settings, self.endings = output, dict(settings), endings
        self.folder = output / FOLDER
        make_folder(self.folder)
        text = json.dumps(self.settings, indent=2, sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()[:12]
        self._lines = self._read()
        write_whole(self.folder / f"settings-{self.key}.json", text)
        self._own = self.folder / f"finished-{rank}.jsonl"
        self._lock = threading.Lock()
        self._states: dict[Path, list[int]] = {}

    def unfinished(self, files: Iterable[ImageFile], overwrite: bool = False) -> Unfinished:
        """The images that are still to be done.

        Args:
            files: All images.
            overwrite: Whether to do all of them anew, and over masks that are not of this command.

        Raises:
            SegkitError: There are masks of their names that are not of this command.
        """
        left = Unfinished()
        foreign = []
        for file in files:
            # before it is read: an image that changes meanwhile is done anew the next time
            self._states[file.stem] = _state(file.path)
            masks = [path for path in self.masks(file.stem) if path.exists()]
            line = self._lines.get(file.stem.as_posix())
            if overwrite or not masks:
                left.files.append(file)
            elif line is None:
                foreign.append(str(masks[0]))
            elif line["settings"] != self.key:
                left.files.append(file)
                left.reasons[f"other settings ({self._difference(line['settings'])})"] += 1
            elif line.get("path", _place(file.path)) != _place(file.path):
                left.files.append(file)
                left.reasons["the image is another file of the same name"] += 1
            elif line["image"] != self._states[file.stem]:
                left.files.append(file)
                left.reasons["the image has changed"] += 1
            else:
                left.finished += 1
        if foreign:
            more = [f"and {len(foreign) - SHOWN} more"] if len(foreign) > SHOWN else []
            raise all_at_once(
                f"output={self.output} holds {len(foreign)} masks that predict did not write. Name"
                " another folder, or write over them with overwrite=true:",
                [*foreign[:SHOWN], *more],
            )
        return left

    def masks(self, stem: Path) -> list[Path]:
        """Where the mask of an image may be."""
        return [self.output / stem.with_name(stem.name + ending) for ending in self.endings]

    def finish(self, file: ImageFile) -> None:
        """Note that all but the mask is written; to be called right before the mask is.

        Raises:
            SegkitError: The record cannot be written.
        """
        line = {
            "file": file.stem.as_posix(),
            "path": _place(file.path),
            "image": self._states.get(file.stem) or _state(file.path),
            "settings": self.key,
            "time": time.time_ns(),
        }
        data = f"{json.dumps(line)}\n".encode()
        try:
            with self._lock, self._own.open("ab") as opened:
                # A line that was cut off stays one of its own.
                opened.write(data if opened.tell() == 0 else b"\n" + data)
        except OSError as error:
            raise SegkitError(
                f"cannot write '{self._own}': {error.strerror or error}. Check that its folder may"
                " be written to and that the disk is not full."
            ) from error

    def _read(self) -> dict[str, dict[str, Any]]:
        """The last line of each image, those of all processes."""
        found: dict[str, dict[str, Any]] = {}
        for path in self.folder.glob("finished-*.jsonl"):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    data = json.loads(line)
                except ValueError:  # empty, or cut off by the end of a process
                    continue
                if not (isinstance(data, dict) and data.keys() >= _KEYS):
                    continue
                known = found.get(data["file"])
                if known is None or known["time"] < data["time"]:
                    found[data["file"]] = data
        return found

    def _difference(self, key: str) -> str:
        """The settings that are not those of an earlier run."""
        try:
            before = json.loads((self.folder / f"settings-{key}.json").read_text("utf-8"))
        except (OSError, ValueError):
            return "of another run"
        changed = [k for k, value in self.settings.items() if before.get(k) != value]
        return ", ".join(changed) or "of another run"


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


def _state(path: Path) -> list[int]:
    """What changes where an image does: the time of its last change, and its size; of a zarr those
    of all that is in it."""
    try:
        found = [path.stat()]
        if path.is_dir():
            found = [part.stat() for part in path.rglob("*") if part.is_file()] or found
    except OSError:  # gone since it was listed
        return []
    return [max(each.st_mtime_ns for each in found), sum(each.st_size for each in found)]


def _place(path: Path) -> str:
    return str(path.resolve())
