"""Data sets of torchvision: their splits, what their masks mean, and what is refused."""

import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torchvision.datasets as known
from PIL import Image

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX
from segkit.data.checks.summary import check
from segkit.data.sources.base import SPLITS, Sample
from segkit.data.sources.torchvision import TorchvisionSource

RNG = np.random.default_rng(0)
SIZE = (20, 28)


def draw_image() -> np.ndarray:
    return RNG.integers(0, 256, (*SIZE, 3), np.uint8)


def draw_labels(*values: int) -> np.ndarray:
    """Stripes of these values."""
    return np.repeat(np.array(values, np.uint8), -(-SIZE[1] // len(values)))[
        None, : SIZE[1]
    ].repeat(SIZE[0], axis=0)


def save(path: Path, values: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values)
    if palette:
        picture.putpalette(RNG.integers(0, 256, 768, np.uint8).tobytes())
    picture.save(path)


def write_voc(root: Path, **splits: int) -> None:
    """Images and palette masks in the layout of PASCAL VOC 2012."""
    home = root / "VOCdevkit/VOC2012"
    (home / "ImageSets/Segmentation").mkdir(parents=True)
    for split, count in splits.items():
        names = [f"2007_{split}{number:03d}" for number in range(count)]
        (home / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names))
        for name in names:
            save(home / f"JPEGImages/{name}.jpg", draw_image())
            labels = draw_labels(0, 1, 15, 20, 255)
            save(home / f"SegmentationClass/{name}.png", labels, palette=True)


def write_pets(root: Path, trainval: int, test: int) -> None:
    """Images and trimaps in the layout of the Oxford pets."""
    home = root / "oxford-iiit-pet"
    for split, count in (("trainval", trainval), ("test", test)):
        names = [f"Abyssinian_{split}_{number}" for number in range(count)]
        for name in names:
            save(home / f"images/{name}.jpg", draw_image())
            save(home / f"annotations/trimaps/{name}.png", draw_labels(2, 3, 1, 3, 2))
        lines = "".join(f"{name} 1 1 1\n" for name in names)
        (home / f"annotations/{split}.txt").write_text(lines)


def write_cityscapes(root: Path) -> None:
    for split, city in (("train", "aachen"), ("train", "ulm"), ("val", "bonn"), ("test", "köln")):
        name = f"{city}_000000_000019"
        save(root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png", draw_image())
        file = root / f"gtFine/{split}/{city}/{name}_gtFine_labelIds.png"
        save(file, draw_labels(0, 7, 26, 33, 9))


def source(dataset: str, root: Path, **options: Any) -> TorchvisionSource:
    return TorchvisionSource("multiclass", dataset, root, **options)


def count(source: TorchvisionSource) -> list[int]:
    return [len(source.splits()[split]) for split in SPLITS]


def everything(source: TorchvisionSource) -> list[Sample]:
    return [sample for part in source.splits().values() for sample in part]


# --- voc -----------------------------------------------------------------------------------------


def test_voc_equals_torchvision_pixel_for_pixel(tmp_path):
    write_voc(tmp_path, train=5, val=3)
    found = source("VOCSegmentation", tmp_path, options={"year": 2012})
    assert count(found) == [5, 3, 0]
    for split in ("train", "val"):
        theirs = known.VOCSegmentation(str(tmp_path), image_set=split)
        for sample, (image, mask) in zip(found.splits()[split], theirs, strict=True):
            np.testing.assert_array_equal(found.read_image(sample), np.asarray(image))
            np.testing.assert_array_equal(found.read_mask(sample), np.asarray(mask))
    assert found.splits()["train"][1].name == "VOCdevkit/VOC2012/JPEGImages/2007_train001.jpg"


def test_voc_names_its_classes_and_leaves_outlines_unlabelled(tmp_path):
    write_voc(tmp_path, train=5, val=3)
    summary = check(source("VOCSegmentation", tmp_path), "multiclass")
    assert (summary.num_classes, summary.in_channels, summary.background) == (21, 3, 0)
    assert summary.class_names[10:16:5] == ("cow", "person")
    assert any("255 means 'not labelled'" in note for note in summary.notes)


def test_a_source_travels_to_workers_and_is_read_by_several_threads(tmp_path):
    write_voc(tmp_path, train=24, val=3)
    found = source("VOCSegmentation", tmp_path)
    copy = pickle.loads(pickle.dumps(found))
    assert copy.splits() == found.splits()
    samples = everything(found) * 4
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(copy.read_image, samples))
        masks = list(pool.map(copy.read_mask, samples))
    for sample, image, mask in zip(samples, images, masks, strict=True):
        np.testing.assert_array_equal(image, found.read_image(sample))
        np.testing.assert_array_equal(mask, found.read_mask(sample))


