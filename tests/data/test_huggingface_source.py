"""Data sets of the package datasets: files, splits, names of classes, and what is refused."""

import io
import json
import os
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from segkit.core.errors import SegkitError
from segkit.data.checks.summary import check
from segkit.data.sources.base import SPLITS, Sample
from segkit.data.sources.huggingface import HuggingFaceSource

datasets = pytest.importorskip("datasets", reason="the extra huggingface is not installed")

RNG = np.random.default_rng(0)
SIZE = (18, 26)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Converted files do not go to the user's cache."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def draw(count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    images = [RNG.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(count)]
    return images, [RNG.integers(0, 3, SIZE, np.uint8) for _ in range(count)]


def make(images: list[Any], masks: list[Any], **columns: Any) -> Any:
    """A data set with two columns of images, and others."""
    return datasets.Dataset.from_dict(
        {"image": images, "annotation": masks, **columns},
        features=datasets.Features(
            {
                "image": datasets.Image(),
                "annotation": datasets.Image(),
                **{
                    name: datasets.Sequence(datasets.ClassLabel(names=["sky", "sea", "land"]))
                    for name in columns
                },
            }
        ),
    )


def source(path: Path | str, **options: Any) -> HuggingFaceSource:
    options = {"mask": "annotation", **options}
    return HuggingFaceSource("multiclass", str(path), **options)


def count(source: HuggingFaceSource) -> list[int]:
    return [len(source.splits()[split]) for split in SPLITS]


def everything(source: HuggingFaceSource) -> list[Sample]:
    return [sample for part in source.splits().values() for sample in part]


