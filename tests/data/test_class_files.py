"""Files that name classes, as public sets and programs write them."""

from pathlib import Path

import numpy as np
import pytest

from segkit.data.layout.class_files import propose_classes, read_classes
from segkit.data.sources.folder import FolderSource
from segkit.images.writing import write_image, write_mask

COLORS = [(64, 128, 64), (192, 0, 128), (0, 0, 0)]
NAMES = ["Animal", "Traffic light", "Void"]


@pytest.mark.parametrize(
    ("file", "text", "has_colors"),
    [
        (
            "class_dict.csv",
            "name,r,g,b\nAnimal,64,128,64\nTraffic light,192,0,128\nVoid,0,0,0\n",
            True,
        ),
        ("label_colors.txt", "64 128 64\tAnimal\n192 0 128\t\tTraffic light\n0 0 0\tVoid", True),
        (
            "labelmap.txt",
            "# label:color_rgb:parts:actions\nAnimal:64,128,64::\nTraffic light:192,0,128::\n"
            "Void:0,0,0::\n",
            True,
        ),
        (
            "classes.csv",
            "label,name,color,share\n0,Animal,#408040,0.5\n1,Traffic light,#c00080,0.3\n"
            "2,Void,#000000,0.2\n",
            True,
        ),
        ("colors.csv", "0;Animal;64;128;64\n1;Traffic light;192;0;128\n2;Void;0;0;0\n", True),
        ("codes.txt", "Animal\nTraffic light\nVoid", False),
        ("labels.txt", "0 Animal\n1 Traffic light\n2 Void\n", False),
        ("class_names.csv", "id,name\n0,Animal\n1,Traffic light\n2,Void\n", False),
        ("dataset.json", '{"labels": {"Animal": 0, "Void": 2, "Traffic light": 1}}', False),
        ("dataset.json", '{"labels": {"0": "Animal", "2": "Void", "1": "Traffic light"}}', False),
    ],
)
def test_files_that_name_classes(tmp_path: Path, file: str, text: str, has_colors: bool) -> None:
    (tmp_path / file).write_text(text, encoding="utf-8-sig")
    assert read_classes(tmp_path / file) == (NAMES, COLORS if has_colors else [])
    [line] = propose_classes(tmp_path, ())
    expected = (
        f"{file} names 3 classes; to use them, add head=multiclass"
        " 'data.class_names=[Animal,\"Traffic light\",Void]'"
    )
    if has_colors:
        expected += " 'data.class_colors=[[64,128,64],[192,0,128],[0,0,0]]'"
    assert line == expected


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("labels.csv", "image,label\na.png,cat\nb.png,dog\n"),
        ("labels.txt", "images/a.png masks/a.png\nimages/b.png masks/b.png\n"),
        ("labels.txt", "cat\ncat\ndog\n"),
        ("labels.txt", "scan_1\nscan_2\n"),
        ("labels.txt", "0 0.5 0.5 0.1 0.2\n"),
        ("classes.txt", ""),
        ("classes.txt", "cat 1 2 300\ndog 2 2 2\n"),
        ("colors.csv", "name,r,g,b\ncat,1,2,3\ndog,1,2,3\n"),
        ("dataset.json", '{"labels": {"a": 0, "b": 2}}'),
        ("dataset.json", "[1]"),
        ("notes.txt", "cat\ndog\n"),
    ],
)
def test_files_that_do_not(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text)
    assert propose_classes(tmp_path, {"scan_1", "scan_2"}) == []


def test_classes_beside_a_set_are_proposed(tmp_path: Path) -> None:
    labels = np.eye(6, dtype=np.uint8)
    for name in "ab":
        write_image(tmp_path / f"images/{name}.png", labels)
        write_mask(tmp_path / f"masks/{name}.png", labels)
    (tmp_path / "classes.txt").write_text("background\ncell\n")
    source = FolderSource("binary", root=tmp_path)
    source.splits()
    assert source.notes()[-1] == (
        "classes.txt names 2 classes; to use them, add 'data.class_names=[background,cell]'"
    )
    source = FolderSource("binary", root=tmp_path, class_names=("background", "cell"))
    source.splits()
    assert "to use them" not in "".join(source.notes())


def test_the_ignore_label_of_nnunet(tmp_path: Path) -> None:
    labels = '{"labels": {"background": 0, "tumour": 1, "ignore": 2}}'
    (tmp_path / "dataset.json").write_text(labels)
    assert propose_classes(tmp_path, ()) == [
        "dataset.json names 2 classes; to use them, add 'data.label_map={2:255}'"
        " 'data.class_names=[background,tumour]'"
    ]
