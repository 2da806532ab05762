"""Annotations of other programs through the folder source: found, drawn, divided, learned."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from segkit.core.errors import SegkitError
from segkit.data.checks.summary import check
from segkit.data.sources.folder import FolderSource

H, W = 40, 60
SQUARES = {"car": (4, 6, 20, 24), "dog": (12, 18, 30, 50)}
"""Top, left, bottom, right; the dog covers a part of the car."""


def rectangle(name: str, shift: int = 0) -> list[float]:
    top, left, bottom, right = SQUARES[name]
    return [left + shift, top, right + shift, top, right + shift, bottom, left + shift, bottom]


def paint(*names: str, shift: int = 0) -> np.ndarray:
    """Labels 1 for the first name and so on."""
    labels = np.zeros((H, W), np.uint8)
    for number, name in enumerate(names, start=1):
        top, left, bottom, right = SQUARES[name]
        labels[top:bottom, left + shift : right + shift] = number
    return labels


def put_images(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 60, (H, W, 3)).astype(np.uint8)
        noise[paint("car", "dog", shift=number) > 0] += 100
        Image.fromarray(noise).save(root / name)


def write_coco(root: Path, count: int = 4, file: str = "instances.json") -> Path:
    names = [f"images/{n}.png" for n in range(count)]
    put_images(root, *names)
    annotations = []
    for n in range(count):
        for id, name in enumerate(SQUARES):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": n,
                    "category_id": 7 + 3 * id,
                    "segmentation": [rectangle(name, n)],
                    "iscrowd": 0,
                    "bbox": [0, 0, 1, 1],
                    "area": 1,
                }
            )
    crowd = np.zeros((H, W), np.uint8, order="F")
    crowd[35:, :] = 1
    annotations.append(
        {
            "id": 99,
            "image_id": 0,
            "category_id": 7,
            "segmentation": {"size": [H, W], "counts": coco.encode(crowd)["counts"].decode()},
            "iscrowd": 1,
            "bbox": [0, 0, 1, 1],
            "area": 1,
        }
    )
    images = [{"id": n, "file_name": f"{n}.png", "height": H, "width": W} for n in range(count)]
    categories = [{"id": 7, "name": "car"}, {"id": 10, "name": "dog"}]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    (root / file).write_text(text)
    return root


def number_of(sample) -> int:
    return int(Path(sample.name).stem)


def test_classes(tmp_path: Path) -> None:
    source = FolderSource("multiclass", root=write_coco(tmp_path))
    summary = check(source, "multiclass")
    assert summary.class_names == ("background", "car", "dog")
    assert summary.notes[0].startswith("annotations are COCO JSON: 4 images, 2 classes: car, dog")
    source = pickle.loads(pickle.dumps(source))  # as in a worker
    for sample in [s for part in summary.splits.values() for s in part]:
        expected = paint("car", "dog", shift=number_of(sample))
        if number_of(sample) == 0:
            expected[35:] = 255
        np.testing.assert_array_equal(summary.coding.encode(source.read_mask(sample)), expected)


def test_foreground(tmp_path: Path) -> None:
    source = FolderSource("binary", root=write_coco(tmp_path))
    summary = check(source, "binary")
    assert "all 2 classes are foreground; head=multiclass tells them apart" in summary.notes
    sample = source.splits()["train"][0]
    labels = summary.coding.encode(source.read_mask(sample))
    foreground = paint("car", "dog", shift=number_of(sample)) > 0
    np.testing.assert_array_equal(labels == 1, foreground)


def test_overlapping_classes(tmp_path: Path) -> None:
    source = FolderSource("multilabel", root=write_coco(tmp_path))
    summary = check(source, "multilabel")
    assert summary.class_names == ("car", "dog")
    sample = next(s for s in source.splits()["train"] if number_of(s))
    layers = source.read_mask(sample)
    for number, name in enumerate(SQUARES):
        np.testing.assert_array_equal(layers[..., number], paint(name, shift=number_of(sample)))


def test_objects(tmp_path: Path) -> None:
    source = FolderSource("binary", root=write_coco(tmp_path), instances=True)
    summary = check(source, "binary")
    assert summary.coding.to_label[-1] == 255
    sample = next(s for s in source.splits()["train"] if number_of(s))
    expected = paint("car", "dog", shift=number_of(sample))
    np.testing.assert_array_equal(source.read_mask(sample), expected)


def test_names_choose_classes(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    source = FolderSource("multiclass", root=root, class_names=("background", "dog"))
    summary = check(source, "multiclass")
    assert summary.class_names == ("background", "dog")
    assert "not in data.class_names, so background: car" in summary.notes
    sample = next(s for s in source.splits()["train"] if number_of(s))
    expected = (paint("car", "dog", shift=number_of(sample)) == 2).astype(np.uint8)
    np.testing.assert_array_equal(source.read_mask(sample), expected)
    source = FolderSource("multilabel", root=root, class_names=("dog", "car"))
    layers = source.read_mask(sample)
    np.testing.assert_array_equal(layers[..., 0], paint("dog", shift=number_of(sample)))
    with pytest.raises(SegkitError, match="cat is not among the classes of the annotations: car"):
        check(
            FolderSource("multiclass", root=root, class_names=("background", "cat")), "multiclass"
        )


def test_splits_of_annotations(tmp_path: Path) -> None:
    put_images(tmp_path, "images/0.png", "images/1.png", "images/2.png")
    write_coco(tmp_path, 3, "all.json")
    data = json.loads((tmp_path / "all.json").read_text())
    (tmp_path / "all.json").unlink()
    for name, chosen in (("train", [0, 1]), ("val", [2])):
        part = dict(data, images=[i for i in data["images"] if i["id"] in chosen])
        part["annotations"] = [a for a in data["annotations"] if a["image_id"] in chosen]
        (tmp_path / f"instances_{name}.json").write_text(json.dumps(part))
    splits = FolderSource("multiclass", root=tmp_path).splits()
    assert [number_of(s) for s in splits["train"]] == [0, 1]
    assert [number_of(s) for s in splits["val"]] == [2]


def test_masks_come_first_and_a_format_can_be_named(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    (root / "masks").mkdir()
    for n in range(4):
        Image.fromarray(paint("dog", shift=n)).save(root / f"masks/{n}.png")
    plain = FolderSource("binary", root=root)
    assert check(plain, "binary").class_names == ("background", "foreground")
    assert not [note for note in plain.notes() if note.startswith("annotations are")]
    named = FolderSource("multiclass", root=root, labels="coco")
    assert check(named, "multiclass").class_names == ("background", "car", "dog")
    with pytest.raises(SegkitError, match=r"data\.labels=yolo: there is no YOLO"):
        FolderSource("binary", root=root, labels="yolo").splits()
    with pytest.raises(SegkitError, match=r"data\.labels=cocoo is not known\. Did you mean 'coco'"):
        FolderSource("binary", root=root, labels="cocoo")


def test_two_formats_leave_a_choice(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    for n in range(4):
        shape = {"label": "car", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"}
        content = {"version": "5", "shapes": [shape], "imagePath": f"{n}.png", "imageData": None}
        content |= {"imageHeight": H, "imageWidth": W}
        (root / f"images/{n}.json").write_text(json.dumps(content))
    with pytest.raises(
        SegkitError, match=r"several formats, choose one: .*data\.labels=coco.*labelme"
    ):
        FolderSource("binary", root=root).splits()
    assert FolderSource("binary", root=root, labels="labelme").class_names == ("background", "car")


def test_one_file_an_object(tmp_path: Path) -> None:
    """DSB 2018 as it is distributed."""
    for n in range(4):
        put_images(tmp_path, f"id{n}/images/id{n}.png")
        (tmp_path / f"id{n}/masks").mkdir()
        for k, name in enumerate(SQUARES):
            Image.fromarray(paint(name) * np.uint8(255)).save(tmp_path / f"id{n}/masks/{k}.png")
    options = {"root": tmp_path, "instances": True, "class_names": ("background", "nucleus")}
    source = FolderSource("binary", **options)
    summary = check(source, "binary")
    assert summary.class_names == ("background", "nucleus")
    np.testing.assert_array_equal(source.read_mask(summary.splits["train"][0]), paint("car", "dog"))


def test_an_image_of_another_size_than_its_annotation(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    Image.new("RGB", (W // 2, H // 2)).save(root / "images/2.png")
    with pytest.raises(
        SegkitError, match=r"2\.png.* has 30 x 20 pixels, but was annotated with 60 x 40"
    ):
        check(FolderSource("multiclass", root=root), "multiclass")


def test_annotations_of_several_roots_are_refused_with_a_remedy(tmp_path: Path) -> None:
    roots = [write_coco(tmp_path / name) for name in ("a", "b")]
    with pytest.raises(SegkitError, match=r"a has annotations.*segkit\.data convert root=DIR"):
        check(FolderSource("multiclass", root=roots), "multiclass")