def encode(image: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Picture.fromarray(image).save(file, format=kind)
    return file.getvalue()


# --- where the data lie --------------------------------------------------------------------------


def test_a_saved_set_equals_what_the_package_decodes(tmp_path):
    images, masks = draw(10)
    made = make(images, masks)
    made.save_to_disk(tmp_path / "set")
    found = source(tmp_path / "set", val_fraction=0.3, test_fraction=0.2)
    assert count(found) == [5, 3, 2]
    assert len({sample.name for sample in everything(found)}) == 10
    for sample in everything(found):
        row = made[sample.index]
        assert sample.name == f"train/{sample.index:06d}"
        np.testing.assert_array_equal(found.read_image(sample), np.asarray(row["image"]))
        np.testing.assert_array_equal(found.read_mask(sample), np.asarray(row["annotation"]))
        np.testing.assert_array_equal(found.read_mask(sample), masks[sample.index])
    again = source(tmp_path / "set", val_fraction=0.3, test_fraction=0.2)
    assert again.splits() == found.splits()


@pytest.mark.parametrize("where", ["folder", "file"])
def test_parquet(tmp_path, where):
    images, masks = draw(4)
    (tmp_path / "set").mkdir()
    make(images, masks).to_parquet(tmp_path / "set/train.parquet")
    path = tmp_path / "set" if where == "folder" else tmp_path / "set/train.parquet"
    found = source(path)
    assert count(found) == [3, 1, 0]
    for sample in everything(found):
        np.testing.assert_array_equal(found.read_image(sample), images[sample.index])
        np.testing.assert_array_equal(found.read_mask(sample), masks[sample.index])


def test_a_folder_of_images_with_a_table(tmp_path):
    images, masks = draw(3)
    folder = tmp_path / "set/train"
    folder.mkdir(parents=True)
    lines = []
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        (folder / f"{number}.png").write_bytes(encode(image, "PNG"))
        (folder / f"{number}_mask.png").write_bytes(encode(mask, "PNG"))
        names = {"image_file_name": f"{number}.png", "mask_file_name": f"{number}_mask.png"}
        lines.append(json.dumps(names))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    found = source(tmp_path / "set", mask="mask")
    assert count(found) == [2, 1, 0]
    for sample in everything(found):
        np.testing.assert_array_equal(found.read_image(sample), images[sample.index])
        np.testing.assert_array_equal(found.read_mask(sample), masks[sample.index])


def test_splits_by_name_and_by_choice(tmp_path):
    parts = {"train": 5, "validation": 2, "extra": 1}
    made = datasets.DatasetDict({name: make(*draw(number)) for name, number in parts.items()})
    made.save_to_disk(tmp_path / "set")
    found = source(tmp_path / "set", test_fraction=0.2)
    assert count(found) == [4, 2, 1]
    assert found.notes() == ["not read are the splits extra (data.split_names)"]
    named = source(tmp_path / "set", split_names={"train": "validation", "test": "extra"})
    assert count(named) == [1, 1, 1]
    assert {sample.name for sample in everything(named)} == {
        "validation/000000",
        "validation/000001",
        "extra/000000",
    }
    for sample in everything(found):
        split, row = sample.name.split("/")
        expected = np.asarray(made[split][int(row)]["annotation"])
        np.testing.assert_array_equal(found.read_mask(sample), expected)


# --- what is in the files ------------------------------------------------------------------------


def test_all_bits_and_palettes_are_kept(tmp_path):
    deep = RNG.integers(0, 65536, SIZE, np.uint16)
    labels = RNG.integers(0, 3, SIZE, np.uint8)
    mask = Picture.fromarray(labels)
    mask.putpalette([9, 9, 9, 200, 0, 0, 0, 0, 7])
    file = io.BytesIO()
    mask.save(file, format="PNG")
    made = make([deep, deep], [{"bytes": file.getvalue(), "path": None}] * 2)
    made.save_to_disk(tmp_path / "set")
    found = source(tmp_path / "set")
    sample = everything(found)[0]
    assert found.read_image(sample).dtype == np.uint16
    np.testing.assert_array_equal(found.read_image(sample)[..., 0], deep)
    np.testing.assert_array_equal(found.read_mask(sample), labels)


def test_masks_with_loss_are_refused_or_rounded(tmp_path):
    images, _ = draw(3)
    black = np.zeros(SIZE, np.uint8)
    black[4:] = 255
    masks = [{"bytes": encode(black, "JPEG"), "path": None}] * 3
    make(images, masks).save_to_disk(tmp_path / "set")
    with pytest.raises(SegkitError, match=r"compressed with loss.*data\.mask_values=nearest"):
        check(source(tmp_path / "set"), "multiclass")
    found = source(tmp_path / "set", mask_values="nearest", label_map={0: 0, 255: 1})
    np.testing.assert_array_equal(found.read_mask(everything(found)[0]), black)


def test_colours_and_ids(tmp_path):
    images, masks = draw(4)
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
    make(images, [colours[mask] for mask in masks]).save_to_disk(tmp_path / "set")
    found = source(tmp_path / "set", class_colors=tuple(map(tuple, colours.tolist())))
    summary = check(found, "multiclass")
    sample = everything(found)[0]
    labels = summary.coding.encode(found.read_mask(sample))
    np.testing.assert_array_equal(labels, masks[sample.index])
    make(images, masks).save_to_disk(tmp_path / "ids")
    assert check(source(tmp_path / "ids", instances=True), "binary").num_classes == 2


def test_a_source_travels_to_workers_and_is_read_by_several_threads(tmp_path):
    images, masks = draw(40)
    made = datasets.DatasetDict({"train": make(images, masks), "test": make(*draw(3))})
    made.save_to_disk(tmp_path / "set")
    found = source(tmp_path / "set")
    sent = pickle.dumps(found)
    assert len(sent) < sum(image.nbytes for image in images)  # files, not pixels
    copy = pickle.loads(sent)
    assert copy.splits() == found.splits()
    samples = [s for s in everything(found) if s.name.startswith("train")] * 8
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(copy.read_image, samples))
        marks = list(pool.map(copy.read_mask, samples))
    for sample, image, mask in zip(samples, read, marks, strict=True):
        np.testing.assert_array_equal(image, images[sample.index])
        np.testing.assert_array_equal(mask, masks[sample.index])


# --- names ---------------------------------------------------------------------------------------


