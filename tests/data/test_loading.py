"""Items, draws and the cache: bit-exact with any number of workers, cached or not."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from torch.utils.data import DataLoader, default_collate

from segkit.checkpoint.values import LabelCoding, Normalization
from segkit.core.errors import SegkitError
from segkit.data.augment import TrainTransform
from segkit.data.draws import DrawSampler, EvenOrder
from segkit.data.loading import ArrayCache, TrainDataset, WholeDataset, as_item
from segkit.data.sources.base import DataSource, Sample
from segkit.data.sources.cells import CellsSource
from segkit.data.sources.folder import FolderSource
from segkit.targets.base import BorderCore, Foreground, Labels, Target
from segkit.targets.weight_map import WeightMap

SAMPLE = Sample("a", Path("images/a.png"), Path("masks/a.png"))
EIGHT = Normalization("uint8", 0, 255, (0.5,), (0.25,))
AUGMENT: list[dict[str, Any]] = [{"name": "D4", "p": 1.0}, {"name": "GaussNoise", "p": 0.5}]
KINDS = ["cells", "colour", "ids", "layers", "bands"]


@pytest.fixture
def cache() -> Any:
    made = ArrayCache()
    yield made
    made.close()


def make_cells(mode: Any = "binary", **options: Any) -> CellsSource:
    return CellsSource(mode, **{"train": 6, "val": 3, "test": 0, "size": (48, 40), **options})


def item_of(dataset: TrainDataset, index: int, seed: int) -> Any:
    """A training item as the network gets it."""
    crops = default_collate([dataset[index, seed]])
    return {key: value[0] for key, value in as_item(crops, dataset.normalization).items()}


def put_files(root: Path, images: list[Any], masks: list[Any]) -> Path:
    for folder, arrays in (("images", images), ("masks", masks)):
        (root / folder).mkdir()
        for number, array in enumerate(arrays):
            options: Any = {"planarconfig": "contig"} if array.shape[2:] else {}
            path = root / folder / f"{number}.tif"
            tifffile.imwrite(path, array, photometric="minisblack", **options)
    return root


def put_layers(root: Path) -> FolderSource:
    """One 16-bit image, two overlapping classes, and a value that is not a label."""
    mask = np.zeros((9, 8, 2), np.uint16)
    mask[:4, :, 0] = 300
    mask[2:, :, 1] = 1
    put_files(root, [np.full((9, 8), 51, np.uint16)], [mask])
    return FolderSource("multilabel", root=root, val_fraction=0)


def make_set(kind: str, root: Path) -> tuple[DataSource, LabelCoding, Normalization, Target]:
    """Every kind of source and array, in different odd sizes."""
    rng = np.random.default_rng(1)
    sizes: list[Any] = [(40, 51), (33, 64), (20, 19), (61, 45)]
    masks: list[Any] = [np.kron(rng.integers(0, 2, (7, 9)), np.ones((9, 8))) for _ in sizes]
    masks = [m[:h, :w].astype(np.uint8) for m, (h, w) in zip(masks, sizes, strict=True)]
    if kind == "cells":
        return make_cells("multiclass"), LabelCoding({}), EIGHT, Labels()
    if kind == "colour":
        images = [rng.integers(0, 256, (*m.shape, 3)).astype(np.uint8) for m in masks]
        root = put_files(root, images, [255 * m for m in masks])
        norm = Normalization("uint8", 0, 255, (0.4, 0.5, 0.6), (0.25, 0.2, 0.3))
        return FolderSource("binary", root), LabelCoding({255: 1}), norm, Labels()
    if kind == "ids":
        images = [rng.integers(0, 60_000, m.shape).astype(np.uint16) for m in masks]
        root = put_files(root, images, [70_000 * m.astype(np.int32) for m in masks])
        norm = Normalization("uint16", 100, 50_000, (0.5,), (0.25,))
        coding = LabelCoding({}, foreground=True)
        target = Foreground(weight_map=WeightMap())
        return FolderSource("binary", root, instances=True), coding, norm, target
    if kind == "layers":
        images = [rng.integers(0, 256, m.shape).astype(np.uint8) for m in masks]
        layered = [np.stack([m, 1 - m, m * 0, m], axis=2) for m in masks]
        source = FolderSource("multilabel", put_files(root, images, layered))
        return source, LabelCoding({}), EIGHT, Labels()
    images = [rng.normal(3, 1, (*m.shape, 2)).astype(np.float32) for m in masks]
    norm = Normalization("float32", (1.0, 2.0), (5.0, 4.0), (0.5, 0.4), (0.25, 0.3))
    return FolderSource("binary", put_files(root, images, masks)), LabelCoding({}), norm, Labels()


def assert_same(one: Any, two: Any) -> None:
    assert set(one) == set(two)
    for key in one:
        assert one[key].dtype == two[key].dtype
        assert torch.equal(one[key], two[key]), key


# --- items ---------------------------------------------------------------------------------------


def test_items_without_augmentation_are_parts_of_the_source():
    source = make_cells()
    splits = source.splits()
    whole = WholeDataset(source, splits["train"], LabelCoding({}), EIGHT, Labels())[3]
    assert (whole["image"].shape, whole["image"].dtype) == ((1, 48, 40), torch.float32)
    assert (whole["target"].shape, whole["target"].dtype) == ((48, 40), torch.int64)
    wanted = (source.read_image(splits["train"][3])[..., 0] / 255 - 0.5) / 0.25
    np.testing.assert_allclose(whole["image"][0], wanted, atol=1e-5)
    np.testing.assert_array_equal(whole["target"], source.read_mask(splits["train"][3]))
    transform = TrainTransform((32, 32), [])
    train = TrainDataset(source, splits["train"], LabelCoding({}), EIGHT, transform, Labels())
    item = item_of(train, 3, 11)
    assert len(train) == 6
    assert item["index"] == whole["index"] == 3
    assert item["target"].dtype == torch.int64
    assert any(
        torch.equal(whole["image"][:, y : y + 32, x : x + 32], item["image"])
        and torch.equal(whole["target"][y : y + 32, x : x + 32], item["target"])
        for y in range(48 - 32 + 1)
        for x in range(40 - 32 + 1)
    )


def test_errors_name_the_sample(tmp_path):
    source = put_layers(tmp_path)
    norm = Normalization("uint16", 1, 101, (0.0,), (1.0,))
    samples, coding = source.splits()["train"], LabelCoding({})
    whole = WholeDataset(source, samples, coding, norm, Labels())
    train = TrainDataset(source, samples, coding, norm, TrainTransform((4, 4), []), Labels())
    for read in (lambda: whole[0], lambda: train[0, 0]):
        with pytest.raises(SegkitError, match=r"images/0\.tif: the mask has the values 300"):
            read()
    other = Normalization("uint16", 0, 1, (0,) * 3, (1,) * 3)
    with pytest.raises(SegkitError, match=r"images/0\.tif: .*3 channels"):
        WholeDataset(source, samples, coding, other, Labels())[0]


def test_targets_are_made_after_the_augmentation(tmp_path):
    """Ids 255 and 70000 are objects, -1 is not labelled, and the weight map comes with them."""
    ids = np.zeros((32, 32), np.int32)
    ids[2:14, 2:16], ids[2:14, 16:30], ids[20:24] = 255, 70_000, -1
    put_files(tmp_path, [np.full((32, 32), 9, np.uint8)], [ids])
    source = FolderSource(
        "binary", root=tmp_path, instances=True, label_map={-1: 255}, val_fraction=0
    )
    samples, coding = source.splits()["train"], LabelCoding({-1: 255}, foreground=True)
    target = Foreground(gap=2, weight_map=WeightMap(w0=10, sigma=5))
    turn = TrainTransform((32, 32), [{"name": "HorizontalFlip", "p": 1.0}])
    item = item_of(TrainDataset(source, samples, coding, EIGHT, turn, target), 0, 0)
    whole = WholeDataset(source, samples, coding, EIGHT, target, objects=True)[0]
    assert torch.equal(item["target"], whole["target"].flip(-1))
    assert torch.equal(item["weight"], whole["weight"].flip(-1))
    assert whole["target"][5, [10, 15, 16, 20]].tolist() == [1, 0, 0, 1]  # the gap
    assert (whole["target"][20:24] == 255).all()
    assert whole["weight"][5, 15] > whole["weight"][30, 2] > 0
    assert whole["ids"].unique().tolist() == [0, 1, 2, 255]
    assert "markers" not in whole
    core = item_of(TrainDataset(source, samples, coding, EIGHT, turn, BorderCore()), 0, 0)
    assert core["target"].unique().tolist() == [0, 1, 2, 255]
    assert "weight" not in core
    batch = default_collate([whole, whole])
    assert batch["weight"].shape == batch["ids"].shape == (2, 32, 32)


def test_markers_of_a_source_come_with_the_items(monkeypatch):
    """A marker in the first object of the first image only; the second image has none."""

    def read_markers(self: CellsSource, sample: Any) -> Any:
        first = (self.read_mask(sample) == 1) * np.int64(255)
        return None if sample.name.endswith("1") else first

    plain = make_cells()
    objects = WholeDataset(plain, plain.splits()["val"], LabelCoding({}), EIGHT, Labels(), True)[0]
    assert torch.equal(objects["ids"] > 0, objects["target"] > 0)  # connected components
    assert objects["ids"].dtype == torch.int32
    assert "markers" not in objects
    monkeypatch.setattr(CellsSource, "read_markers", read_markers)
    source = make_cells(instances=True)
    coding = LabelCoding({2: 255}, foreground=True)  # the second cell is not labelled
    items = WholeDataset(source, source.splits()["val"], coding, EIGHT, Labels(), objects=True)
    assert items[0]["markers"].unique().tolist() == [0, 255]
    ids = items[1]["ids"]
    assert (ids == 255).any()
    assert torch.equal(items[1]["markers"], torch.where(ids == 255, 0, ids))
    assert default_collate([items[0], items[1]])["markers"].shape == (2, 48, 40)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("dtype", "low", "high"), [("uint8", 0, 255), ("uint16", 13.7, 47_123.0)])
def test_crops_are_normalized_like_whole_images(dtype, low, high, channels):
    images = np.random.default_rng(0).integers(0, high, (2, 9, 7, channels)).astype(dtype)
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    norm = Normalization(dtype, low, high, mean, std)
    crops: Any = {
        "unit": torch.from_numpy(norm.to_unit(images)),
        "labels": torch.ones(2, 9, 7, dtype=torch.uint8),
        "index": torch.arange(2),
        "weight": torch.ones(2, 9, 7),
    }
    item = as_item(crops, norm)
    assert item["image"].is_contiguous(memory_format=torch.channels_last)  # as crops are
    assert (item["target"].dtype, item["weight"].shape) == (torch.int64, (2, 9, 7))
    wanted = norm.standardize(norm.to_unit(images)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(item["image"].numpy(), wanted)
    np.testing.assert_array_equal(crops["unit"].numpy(), norm.to_unit(images))  # unchanged


@pytest.mark.parametrize("share", [0.0, 0.6])
@pytest.mark.parametrize("kind", KINDS)
def test_cached_items_are_bit_exact(kind, share, tmp_path, cache):
    source, coding, norm, target = make_set(kind, tmp_path)
    splits = source.splits()
    transform = TrainTransform((24, 32), AUGMENT, foreground_share=share)
    plain, cached = (
        TrainDataset(source, splits["train"], coding, norm, transform, target, kept)
        for kept in (None, cache)
    )
    for _ in range(2):  # filled, then read
        for draw in [(index, seed) for index in range(len(plain)) for seed in (1, 2, 3)]:
            assert_same(cached[draw], plain[draw])
    objects = kind != "layers"
    plain, cached = (
        WholeDataset(source, splits["val"], coding, norm, target, objects, kept)
        for kept in (None, cache)
    )
    for _ in range(2):
        for index in range(len(plain)):
            assert_same(cached[index], plain[index])
    made = {path.name.partition("-")[0] for path in cache.folder.iterdir()}
    assert made >= {"image", "ids" if target.from_ids else "labels"}
    assert ("counts" in made) == (share > 0)


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.nightly)])
def test_workers_share_the_cache_and_change_nothing(context, tmp_path, cache):
    if context == "fork" and not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    source, coding, norm, target = make_set("ids", tmp_path)
    samples = source.splits()["train"]
    transform = TrainTransform((24, 32), AUGMENT, foreground_share=0.5)

    def load(kept: ArrayCache | None, workers: int) -> list[Any]:
        dataset = TrainDataset(source, samples, coding, norm, transform, target, kept, workers)
        loader: Any = DataLoader(
            dataset,
            batch_size=2,
            sampler=DrawSampler(EvenOrder(len(samples), 3), 12, seed=3),
            num_workers=workers,
            multiprocessing_context=context if workers else None,
            persistent_workers=workers > 0,
        )
        found = [*loader, *loader]
        assert dataset.times.totals()[0] == 24
        return found

    wanted = load(None, 0)
    for got in (load(cache, 2), load(cache, 0)):
        for one, two in zip(got, wanted, strict=True):
            assert_same(one, two)
    assert not list(cache.folder.glob("*.*"))  # nothing half written


# --- the cache -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.uint16).reshape(4, 6),
        np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(1, 2, 0),
        np.zeros((3, 0), np.int32),
        np.ones((5, 4, 3), np.uint8)[::2, :, 1:],
    ],
    ids=["ids", "transposed", "empty", "strided"],
)
def test_an_array_comes_back_read_only(array, cache):
    for reader in (cache, cache, pickle.loads(pickle.dumps(cache)), ArrayCache(cache.folder)):
        got = reader.fetch(SAMPLE, "image", array.copy)
        assert (got.dtype, got.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(got, array)
    with pytest.raises(ValueError, match="read-only"):
        got[...] = 2


def test_an_array_is_computed_once_per_sample_and_kind(cache):
    asked = []

    def make(name: str) -> Any:
        asked.append(name)
        return np.full((2, 2), len(asked))

    other = Sample("a", Path("images/a.png"), Path("masks/a.png"), page=1)
    for _ in range(3):
        for sample, kind in ((SAMPLE, "image"), (SAMPLE, "ids"), (other, "image")):
            first = cache.fetch(sample, kind, lambda kind=kind: make(kind))
            assert first[0, 0] <= 3
    assert asked == ["image", "ids", "image"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_most_file_descriptors_stay_free(cache):
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/dev/fd").iterdir()))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 64, before[1]))
        made = ArrayCache(cache.folder)
        for n in [*range(200), *range(200)]:
            got = made.fetch(Sample(str(n)), "image", lambda n=n: np.full((2, 2), n))
            assert (got == n).all()
        assert len(list(Path("/dev/fd").iterdir())) <= used + 32
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_several_may_write_the_same_at_once(cache):
    gate, wrong = threading.Barrier(8), []
    big = np.random.default_rng(0).integers(0, 255, (300, 300)).astype(np.uint8)

    def read() -> None:
        own = pickle.loads(pickle.dumps(cache))
        gate.wait()
        for n in range(20):
            if not np.array_equal(own.fetch(Sample(str(n)), "image", big.copy), big):
                wrong.append(n)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(list(cache.folder.iterdir())) == 20


def test_the_folder_is_new_and_removed_on_close():
    one, two = ArrayCache(), ArrayCache()
    assert one.folder != two.folder
    copy = pickle.loads(pickle.dumps(one))
    one.fetch(SAMPLE, "image", lambda: np.zeros(3))
    copy.close()
    assert one.folder.is_dir()  # a copy removes nothing
    one.close()
    assert not one.folder.exists()
    assert two.folder.is_dir()
    for closed in (one, copy, ArrayCache(one.folder)):  # which still compute arrays
        assert closed.fetch(SAMPLE, "image", lambda: np.ones(3)).sum() == 3
    two.close()


@pytest.mark.parametrize(
    "end",
    [
        "raise ValueError",
        pytest.param(
            "if os.fork() == 0: sys.exit()\nos.wait(); print(made.folder.is_dir())",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="Windows does not fork"),
        ),
    ],
)
def test_the_folder_is_removed_when_its_own_process_ends(end):
    program = (
        "from segkit.data.loading import ArrayCache; import numpy as np, os, sys\n"
        "from segkit.data.sources.base import Sample\n"
        "made = ArrayCache(); made.fetch(Sample('a'), 'image', lambda: np.ones(3))\n"
        "print(made.folder, len(os.listdir(made.folder)), flush=True)\n" + end
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    folder, files, *kept_after_fork = done.stdout.split()
    assert files == "1"
    assert kept_after_fork == (["True"] if "fork" in end else []), done.stderr
    assert not Path(folder).exists()


def test_a_full_disk_is_reported_once_and_changes_nothing(cache, monkeypatch):
    kept = cache.fetch(Sample("kept"), "image", lambda: np.full(4, 7))
    others = [pickle.loads(pickle.dumps(cache)) for _ in range(2)]

    def save(file: Any, array: Any, **options: Any) -> None:
        file.write(bytes(array)[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", save)

    def read_all() -> None:
        for reader in (cache, *others):
            for n in range(3):
                got = reader.fetch(Sample(str(n)), "image", lambda n=n: np.full(4, n))
                assert (got == n).all()

    with pytest.warns(RuntimeWarning, match="No space left on device") as caught:
        read_all()
    assert len(caught) == 1
    assert "data.cache=false" in str(caught[0].message)
    files = sorted(path.name.partition("-")[0] for path in cache.folder.iterdir())
    assert files == ["full", "image"]
    assert (cache.fetch(Sample("kept"), "image", lambda: kept + 1) == 7).all()  # still there
