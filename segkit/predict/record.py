"""The record of an output folder: what is finished, and which files predict wrote.

``.segkit/settings-<hash>.json`` in the output folder holds the settings of a run. Each process
appends to ``.segkit/finished-<rank>.jsonl``: the files of an image before it writes them and, right
before it puts the mask in place, which comes last, that the image is finished. An image is finished
if this line and all files that it names exist. So all files of an image are known and can be
removed when the image is redone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from segkit.core.errors import SegkitError, all_at_once
from segkit.core.files import make_folder, name_temporary, wrap_write_errors, write_whole
from segkit.core.published import list_model_files
from segkit.images.formats.zarr_store import is_zarr
from segkit.images.paths import list_parts
from segkit.predict.inputs import FOLDER, MASKS, ImageFile

SHOWN = 5
"""Files that a message names at most."""


def _require_inside(name: str) -> str:
    """Refuse a path that leads out of the folder: a record may come from elsewhere."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise ValueError("it leads out of the folder")
    return name


_Inside = Annotated[str, AfterValidator(_require_inside)]


class _Begun(BaseModel):
    """A line of the record: files of an image that are about to be written."""

    model_config = ConfigDict(strict=True)

    file: str
    files: list[_Inside]
    time: int = Field(default_factory=time.time_ns)


class _Finished(_Begun):
    """A line of the record: an image that is finished once its mask is in place."""

    path: str
    image: list[int]
    settings: Annotated[str, Field(pattern="^[0-9a-f]+$")]
    mask: _Inside


_LINE: TypeAdapter[_Begun | _Finished] = TypeAdapter(_Begun | _Finished)


@dataclass
class Unfinished:
    """The images that are left, the number of finished ones, and how many are redone for what."""

    files: list[ImageFile] = field(default_factory=list)
    finished: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass
class _Entry:
    """An image: its files below the folder, and the line that marks it as finished."""

    files: set[str] = field(default_factory=set)
    line: _Finished | None = None


