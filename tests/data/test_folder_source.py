"""Folders and tables of images and masks: pairing, splits and error messages."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from segkit.core.errors import SegkitError
from segkit.data.layout.splits import natural_key, split_by_lists, split_by_ratio
from segkit.data.sources.base import SPLITS, DataSource, Sample
from segkit.data.sources.folder import FolderSource
from segkit.images.writing import write_image, write_mask

PIXELS = np.arange(35, dtype=np.uint8).reshape(7, 5)
LABELS = (PIXELS > 16).astype(np.uint8)


def put(root: Path, *names: str) -> None:
    """Images, and their masks, by their names in the folders; a name may have a suffix."""
    for name in names:
        file = name if Path(name).suffix.lower() == ".png" else f"{name}.png"
        write_image(root / "images" / file, PIXELS)
        write_mask(root / "masks" / file, LABELS)


def source(root: Path, **options: Any) -> FolderSource:
    return FolderSource("binary", root=root, **options)


def names(source: DataSource) -> dict[str, list[str]]:
    assert source.problems() == []
    return {split: [s.name for s in samples] for split, samples in source.splits().items()}


def everything(source: DataSource) -> list[str]:
    return sorted(name for split in names(source).values() for name in split)


# --- folders -------------------------------------------------------------------------------------


def test_images_and_masks_pair_by_name(tmp_path):
    put(tmp_path, "a", "b", "a.b", "B.PNG", "deep/er/a", "with space")
    found = source(tmp_path)
    files = ("B.PNG", "a.b.png", "a.png", "b.png", "deep/er/a.png", "with space.png")
    assert everything(found) == [f"images/{file}" for file in files]
    assert pickle.loads(pickle.dumps(found)).splits() == found.splits()
    for sample in (sample for part in found.splits().values() for sample in part):
        assert sample.mask is not None
        assert sample.mask.relative_to(tmp_path / "masks").as_posix() == sample.name[7:]
        np.testing.assert_array_equal(found.read_image(sample), PIXELS[..., None])
        np.testing.assert_array_equal(found.read_mask(sample), LABELS)


def test_extensions_may_differ_and_hidden_files_are_skipped(tmp_path):
    write_image(tmp_path / "images" / "a.PNG", PIXELS)
    write_mask(tmp_path / "masks" / "a.TIF", LABELS)
    for hidden in (".DS_Store", "._a.png", ".ipynb_checkpoints/a-checkpoint.png", "notes.txt"):
        path = tmp_path / "images" / hidden
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no image")
    (tmp_path / "images" / "folder.png").mkdir()
    assert everything(source(tmp_path, val_fraction=0)) == ["images/a.PNG"]


@pytest.mark.parametrize(
    ("mask", "options"),
    [
        ("{}_mask.png", {"images": ".", "masks": ".", "mask_suffix": "_mask"}),
        ("masks/{}.png", {"images": "."}),
    ],
)
def test_masks_among_the_images(tmp_path, mask, options):
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png", PIXELS)
        write_mask(tmp_path / mask.format(name), LABELS)
    assert everything(source(tmp_path, **options)) == ["a.png", "b.png"]


def test_split_folders(tmp_path):
    put(tmp_path / "train", "a", "b")
    put(tmp_path / "val", "c")
    wanted = {"train": ["train/images/a.png", "train/images/b.png"], "val": ["val/images/c.png"]}
    assert names(source(tmp_path)) == {**wanted, "test": []}
    put(tmp_path / "test", "d")
    assert names(source(tmp_path)) == {**wanted, "test": ["test/images/d.png"]}


def test_validation_is_taken_from_the_training_samples(tmp_path):
    put(tmp_path / "train", *"abcde")
    put(tmp_path / "test", "t")
    found = names(source(tmp_path, val_fraction=0.4, test_fraction=0.2))
    assert [len(found[split]) for split in SPLITS] == [3, 2, 1]


def test_files_without_a_partner(tmp_path):
    put(tmp_path, "a", "b", "c")
    (tmp_path / "masks" / "b.png").unlink()
    (tmp_path / "images" / "c.png").unlink()
    write_mask(tmp_path / "masks" / "a.tif", LABELS)
    problems = source(tmp_path).problems()
    assert len(problems) == 3
    assert problems[0].startswith("images/b.png has no mask: there is no masks/b.png")
    assert problems[1] == "masks/c.png is a mask without an image"
    assert "same name: masks/a.png, masks/a.tif" in problems[2]


def test_a_suffix_is_suggested(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    problems = source(tmp_path).problems()
    assert problems[0].startswith("images contains no images. Known: .apng, .bmp")
    assert problems[1].startswith("masks contains no masks. Known: ")
    for name in ("a", "b"):
        write_image(tmp_path / "images" / f"{name}.png", PIXELS)
        write_mask(tmp_path / "masks" / f"{name}_label.png", LABELS)
    write_image(tmp_path / "images/c.png", PIXELS)
    [problem] = source(tmp_path).problems()
    assert "none of the 3 images" in problem
    assert problem.endswith("Did you mean data.mask_suffix=_label?")
    (tmp_path / "images/c.png").unlink()
    assert everything(source(tmp_path, mask_suffix="_label")) == ["images/a.png", "images/b.png"]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "neither a folder 'images' nor 'train/images'. It contains: nothing"),
        (["pictures", "labels"], "It contains: labels, pictures"),
        (["images"], "there is no folder .*masks.*data.masks=NAME"),
        (["train/images"], "there is no folder .*masks"),
    ],
)
def test_missing_folders(tmp_path, made, message):
    for folder in made:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(SegkitError, match=message):
        source(tmp_path).splits()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": Path("nowhere")}, r"data\.root: there is no folder"),
        ({"pairs": Path("other.csv")}, r"data\.pairs: there is no file"),
        ({"root": Path(), "split": "lists", "val_list": Path("a.txt")}, r"val_list: .* no file"),
        ({}, "data.root=DIR"),
        ({"root": Path(), "pairs": Path("a.csv")}, "either"),
        ({"root": Path(), "split": "lists"}, "data.val_list=FILE"),
        ({"root": Path(), "val_list": Path("a.txt")}, "data.split=lists"),
        ({"root": Path(), "images": ".", "masks": "."}, "data.mask_suffix"),
    ],
)
def test_missing_files_and_contradicting_options(tmp_path, monkeypatch, options, message):
    put(tmp_path, "a")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SegkitError, match=message):
        FolderSource("binary", **options).splits()


# --- stacks and channels -------------------------------------------------------------------------


def stack(path: Path, pages: int) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.stack([PIXELS + page for page in range(pages)])
    tifffile.imwrite(path, values, photometric="minisblack", metadata=None)
    return values


def test_a_stack_is_a_sample_for_each_page(tmp_path):
    values = stack(tmp_path / "images" / "s.tif", 12)
    write_mask(tmp_path / "masks" / "s.tif", (values % 2).astype(np.uint8))
    found = source(tmp_path, split="blocks", val_fraction=0.25)
    divided = found.splits()
    assert [s.name for s in divided["val"]] == [f"images/s.tif#{p:04d}" for p in (9, 10, 11)]
    for sample in divided["train"]:
        assert sample.page is not None
        np.testing.assert_array_equal(found.read_image(sample)[..., 0], values[sample.page])
        np.testing.assert_array_equal(found.read_mask(sample), values[sample.page] % 2)


@pytest.mark.parametrize(("pages", "mask_pages"), [(3, 2), (3, 1), (1, 2)])
def test_pages_that_differ(tmp_path, pages, mask_pages):
    stack(tmp_path / "images" / "s.tif", pages)
    stack(tmp_path / "masks" / "s.tif", mask_pages)
    [problem] = source(tmp_path).problems()
    assert f"images/s.tif has {pages} page(s)" in problem
    assert problem.endswith(f"has {mask_pages}: write both with as many, a page for each slice")


def test_pages_of_a_mask_are_the_classes_of_a_multilabel_image(tmp_path):
    write_image(tmp_path / "images" / "s.png", PIXELS)
    values = stack(tmp_path / "masks" / "s.tif", 3)
    found = FolderSource("multilabel", root=tmp_path, val_fraction=0)
    [sample] = found.splits()["train"]
    np.testing.assert_array_equal(found.read_mask(sample), values.transpose(1, 2, 0))


def test_channels_are_converted(tmp_path):
    put(tmp_path, "a", "b")
    bands = np.zeros((7, 5, 12), np.uint8)
    tifffile.imwrite(tmp_path / "images/b.tif", bands, planarconfig="contig")
    (tmp_path / "images/b.png").unlink()
    found = source(tmp_path, channels=3, val_fraction=0)
    grey, many = found.splits()["train"]
    np.testing.assert_array_equal(found.read_image(grey), np.dstack([PIXELS] * 3))
    with pytest.raises(SegkitError, match=r"b\.tif: an image with 12 channels"):
        found.read_image(many)


# --- tables --------------------------------------------------------------------------------------


def table(root: Path, text: str, **options: Any) -> FolderSource:
    (root / "pairs.csv").write_text(text, encoding="utf-8")
    return FolderSource("binary", pairs=root / "pairs.csv", **options)


@pytest.mark.parametrize("separator", [",", ";", "\t", " , "])
def test_a_table_of_pairs(tmp_path, separator):
    put(tmp_path, "a", "b", "c")
    lines = ["\ufeffimage,mask,split"]
    lines += [f"images/{n}.png,masks/{n}.png,{s}" for n, s in zip("abc", SPLITS, strict=True)]
    found = names(table(tmp_path, "\n".join(lines).replace(",", separator) + "\n\n"))
    assert [found[split] for split in SPLITS] == [[f"images/{n}.png"] for n in "abc"]


def test_a_table_without_splits_is_divided(tmp_path):
    put(tmp_path, *"abcd")
    lines = [f"{tmp_path}/images/{n}.png,masks/{n}.png" for n in "abcd"]  # absolute and relative
    found = table(tmp_path, "image,mask\n" + "\n".join(lines), val_fraction=0.5).splits()
    assert [len(found[split]) for split in SPLITS] == [2, 2, 0]


def test_every_bad_line_of_a_table_is_reported(tmp_path):
    put(tmp_path, "a", "b")
    text = """image,mask,split
