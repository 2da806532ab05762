"""Training and validation read large images by windows."""

from __future__ import annotations

import pickle
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import pytest
from data.large.conftest import (
    BY_WINDOWS,
    REGIONS,
    H,
    W,
    in_blocks,
    list_samples,
    put,
    put_again,
    put_alpha,
    put_colours,
    put_ids,
    put_layers,
    put_nodata,
    put_png,
    put_same_channels,
    same,
)
from PIL import Image

from segkit.checkpoint.values import LabelCoding
from segkit.config.schema import Data
from segkit.core.errors import SegkitError
from segkit.data import file_reading
from segkit.data.augment import TrainTransform, count_by_row
from segkit.data.checks.summary import DataSummary, check
from segkit.data.layout.blocks import take_whole
from segkit.data.loading import SMALL, ArrayCache, TrainDataset, WholeDataset
from segkit.data.open_images import OPEN, OpenImages
from segkit.data.sources.base import Sample
from segkit.data.sources.folder import FolderSource
from segkit.targets.base import BorderCore, Labels
from segkit.training import datamodule
from segkit.training.datamodule import SegmentationData


@pytest.fixture
def cache() -> Any:
    made = ArrayCache()
    yield made
    made.close()


def make_dataset(
    source: FolderSource,
    samples: list[Sample],
    share: float = 0.5,
    cache: ArrayCache | None = None,
    context: int = 0,
    summary: DataSummary | None = None,
) -> TrainDataset:
    summary = summary or check(source, source.rules.mode)
    # of blocks and of whole images
    empty = {s.name for s in list_samples(source) if s.name in summary.with_empty}
    empty |= {take_whole(s).name for s in list_samples(source) if s.name in empty}
    augment = [{"name": "D4", "p": 1.0}]
    transform = TrainTransform((24, 20), augment, context, share, summary.background)
    target = BorderCore() if source.instances else Labels()
    return TrainDataset(
        source,
        samples,
        summary.coding,
        summary.normalization,
        transform,
        target,
        cache,
        with_empty=frozenset(empty),
    )


def same_items(one: Any, two: Any) -> None:
    assert one.keys() == two.keys()
    for key in one:
        assert one[key].dtype == two[key].dtype
        np.testing.assert_array_equal(one[key].numpy(), two[key].numpy())


@pytest.mark.parametrize(
    ("put_files", "context"), list(zip(BY_WINDOWS, cycle([0, 90]), strict=False))
)
def test_crops_are_the_same_to_the_bit(put_files, context, tmp_path, monkeypatch, cache):
    source = put_files(tmp_path)
    blocks = list_samples(source)
    samples = [blocks[4], *dict.fromkeys(map(take_whole, blocks))]
    draws = [(index, seed) for index in range(len(samples)) for seed in range(4)]
    summary = check(source, source.rules.mode)
    make = make_dataset(source, samples, context=context, summary=summary)
    wanted = [make[draw] for draw in draws]
    again = put_again(source)
    monkeypatch.setattr(file_reading, "LARGE", 0)
    for used in (None, cache):
        by_windows = make_dataset(again, samples, 0.5, used, context, summary)
        for sample in samples:
            measured = again.measure_large(sample)
            image = by_windows.reader.read_image(sample)
            assert measured is not None
            assert measured.mask_shape is not None
            assert measured.shape == image.shape == make.reader.read_image(sample).shape
            assert measured.dtype == make.reader.read_image(sample).dtype
            marks = by_windows.reader.read_marks(sample)
            assert not isinstance(marks, np.ndarray)
            assert marks.shape == make.reader.read_marks(sample).shape
            same(marks[3:20, 5:], make.reader.read_marks(sample)[3:20, 5:])
        for draw, item in zip(draws, wanted, strict=True):
            same_items(by_windows[draw], item)
    kinds = {path.name.partition("-")[0] for path in cache.folder.iterdir()}
    assert kinds == {"counts"} | ({"values"} if source.instances else set())


def test_only_what_a_crop_touches_is_decoded(tmp_path, large, monkeypatch):
    source = in_blocks(put(tmp_path))
    whole = take_whole(list_samples(source)[0])
    dataset, read = make_dataset(source, [whole], share=0), []
    for name in ("read_image", "read_mask"):

        def spy(sample: Sample, real: Any) -> Any:
            read.append(sample.window)
            return real(sample)

        monkeypatch.setattr(source, name, partial(spy, real=getattr(source, name)))
    monkeypatch.setattr(file_reading.ImageReader, "read", None)
    _ = dataset[0, 1]
    assert len(read) == 2
    assert read[0] == read[1]
    assert read[0][2:] == (24, 24)  # square, because it may be turned


