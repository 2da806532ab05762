"""Panoptic COCO, with files as in https://cocodataset.org/#format-data, read by its own formula."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from segkit.core.errors import SegkitError
from segkit.data.sources.folder import FolderSource
from segkit.images.writing import write_image

CATEGORIES = [
    {"id": 1, "name": "person", "isthing": 1, "color": [220, 20, 60]},
    {"id": 200, "name": "sky", "isthing": 0, "color": [70, 130, 180]},
    {"id": 3, "name": "car", "isthing": 1, "color": [0, 0, 142]},
]
SEGMENTS = [
    {"id": 7, "category_id": 200, "iscrowd": 0},
    {"id": 3226956, "category_id": 1, "iscrowd": 0},
    {"id": 65536, "category_id": 1, "iscrowd": 0},
    {"id": 256, "category_id": 3, "iscrowd": 1},
    {"id": 65793 * 9, "category_id": 3, "iscrowd": 0},
]
IDS = np.zeros((12, 20), np.int64)
"""The ids of a picture; what is 0 is void."""
for _number, _segment in enumerate(SEGMENTS):
    IDS[_number : _number + 7, 3 * _number : 3 * _number + 5] = _segment["id"]


def put(root, split="train", image="1.jpg", png="1.png", ids=IDS, **more):
    """Write an image, its PNG and the JSON file as COCO lays them out; returns the JSON file."""
    write_image(root / f"{split}2017/{image}", np.full((*ids.shape, 3), 90, np.uint8))
    path = root / f"annotations/panoptic_{split}2017.json"
    colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
    (path.parent / path.stem).mkdir(parents=True, exist_ok=True)
    Image.fromarray(colors).save(path.parent / path.stem / png)
    annotation = {"image_id": 9, "file_name": png, "segments_info": SEGMENTS, **more}
    height, width = ids.shape
    content = {
        "images": [{"id": 9, "file_name": image, "height": height, "width": width}],
        "annotations": [annotation],
        "categories": CATEGORIES,
    }
    path.write_text(json.dumps(content))
    return path


def expected(label_of, ids=IDS):
    """The label of each segment's category, by panopticapi's rule; crowds and void are 255."""
    found = np.full(ids.shape, 255)
    for segment in SEGMENTS:
        if not segment["iscrowd"]:
            found[ids == segment["id"]] = label_of[segment["category_id"]]
    return found


def read(root, mode="multiclass", **options):
    source = FolderSource(mode, root, **options)
    assert source.problems() == []
    samples = [sample for part in source.splits().values() for sample in part]
    return source, source.read_mask(samples[0])


def test_every_pixel_has_its_category_or_no_label(tmp_path):
    put(tmp_path)
    put(tmp_path, "val")
    source, mask = read(tmp_path)
    assert {split: len(part) for split, part in source.splits().items()} == {
        "train": 1,
        "val": 1,
        "test": 0,
    }
    assert source.class_names == ("person", "car", "sky")
    assert source.class_colors == ((220, 20, 60), (0, 0, 142), (70, 130, 180))
    assert "crowds are ignored regions (2)" in source.notes()
    np.testing.assert_array_equal(mask, expected({1: 0, 3: 1, 200: 2}))


def test_segments_of_things_are_objects(tmp_path):
    put(tmp_path)
    source, mask = read(tmp_path, instances=True)
    void = (IDS == 0) | (IDS == 256)
    np.testing.assert_array_equal(mask == -1, void)
    np.testing.assert_array_equal(mask == 0, IDS == 7)
    objects = [np.unique(mask[id == IDS]).tolist() for id in (3226956, 65536, 65793 * 9)]
    assert objects == [[1], [2], [3]]
    assert "no objects, so background: sky" in source.notes()


def test_classes_that_are_not_chosen_are_background(tmp_path):
    put(tmp_path)
    source, mask = read(tmp_path, class_names=("sky", "car"))
    assert source.class_names == ("background", "sky", "car")
    np.testing.assert_array_equal(mask, expected({1: 0, 200: 1, 3: 2}))
    source, mask = read(tmp_path, class_names=("sky", "car", "person"))
    assert source.class_names == ("sky", "car", "person")
    np.testing.assert_array_equal(mask, expected({200: 0, 3: 1, 1: 2}))


def test_layers_and_foreground(tmp_path):
    put(tmp_path)
    _, layers = read(tmp_path, "multilabel")
    classes = expected({1: 0, 3: 1, 200: 2})
    wanted = np.where(classes[..., None] == 255, 255, classes[..., None] == [0, 1, 2])
    np.testing.assert_array_equal(layers, wanted)
    _, foreground = read(tmp_path, "binary")
    np.testing.assert_array_equal(foreground, np.where(classes == 255, 255, 1))


def test_a_category_background_is_one(tmp_path):
    path = put(tmp_path)
    path.write_text(path.read_text().replace('"sky"', '"background"'))
    source, mask = read(tmp_path)
    assert source.class_names == ("background", "person", "car")
    np.testing.assert_array_equal(mask, expected({200: 0, 1: 1, 3: 2}))
    _, ids = read(tmp_path, instances=True)
    np.testing.assert_array_equal(ids == 0, IDS == 7)


def test_a_png_that_was_stored_with_fewer_channels_has_the_same_ids(tmp_path):
    ids = np.where(IDS == 65793 * 9, IDS, 0)
    put(tmp_path, ids=ids)
    png = tmp_path / "annotations/panoptic_train2017/1.png"
    Image.open(png).convert("L").save(png)
    np.testing.assert_array_equal(read(tmp_path)[1], expected({1: 0, 3: 1, 200: 2}, ids))


def test_images_and_pngs_under_folders_that_look_like_masks(tmp_path):
    put(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "train2017").rename(tmp_path / "images/train2017")
    np.testing.assert_array_equal(read(tmp_path)[1], expected({1: 0, 3: 1, 200: 2}))


def test_mapillary_s_folders(tmp_path):
    path = put(tmp_path, image="a.jpg", png="a.png")
    folder = tmp_path / "training/v2.0/panoptic"
    folder.parent.mkdir(parents=True)
    (tmp_path / "train2017").rename(tmp_path / "training/images")
    (path.parent / path.stem).rename(folder)
    path.rename(folder / "panoptic_2020.json")
    source, mask = read(tmp_path)
    assert [s.name for s in source.splits()["train"]] == ["training/images/a.jpg"]
    np.testing.assert_array_equal(mask, expected({1: 0, 3: 1, 200: 2}))


def test_cityscapes_panoptic_names_its_images_wrong(tmp_path):
    path = put(tmp_path, image="a_1_gtFine_leftImg8bit.png", png="a_1_gtFine_panoptic.png")
    image = tmp_path / "leftImg8bit/train/a/a_1_leftImg8bit.png"
    image.parent.mkdir(parents=True)
    (tmp_path / "train2017/a_1_gtFine_leftImg8bit.png").rename(image)
    (tmp_path / "gtFine").mkdir()
    (path.parent / path.stem).rename(tmp_path / "gtFine/cityscapes_panoptic_train")
    path.rename(tmp_path / "gtFine/cityscapes_panoptic_train.json")
    np.testing.assert_array_equal(read(tmp_path)[1], expected({1: 0, 3: 1, 200: 2}))


def test_beside_other_annotations_the_format_is_chosen(tmp_path):
    path = put(tmp_path)
    content = json.loads(path.read_text())
    content["annotations"] = [
        {"id": 1, "image_id": 9, "category_id": 3, "segmentation": [[0, 0, 20, 0, 20, 12, 0, 12]]}
    ]
    (path.parent / "instances_train2017.json").write_text(json.dumps(content))
    with pytest.raises(SegkitError, match=r"choose one: .*data.labels=coco; .*=coco_panoptic"):
        FolderSource("multiclass", tmp_path).problems()
    assert (read(tmp_path, labels="coco")[1] == 2).all()
    _, mask = read(tmp_path, labels="coco_panoptic")
    np.testing.assert_array_equal(mask, expected({1: 0, 3: 1, 200: 2}))


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"file_name": "2.png"}, "image 9: there is no image 2.png"),
        ({"image_id": 8}, "image 9: it has 0 annotations, but a PNG of segments is needed"),
        ({"segments_info": [{"id": 7, "category_id": 5}]}, "9, segment 7: there is no cat.* 5"),
        ({"image_id": None, "file_name": None}, "1 annotations have no 'image_id'"),
    ],
)
def test_annotations_that_are_wrong_are_named(tmp_path, more, problem):
    put(tmp_path, **more)
    with pytest.raises(SegkitError, match=problem):
        raise SegkitError("; ".join(FolderSource("multiclass", tmp_path).problems()))


def test_pngs_that_do_not_belong_to_the_json_file_are_refused(tmp_path):
    put(tmp_path, segments_info=SEGMENTS[1:])
    with pytest.raises(SegkitError, match=r"1.png has a segment with the id 7, which is not among"):
        read(tmp_path)
    png = put(tmp_path).with_suffix("") / "1.png"
    read(tmp_path)
    Image.new("RGB", (19, 12)).save(png)
    with pytest.raises(SegkitError, match=r"1.png has 19 x 12 pixels, but the image has 20 x 12"):
        read(tmp_path)
    Image.new("RGB", (20, 12)).save(png, "JPEG")
    with pytest.raises(SegkitError, match=r"1.png is no PNG of colours with 8 bits"):
        read(tmp_path)
