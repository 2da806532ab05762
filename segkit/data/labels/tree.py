"""The files below a folder, and how annotations name them."""

from __future__ import annotations

import mmap
import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from segkit.core.errors import SegkitError
from segkit.data.layout.pairs import NAMES, Names
from segkit.data.layout.splits import ALIASES
from segkit.data.sources.base import Split
from segkit.images.formats.base import list_suffixes


class FileTree:
    """The visible files below a folder, listed once; paths are relative, with "/".

    Names are compared as a user reads them: in any case, and however accents are stored.

    Attributes:
        root: The folder.
        names: What the config calls the folders of images and of masks.
        files: All files, sorted.
        folders: The folders that contain files or folders; "" is the root.
    """

    def __init__(self, root: Path, names: Names = NAMES) -> None:
        if not root.is_dir():
            raise SegkitError(f"data.root: there is no folder {root.resolve()}.")
        self.root, self.names = root, names
        self.files: list[str] = []
        self.folders: set[str] = set()
        seen: set[str] = set()
        for place, folders, files in os.walk(root, followlinks=True):
            real = os.path.realpath(place)
            if real in seen:  # a link to a folder above it
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")))
            inside = self.relative(Path(place))
            self.folders.add(inside)
            before = f"{inside}/" if inside else ""
            self.files += [before + file for file in files if not file.startswith(".")]
        self.files.sort()

    def path(self, file: str) -> Path:
        """The path of a file or folder of this tree."""
        return self.root / file

    def relative(self, path: Path) -> str:
        """The path relative to the root, with "/"."""
        inside = Path(os.path.relpath(path, self.root)).as_posix()
        return "" if inside == "." else inside

    def list_files(self, *suffixes: str, below: str = "") -> list[str]:
        """The files with one of the suffixes, which are in lower case."""
        inside = f"{below}/" if below else ""
        return [
            file
            for file in self.files
            if file.startswith(inside) and file.lower().endswith(suffixes)
        ]

    @cached_property
    def images(self) -> list[str]:
        """The image files."""
        return self.list_files(*list_suffixes())

    def list_near(self, file: str) -> list[str]:
        """The folders in which the images of an annotation file are expected, nearest first.

        Beside ``annotations/instances_val2017.json`` there may be ``images/``, ``val2017/`` or
        ``images/val2017/``.
        """
        folder, stem = posixpath.dirname(file), posixpath.splitext(posixpath.basename(file))[0]
        split = find_split(file)
        words = [stem, stem.rpartition("_")[2]]
        words += [word for word, meaning in ALIASES.items() if meaning == split]
        near = []
        for place in dict.fromkeys((folder, posixpath.dirname(folder), "")):
            near += [place, posixpath.join(place, "images")]
            for word in words:
                near += [
                    posixpath.join(place, *inside)
                    for inside in ((word,), ("images", word), (word, "images"))
                ]
        return [place for place in dict.fromkeys(near) if place in self.folders]

    def find_image(self, name: str, near: Iterable[str]) -> str:
        """Find the image that an annotation names.

        A path that exists as it is written, relative to one of the folders, is taken; it may lead
        out of the tree. Otherwise only the tree is searched, for the file whose path ends with the
        name. If its folder does not exist here, as of an absolute path of another machine, the name
        of the file is enough.

        Args:
            name: The name or path, also with the separators of Windows.
            near: Where to look first.

        Returns:
            The path relative to the root.

        Raises:
            SegkitError: No image, or several, are meant.
        """
        near = list(near)
        written = name if self._exists(name, near) else name.replace("\\", "/")
        is_absolute = bool(re.match(r"/|[A-Za-z]:", written))
        parts = [part for part in written.split("/") if part not in ("", ".", "..")]
        if not parts:
            raise SegkitError("no image is named")
        if not is_absolute and (found := self._exists(written, near)):
            return _require_image(found)
        same_name = self._by_name.get(fold(parts[-1]), [])
        if not same_name:
            raise SegkitError(f"there is no image {written}")
        shared = {file: _count_shared(file, parts) for file in same_name}
        best = max(shared.values())
        is_whole = best == len(parts)
        if not (is_whole or is_absolute or fold(parts[-2]) not in self._folder_names):
            raise SegkitError(f"there is no image {written}")
        found_all = [file for file in same_name if shared[file] == best]
        for place in near if len(found_all) > 1 else []:
            inside = [file for file in found_all if file.startswith(f"{place}/")]
            if inside:
                found_all = inside
                break
        if len(found_all) > 1:
            raise SegkitError(
                f"{written} may be {found_all[0]} or {found_all[1]}: write its folder too"
            )
        return _require_image(found_all[0])

    def find_by_stem(self, stem: str, near: Iterable[str]) -> str:
        """Find the image with this path but for its suffix; raises as :meth:`find_image`."""
        same = self._by_stem.get(fold(posixpath.basename(stem)), [])
        for place in near:
            wanted = fold(posixpath.normpath(posixpath.join(place, stem)))
            found = [file for file in same if fold(posixpath.splitext(file)[0]) == wanted]
            if found:
                break
        else:
            ending = "/" + fold(stem)
            found = [f for f in same if ("/" + fold(posixpath.splitext(f)[0])).endswith(ending)]
        if len(found) > 1:
            raise SegkitError(f"{stem} may be {found[0]} or {found[1]}: keep one of them")
        if not found:
            raise SegkitError(f"there is no image {stem}.png (or another extension)")
        return found[0]

    def _exists(self, name: str, near: Iterable[str]) -> str | None:
        """The file with this path relative to one of the folders."""
        for place in near:
            path = posixpath.normpath(posixpath.join(place, name))
            if path in self._known:
                return path
            if (found := self._by_path.get(fold(path))) is not None:
                return found
            if path.startswith("../") and len(path) < 4096 and self._is_file(path):
                return path
        return None

    def _is_file(self, path: str) -> bool:
        try:
            return (self.root / path).is_file()
        except (OSError, ValueError):  # no name that a file can have
            return False

    @cached_property
    def _known(self) -> set[str]:
        return set(self.files)

    @cached_property
    def _by_path(self) -> dict[str, str]:
        return {fold(file): file for file in reversed(self.files)}

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        found = defaultdict(list)
        for file in self.files:
            found[fold(posixpath.basename(file))].append(file)
        return found

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        found = defaultdict(list)
        for file in self.images:
            found[fold(posixpath.splitext(posixpath.basename(file))[0])].append(file)
        return found

    @cached_property
    def _folder_names(self) -> set[str]:
        return {fold(posixpath.basename(folder)) for folder in self.folders}