@pytest.mark.parametrize("put_files", [put_png, put_same_channels])
def test_what_has_no_windows_is_read_whole(put_files, tmp_path, monkeypatch):
    source = put_files(tmp_path)
    whole = [*dict.fromkeys(map(take_whole, list_samples(source)))]
    wanted = [make_dataset(source, whole)[0, seed] for seed in range(4)]
    monkeypatch.setattr(file_reading, "LARGE", 0)
    again = put_again(source)
    dataset = make_dataset(again, whole)
    measured = again.measure_large(whole[0])
    assert measured is None or measured.mask_shape is None
    for seed, item in enumerate(wanted):
        same_items(dataset[0, seed], item)


def test_a_mask_that_is_read_whole_ignores_what_has_no_data(tmp_path, monkeypatch, large):
    source = put_nodata(tmp_path)
    (tmp_path / "masks" / "a.tif").unlink()
    Image.fromarray(REGIONS).save(tmp_path / "masks" / "a.png")
    source = put_again(in_blocks(tmp_path))
    whole = take_whole(list_samples(source)[0])
    monkeypatch.setattr("segkit.data.layout.blocks.BAND_BYTES", 1)
    monkeypatch.setattr("segkit.data.layout.blocks.TILE", 16)
    labels = make_dataset(source, [whole]).reader.read_labels(whole)
    wanted = REGIONS.copy()
    wanted[30:90, 20:60] = 255
    np.testing.assert_array_equal(labels[:, :], wanted)


def test_counts_of_bands_are_those_of_the_whole(tmp_path, large, monkeypatch):
    monkeypatch.setattr("segkit.data.layout.blocks.BAND_BYTES", 1)
    monkeypatch.setattr("segkit.data.layout.blocks.TILE", 16)
    for number, put_files in enumerate((put_colours, put_layers, put_ids)):
        source = put_files(tmp_path / str(number))
        whole = take_whole(list_samples(source)[0])
        marks = make_dataset(source, [whole]).reader.read_marks(whole)
        assert not isinstance(marks, np.ndarray)
        np.testing.assert_array_equal(count_by_row(marks), count_by_row(marks[:, :]))


def test_a_small_cache_keeps_only_counts(tmp_path, large):
    source = in_blocks(put(tmp_path))
    samples, cache = list_samples(source), ArrayCache(kinds=SMALL)
    copied = pickle.loads(pickle.dumps(cache))
    dataset = make_dataset(source, samples, cache=copied)
    _ = dataset[0, 0], dataset[1, 0]
    for each in (cache, copied):
        each.fetch(samples[0], "labels", lambda: REGIONS)
    assert {path.name.partition("-")[0] for path in cache.folder.iterdir()} == {"counts"}
    cache.close()


def test_files_stay_open_but_only_a_few(tmp_path):
    for number in range(OPEN + 2):
        put(tmp_path, name=str(number))
    images, opened = OpenImages(), []
    paths = sorted((tmp_path / "images").iterdir())
    with images.open(paths[0], None) as first:
        assert first is not None
        for path in paths:
            with images.open(path, None) as image:
                opened.append(image)
        with images.open(paths[-1], None) as image:
            assert image is opened[-1]
        first.read(0, 0, 5, 5)  # is lent, though no longer kept
    with pytest.raises(SegkitError, match="is closed"):
        first.read(0, 0, 5, 5)
    with pytest.raises(SegkitError, match="is closed"):
        opened[1].read(0, 0, 5, 5)
    opened[-1].read(0, 0, 5, 5)
    del images
    with pytest.raises(SegkitError, match="is closed"):
        opened[-1].read(0, 0, 5, 5)


def test_a_fork_opens_its_own_files(tmp_path, large):
    source = in_blocks(put(tmp_path))
    sample = list_samples(source)[0]
    with source._files._open.open(sample.image, None) as ours:
        pass
    source._files._open._process += 1  # as a fork sees it
    with source._files._open.open(sample.image, None) as own:
        assert own is not ours


