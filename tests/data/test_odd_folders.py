"""Folders as they lie on disks: files of systems, links, pipes, rights, several roots."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.core.errors import SegkitError
from segkit.data.labels.tree import FileTree
from segkit.data.layout.files import list_files
from segkit.data.sources.folder import FolderSource

PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
MASK = np.eye(4, dtype=np.uint8)


def write(path: Path, pixels: np.ndarray = PIXELS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "PNG")


def make(root: Path, images: str = "images/{}.png", masks: str = "masks/{}.png") -> Path:
    for name in "abc":
        write(root / images.format(name))
        write(root / masks.format(name), MASK)
    return root


def source(*roots: Path, **options: object) -> FolderSource:
    return FolderSource("binary", root=roots, **options)


def name_all(data: FolderSource) -> list[str]:
    return sorted(sample.name for part in data.splits().values() for sample in part)


@pytest.mark.parametrize("folder", ["__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found", ".cache"])
def test_folders_of_systems_are_no_data(tmp_path: Path, folder: str) -> None:
    """Beside the folders of a known layout, inside them, and where the layout is found."""
    known = make(tmp_path / "known")
    found = make(tmp_path / "found", "Data/{}_img.png", "Data/{}_seg.png")
    for place in (known, known / "images", known / "masks", found, found / "Data"):
        shutil.copytree(found / "Data", place / folder / "Data")
    assert name_all(source(known)) == [f"images/{name}.png" for name in "abc"]
    assert not source(known).notes()
    assert name_all(source(found)) == [f"Data/{name}_img.png" for name in "abc"]
    assert not any(folder in file for file in FileTree(known).files)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_pipes_are_never_read(tmp_path: Path) -> None:
    root = make(tmp_path)
    os.mkfifo(root / "images/p.png")
    os.mkfifo(root / "masks/p.png")
    assert name_all(source(root)) == [f"images/{name}.png" for name in "abc"]
    assert any("not used (1 .png): p.png" in note for note in source(root).notes())


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    root = make(tmp_path)
    for folder in ("images", "masks"):
        (root / folder / "gone.png").symlink_to("nowhere.png")
        (root / folder / "self.png").symlink_to("self.png")
    data = source(root)
    gone = next(s for part in data.splits().values() for s in part if "gone" in s.name)
    with pytest.raises(SegkitError, match=r"gone\.png: .* link to nowhere\.png, which is not"):
        data.read_image(gone)
    looped = next(s for part in data.splits().values() for s in part if "self" in s.name)
    with pytest.raises(SegkitError, match=r"self\.png: "):
        data.read_image(looped)


@pytest.mark.parametrize("read", [list_files, FileTree])
def test_folders_without_the_right_to_read_are_not_left_out(
    tmp_path: Path, read: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images would be missing without a line. Root may read everything, so the error is made."""
    make(tmp_path)
    closed = str(tmp_path / "images")
    scan = os.scandir

    def refuse(folder: object) -> object:
        if os.fspath(folder) == closed:  # type: ignore[call-overload]  # a path or a descriptor
            raise PermissionError(13, "Permission denied", closed)
        return scan(folder)  # type: ignore[call-overload]  # likewise

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SegkitError, match=r"folder .*images cannot be read: Permission denied\. G"):
        read(tmp_path)


def test_roots_of_the_same_name_are_told_apart_and_problems_say_which(tmp_path: Path) -> None:
    one, two = make(tmp_path / "one/data"), make(tmp_path / "two/data")
    write(two / "images/d.png")
    data = source(one, two)
    names = [f"{root}/data/images/{name}.png" for root in ("one", "two") for name in "abc"]
    assert name_all(data) == names
    assert data.problems() == [
        "two/data: images/d.png has no mask: there is no masks/d.png (or another extension)"
    ]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["data.zip"], r"contains no images that can be read, .*\(1 \.zip\): unpack data\.zip"),
        (["a.raw"], r"only other files \(1 \.raw\): convert them to PNG or TIFF"),
        ([], "It contains: nothing. The folder contains no images"),
        (["ü 1/x/a.png", "ü 1/y/b.png"], r"Image files lie in 'ü 1/x' \(1\), 'ü 1/y' \(1\)\. Name"),
    ],
)
def test_what_is_said_fits_what_is_there(tmp_path: Path, files: list[str], said: str) -> None:
    for file in files:
        write(tmp_path / file)
    with pytest.raises(SegkitError, match=said):
        source(tmp_path).splits()


def test_the_folders_that_are_named_can_be_given(tmp_path: Path) -> None:
    root = make(tmp_path, "ü 1/x/{}.png", "ü 1/y/{}.png")
    assert len(name_all(source(root, images="ü 1/x", masks="ü 1/y"))) == 3


def test_a_file_is_no_root(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    with pytest.raises(SegkitError, match=r"a\.png is a file, not a folder: data\.pairs=FILE\.csv"):
        source(tmp_path / "a.png").splits()


def test_a_list_that_divides_is_not_called_unused(tmp_path: Path) -> None:
    root = make(tmp_path)
    (root / "val.txt").write_text("a\n")
    (root / "more.txt").write_text("a\n")
    data = source(root)
    assert [sample.name for sample in data.splits()["val"]] == ["images/a.png"]
    assert f"the samples are divided by {root / 'val.txt'}" in data.notes()
    assert f"not used as images or masks in {root}: more.txt" in data.notes()
    given = source(root, split="lists", val_list=root / "more.txt")
    assert f"not used as images or masks in {root}: val.txt" in given.notes()
