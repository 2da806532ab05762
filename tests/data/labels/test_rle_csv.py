"""Run lengths in CSV files of competitions."""

from __future__ import annotations

import numpy as np
import pytest

from segkit.core.errors import SegkitError
from segkit.data.labels.drawing import draw_ids, draw_labels
from segkit.data.labels.rle_csv import RleCsvFormat
from segkit.data.labels.tree import FileTree
from segkit.images.writing import write_image

SIZE = (4, 6)


def put(root, text, *images, name="train.csv"):
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")
    for image in images:
        write_image(root / image, np.zeros(SIZE, np.uint8))


def read(root):
    tree = FileTree(root)
    return RleCsvFormat.read(RleCsvFormat.find(tree), tree)


def test_runs_go_down_the_columns_from_1(tmp_path):
    put(tmp_path, "ImageId,EncodedPixels\na.png,2 3 9 1\na.png,24 1\nb.png,\n", "a.png", "b.png")
    found = read(tmp_path)
    assert (found.problems, found.categories) == ([], ("object",))
    ids = draw_ids(found.images[0].read_shapes(SIZE), SIZE)
    np.testing.assert_array_equal(
        ids, [[0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 2]]
    )
    assert found.images[1].shapes == []
    assert {image.split for image in found.images} == {"train"}


@pytest.mark.parametrize(
    ("text", "categories"),
    [
        ("ImageId,ClassId,EncodedPixels\na.jpg,10,1 2\na.jpg,2,5 2\n", ("class 2", "class 10")),
        ("ImageId_ClassId,EncodedPixels\na.jpg_10,1 2\na.jpg_2,5 2\n", ("class 2", "class 10")),
        ("Image_Label,EncodedPixels\na.jpg_Fish,1 2\na.jpg_Dog,5 2\n", ("Dog", "Fish")),
        ("image_id; class_id; rle\na; Fish; 1 2\na; Dog; 5 2\n", ("Dog", "Fish")),
        ("\ufeffID,LABEL,RLE_MASK\na,Fish,1 2\na,Dog,5 2\na,Cat,-1\n", ("Cat", "Dog", "Fish")),
    ],
)
def test_the_columns_of_several_competitions(tmp_path, text, categories):
    put(tmp_path, text, "images/a.jpg", name="labels.csv")
    found = read(tmp_path)
    assert (found.problems, found.categories) == ([], categories)
    assert [image.name for image in found.images] == ["images/a.jpg"]
    labels = draw_labels(found.images[0].read_shapes(SIZE), SIZE, len(categories))
    first, second = labels[0, 0], labels[0, 1]
    assert categories[first - 1] in ("Fish", "class 10")
    assert categories[second - 1] in ("Dog", "class 2")


def test_the_data_science_bowl(tmp_path):
    put(
        tmp_path,
        "ImageId,EncodedPixels\nx1,1 1\nx1,3 1\n",
        "stage1_train/x1/images/x1.png",
        name="stage1_train_labels.csv",
    )
    (tmp_path / "stage1_sample_submission.csv").write_text("ImageId,EncodedPixels\nx1,1 1\n")
    found = read(tmp_path)
    assert found.problems == []
    assert [(i.name, i.split, len(i.shapes)) for i in found.images] == [
        ("stage1_train/x1/images/x1.png", "train", 2)
    ]


def test_long_rows_are_read(tmp_path):
    runs = " ".join(f"{start} 1" for start in range(1, 60001, 2))
    put(tmp_path, f"id,rle\na,{runs}\n")
    write_image(tmp_path / "a.png", np.zeros((200, 300), np.uint8))
    found = read(tmp_path)
    assert draw_labels(found.images[0].read_shapes((200, 300)), (200, 300), 1).sum() == 30000


