"""What lies in the folders and is not used is said."""

from pathlib import Path

import pytest
from data.layouts import found, notes, put

from segkit.data.sources.base import SPLITS
from segkit.data.sources.folder import FolderSource


def test_what_is_not_used_is_counted_and_named(tmp_path: Path) -> None:
    put(tmp_path, "images/a.jpg", "masks/a.png", "images/a.xml", "images/b.xml", "masks/a.txt")
    put(
        tmp_path,
        "overlays/a.png",
        "readme.md",
        "images/Thumbs.db",
        "images/a.jgw",
        "images/a.jpg.aux.xml",
        ".hidden/a.png",
        "images/._a.jpg",
    )
    assert notes(tmp_path) == [
        "2 files in images are not used (2 .xml): a.xml, b.xml",
        "1 file in masks is not used (1 .txt): a.txt",
        f"not used in {tmp_path}: overlays/, readme.md",
    ]
    assert sum(map(len, found(tmp_path).values())) == 1


def test_other_files_beside_masks_with_a_suffix_do_not_stop(tmp_path: Path) -> None:
    put(tmp_path, "images/a.jpg", "masks/a_mask.png", "masks/a_overlay.png")
    assert sum(map(len, found(tmp_path, mask_suffix="_mask").values())) == 1
    [note] = notes(tmp_path, mask_suffix="_mask")
    assert "1 file in masks is not used (1 .png): a_overlay.png" in note


def test_folders_that_are_named_are_not_compared_with_others(tmp_path: Path) -> None:
    put(tmp_path, "A/1.jpg", "B/1.png", "C/1.png", "readme.md")
    assert notes(tmp_path, images="A", masks="B") == []


@pytest.mark.parametrize(
    "place",
    [
        "{split}/images/{n}.jpg {split}/masks/{n}.png",
        "images/{split}/{n}.jpg masks/{split}/{n}.png",
        "images/{split}/{n}_rgb.jpg masks/{split}/{n}_gt.png",
    ],
)
def test_images_for_testing_without_masks_are_left_out(tmp_path: Path, place: str) -> None:
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        for n in range(count):
            image, mask = place.format(split=split, n=n).split()
            put(tmp_path, image, *[mask] * (split != "test"))
    assert [len(found(tmp_path)[split]) for split in SPLITS] == [3, 2, 0]
    assert notes(tmp_path)[0].startswith("2 images for testing have no masks and are left out: ")
    mask = place.format(split="test", n=0).split()[1]
    put(tmp_path, mask.replace(".png", ".xcf"))
    assert FolderSource("binary", root=tmp_path).problems()  # masks are there, but not read
    put(tmp_path, mask)
    assert len(FolderSource("binary", root=tmp_path).problems()) == 1  # a mask is missing


def test_other_endings_are_named(tmp_path: Path) -> None:
    put(tmp_path, "images/a.jxr", "images/b.cr2", "masks/a.png")
    assert FolderSource("binary", root=tmp_path).problems() == [
        "images contains no images that can be read, only other files (1 .jxr, 1 .cr2): convert"
        " them to PNG or TIFF"
    ]
    for split, ending in (("train", "jpg"), ("test", "jxr")):
        put(tmp_path / "split", f"{split}/images/{split}.{ending}", f"{split}/masks/{split}.png")
    [problem] = FolderSource("binary", root=tmp_path / "split").problems()
    assert problem.startswith("test/images contains no images that can be read")
    put(tmp_path / "other", "images/a.jpg", "masks/a.xcf")
    [problem] = FolderSource("binary", root=tmp_path / "other").problems()
    assert problem.startswith("masks contains no masks that can be read, only other files (1 .xcf)")


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "images/a.jpg", "masks/a.png")
    put(tmp_path / "set", "images/b.jpg", "masks/b.png")
    for kind in ("images", "masks"):
        (tmp_path / "set" / kind / "more").symlink_to(tmp_path / "elsewhere" / kind)
        (tmp_path / "set" / kind / "again").symlink_to(tmp_path / "set" / kind)
    divided = found(tmp_path / "set")
    names = sorted(name for part in divided.values() for name in part)
    assert names == ["images/b.jpg", "images/more/a.jpg"]
