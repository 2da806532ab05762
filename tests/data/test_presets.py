"""Presets of public sets, on small sets in the layout in which they are published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import Cityscapes

from segkit.config.compose import compose
from segkit.config.validation import validate
from segkit.data.checks.summary import DataSummary, check
from segkit.data.sources.base import SPLITS, DataSource, Sample
from segkit.data.sources.torchvision import VOC_NAMES

SIZE = (4, 40)
VOC_PALETTE = [
    tuple(
        sum((index >> 3 * bit + channel & 1) << 7 - bit for bit in range(3)) for channel in range(3)
    )
    for index in range(256)
]
"""Its colours are the bits of the index, in turns."""


def put(path: Path, values: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values)
    if palette:
        picture.putpalette(np.array(VOC_PALETTE, np.uint8).tobytes())
    picture.save(path)


def put_image(path: Path, number: int) -> None:
    put(path, np.random.default_rng(number).integers(0, 256, (*SIZE, 3), np.uint8))


def stripes(values: list[int]) -> np.ndarray:
    """(H, W), the values from left to right in turns."""
    return np.resize(np.array(values, np.uint8), SIZE[1])[None].repeat(SIZE[0], axis=0)


def open_preset(name: str, root: Path) -> tuple[DataSource, DataSummary, list[Sample]]:
    """A set without problems, as a training reads it, and all of its samples."""
    data = validate(compose([f"data={name}", f"data.root={root}", "head=multiclass"])).data
    source = DataSource.build(data.name, mode="multiclass", **data.options)
    assert source.problems() == []
    samples = [sample for part in source.splits().values() for sample in part]
    return source, check(source, "multiclass"), samples


def read_labels(source: DataSource, summary: DataSummary, sample: Sample) -> np.ndarray:
    return summary.coding.encode(source.read_mask(sample))


def count(source: DataSource) -> list[int]:
    return [len(source.splits()[split]) for split in SPLITS]


@pytest.mark.parametrize("has_palette", [True, False])  # as published, and as of SBD's converters
def test_voc2012(tmp_path, has_palette):
    home = tmp_path / "VOCdevkit/VOC2012"
    values = [*range(21), 255]
    for number, split in enumerate(("train", "train", "val")):
        name = f"2007_{number:06d}"
        put_image(home / f"JPEGImages/{name}.jpg", number)
        put(home / f"SegmentationClass/{name}.png", stripes(values), has_palette)
        put(home / f"SegmentationObject/{name}.png", stripes([1, 2, 255]), has_palette)
        lists = home / "ImageSets/Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        with (lists / f"{split}.txt").open("a") as file:
            file.write(f"{name}\n")
    put_image(home / "JPEGImages/2008_000001.jpg", 9)  # of another task
    source, summary, samples = open_preset("voc2012", home)
    assert count(source) == [2, 1, 0]
    assert summary.class_names == VOC_NAMES
    assert list(source.class_colors) == VOC_PALETTE[:21]
    np.testing.assert_array_equal(read_labels(source, summary, samples[0]), stripes(values))


def test_cityscapes(tmp_path):
    for number, (split, city) in enumerate(
        (("train", "aachen"), ("train", "ulm"), ("val", "bonn"))
    ):
        name = f"{split}/{city}/{city}_000000_000019"
        put_image(tmp_path / f"leftImg8bit/{name}_leftImg8bit.png", number)
        put(tmp_path / f"gtFine/{name}_gtFine_labelIds.png", stripes([*range(34)]))
        put(tmp_path / f"gtFine/{name}_gtFine_instanceIds.png", stripes([*range(34)]))
        put_image(tmp_path / f"gtFine/{name}_gtFine_color.png", number)
    source, summary, samples = open_preset("cityscapes", tmp_path)
    assert count(source) == [2, 1, 0]
    known = {each.train_id: each for each in Cityscapes.classes if 0 <= each.train_id < 255}
    assert summary.class_names == tuple(known[label].name for label in range(19))
    assert list(source.class_colors) == [known[label].color for label in range(19)]
    train_ids = [each.train_id for each in Cityscapes.classes if each.id >= 0]
    np.testing.assert_array_equal(read_labels(source, summary, samples[0]), stripes(train_ids))


def test_ade20k(tmp_path):
    values = np.resize(np.arange(151, dtype=np.uint8), SIZE)
    for number, (split, word) in enumerate((("training", "train"), ("validation", "val"))):
        name = f"{split}/ADE_{word}_00000001"
        put_image(tmp_path / f"images/{name}.jpg", number)
        put(tmp_path / f"annotations/{name}.png", values)
    (tmp_path / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n")
    source, summary, samples = open_preset("ade20k", tmp_path)
    assert count(source) == [1, 1, 0]
    wanted = np.where(values == 0, 255, values.astype(int) - 1)
    np.testing.assert_array_equal(read_labels(source, summary, samples[0]), wanted)
    names = summary.class_names
    assert (len(names), len(set(names))) == (150, 150)
    # the first, the last and some between, by their numbers in objectInfo150.txt
    some = {1: "wall", 13: "person", 21: "car", 96: "bannister", 131: "screen", 150: "flag"}
    assert {number: names[number - 1] for number in some} == some


def test_potsdam(tmp_path):
    colors = {
        "impervious surface": (255, 255, 255),
        "building": (0, 0, 255),
        "low vegetation": (0, 255, 255),
        "tree": (0, 255, 0),
        "car": (255, 255, 0),
        "clutter": (255, 0, 0),
        "outline": (0, 0, 0),
    }
    table = np.array(list(colors.values()), np.uint8)
    for number, place in enumerate(("2_10", "2_11", "7_13")):
        put_image(tmp_path / f"2_Ortho_RGB/top_potsdam_{place}_RGB.tif", number)
        put(tmp_path / f"5_Labels_all/top_potsdam_{place}_label.tif", table[stripes([*range(7)])])
    source, summary, samples = open_preset("potsdam", tmp_path)
    assert len(samples) == 3
    assert summary.class_names == tuple(colors)[:6]
    wanted = stripes([*range(6), 255])
    np.testing.assert_array_equal(read_labels(source, summary, samples[0]), wanted)
