"""What of an output folder is finished, and what in it is ours: to go on, and to spare other files.

In the output folder, ``.segkit/settings-<hash>.json`` holds the settings of a run. In
``.segkit/finished-<rank>.jsonl`` a process notes the files that belong to an image before it writes
them, and, right before it puts the mask in its place, which is the last, that the image is
finished. So it is if this line and all files that it names are there; and what an image leaves in
the folder is known, so that it can be removed when the image is done anew.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from segkit.core.errors import SegkitError, all_at_once
from segkit.core.files import make_folder, write_whole
from segkit.predict.fingerprints import place, state
from segkit.predict.inputs import FOLDER, ImageFile

SHOWN = 5
"""Files that a message names at most."""
_FINISHED = {"path", "image", "settings", "mask"}
"""Keys of a line that says that an image is finished, besides those of every line."""


@dataclass
class Unfinished:
    """What is left to do.

    Attributes:
        files: The images.
        finished: How many are left out, for their masks and what belongs to them are there.
        reasons: How many are done anew, by the reason.
    """

    files: list[ImageFile] = field(default_factory=list)
    finished: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass
class _Entry:
    """What is known of an image: its files below the folder, and the line that it is finished."""

    files: set[str] = field(default_factory=set)
    line: dict[str, Any] | None = None


class Record:
    """The record of an output folder. Threads may share it.

    Args:
        output: The folder.
        settings: What the results depend on, as plain data.
        endings: Those that masks may have.
        extras: The folders in it that this run writes besides masks, with the endings of their
            files.
        rank: Which of the processes that share the folder this is.

    Attributes:
        folder: Where the record is.
        key: Short name of the settings, the same for the same settings.

    Raises:
        SegkitError: The folder cannot be written to.
    """

    def __init__(
        self,
        output: Path,
        settings: Mapping[str, Any],
        endings: Sequence[str],
        extras: Mapping[str, Sequence[str]],
        rank: int = 0,
    ) -> None:
        self.output, self.settings, self.endings = output, dict(settings), endings
        self._extras = extras
        self.folder = output / FOLDER
        make_folder(self.folder)
        text = json.dumps(self.settings, indent=2, sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()[:12]
        self._entries: dict[str, _Entry] = {}
        self._read()
        write_whole(self.folder / f"settings-{self.key}.json", text)
        self._own = self.folder / f"finished-{rank}.jsonl"
        self._lock = threading.Lock()
        self._states: dict[Path, list[int]] = {}

    def unfinished(self, files: Iterable[ImageFile], overwrite: bool = False) -> Unfinished:
        """The images that are still to be done.

        Args:
            files: All images.
            overwrite: Whether to do all of them anew, and over files that are not of this command.

        Raises:
            SegkitError: There are files of their names that are not of this command.
        """
        left = Unfinished()
        foreign: list[Path] = []
        folders = [self.output / name for name in self._extras if (self.output / name).is_dir()]
        for file in files:
            # before it is read: an image that changes meanwhile is done anew the next time
            self._states[file.stem] = state(file.path)
            entry = self._entries.get(file.stem.as_posix(), _Entry())
            why = None if entry.line is None else self._outdated(file, entry.line)
            if overwrite or entry.line is None or why is not None:
                left.files.append(file)
            else:
                left.finished += 1
                continue
            if overwrite:
                continue
            if why:
                left.reasons[why] += 1
            foreign += [
                path for path in self._places(file, folders) if self._name(path) not in entry.files
            ]
        if foreign:
            more = [f"and {len(foreign) - SHOWN} more"] if len(foreign) > SHOWN else []
            raise all_at_once(
                f"output={self.output} holds {len(foreign)} files that predict did not write. Name"
                " another folder, or write over them with overwrite=true:",
                [*map(str, foreign[:SHOWN]), *more],
            )
        return left

    def masks(self, stem: Path) -> list[Path]:
        """Where the mask of an image may be."""
        return [self.output / stem.with_name(stem.name + ending) for ending in self.endings]

    def files(self, file: ImageFile) -> list[Path]:
        """All that was written of an image, by earlier runs too, its mask first."""
        found = self._entries.get(file.stem.as_posix(), _Entry()).files
        masks = {self._name(path) for path in self.masks(file.stem)}
        return [self.output / name for name in sorted(found, key=lambda n: (n not in masks, n))]

    def forget(self, file: ImageFile) -> None:
        """The files of an image are gone."""
        self._entries[file.stem.as_posix()] = _Entry()

    def begin(self, file: ImageFile, paths: Iterable[Path]) -> None:
        """Note files that belong to an image; to be called right before they are written.

        Raises:
            SegkitError: The record cannot be written.
        """
        names = [self._name(path) for path in paths]
        if names:
            self._add({"file": file.stem.as_posix(), "files": names})

    def finish(self, file: ImageFile, mask: Path) -> None:
        """Note that all but the mask is written; to be called right before the mask is.

        Raises:
            SegkitError: The record cannot be written.
        """
        stem, name = file.stem.as_posix(), self._name(mask)
        begun = self._entries.get(stem, _Entry()).files
        self._add(
            {
                "file": stem,
                "path": place(file.path),
                "image": self._states.get(file.stem) or state(file.path),
                "settings": self.key,
                "mask": name,
                "files": sorted({*begun, name}),
            }
        )

    def begin_shared(self, path: Path) -> None:
        """Note a file that belongs to all images, before it is written.

        Raises:
            SegkitError: The record cannot be written.
        """
        if not self.is_shared(path):
            self._add({"file": "", "files": [self._name(path)]})

    def is_shared(self, path: Path) -> bool:
        """Whether a file was noted by :meth:`begin_shared`, by an earlier run too."""
        return self._name(path) in self._entries.get("", _Entry()).files

    def _outdated(self, file: ImageFile, line: Mapping[str, Any]) -> str | None:
        """Why an image that was finished is not any more; nothing to say where its mask is gone."""
        if not (self.output / line["mask"]).exists():
            return ""
        if line["settings"] != self.key:
            return f"other settings ({self._difference(line['settings'])})"
        if line["path"] != place(file.path):
            return "the image is another file of the same name"
        if line["image"] != self._states[file.stem]:
            return "the image has changed"
        gone = (name for name in line["files"] if not (self.output / name).exists())
        if (name := next(gone, None)) is not None:
            return f"files beside the mask are gone ({PurePosixPath(name).parts[0]})"
        return None

    def _places(self, file: ImageFile, folders: Iterable[Path]) -> Iterator[Path]:
        """What is where the files of an image may be written."""
        for path in self.masks(file.stem):
            if path.exists():
                yield path
        for folder in folders:
            stem = folder / file.stem
            for ending in self._extras[folder.name]:
                path = stem.with_name(stem.name + ending)
                if path.exists():
                    yield path
            if stem.is_dir():  # that of the pages of a stack
                for path in sorted(stem.iterdir()):
                    if path.stem.isdecimal() and path.suffix in self._extras[folder.name]:
                        yield path

    def _add(self, line: dict[str, Any]) -> None:
        """Write a line, and know what it says."""
        line["time"] = time.time_ns()
        data = f"{json.dumps(line)}\n".encode()
        try:
            with self._lock, self._own.open("ab") as opened:
                # A line that was cut off stays one of its own.
                opened.write(data if opened.tell() == 0 else b"\n" + data)
                self._take(line)
        except OSError as error:
            raise SegkitError(
                f"cannot write '{self._own}': {error.strerror or error}. Check that its folder may"
                " be written to and that the disk is not full."
            ) from error

    def _take(self, line: dict[str, Any]) -> None:
        entry = self._entries.setdefault(line["file"], _Entry())
        if line.keys() >= _FINISHED:
            entry.files, entry.line = set(line["files"]), line
        else:
            entry.files.update(line["files"])
            entry.line = None

    def _read(self) -> None:
        """The lines of all processes, in the order in which they were written."""
        lines = []
        for path in self.folder.glob("finished-*.jsonl"):
            for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    line = json.loads(text)
                except ValueError:  # empty, or cut off by the end of a process
                    continue
                if isinstance(line, dict) and line.keys() >= {"file", "files", "time"}:
                    line["files"] = [name for name in line["files"] if _is_inside(name)]
                    lines.append(line)
        for line in sorted(lines, key=lambda line: line["time"]):
            self._take(line)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.output).as_posix()

    def _difference(self, key: str) -> str:
        """The settings that are not those of an earlier run."""
        try:
            before = json.loads((self.folder / f"settings-{key}.json").read_text("utf-8"))
        except (OSError, ValueError):
            return "of another run"
        changed = [k for k, value in self.settings.items() if before.get(k) != value]
        return ", ".join(changed) or "of another run"


def _is_inside(name: str) -> bool:
    """Whether it is below the folder: what a record names may be removed, so it is not trusted."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts
