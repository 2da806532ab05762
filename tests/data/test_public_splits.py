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


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("val_list.txt", "JPEGImages/{n}.jpg Annotations/{n}.png"),  # PaddleSeg
        ("valid.txt", "{n}.jpg"),  # CamVid of fastai
        ("val_id.txt", "{n}"),
        ("metadata/validation.txt", "{n}.png"),  # BBBC039
        ("ImageSets/Main/val.txt", "{n}"),
    ],
)
def test_lists_of_other_names_and_with_masks(tmp_path: Path, file: str, line: str) -> None:
    for n in range(5):
        put(tmp_path, f"JPEGImages/{n}.jpg", f"Annotations/{n}.png")
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line.format(n=n) + "\n" for n in (3, 4)))
    assert found(tmp_path)["val"] == ["JPEGImages/3.jpg", "JPEGImages/4.jpg"]
    assert any(str(path) in note for note in notes(tmp_path))


def test_lists_and_classes_inside_a_folder_around_all(tmp_path: Path) -> None:
    """OpenEarthMap, unpacked into a folder of its own."""
    for n in range(5):
        put(tmp_path, f"Set/town/images/{n}.jpg", f"Set/town/labels/{n}.png")
    (tmp_path / "Set/val.txt").write_text("3.jpg\n4.jpg\n")
    (tmp_path / "Set/classes.txt").write_text("sky\nroad\n")
    assert found(tmp_path)["val"] == [f"Set/town/images/{n}.jpg" for n in (3, 4)]
    assert "classes.txt names 2 classes" in " ".join(notes(tmp_path))


def test_classes_of_roboflow(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        put(tmp_path, *(f"{split}/{split}{n}{x}" for n in range(2) for x in (".jpg", "_mask.png")))
        text = "Pixel Value, Class\n0, background\n1, car\n"
        (tmp_path / split / "_classes.csv").write_text(text)
    assert "data.class_names=[background,car]" in " ".join(notes(tmp_path))


@pytest.mark.parametrize(
    "names", [("train_{}", "testA_{}"), ("training", "testing"), ("Train{}", "Val{}")]
)
def test_names_that_say_a_split_are_mixed_only_with_a_line(tmp_path: Path, names) -> None:
    """GlaS and Lucchi keep the official test beside the training images."""
    for n in range(3):
        for name in names:
            put(tmp_path, f"images/{name.format(n)}.jpg", f"masks/{name.format(n)}.png")
    [note] = [note for note in notes(tmp_path) if "so they are mixed" in note]
    assert "for train" in note
    assert "data.test_list" in note
    put(tmp_path, "images/other.jpg", "masks/other.png")  # trains and tests are objects as well
    assert not any("so they are mixed" in note for note in notes(tmp_path))


def test_lists_name_sequences(tmp_path: Path) -> None:
    """DAVIS lists the folders of its frames."""
    for name in ("bear", "camel", "old/camel2"):
        put(tmp_path, *(f"JPEGImages/480p/{name}/{n}.jpg" for n in range(2)))
        put(tmp_path, *(f"Annotations/480p/{name}/{n}.png" for n in range(2)))
    lists = tmp_path / "ImageSets/2017"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("bear\ncamel2\n")
    (lists / "val.txt").write_text("camel\n")
    assert found(tmp_path)["val"] == [f"JPEGImages/480p/camel/{n}.jpg" for n in range(2)]


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


def test_columns_that_contain_image_and_mask(tmp_path: Path) -> None:
    """DeepGlobe has an ID as well, and no masks for validation."""
    put(tmp_path, *(f"train/{n}_{x}" for n in (1, 2) for x in ("sat.jpg", "mask.png")))
    put(tmp_path, "valid/3_sat.jpg")
    rows = [f"{n},train,train/{n}_sat.jpg,train/{n}_mask.png" for n in (1, 2)]
    rows = ["image_id,split,sat_image_path,mask_path", *rows, "3,valid,valid/3_sat.jpg,"]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    source = FolderSource("binary", pairs=tmp_path / "metadata.csv")
    assert [len(part) for part in source.splits().values()] == [1, 1, 0]
    assert source.problems() == []
    assert any(
        "1 images for validation have no masks and are left out" in n for n in source.notes()
    )
    text = (tmp_path / "metadata.csv").read_text().replace("valid", "train")
    put(tmp_path, "train/3_sat.jpg")
    (tmp_path / "metadata.csv").write_text(text)
    source = FolderSource("binary", pairs=tmp_path / "metadata.csv")
    assert source.problems() == ["metadata.csv, line 4: no mask is given"]
