"""The images that a file, a folder, a pattern or a list means."""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from segkit.core.errors import NO_PATH, SegkitError, all_at_once
from segkit.data.layout.channels import find_channel
from segkit.data.layout.files import is_visible
from segkit.images.formats.base import ImageFormat, find_format, is_image, list_suffixes
from segkit.images.paths import (
    drop_channels,
    find_absent,
    join_array,
    join_channels,
    list_parts,
    name_channels,
    split_array,
    strip_ending,
)
from segkit.images.place import Place

FOLDER = ".segkit"
"""Folder of the record in an output folder."""
LISTS = (".txt", ".csv")
"""Suffixes of files that name images."""
MASKS = (".png", ".tif", ".zarr", ".nii.gz")
"""Suffixes of masks."""


class ImageFile(NamedTuple):
    """An image, and the path of its mask below the output folder without the suffix."""

    path: Path
    stem: Path


class Page(NamedTuple):
    """A page of an image file.

    Attributes:
        file: The file.
        number: From 0.
        total: Number of pages in the file.
        image: (H, W, C), or a large image that is read by windows.
        place: Where its pixels lie in the world, if the file says so.
        maps: The format that writes maps in files of its own, as of volumes, if the file has it.
    """

    file: ImageFile
    number: int
    total: int
    image: Any
    place: Place | None = None
    maps: type[ImageFormat] | None = None

    @property
    def stem(self) -> Path:
        """The path of its files without suffix: a file of several pages has a folder of them."""
        return self.file.stem / f"{self.number:04d}" if self.total > 1 else self.file.stem


def find_maps_format(path: Path) -> type[ImageFormat] | None:
    """The format of a file if it writes maps in files of its own, as those of volumes do.

    Raises:
        OSError: The file cannot be opened.
    """
    kind = find_format(list_parts(path)[0])
    return kind if kind is not None and kind.maps_suffix else None


class Found(NamedTuple):
    """The images in order, and notes for the user."""

    files: list[ImageFile]
    notes: list[str]


def find_images(
    given: str | list[str],
    output: Path | None = None,
    channels: Sequence[str] = (),
    pattern: str = "",
) -> Found:
    """Find the images that a file, a folder, a pattern, a list file or several of these mean.

    - A folder: all images in it and its sub-folders, except hidden ones and results of predictions.
      Masks keep the sub-folders. A folder with ``images`` and ``masks``, as for training, stands
      for ``images``.
    - A pattern (``*``, ``?``, ``[...]``, ``**``): masks keep the folders after its fixed part.
      Files in the output folder, or inside a zarr that matches, are skipped. ``*.h5::raw`` is the
      array raw of each file.
    - A ``.txt`` file with a path per line, a ``.csv`` file with a column ``image``, relative to the
      file. Masks keep the folders of images below the file's folder.

    Args:
        given: What means them.
        output: The output folder.
        channels: Names of the channels that lay in files of their own in the training. Files that
            are called so are put together, and others are left out; if none is, all stay alone.
        pattern: The data.image_pattern of the training.

    Raises:
        SegkitError: There are no images, one lacks a channel, or two would have the same mask.
    """
    found = Found([], [])
    for text in [given] if isinstance(given, str) else given:
        path = Path(text)
        if not text:
            raise SegkitError(f"input: {NO_PATH}.")
        if path.is_dir() and find_format(path) is None:
            images = _search_folder(path, output, found.notes)
        elif path.is_file() and path.suffix.lower() in LISTS:
            images = _read_list(path)
        elif not find_absent(path):
            images = [ImageFile(path, Path(strip_ending(path).name))]
        elif glob.has_magic(text):
            images = _match(text, output)
        else:
            absent = " and ".join(str(each.resolve()) for each in find_absent(path))
            raise SegkitError(f"input: there is no file or folder {absent}.")
        if not images:
            endings = ", ".join(list_suffixes())
            raise SegkitError(f"input: {text} has no images. They must end in {endings}.")
        found.files.extend(images)
    if channels:
        found = _join_channels(found, channels, pattern)
    problems = []
    seen: dict[Path, Path] = {}
    for image, stem in found.files:
        if seen.get(stem) == image:
            problems.append(f"{image} is named twice")
        elif stem in seen:
            problems.append(f"{seen[stem]} and {image} would both be written to {stem}.png")
        seen[stem] = image
    if problems:
        raise all_at_once(
            "input: images would overwrite each other's masks; rename some, or name fewer:",
            problems,
        )
    return found


def require_apart(
    files: Sequence[ImageFile], output: Path, folders: Mapping[str, Sequence[str]]
) -> None:
    """Check that no result would overwrite an image or the result of another image.

    ``folders`` are those in the output folder that are written besides the masks, with the suffixes
    of their files.
    """
    home = output.resolve()
    images = {part.resolve() for path, _ in files for part in list_parts(path)}
    stems = {stem for _, stem in files}

    def find_folder(written: Path) -> str | None:
        """The folder in which a path below the output folder is a result of an image."""
        folder, *rest = written.parts
        ending = next((e for e in folders.get(folder, ()) if written.name.endswith(e)), "")
        if not rest or not ending:
            return None
        stem = Path(*rest).with_name(written.name.removesuffix(ending))
        is_page = stem.name.isdecimal() and stem.parent in stems
        return folder if stem in stems or is_page else None

    for path, stem in files:
        for mask in (stem.with_name(stem.name + suffix) for suffix in MASKS):
            if (output / mask).resolve() in images:
                raise SegkitError(
                    f"output={output}: the mask would overwrite the image {output / mask}. Name"
                    " another folder."
                )
            folder = find_folder(mask)
            if folder is not None:
                raise SegkitError(
                    f"input: the mask of {path} would be written to {output / stem}, where the"
                    f" {folder} of another image go. Move one of them, or name them one by one."
                )
        for part in list_parts(path):
            image = part.resolve()
            folder = find_folder(image.relative_to(home)) if image.is_relative_to(home) else None
            if folder is not None:
                raise SegkitError(
                    f"output={output}: {folder} would overwrite the image {part}. Name another"
                    " folder."
                )