images/a.png,masks/a.png,train
images/x.png,masks/y.png,train
images/b.png
images/a.png,masks/b.png,val
images/b.png,masks/b.png,practice
,masks/b.png,val
"""
    problems = table(tmp_path, text).problems()
    wanted = [
        "x.png and no file",
        "no mask is given",
        "already in line 2",
        "not one of",
        "no image",
    ]
    for number, (problem, words) in enumerate(zip(problems, wanted, strict=True), start=3):
        assert problem.startswith(f"pairs.csv, line {number}: ")
        assert words in problem
    text = "image,mask,split\nimages/a.png,masks/a.png,train\nimages/b.png,masks/b.png,\n"
    assert "for all or none" in table(tmp_path, text).problems()[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"picture,mask\na,b\n", r"no column image.*'picture,mask'"),
        (b"", "no column image and no column mask"),
        (b"image,mask\n", "no rows"),
        ("image,mask\nZellgröße.png,a".encode("latin-1"), "UTF-8"),
    ],
)
def test_a_file_that_is_not_a_table(tmp_path, content, message):
    (tmp_path / "pairs.csv").write_bytes(content)
    with pytest.raises(SegkitError, match=message):
        FolderSource("binary", pairs=tmp_path / "pairs.csv").splits()


# --- splits --------------------------------------------------------------------------------------

FRACTIONS = st.floats(0, 0.999)


def samples(count: int) -> list[Sample]:
    return [Sample(f"slice {i}.png", Path(f"slice {i}.png")) for i in range(count)]


@given(st.integers(0, 60), FRACTIONS, FRACTIONS, st.none() | st.integers(0, 5))
def test_a_split_is_disjoint_complete_and_reproducible(count, val, test, seed):
    divided = split_by_ratio(samples(count), val, test, seed)
    told = sorted((s for part in divided.values() for s in part), key=natural_key)
    assert told == samples(count)
    assert list(divided) == list(SPLITS)
    assert split_by_ratio(samples(count)[::-1], val, test, seed) == divided
    assert bool(divided["train"]) == (count > 0)
    wanted = [max(1, round(count * share)) for share in (val, test) if share]
    if count > sum(wanted):
        for split, share in (("val", val), ("test", test)):
            assert bool(divided[split]) == (share > 0)
            assert abs(len(divided[split]) - share * count) <= 1


def test_blocks_are_the_last_in_natural_order():
    divided = split_by_ratio(samples(12)[::-1], 0.2, 0.1, None)
    assert [s.name for s in divided["val"]] == ["slice 9.png", "slice 10.png"]
    assert [s.name for s in divided["test"]] == ["slice 11.png"]
    drawn = [split_by_ratio(samples(30), 0.2, 0, seed)["val"] for seed in range(5)]
    assert len({tuple(val) for val in drawn}) == 5  # other seeds draw other samples


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_the_pages_of_a_file_stay_together(seed):
    """Slices of a volume look alike: a validation on them would say nothing."""
    volumes = [
        Sample(f"{file}.nii#{page:04}", Path(f"{file}.nii"), page=page)
        for file in "abcde"
        for page in range(4 + ord(file) % 3)
    ]
    divided = split_by_ratio(volumes, 0.2, 0.2, seed)
    files = {split: {s.image for s in part} for split, part in divided.items()}
    assert {split: len(found) for split, found in files.items()} == {
        "train": 3,
        "val": 1,
        "test": 1,
    }
    assert sum(map(len, divided.values())) == len(volumes)
    alone = split_by_ratio([s for s in volumes if s.image == Path("a.nii")], 0.2, 0.2, seed)
    assert [len(part) for part in alone.values()] == [3, 1, 1]  # nothing else is possible


@pytest.mark.parametrize("listed", ["images/x/1.png", "images/x/1", "x/1", "b.png", "b"])
def test_lists_name_samples_by_any_end_of_their_path(tmp_path, listed):
    put(tmp_path, "x/1", "y/1", "b", "c")
    (tmp_path / "val.txt").write_text(f"\ufeff\n  {listed}  \n\n", encoding="utf-8")
    found = names(source(tmp_path, split="lists", val_list=tmp_path / "val.txt"))
    assert found["val"] == ["images/x/1.png" if "1" in listed else "images/b.png"]
    assert len(found["train"]) == 3


def test_lists_with_unknown_or_ambiguous_names(tmp_path):
    put(tmp_path, "x/1", "y/1", "b")
    (tmp_path / "val.txt").write_text("1\nb\nnowhere\n")
    (tmp_path / "test.txt").write_text("b.png\n")
    lists = {"val_list": tmp_path / "val.txt", "test_list": tmp_path / "test.txt"}
    problems = source(tmp_path, split="lists", **lists).problems()
    assert len(problems) == 3
    assert "'1' in val.txt matches 2 images" in problems[0]
    assert problems[1] == "'nowhere' is in val.txt, but no sample has that name"
    assert "two splits" in problems[2]


@pytest.mark.parametrize(
    ("line", "count"), [("s#1.tif", 3), ("s#1", 3), ("s#1.tif#0002", 1), ("t#0001", 1)]
)
def test_lists_name_stacks_and_their_pages(tmp_path, line, count):
    pages = [Sample(f"s#1.tif#{p:04d}", Path("s#1.tif"), None, p) for p in range(3)]
    pages += [Sample(f"t.tif#{p:04d}", Path("t.tif"), None, p) for p in range(2)]
    (tmp_path / "val.txt").write_text(line)
    problems: list[str] = []
    divided = split_by_lists(pages, {"val": tmp_path / "val.txt"}, problems)
    assert problems == []
    assert len(divided["val"]) == count