def test_given_splits_and_fractions(tmp_path):
    write_voc(tmp_path, train=10, val=3, trainval=6)
    named = source("VOCSegmentation", tmp_path, split_names={"train": "trainval", "test": "val"})
    assert count(named) == [5, 1, 3]
    options = {"image_set": "train"}
    one = source("VOCSegmentation", tmp_path, options=options, test_fraction=0.3)
    assert count(one) == [5, 2, 3]
    assert len({sample.name for sample in everything(one)}) == 10
    same = source("VOCSegmentation", tmp_path, options=options, test_fraction=0.3)
    assert same.splits() == one.splits()
    other = source("VOCSegmentation", tmp_path, options=options, test_fraction=0.3, seed=1)
    assert other.splits() != one.splits()


def test_an_image_in_two_splits_is_reported(tmp_path):
    write_voc(tmp_path, train=3, val=2)
    lists = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation"
    (lists / "val.txt").write_text("2007_train001\n2007_val000")
    with pytest.raises(SegkitError, match=r"2 samples are named '.*2007_train001\.jpg'"):
        check(source("VOCSegmentation", tmp_path), "multiclass")


# --- other classes -------------------------------------------------------------------------------


def test_pets_have_no_validation_and_their_outlines_are_not_labelled(tmp_path):
    write_pets(tmp_path, trainval=10, test=4)
    found = TorchvisionSource("binary", "OxfordIIITPet", tmp_path)
    assert count(found) == [8, 2, 4]
    theirs = known.OxfordIIITPet(str(tmp_path), split="test", target_types="segmentation")
    for sample, (image, mask) in zip(found.splits()["test"], theirs, strict=True):
        np.testing.assert_array_equal(found.read_image(sample), np.asarray(image))
        np.testing.assert_array_equal(found.read_mask(sample), np.asarray(mask))
    summary = check(found, "binary")
    assert summary.class_names == ("background", "pet")
    mask = found.read_mask(found.splits()["train"][0])
    labels = summary.coding.encode(mask)
    np.testing.assert_array_equal(labels, np.array([9, 1, 0, IGNORE_INDEX])[mask])


def test_own_label_map_replaces_what_is_known(tmp_path):
    write_pets(tmp_path, trainval=10, test=0)
    found = source("OxfordIIITPet", tmp_path, label_map={1: 0, 2: 1, 3: 2})
    assert found.class_names is None
    assert check(found, "multiclass").num_classes == 3


def test_cityscapes_maps_ids_to_its_own_training_classes(tmp_path):
    write_cityscapes(tmp_path)
    found = source("Cityscapes", tmp_path)
    assert count(found) == [2, 1, 0]
    summary = check(found, "multiclass")
    assert summary.num_classes == 19
    assert (summary.class_names[0], summary.class_names[18]) == ("road", "bicycle")
    assert found.class_colors is not None
    assert found.class_colors[13] == (0, 0, 142)
    labels = summary.coding.encode(found.read_mask(found.splits()["val"][0]))
    assert labels[0, ::6].tolist() == [255, 0, 13, 18, 255]


