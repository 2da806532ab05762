"""Large images divided into blocks."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
from conftest import QUICK, train_quick
from data.large.conftest import (
    BY_WINDOWS,
    REGIONS,
    RNG,
    WHOLE,
    at,
    files,
    in_blocks,
    list_samples,
    put,
    put_alpha,
    put_png,
    same,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.core.errors import SegkitError
from segkit.data import file_reading
from segkit.data.checks.summary import check
from segkit.data.layout.blocks import Shares, divide_samples, take_whole
from segkit.data.sources.base import SPLITS, Sample
from segkit.data.sources.folder import FolderSource


@settings(max_examples=30)
@given(
    size=st.tuples(st.integers(16, 900), st.integers(16, 900)),
    side=st.none() | st.integers(16, 300),
    val=st.floats(0, 0.5),
    test=st.floats(0, 0.4),
    seed=st.integers(0, 5),
)
def test_every_pixel_is_in_one_block_of_one_split(size, side, val, test, seed):
    problems: list[str] = []
    whole = [Sample("a[1].tif#0002", page=2), Sample("a[1].tif#0003", page=3)]
    shares = Shares(val, test, seed)
    divided = divide_samples(whole, [size, size], side, shares, problems)
    seen = {2: np.zeros(size, int), 3: np.zeros(size, int)}
    places: dict[Any, Any] = {}
    for split, samples in divided.items():
        for sample in samples:
            assert sample.window is not None
            top, left, height, width = sample.window
            assert sample.name == (
                f"a[1].tif#000{sample.page}[{top}:{top + height},{left}:{left + width}]"
            )
            assert take_whole(sample) == whole[sample.page - 2]
            if side is not None:
                assert min(size[0], side) <= height < 2 * side + 1
                assert min(size[1], side) <= width < 2 * side + 1
            seen[sample.page][top : top + height, left : left + width] += 1
            # pages are divided alike
            assert places.setdefault(sample.window, split) == split
    if problems:
        assert not any(divided.values())
        assert len(problems) == 2
        return
    assert all((count == 1).all() for count in seen.values())
    assert divided["train"]
    for split, share in (("val", val), ("test", test)):
        count = sum(map(len, divided.values()))
        assert (len(divided[split]) > 0) == (share > 0)
        assert abs(len(divided[split]) - share * count) <= 2
    assert divided == divide_samples(whole, [size, size], side, shares, [])


@pytest.mark.parametrize("size", [(3000, 3000), (20_000, 20_000), (1300, 8000), (1280, 1280)])
def test_by_default_there_are_25_blocks_or_more(size):
    divided = divide_samples([Sample("a")], [size], None, Shares(0.2, 0.1, 0), [])
    windows = [s.window for part in divided.values() for s in part]
    assert 25 <= len(windows) <= 40
    assert min(min(window[2:]) for window in windows) >= 256


def test_blocks_of_a_split_lie_side_by_side_and_at_places_of_the_seed():
    found = set()
    for seed in range(40):
        divided = divide_samples([Sample("a")], [(500, 500)], 100, Shares(0.2, 0.2, seed), [])
        for split in ("val", "test"):
            windows = [sample.window for sample in divided[split]]
            assert len(windows) == 5
            places = {(top // 100, left // 100) for top, left, _, _ in windows}
            reached, edge = set(), {min(places)}
            while edge:  # every block is reached from the first one over shared edges
                reached |= edge
                near = {(y + dy, x + dx) for y, x in edge for dy, dx in STEPS}
                edge = (near & places) - reached
            assert reached == places
            found.add((split, frozenset(places)))
    assert len(found) > 20


STEPS = [(0, 1), (1, 0), (0, -1), (-1, 0)]


def test_an_image_that_is_too_small_is_a_problem(tmp_path):
    put(tmp_path)
    source = FolderSource("multiclass", put(tmp_path), split="tiles")
    with pytest.raises(SegkitError, match=r"a\.tif has 150 x 130 pixels.* 1 block.*tile_size"):
        check(source, "multiclass")


def test_a_single_image_is_told_of_blocks(tmp_path):
    with pytest.raises(SegkitError, match=r"blocks for training and validation: data\.split=tiles"):
        check(FolderSource("multiclass", put(tmp_path)), "multiclass")
    for name in "bc":
        put(tmp_path, name=name)
    with pytest.raises(SegkitError, match="split 'val' has no samples") as caught:
        check(FolderSource("multiclass", tmp_path, val_fraction=0), "multiclass")
    assert "tiles" not in str(caught.value)


def test_options_and_folders_of_splits(tmp_path):
    with pytest.raises(SegkitError, match=r"data\.tile_size is not used with data\.split=random"):
        FolderSource("binary", tmp_path, tile_size=100)
    put(tmp_path / "train")
    put(tmp_path / "test")
    found = in_blocks(tmp_path, test_fraction=0.3).splits()
    assert [sample.name for sample in found["test"]] == ["test/images/a.tif"]
    assert [len(found[split]) for split in SPLITS] == [7, 2, 1]


def test_masks_of_another_size_and_files_that_cannot_be_read(tmp_path):
    put(tmp_path, mask=REGIONS[:-1])
    put(tmp_path, name="b")
    (tmp_path / "images" / "b.tif").write_bytes(b"II*\0")
    problems = in_blocks(tmp_path).problems()
    assert len(problems) == 2
    assert (
        "a.tif: the image has 150 x 130 pixels (height x width), its mask 149 x 130"
        in (problems[0])
    )
    assert "b.tif: cannot be read" in problems[1]
    (tmp_path / "images" / "b.tif").unlink()
    (tmp_path / "masks" / "b.tif").unlink()
    resized = in_blocks(tmp_path, resize_masks=True)
    together = resized.read_mask(Sample("images/a.tif", *files(tmp_path)))
    for sample in list_samples(resized):
        np.testing.assert_array_equal(resized.read_mask(sample), together[at(sample)])


@pytest.mark.parametrize("put_files", BY_WINDOWS + WHOLE)
def test_blocks_are_parts_of_the_whole(put_files, tmp_path):
    source = put_files(tmp_path)
    samples = list_samples(source)
    assert len(samples) >= 9
    for sample in samples[::3]:
        whole = take_whole(sample)
        image, mask = source.read_image(sample), source.read_mask(sample)
        assert image.dtype == source.read_image(whole).dtype
        same(image, source.read_image(whole)[at(sample)])
        np.testing.assert_array_equal(mask, source.read_mask(whole)[at(sample)])
    again = pickle.loads(pickle.dumps(source))
    same(again.read_image(samples[0]), source.read_image(samples[0]))


@pytest.mark.parametrize("put_files", BY_WINDOWS)
def test_files_that_have_windows_are_never_read_whole(put_files, tmp_path, monkeypatch):
    source = put_files(tmp_path)
    samples = list_samples(source)
    monkeypatch.setattr(file_reading.ImageReader, "read", None)
    for sample in samples[:3]:
        source.read_image(sample)
        source.read_mask(sample)


def test_others_are_decoded_once(tmp_path, monkeypatch):
    source, read = put_png(tmp_path), []
    monkeypatch.setattr(
        file_reading.ImageReader,
        "read",
        lambda self, page=None, real=file_reading.ImageReader.read: (
            read.append(self.file.parent.name),
            real(self, page),
        )[1],
    )
    for sample in list_samples(source):
        source.read_image(sample)
        source.read_mask(sample)
    assert sorted(read) == ["images", "masks"]


def test_notes_name_the_image_and_not_its_blocks(tmp_path):
    source = put_alpha(tmp_path)
    for sample in list_samples(source):
        source.read_image(sample)
    assert next(note for note in source.notes() if "alpha" in note).startswith("1 images have")


def test_a_set_in_blocks_is_checked_as_others_are(tmp_path):
    summary = check(in_blocks(put(tmp_path)), "multiclass")
    assert [len(summary.splits[split]) for split in SPLITS] == [7, 2, 0]
    assert summary.num_classes == 3
    np.testing.assert_allclose(summary.class_share, np.bincount(REGIONS.ravel()) / REGIONS.size)


@pytest.mark.slow
def test_a_training_on_blocks_is_the_same_by_windows(tmp_path, monkeypatch, capsys):
    regions = np.kron(RNG.integers(0, 2, (10, 10)), np.ones((100, 100))).astype(np.uint8)
    image = RNG.integers(0, 90, (1000, 1000, 3)).astype(np.uint8) + 120 * regions[..., None]
    root = put(tmp_path / "data", image, regions)
    options = [
        *("data=folder", f"data.root={root}", "data.split=tiles", "data.tile_size=200"),
        *("trainer.max_steps=4", "data.crop_size=128", "data.foreground_share=0.5"),
    ]
    fixed = [each for each in QUICK if "experiment" not in each]
    train_quick(tmp_path / "whole", *options, quick=fixed)
    assert "folder: 20 train, 5 val, 0 test" in capsys.readouterr().out
    monkeypatch.setattr(file_reading, "LARGE", 0)
    train_quick(tmp_path / "windows", *options, quick=fixed)
    results = [json.loads((tmp_path / f / "result.json").read_text()) for f in ("whole", "windows")]
    for result in results:
        for key in ("seconds", "seconds_per_step", "overrides"):
            del result[key]
    assert results[0] == results[1]
    assert results[0]["val/iou"] > 0