def test_names_of_classes(tmp_path):
    images, masks = draw(4)
    make(images, masks, parts=[[0, 1]] * 4).save_to_disk(tmp_path / "set")
    assert source(tmp_path / "set").class_names is None
    assert source(tmp_path / "set", class_column="parts").class_names == ("sky", "sea", "land")
    with pytest.raises(SegkitError, match="no column 'part' of the type ClassLabel"):
        source(tmp_path / "set", class_column="part")
    file = tmp_path / "set/id2label.json"
    file.write_text('{"0": "none", "2": "sea", "255": "void"}')
    assert source(tmp_path / "set").class_names == ("none", "class 1", "sea")
    assert check(source(tmp_path / "set"), "multiclass").class_names == ("none", "class 1", "sea")
    assert source(tmp_path / "set", label_map={2: 1}).class_names is None
    given = ("a", "b", "c")
    assert source(tmp_path / "set", class_names=given).class_names == given
    file.write_text('{"sky": 1}')
    with pytest.raises(SegkitError, match=r"id2label\.json: must map ids to names"):
        source(tmp_path / "set")


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": "anotation"}, "data.mask: there is no column 'anotation'. Did you mean 'annotat"),
        ({"mask": "parts"}, "data.mask: the column 'parts' has the type"),
        ({"split_names": {"train": "trian"}}, "no split 'trian' for train. Did you mean 'train'?"),
        ({"revision": "main"}, "data.revision is for data sets of the hub"),
    ],
)
def test_what_a_set_does_not_have_is_named(tmp_path, options, message):
    images, masks = draw(2)
    make(images, masks, parts=[[0], [1]]).save_to_disk(tmp_path / "set")
    with pytest.raises(SegkitError, match=re.escape(message)):
        source(tmp_path / "set", **options)


def test_unknown_names_of_splits_must_be_chosen(tmp_path):
    made = datasets.DatasetDict({"a": make(*draw(2)), "b": make(*draw(2))})
    made.save_to_disk(tmp_path / "set")
    with pytest.raises(SegkitError, match="none of the splits is called train, there are: a, b"):
        source(tmp_path / "set")


def test_rows_without_a_mask_are_named_by_the_check(tmp_path):
    images, masks = draw(3)
    make(images, [masks[0], None, masks[2]]).save_to_disk(tmp_path / "set")
    with pytest.raises(SegkitError, match="train/000001: the row has no image or no mask"):
        check(source(tmp_path / "set"), "multiclass")


def test_other_folders_are_refused(tmp_path):
    (tmp_path / "set").mkdir()
    with pytest.raises(SegkitError, match=r"data\.path: the package datasets cannot open"):
        source(tmp_path / "set")
    with pytest.raises(SegkitError, match=r"data\.path: there is no folder"):
        source(tmp_path / "nowhere")


def test_no_code_of_a_set_is_run(tmp_path):
    made = tmp_path / "made"
    (tmp_path / "set").mkdir()
    script = f"from pathlib import Path\nPath({str(made)!r}).touch()\n"
    (tmp_path / "set/set.py").write_text(script)
    with pytest.raises(SegkitError, match=r"data\.path: the package datasets cannot open"):
        source(tmp_path / "set")
    assert not made.exists()


@pytest.mark.parametrize(
    ("options", "offline", "message"),
    [
        ("", "0", "data.download=true downloads it"),
        ("download=True", "1", "the Hugging Face hub cannot be reached for nobody/nothing"),
        ("", "1", "the Hugging Face hub cannot be reached for nobody/nothing"),
    ],
)
def test_the_hub_is_asked_only_if_allowed(tmp_path, options, offline, message):
    """In a process of its own, because the packages read the environment when they are imported."""
    code = (
        "from segkit.data.sources.huggingface import HuggingFaceSource\n"
        f"HuggingFaceSource('binary', 'nobody/nothing', {options})"
    )
    env = {
        **os.environ,
        "HF_HUB_OFFLINE": offline,
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path),
    }
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert f"SegkitError: data.path: {'' if message[0] == 't' else 'there'}" in done.stderr
    assert message in done.stderr


def test_an_empty_path_is_not_the_current_folder():
    with pytest.raises(SegkitError, match=r"data\.path: a path is empty"):
        HuggingFaceSource("binary", "")
