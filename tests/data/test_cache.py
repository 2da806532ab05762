"""The cache of decoded images: never another bit, never another run's, never left behind."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from torch.utils.data import DataLoader, default_collate

from segkit.checkpoint.coding import LabelCoding
from segkit.checkpoint.normalization import Normalization
from segkit.core.errors import SegkitError
from segkit.data.augment.transforms import TrainTransform
from segkit.data.loading.cache import ArrayCache
from segkit.data.loading.dataset import TrainDataset, WholeDataset, as_item
from segkit.data.loading.samplers import DrawSampler
from segkit.data.sources.base import DataSource, Sample
from segkit.data.sources.cells import CellsSource
from segkit.data.sources.folder import FolderSource
from segkit.data.sources.tracking_challenge import TrackingChallengeSource
from segkit.targets.base import Foreground, Labels, Target
from segkit.targets.weight_map import WeightMap

SAMPLE = Sample("a", Path("images/a.png"), Path("masks/a.png"))
AUGMENT: list[dict[str, Any]] = [{"name": "D4", "p": 1.0}, {"name": "GaussNoise", "p": 0.5}]
KINDS = ["cells", "colour", "ids", "layers", "stack", "float", "tracks"]


@pytest.fixture
def cache() -> Any:
    made = ArrayCache()
    yield made
    made.close()


def saved(root: Path, images: list[Any], masks: list[Any]) -> Path:
    for folder, arrays in (("images", images), ("masks", masks)):
        (root / folder).mkdir()
        for number, array in enumerate(arrays):
            if array.dtype == np.uint8 and (array.ndim == 2 or folder == "images"):
                assert cv2.imwrite(str(root / folder / f"{number}.png"), array)
            else:
                options = {"photometric": "minisblack"} if array.ndim == 3 else {}
                if folder == "masks" and array.ndim == 3:
                    options["planarconfig"] = "contig"
                tifffile.imwrite(root / folder / f"{number}.tif", array, **options)
    return root


def set_of(kind: str, root: Path) -> tuple[DataSource, LabelCoding, Normalization, Target]:
    """Every kind of source and of arrays, in sizes that differ and are odd."""
    rng = np.random.default_rng(1)
    sizes = [(40, 51), (33, 64), (20, 19), (61, 45)]
    masks: list[Any] = [np.kron(rng.integers(0, 2, (7, 9)), np.ones((9, 8))) for _ in sizes]
    masks = [m[:h, :w].astype(np.uint8) for m, (h, w) in zip(masks, sizes, strict=True)]
    sizes = [m.shape for m in masks]
    grey = Normalization("uint8", 0, 255, (0.5,), (0.25,))
    if kind == "cells":
        source: DataSource = CellsSource("multiclass", train=4, val=2, test=0, size=(48, 40))
        return source, LabelCoding({}), grey, Labels()
    if kind == "colour":
        images = [rng.integers(0, 256, (*s, 3)).astype(np.uint8) for s in sizes]
        root = saved(root, images, [255 * m for m in masks])
        norm = Normalization("uint8", 0, 255, (0.4, 0.5, 0.6), (0.25, 0.2, 0.3))
        return FolderSource("binary", root), LabelCoding({255: 1}), norm, Labels()
    if kind == "ids":
        images = [rng.integers(0, 60_000, s).astype(np.uint16) for s in sizes]
        root = saved(root, images, [70_000 * m.astype(np.int32) for m in masks])
        norm = Normalization("uint16", 100, 50_000, (0.5,), (0.25,))
        coding = LabelCoding({}, foreground=True)
        target = Foreground(weight_map=WeightMap())
        return FolderSource("binary", root, instances=True), coding, norm, target
    if kind == "layers":
        images = [rng.integers(0, 256, s).astype(np.uint8) for s in sizes]
        layered = [np.stack([m, 1 - m, m * 0, m], axis=2) for m in masks]
        source = FolderSource("multilabel", saved(root, images, layered))
        return source, LabelCoding({}), grey, Labels()
    if kind == "stack":
        stack = rng.integers(0, 256, (5, 40, 30)).astype(np.uint8)
        for folder, array in (("images", stack), ("masks", stack // 128)):
            (root / folder).mkdir()
            tifffile.imwrite(root / folder / "a.tif", array, photometric="minisblack")
        return FolderSource("binary", root), LabelCoding({}), grey, Labels()
    if kind == "float":
        images = [rng.normal(3, 1, s).astype(np.float32) for s in sizes]
        norm = Normalization("float32", 1.0, 5.0, (0.5,), (0.25,))
        return FolderSource("binary", saved(root, images, masks)), LabelCoding({}), norm, Labels()
    (root / "01").mkdir()
    (root / "01_GT" / "SEG").mkdir(parents=True)
    (root / "01_GT" / "TRA").mkdir()
    for frame in range(5):
        ids = np.zeros((44, 52), np.uint16)
        ids[5:20, 5:20], ids[22:40, 20 + frame : 45] = 1, 3
        image = (ids * 40 + rng.integers(0, 30, ids.shape)).astype(np.uint8)
        tifffile.imwrite(root / "01" / f"t{frame:03d}.tif", image)
        tifffile.imwrite(root / "01_GT" / "SEG" / f"man_seg{frame:03d}.tif", ids)
        tifffile.imwrite(root / "01_GT" / "TRA" / f"man_track{frame:03d}.tif", ids)
    source = TrackingChallengeSource("binary", root)
    return source, LabelCoding(dict(source.label_map or {}), foreground=True), grey, Foreground()


def assert_same(one: Any, two: Any) -> None:
    assert set(one) == set(two)
    for key in one:
        assert one[key].dtype == two[key].dtype
        assert torch.equal(one[key], two[key]), key


# --- the same items ------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.6])
@pytest.mark.parametrize("kind", KINDS)
def test_items_are_the_same_to_the_bit(
    kind: str, share: float, tmp_path: Path, cache: ArrayCache
) -> None:
    source, coding, norm, target = set_of(kind, tmp_path)
    splits = source.splits()
    transform = TrainTransform((24, 32), AUGMENT, foreground_share=share)
    plain, cached = (
        TrainDataset(source, splits["train"], coding, norm, transform, target, kept)
        for kept in (None, cache)
    )
    for _ in range(2):  # filled, then read
        for draw in [(index, seed) for index in range(len(plain)) for seed in (1, 2, 3)]:
            assert_same(cached[draw], plain[draw])
    plain, cached = (
        WholeDataset(source, splits["val"], coding, norm, target, True, kept)
        if kind != "layers"
        else WholeDataset(source, splits["val"], coding, norm, target, False, kept)
        for kept in (None, cache)
    )
    for _ in range(2):
        for index in range(len(plain)):
            assert_same(cached[index], plain[index])
    made = {path.name.partition("-")[0] for path in cache.folder.iterdir()}
    assert made >= {"image", "ids" if target.from_ids else "labels"}
    assert ("counts" in made) == (share > 0)


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("kind", ["colour", "ids"])
def test_workers_share_it_and_change_nothing(
    kind: str, context: str, tmp_path: Path, cache: ArrayCache
) -> None:
    if context == "fork" and not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    source, coding, norm, target = set_of(kind, tmp_path)
    samples = source.splits()["train"]
    transform = TrainTransform((24, 32), AUGMENT, foreground_share=0.5)

    def batches(kept: ArrayCache | None, workers: int) -> list[Any]:
        dataset = TrainDataset(source, samples, coding, norm, transform, target, kept, workers)
        loader: Any = DataLoader(
            dataset,
            batch_size=2,
            sampler=DrawSampler(len(samples), 12, seed=3),
            num_workers=workers,
            multiprocessing_context=context if workers else None,
            persistent_workers=workers > 0,
        )
        found = [*loader, *loader]
        assert dataset.times.totals()[0] == 24
        return found

    wanted = batches(None, 0)
    for got in (batches(cache, 2), batches(cache, 0)):
        for one, two in zip(got, wanted, strict=True):
            assert_same(one, two)
    assert not list(cache.folder.glob("*.*"))  # nothing half written


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_crops_are_normalised_as_whole_images_are(dtype: str, channels: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256 if dtype == "uint8" else 60_000, (2, 9, 7, channels))
    images = values.astype(dtype)
    high = 255 if dtype == "uint8" else 47_123.0
    low = 0 if dtype == "uint8" else 13.7
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    norm = Normalization(dtype, low, high, mean, std)
    crops: Any = {
        "unit": torch.from_numpy(norm.to_unit(images)),
        "labels": torch.ones(2, 9, 7, dtype=torch.uint8),
        "index": torch.arange(2),
    }
    item = as_item(crops, norm)
    assert item["image"].is_contiguous()
    assert (item["target"].dtype, "weight" in item) == (torch.int64, False)
    wanted = norm.standardize(norm.to_unit(images)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(item["image"].numpy(), wanted)
    np.testing.assert_array_equal(crops["unit"].numpy(), norm.to_unit(images))  # as it was


# --- arrays --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.uint16).reshape(4, 6),
        np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(1, 2, 0),
        np.zeros((3, 0), np.int32),
        np.ones((5, 4, 3), np.uint8)[::2, :, 1:],
        np.arange(6, dtype=">u2").reshape(2, 3),
    ],
    ids=["ids", "turned", "empty", "strided", "swapped"],
)
def test_an_array_comes_back(array: Any, cache: ArrayCache) -> None:
    for reader in (cache, cache, pickle.loads(pickle.dumps(cache)), ArrayCache(cache.folder)):
        got = reader.fetch(SAMPLE, "image", array.copy)
        assert (got.dtype, got.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(got, array)


def test_it_is_made_once_by_sample_and_kind(cache: ArrayCache) -> None:
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


def test_what_cannot_be_read_is_not_kept(cache: ArrayCache) -> None:
    def fail() -> Any:
        raise SegkitError("cut short")

    for _ in range(2):
        with pytest.raises(SegkitError, match="cut short"):
            cache.fetch(SAMPLE, "image", fail)
    assert cache.fetch(SAMPLE, "image", lambda: np.ones(3)).sum() == 3


def test_what_it_gives_cannot_be_written_to(cache: ArrayCache) -> None:
    cache.fetch(SAMPLE, "image", lambda: np.ones((2, 2)))
    with pytest.raises(ValueError, match="read-only"):
        cache.fetch(SAMPLE, "image", lambda: np.ones((2, 2)))[0] = 2


def test_it_keeps_few_files_open(cache: ArrayCache) -> None:
    cache._most = 3
    for _ in range(3):
        for n in range(10):
            got = cache.fetch(Sample(str(n)), "image", lambda n=n: np.full((2, 2), n))
            assert (got == n).all()
            assert len(cache._mapped) <= 3


def test_many_may_write_the_same_at_once(cache: ArrayCache) -> None:
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


# --- the end -------------------------------------------------------------------------------------


def test_its_folder_is_its_own_and_removed_when_it_is_closed() -> None:
    one, two = ArrayCache(), ArrayCache()
    assert one.folder != two.folder
    copy = pickle.loads(pickle.dumps(one))
    one.fetch(SAMPLE, "image", lambda: np.zeros(3))
    copy.close()
    assert one.folder.is_dir()  # a copy removes nothing
    one.close()
    assert not one.folder.exists()
    assert two.folder.is_dir()
    for closed in (one, copy, ArrayCache(one.folder)):  # and goes on without a word
        assert closed.fetch(SAMPLE, "image", lambda: np.ones(3)).sum() == 3
    two.close()


@pytest.mark.parametrize("end", ["pass", "raise ValueError", "raise KeyboardInterrupt"])
def test_it_is_removed_however_the_program_ends(end: str) -> None:
    program = (
        "from segkit.data.loading.cache import ArrayCache; import numpy as np, os\n"
        "from segkit.data.sources.base import Sample\n"
        "made = ArrayCache(); made.fetch(Sample('a'), 'image', lambda: np.ones(3))\n"
        "print(made.folder, len(os.listdir(made.folder)), flush=True)\n" + end
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    folder, files = done.stdout.split()
    assert files == "1"
    assert not Path(folder).exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_does_not_remove_it() -> None:
    program = (
        "from segkit.data.loading.cache import ArrayCache; import os, sys\n"
        "made = ArrayCache()\n"
        "if os.fork() == 0: sys.exit()\n"
        "os.wait(); print(made.folder.is_dir())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_a_full_disk_is_said_once_and_changes_nothing(
    cache: ArrayCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = cache.fetch(Sample("kept"), "image", lambda: np.full(4, 7))
    others = [pickle.loads(pickle.dumps(cache)) for _ in range(2)]

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: Any) -> None:
            self.file.close()

        def write(self, data: Any) -> None:
            self.file.write(bytes(data)[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

    plain = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda self, mode="r", *a, **k: (
            Full(plain(self, mode)) if mode == "wb" else plain(self, mode, *a, **k)
        ),
    )

    def read_all() -> None:
        for reader in (cache, *others):
            for n in range(3):
                got = reader.fetch(Sample(str(n)), "image", lambda n=n: np.full(4, n))
                assert (got == n).all()

    with pytest.warns(RuntimeWarning, match="No space left on device") as said:
        read_all()
    assert len(said) == 1
    assert "data.cache=false" in str(said[0].message)
    assert {path.name.partition("-")[0] for path in cache.folder.iterdir()} == {"image", "full"}
    assert len(list(cache.folder.iterdir())) == 2
    monkeypatch.undo()
    assert (cache.fetch(Sample("kept"), "image", lambda: kept + 1) == 7).all()  # is still there


def test_a_batch_of_crops_collates(tmp_path: Path, cache: ArrayCache) -> None:
    """Weights come along, and the normalised batch has them."""
    source, coding, norm, target = set_of("ids", tmp_path)
    transform = TrainTransform((24, 32), AUGMENT)
    dataset = TrainDataset(source, source.splits()["train"], coding, norm, transform, target, cache)
    batch = as_item(default_collate([dataset[0, 1], dataset[1, 2]]), norm)
    assert batch["weight"].shape == batch["target"].shape == (2, 24, 32)
    assert batch["image"].shape == (2, 1, 24, 32)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sets no such limit")
@pytest.mark.parametrize(("allowed", "kept"), [(1024, 256), (40, 16), (2**20, 4096), (-1, 4096)])
def test_a_process_keeps_most_of_its_file_descriptors(
    allowed: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    number = resource.RLIM_INFINITY if allowed == -1 else allowed
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (number, number))
    made = ArrayCache()
    assert made._most == kept
    made.close()