def test_small_images_are_not_large(tmp_path, monkeypatch):
    source = in_blocks(put(tmp_path))
    sample = list_samples(source)[0]
    assert source.measure_large(sample) is None
    for limit, is_large in ((H * W * 3 - 1, True), (H * W * 3, False)):
        monkeypatch.setattr(file_reading, "LARGE", limit)
        assert (put_again(source).measure_large(sample) is not None) is is_large


def test_the_summary_tells_what_is_large(tmp_path, monkeypatch):
    source = put_same_channels(tmp_path)
    together = check(source, "multilabel")
    assert not together.large
    assert together.decoded["train"] + together.decoded["val"] == H * W * (3 + 2 * 3)
    monkeypatch.setattr(file_reading, "LARGE", 0)
    found = check(put_again(source), "multilabel")
    assert found.large == {sample.name for sample in list_samples(source)}
    assert found.decoded["train"] + found.decoded["val"] == H * W * 2 * 3  # the masks
    found = check(in_blocks(put(tmp_path / "b")), "multiclass")
    assert not any(found.decoded.values())


def test_whole_items_of_large_images(tmp_path, monkeypatch):
    source = put_alpha(tmp_path)
    summary = check(source, "multiclass")
    blocks = list_samples(source)
    samples = [take_whole(blocks[0]), blocks[3]]
    empty = frozenset(s.name for s in samples)

    def make(source: FolderSource) -> WholeDataset:
        coding, norm = LabelCoding({}), summary.normalization
        return WholeDataset(source, samples, coding, norm, Labels(), with_empty=empty)

    wanted = [make(source)[index] for index in range(2)]
    monkeypatch.setattr(file_reading, "LARGE", 0)
    again = make(put_again(source))
    for index, item in enumerate(wanted):
        same_items(again[index], item)
    part = again.take_part(0, (10, 20, 30, 40)).truth(0)["target"]
    np.testing.assert_array_equal(part, wanted[0]["target"][10:40, 20:60])


def make_data(source: FolderSource, **options: Any) -> SegmentationData:
    summary = check(source, source.rules.mode)
    config = Data(name="folder", crop_size=(24, 24), num_workers=0, foreground_share=1, **options)
    transform = TrainTransform((24, 24), [], 0, 1.0)
    return SegmentationData(
        source, summary, summary.normalization, transform, Labels(), config, seed=1
    )


@pytest.mark.parametrize("asked", [False, "auto"])
def test_a_run_caches_only_counts_of_large_images(asked, tmp_path, large):
    data = make_data(in_blocks(put(tmp_path)), cache=asked)
    assert data.cache_note.startswith("of 9 samples only parts are read")
    assert "\n" not in data.cache_note
    data.setup("fit")
    assert data.cache is not None
    _ = next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))
    kinds = {path.name.partition("-")[0] for path in data.cache.folder.iterdir()}
    data.close()
    assert kinds == {"counts"}


def test_masks_that_are_read_whole_are_cached_if_asked(tmp_path, large):
    put(tmp_path)
    (tmp_path / "masks" / "a.tif").unlink()
    Image.fromarray(REGIONS).save(tmp_path / "masks" / "a.png")
    for asked, wanted in ((False, {"counts"}), (True, {"counts", "labels"})):
        data = make_data(in_blocks(tmp_path), cache=asked)
        data.setup("fit")
        assert data.cache is not None
        _ = next(iter(data.train_dataloader()))
        kinds = {path.name.partition("-")[0] for path in data.cache.folder.iterdir()}
        data.close()
        assert kinds == wanted


def test_images_too_large_for_memory_are_validated_in_parts(tmp_path, large, monkeypatch):
    put(tmp_path / "train")
    put(tmp_path / "val")
    source = FolderSource("multiclass", tmp_path)
    monkeypatch.setattr(datamodule, "PART", 60)
    data = make_data(source)
    seen = list(data.val_dataloader())
    assert sum(len(item["index"]) for item in seen) == 9
    assert max(max(item["target"].shape[1:]) for item in seen) <= 60
    [whole] = [data.whole("val")[0]]
    counts = sum(np.bincount(item["target"].numpy().ravel(), minlength=3) for item in seen)
    np.testing.assert_array_equal(counts, np.bincount(whole["target"].numpy().ravel()))
    monkeypatch.setattr(datamodule, "PART", 150)
    assert len(list(data.val_dataloader())) == 1