def _join_channels(found: Found, channels: Sequence[str], pattern: str) -> Found:
    """The images of files that hold a channel each."""
    joined = dict[tuple[Path, str, str | None], None]()
    whole, alone = list[ImageFile](), list[str]()
    for image in found.files:
        if name_channels(image.path):
            whole.append(image)
            continue
        file, array = split_array(image.path)
        count = len(image.stem.parts)  # of the parts that name its mask
        part = find_channel(Path(*file.parts[-count:]).as_posix(), channels, pattern)
        if part is None:
            alone.append(str(image.path))
        else:
            joined[Path(*file.parts[:-count]), part[1], array] = None
    if not joined:
        return found
    absent = list[str]()
    for home, place, array in joined:
        path = join_array(home / join_channels(place, channels), array)
        absent += map(str, find_absent(path))
        stem = drop_channels(strip_ending(join_array(Path(place), array)).as_posix())
        whole.append(ImageFile(path, Path(stem or "-".join(channels))))
    names = ", ".join(channels)
    if absent:
        raise all_at_once(
            f"input: the model was trained on images in {len(channels)} files each ({names}), and"
            " there are no files:",
            absent,
        )
    notes = [*found.notes, f"files are put together as the channels of images: {names}"]
    if alone:
        shown = ", ".join(alone[:3]) + (" ..." if len(alone) > 3 else "")
        notes.append(f"{len(alone)} files whose names fit none of these are left out: {shown}")
    return Found(whole, notes)


def _search_folder(folder: Path, output: Path | None, notes: list[str]) -> list[ImageFile]:
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        notes.append(f"{folder} holds images and masks: {folder / 'images'} is used")
        folder = folder / "images"
    paths = _walk(folder, output.resolve() if output else None, notes)
    return [ImageFile(path, strip_ending(path).relative_to(folder)) for path in paths]


def _walk(
    folder: Path, output: Path | None, notes: list[str], above: frozenset[Path] = frozenset()
) -> Iterator[Path]:
    """The images below a folder, sorted, without those in folders of masks and results.

    So is a folder that may not be opened: like a file, it fails when it is read, with the reason.
    Links are followed, but not to the folders ``above``.
    """
    above |= {folder.resolve()}
    for path in sorted(folder.iterdir()):
        if not is_visible(path.name):  # ._a.png, .ipynb_checkpoints, __MACOSX
            continue
        is_closed = path.is_dir() and not os.access(path, os.R_OK | os.X_OK)
        if is_closed or is_image(path):
            yield path
        elif not path.is_dir() or path.resolve() in {output, *above}:
            continue
        elif (path / FOLDER).is_dir():
            notes.append(f"{path} is skipped: it holds the results of an earlier prediction")
        elif path.name == "masks" and path.with_name("images").exists():
            notes.append(f"{path} is skipped: it is beside {path.with_name('images')}")
        else:
            yield from _walk(path, output, notes, above)


def _match(pattern: str, output: Path | None) -> list[ImageFile]:
    pattern, mark, name = pattern.partition("::")
    array = name if mark else None
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:fixed])
    results = output.resolve() if output else None
    if results and base.resolve().is_relative_to(results):
        results = None  # the pattern names the results of another run
    images: list[ImageFile] = []
    zarrs: set[Path] = set()
    is_in_circle = cache(partial(_is_in_circle, base))
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes none from the root
    for path in sorted(map(Path, found)):
        is_result = results and path.resolve().is_relative_to(results)
        if is_result or not zarrs.isdisjoint(path.parents) or not is_image(path):
            continue
        if "**" in parts and is_in_circle(path.parent):
            continue
        image = join_array(path, array)
        images.append(ImageFile(image, strip_ending(image).relative_to(base)))
        if path.is_dir():
            zarrs.add(path)
    return images


def _is_in_circle(base: Path, folder: Path) -> bool:
    """Whether a link on the way from a base to a folder leads back to a folder above it."""
    way = [each for each in (folder, *folder.parents) if each.is_relative_to(base)]
    return len({each.resolve() for each in way}) < len(way)


def _read_list(file: Path) -> list[ImageFile]:
    """The images that a file names; all lines whose images do not exist are listed."""
    home = Path(os.path.abspath(file.parent))  # noqa: PTH100 - Path.resolve would follow links
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            if file.suffix.lower() == ".txt":
                lines = list(enumerate(opened, start=1))
            else:
                table = csv.DictReader(opened)
                columns = table.fieldnames or []
                if "image" not in columns:
                    raise SegkitError(
                        f"input: {file} has no column 'image'. Its columns are"
                        f" {', '.join(columns) or 'none'}."
                    )
                lines = [(table.line_num, row["image"] or "") for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SegkitError(f"input: the list {file} cannot be read: {error}.") from error
    images, problems = [], []
    for number, name in lines:
        if not name.strip():
            continue
        path = Path(os.path.abspath(home / name.strip()))  # noqa: PTH100 - likewise
        missing = find_absent(path)
        if missing:
            files = " and no file ".join(map(str, missing))
            problems.append(f"line {number}: there is no file {files}")
        stem = strip_ending(path)
        inside = stem.relative_to(home) if stem.is_relative_to(home) else Path(stem.name)
        images.append(ImageFile(path, inside))
    if problems:
        raise all_at_once(f"input: images in {file} do not exist:", problems)
    return images
