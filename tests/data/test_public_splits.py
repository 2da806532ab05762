"""Tables, and splits of public sets."""

from pathlib import Path

import pytest
from data.layouts import found, notes, put

from segkit.data.sources.base import SPLITS
from segkit.data.sources.folder import FolderSource

# --- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "images/a.jpg,masks/a.png\nimages/b.jpg,masks/b.png\n",
        "image,mask\nimages\\a.jpg,masks\\a.png\nimages\\b.jpg,masks\\b.png\n",
        "filename,mask\nimages/a.jpg,masks/a.png\nimages/b.jpg,masks/b.png\n",
        "Id;img_path;label\n1;images/a.jpg;masks/a.png\n\n2;images/b.jpg;masks/b.png\n",
        "\ufeffIMAGE\tMASK\nimages/a.jpg\tmasks/a.png\nimages/b.jpg\tmasks/b.png\n",
    ],
)
def test_tables_as_people_write_them(tmp_path: Path, text: str) -> None:
    put(tmp_path, "images/a.jpg", "masks/a.png", "images/b.jpg", "masks/b.png")
    (tmp_path / "pairs.csv").write_text(text, encoding="utf-8")
    source = FolderSource("binary", pairs=tmp_path / "pairs.csv", val_fraction=0.5)
    assert source.problems() == []
    names = sorted(s.name for part in source.splits().values() for s in part)
    assert names == ["images/a.jpg", "images/b.jpg"]


# --- splits of public sets -----------------------------------------------------------------------


def test_lists_of_public_sets_divide(tmp_path: Path) -> None:
    for n in range(5):
        put(tmp_path, f"JPEGImages/{n}.jpg", f"SegmentationClass/{n}.png")
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("0\n1\n2\n")
    (lists / "val.txt").write_text("3\n4\n")
    assert found(tmp_path)["val"] == ["JPEGImages/3.jpg", "JPEGImages/4.jpg"]
    assert any("val.txt" in note for note in notes(tmp_path))
    (lists / "val.txt").write_text("3\nsomething else\n")
    assert len(found(tmp_path)["val"]) == 1  # one of five at random


def test_pascal_voc(tmp_path: Path) -> None:
    """Most of its images have no masks, and its boxes lie in a folder called like one of masks."""
    for n in range(9):
        put(tmp_path, f"JPEGImages/{n}.jpg")
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / f"Annotations/{n}.xml").write_text("<annotation/>")
    for n in range(5):
        put(tmp_path, f"SegmentationClass/{n}.png", f"SegmentationObject/{n}.png")
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for name, numbers in (("train", "012"), ("val", "34"), ("trainval", "01234")):
        (lists / f"{name}.txt").write_text("\n".join(numbers))
    names = {split: [name[11] for name in part] for split, part in found(tmp_path).items()}
    assert names == {"train": ["0", "1", "2"], "val": ["3", "4"], "test": []}
    assert any("4 images that no list" in note for note in notes(tmp_path))


@pytest.mark.parametrize(
    "names", [("train2017", "val2017"), ("train_set", "val_set"), ("Training", "eval")]
)
def test_names_that_contain_a_split(tmp_path: Path, names: tuple[str, str]) -> None:
    for name, count in zip(names, (3, 2), strict=True):
        for n in range(count):
            put(tmp_path, f"images/{name}/{name}{n}.jpg", f"masks/{name}/{name}{n}.png")
            put(tmp_path / "deep", f"images/x/{name}/{n}.jpg", f"masks/x/{name}/{n}.png")
    for root in (tmp_path, tmp_path / "deep"):
        assert [len(found(root)[split]) for split in SPLITS] == [3, 2, 0]


def test_nnunet_and_ade20k(tmp_path: Path) -> None:
    for n in range(4):
        put(tmp_path / "a", f"imagesTr/c_{n}_0000.jpg", f"labelsTr/c_{n}.png")
        put(tmp_path / "b", f"images/training/{n}.jpg", f"annotations/training/{n}.png")
    put(tmp_path / "a", "imagesTs/c_7_0000.jpg", "labelsTs/c_7.png")
    put(tmp_path / "b", "images/validation/v.jpg", "annotations/validation/v.png")
    assert found(tmp_path / "a")["test"] == ["imagesTs/c_7_0000.jpg"]
    assert found(tmp_path / "b")["val"] == ["images/validation/v.jpg"]


def test_a_column_is_valid(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg", "a.png", "b.png")
    (tmp_path / "p.csv").write_text(
        "fname,image,mask,is_valid\n1,a.jpg,a.png,False\n2,b.jpg,b.png,True\n"
    )
    splits = FolderSource("binary", pairs=tmp_path / "p.csv").splits()
    assert [sample.name for sample in splits["val"]] == ["b.jpg"]


def read_table(root: Path, column: str, values: list[str]) -> tuple[list[int], list[str]]:
    """The number of samples in the splits, and the notes, of a table with such a column."""
    names = [f"{n}" for n in range(len(values))]
    put(root, *[f"{n}{ending}" for n in names for ending in (".jpg", ".png")])
    rows = [f"{n}.jpg,{n}.png,P{n},{v}" for n, v in zip(names, values, strict=True)]
    (root / "p.csv").write_text("\n".join([f"image,mask,patient,{column}", *rows]))
    source = FolderSource("binary", pairs=root / "p.csv", val_fraction=0.25)
    splits = source.splits()
    assert source.problems() == []
    return [len(splits[split]) for split in SPLITS], source.notes()


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("split", ["train", "train", "val"]),
        ("Partition", ["train", "Train", "valid"]),
        ("set", ["training", "training", "validation"]),
        ("phase", ["train", "train", "val"]),
        ("is_valid", ["0", "0", "1"]),
        ("is_val", ["FALSE", "FALSE", "TRUE"]),
    ],
)
def test_a_column_that_divides_under_any_name(tmp_path: Path, column, values) -> None:
    counts, told = read_table(tmp_path, column, values)
    assert counts == [2, 1, 0]
    assert told[-1] == "columns of p.csv that are not used: patient"
    if column != "split":
        assert told[0] == f"the samples are divided by the column {column.lower()} of p.csv"


@pytest.mark.parametrize("column", ["fold", "is_test", "subset"])
def test_columns_that_do_not_divide_are_named_with_the_remedy(tmp_path: Path, column) -> None:
    counts, [note] = read_table(tmp_path, column, ["0", "1", "2", "0"])
    assert counts == [3, 1, 0]
    assert note == (
        f"columns of p.csv that are not used: patient, {column}. Named split, with train, val and"
        " test, a column would divide the samples"
    )


def test_a_table_without_a_column_is_divided_by_the_folders_of_its_images(tmp_path: Path) -> None:
    names = ["train/1", "train/2", "val/1"]
    put(tmp_path, *[f"{n}{ending}" for n in names for ending in (".jpg", ".png")])
    (tmp_path / "p.csv").write_text("\n".join(f"{n}.jpg,{n}.png,," for n in names))
    source = FolderSource("binary", pairs=tmp_path / "p.csv")
    assert [len(source.splits()[split]) for split in SPLITS] == [2, 1, 0]
    assert source.notes() == [
        "columns of p.csv that are not used: column 4",
        "the samples are divided by their folders train, val",
    ]