def test_sbd_reads_its_matlab_files(tmp_path):
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").write_text(f"{split}_0")
        save(tmp_path / f"img/{split}_0.jpg", draw_image())
        (tmp_path / "cls").mkdir(exist_ok=True)
        truth = {"GTcls": {"Segmentation": draw_labels(0, 3, 20)}}
        scipy.io.savemat(tmp_path / f"cls/{split}_0.mat", truth)
    found = source("SBDataset", tmp_path)
    assert count(found) == [1, 1, 0]
    for sample in everything(pickle.loads(pickle.dumps(found))):
        np.testing.assert_array_equal(found.read_mask(sample), draw_labels(0, 3, 20))


def test_channels_are_converted(tmp_path):
    write_voc(tmp_path, train=2, val=1)
    found = source("VOCSegmentation", tmp_path, channels=1)
    assert found.read_image(everything(found)[0]).shape == (*SIZE, 1)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("VOCSegmentatio", {}, "has no 'VOCSegmentatio'. Did you mean 'VOCSegmentation'"),
        ("VOCSegmentation", {"options": {"yaer": 2012}}, "no argument 'yaer'. Did you mean 'year'"),
        ("VOCSegmentation", {"options": {"root": "."}}, "data.options has 'root'"),
        ("VOCSegmentation", {"options": {"year": 1999}}, "takes none of image_set=train, training"),
        ("VOCSegmentation", {"options": {"year": 2011}}, "data.download=true downloads it"),
        ("VOCSegmentation", {"split_names": {"train": "tarin"}}, "none of image_set=tarin"),
        (
            "VOCSegmentation",
            {"options": {"image_set": "train"}, "split_names": {"train": "train"}},
            "remove data.split_names",
        ),
        ("FakeData", {}, "torchvision's FakeData"),
        ("Cityscapes", {"download": True}, "Cityscapes cannot download its data"),
        ("OxfordIIITPet", {"options": {"target_types": "category"}}, "gives Image, int"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, dataset, options, message):
    write_voc(tmp_path, train=2, val=1)
    write_pets(tmp_path, trainval=1, test=1)
    with pytest.raises(SegkitError, match=re.escape(message)):
        source(dataset, tmp_path, **options)


def test_a_class_without_masks_is_refused(tmp_path):
    save(tmp_path / "cats/1.png", draw_image())
    with pytest.raises(SegkitError, match="ImageFolder gives Image, int; segkit needs an image"):
        source("ImageFolder", tmp_path)


def test_a_missing_validation_split_says_how_to_do_without(tmp_path):
    write_voc(tmp_path, train=2)
    with pytest.raises(SegkitError, match=r"split_names=\{train: train\}"):
        source("VOCSegmentation", tmp_path)
    assert count(source("VOCSegmentation", tmp_path, split_names={"train": "train"})) == [1, 1, 0]


def test_a_damaged_file_is_named_by_the_check(tmp_path):
    write_voc(tmp_path, train=3, val=1)
    file = tmp_path / "VOCdevkit/VOC2012/JPEGImages/2007_train002.jpg"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(SegkitError, match=r"JPEGImages/2007_train002\.jpg: cannot be read"):
        check(source("VOCSegmentation", tmp_path), "multiclass")


def test_nothing_is_downloaded_unless_asked(tmp_path, monkeypatch):
    asked = []

    def download(*arguments: Any, **options: Any) -> None:
        asked.append(arguments)
        write_voc(tmp_path, train=2, val=1)

    monkeypatch.setattr("torchvision.datasets.voc.download_and_extract_archive", download)
    with pytest.raises(SegkitError, match=r"data\.download=true"):
        source("VOCSegmentation", tmp_path)
    assert not asked
    assert count(source("VOCSegmentation", tmp_path, download=True)) == [2, 1, 0]
    assert len(asked) == 1  # the second split is there already