class Record:
    """The record of an output folder. Threads may share it. A failed write is a SegkitError.

    Args:
        output: The folder.
        settings: What the results depend on, as plain data.
        extras: Folders in it that this run writes besides masks, with the suffixes of their files.
        rank: Number of this process among those that share the folder.

    Attributes:
        folder: Folder of the record.
        key: Short hash of the settings.
    """

    def __init__(
        self,
        output: Path,
        settings: Mapping[str, Any],
        extras: Mapping[str, Sequence[str]],
        rank: int = 0,
    ) -> None:
        self.output, self.settings, self._extras = output, settings, extras
        self.folder = output / FOLDER
        make_folder(self.folder)
        text = json.dumps(settings, indent=2, sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()[:12]
        self._entries: dict[str, _Entry] = {}
        self._read()
        write_whole(self.folder / f"settings-{self.key}.json", text)
        self._own = self.folder / f"finished-{rank}.jsonl"
        self._lock = threading.Lock()
        self._states: dict[Path, list[int]] = {}

    def find_unfinished(self, files: Iterable[ImageFile], overwrite: bool = False) -> Unfinished:
        """Find the images that are still to be predicted; with ``overwrite`` all of them.

        Raises:
            SegkitError: Files that this command did not write are in the way.
        """
        left = Unfinished()
        foreign: list[str] = []
        for file in files:
            # before it is read: an image that changes meanwhile is redone the next time
            self._states[file.stem] = read_state(file.path)
            why = self._why_unfinished(file)
            if why is None and not overwrite:
                left.finished += 1
                continue
            left.files.append(file)
            if overwrite:
                continue
            if why:
                left.reasons[why] += 1
            known = self.list_files(file)
            foreign += [str(path) for path in self._find_existing(file) if path not in known]
        if foreign:
            more = [f"and {len(foreign) - SHOWN} more"] if len(foreign) > SHOWN else []
            raise all_at_once(
                f"output={self.output} holds {len(foreign)} files that predict did not write. Name"
                " another folder, or replace them with overwrite=true:",
                [*foreign[:SHOWN], *more],
            )
        return left

    def list_masks(self, stem: Path) -> list[Path]:
        """List the paths that the mask of an image may have."""
        return [self.output / stem.with_name(stem.name + ending) for ending in MASKS]

    def list_files(self, file: ImageFile) -> list[Path]:
        """List all files written for an image, by earlier runs too, its mask first."""
        masks = self.list_masks(file.stem)
        paths = [self.output / name for name in self._get_entry(file).files]
        root = self.output.resolve()  # a link in the folder of a stranger may lead elsewhere
        paths = [path for path in paths if path.parent.resolve().is_relative_to(root)]
        return sorted(paths, key=lambda path: (path not in masks, path))

    def forget(self, file: ImageFile) -> None:
        """Drop the entry of an image whose files were removed."""
        self._entries[file.stem.as_posix()] = _Entry()

    def begin(self, file: ImageFile, paths: Iterable[Path]) -> None:
        """Record files of an image, right before they are written."""
        names = [self._name(path) for path in paths]
        if names:
            self._add(_Begun(file=file.stem.as_posix(), files=names))

    def finish(self, file: ImageFile, mask: Path) -> None:
        """Record that all files but the mask are written, right before the mask is."""
        name = self._name(mask)
        self._add(
            _Finished(
                file=file.stem.as_posix(),
                path=str(file.path.resolve()),
                image=self._states.get(file.stem) or read_state(file.path),
                settings=self.key,
                mask=name,
                files=sorted({*self._get_entry(file).files, name}),
            )
        )

    def begin_shared(self, path: Path) -> None:
        """Record a file that belongs to all images, right before it is written."""
        if not self.is_shared(path):
            self._add(_Begun(file="", files=[self._name(path)]))

    def is_shared(self, path: Path) -> bool:
        """Whether predict wrote a file that belongs to all images."""
        return self._name(path) in self._entries.get("", _Entry()).files

    def _get_entry(self, file: ImageFile) -> _Entry:
        return self._entries.get(file.stem.as_posix(), _Entry())

    def _why_unfinished(self, file: ImageFile) -> str | None:
        """Why a predicted image is redone; "" if there is no mask of it, None if it is finished."""
        line = self._get_entry(file).line
        if line is None or not (self.output / line.mask).exists():
            return ""
        if line.settings != self.key:
            return f"other settings ({self._list_changes(line.settings)})"
        if line.path != str(file.path.resolve()):
            return "the image is another file of the same name"
        if line.image != self._states[file.stem]:
            return "the image has changed"
        for name in line.files:
            if not (self.output / name).exists():
                return f"files beside the mask are gone ({PurePosixPath(name).parts[0]})"
        return None

    def _find_existing(self, file: ImageFile) -> Iterator[Path]:
        """Existing files where those of an image may be written."""
        yield from (path for path in self.list_masks(file.stem) if path.exists())
        for name, endings in self._extras.items():
            stem = self.output / name / file.stem
            paths = [stem.with_name(stem.name + ending) for ending in endings]
            yield from (path for path in paths if path.exists())
            if stem.is_dir():  # the pages of a stack
                for path in sorted(stem.iterdir()):
                    if path.stem.isdecimal() and path.suffix in endings:
                        yield path

    def _add(self, line: _Begun | _Finished) -> None:
        data = f"{line.model_dump_json()}\n".encode()
        with wrap_write_errors(self._own), self._lock, self._own.open("ab") as opened:
            # a line break first: the last line may be cut off
            opened.write(data if opened.tell() == 0 else b"\n" + data)
            self._apply(line)

    def _apply(self, line: _Begun | _Finished) -> None:
        entry = self._entries.setdefault(line.file, _Entry())
        if isinstance(line, _Finished):
            entry.files, entry.line = set(line.files), line
        else:
            entry.files.update(line.files)
            entry.line = None

    def _read(self) -> None:
        """Apply the lines of all processes in the order in which they were written."""
        lines = []
        for path in self.folder.glob("finished-*.jsonl"):
            for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError):  # empty, or cut off when a process was killed
                    lines.append(_LINE.validate_json(text))
        for line in sorted(lines, key=lambda each: (each.time, each.file)):
            self._apply(line)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.output).as_posix()

    def _list_changes(self, key: str) -> str:
        """The settings that differ from those of an earlier run."""
        try:
            before = json.loads((self.folder / f"settings-{key}.json").read_text("utf-8"))
        except (OSError, ValueError):
            return "of another run"
        changed = [k for k, value in self.settings.items() if before.get(k) != value]
        return ", ".join(changed) or "of another run"


def hash_content(paths: Iterable[Path]) -> list[str]:
    """SHA-256 of checkpoints or exported files, of those in two parts together."""
    hashes = []
    for path in paths:
        digest = hashlib.sha256()
        for part in list_model_files(path):
            with part.open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
        hashes.append(digest.hexdigest())
    return hashes


def read_state(path: Path) -> list[int]:
    """Read when an image was last changed and its size, over all of its files."""
    found = []
    try:
        for file in list_parts(path):
            inside = file.rglob("*") if file.is_dir() else ()
            found += [part.stat() for part in inside if part.is_file()] or [file.stat()]
    except OSError:  # removed since it was listed
        return []
    return [max(each.st_mtime_ns for each in found), sum(each.st_size for each in found)]


def remove(path: Path) -> None:
    """Remove a file or a zarr, if it exists."""
    try:
        if is_zarr(path):
            old = name_temporary(path)
            path.rename(old)  # at once: half of a mask would pass for a finished one
            shutil.rmtree(old)
        else:
            path.unlink(missing_ok=True)
    except NotADirectoryError:  # a file is in the place of the folder
        return
    except OSError as error:
        raise SegkitError(
            f"cannot remove '{path}', which is in the place of a result:"
            f" {error.strerror or error}. Remove it, or name another output folder."
        ) from error


def remove_empty(folders: Iterable[Path], root: Path) -> None:
    """Remove empty folders, and then empty parents below a root."""
    for folder in folders:
        for each in [folder, *folder.parents]:
            if not each.is_relative_to(root) or each == root:
                break
            with suppress(OSError):  # it is not empty
                each.rmdir()