def test_everything_that_is_wrong_is_named(tmp_path):
    rows = ["1 2 3", "0 5", "1 -5", "1 x", "1 99999999999999999999", "1 1"]
    text = "ImageId,EncodedPixels\n" + "\n".join(f"a.png,{row}" for row in ["1 1", "1 1", *rows])
    put(tmp_path, text + "\nnone,1 1\n,1 1\n\nshort\n", "a.png")
    found = read(tmp_path)
    assert len(found.images[0].shapes) == 3
    assert found.problems == [
        "train.csv, line 4: its runs are pairs 'start length', but it has 3 numbers",
        "train.csv, line 5: a run starts before pixel 1 or has a negative length",
        "train.csv, line 6: a run starts before pixel 1 or has a negative length",
        "train.csv, line 7: its runs are not whole numbers",
        "train.csv, line 8: its runs are not whole numbers",
        "train.csv, line 10: there is no image none.png (or another extension)",
        "train.csv, line 11: no image is named",
        "train.csv, line 13: there is no image short.png (or another extension)",
    ]


def encode(mask, order):
    """Runs as competitions publish them: of the pixels in an order of numpy, from 1."""
    flat = np.concatenate([[0], mask.ravel(order), [0]])
    starts, stops = np.flatnonzero(np.diff(flat) == 1), np.flatnonzero(np.diff(flat) == -1)
    return " ".join(f"{a + 1} {b - a}" for a, b in zip(starts, stops, strict=True))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("column", ["annotation", "rle"])
def test_the_direction_of_runs_is_found_and_said(tmp_path, order, column):
    """Sartorius counts along the rows, most others down the columns."""
    size = (30, 44)
    mask = np.hypot(*(np.mgrid[:30, :44] - np.array([[[14]], [[20]]]))).astype(int) < 9
    put(tmp_path, f"id,{column},width,height\na,{encode(mask.astype(int), order)},44,30\n")
    write_image(tmp_path / "train/a.png", np.zeros(size, np.uint8))
    found = read(tmp_path)
    np.testing.assert_array_equal(draw_labels(found.images[0].read_shapes(size), size, 1), mask)
    way = "along the rows" if order == "C" else "down the columns"
    assert found.notes[0].startswith(f"runs of train.csv are counted {way}, as they lie")


@pytest.mark.parametrize(("column", "way"), [("annotation", "rows"), ("rle_mask", "columns")])
def test_square_images_tell_no_direction(tmp_path, column, way):
    write_image(tmp_path / "a.png", np.zeros((5, 5), np.uint8))
    (tmp_path / "train.csv").write_text(f"id,{column}\na,1 2 6 2\n")
    found = read(tmp_path)
    assert found.notes[0].partition("are counted ")[2].endswith(way)
    labels = draw_labels(found.images[0].read_shapes((5, 5)), (5, 5), 1)
    expected = np.zeros((5, 5), int)
    expected[:2, :2] = 1
    np.testing.assert_array_equal(labels, expected if way == "rows" else expected.T)


def test_starts_from_the_end_of_the_run_before_are_refused(tmp_path):
    """SIIM-ACR: the second run begins 20 pixels behind the first one."""
    put(tmp_path, "ImageId, EncodedPixels\na, 5 2 2 2\n", "a.png", name="train-rle.csv")
    assert read(tmp_path).problems[0] == (
        "train-rle.csv, line 2: its runs are not in ascending order. If each start counts from the"
        " end of the run before, as of SIIM-ACR, write starts from the first pixel"
    )


def test_runs_beyond_the_image_are_an_error_when_they_are_drawn(tmp_path):
    put(tmp_path, "ImageId,EncodedPixels\na.png,20 6\n", "a.png")
    with pytest.raises(SegkitError, match="ends at pixel 25, but the image has 6 x 4 = 24"):
        draw_labels(read(tmp_path).images[0].read_shapes(SIZE), SIZE, 1)


@pytest.mark.parametrize(
    "text",
    [
        "ImageId,EncodedPixels\n",
        "image,mask\na,b\n",
        "id,rle\na,some words\n",
        "EncodedPixels\n1 2\n",
        "",
    ],
)
def test_other_tables_are_not_taken(tmp_path, text):
    put(tmp_path, text)
    assert RleCsvFormat.find(FileTree(tmp_path)) == []


def test_a_file_in_another_encoding_is_a_problem(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"id,rle\na,1 2\n\xff\xfe,1 2\n")
    assert "a.csv: it cannot be read: 'utf-8'" in read(tmp_path).problems[0]