def fold(name: str) -> str:
    """A name for comparison: composed accents (NFC), without capitals."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def find_split(file: str) -> Split | None:
    """The split that the name of a file says, or else of its folders, the nearest first.

    Example:
        >>> find_split("annotations/instances_val2017.json"), find_split("valid/a.json")
        ('val', 'val')
    """
    for part in reversed(file.split("/")):
        words = re.findall("[a-z]+", part.lower())
        found = {ALIASES[word] for word in words if word in ALIASES}
        if len(found) == 1:
            return found.pop()
        if found:  # "train_val.json"
            return None
    return None


def read_split(text: str) -> Split | None:
    """The split of a word, such as "Validation"."""
    return ALIASES.get(text.strip().lower())


def contains_all(path: Path, patterns: Iterable[bytes]) -> bool:
    """Whether a file matches all patterns, found without reading more of it than needed."""
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                return False
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return all(re.search(pattern, content) for pattern in patterns)
    except (OSError, ValueError):
        return False


def read_start(path: Path, size: int = 4096) -> bytes:
    """The first bytes of a file without a byte order mark; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(size).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError:
        return b""


def _require_image(file: str) -> str:
    if posixpath.splitext(file)[1].lower() not in list_suffixes():
        raise SegkitError(
            f"{file} is not an image that can be read: convert it to {', '.join(list_suffixes())}"
        )
    return file


def _count_shared(file: str, parts: list[str]) -> int:
    """How many names at the end of two paths are equal."""
    count = 0
    for mine, wanted in zip(reversed(file.split("/")), reversed(parts), strict=False):
        if fold(mine) != fold(wanted):
            break
        count += 1
    return count
