"""Items and draws: what a batch holds, the same with any number of workers."""

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from segkit.checkpoint.coding import LabelCoding
from segkit.checkpoint.normalization import Normalization
from segkit.core.errors import SegkitError
from segkit.data.augment.transforms import TrainTransform
from segkit.data.loading.dataset import TrainDataset, WholeDataset, as_item
from segkit.data.loading.samplers import DrawSampler
from segkit.data.sources.base import DataSource
from segkit.data.sources.cells import CellsSource
from segkit.data.sources.folder import FolderSource
from segkit.targets.base import BorderCore, Foreground, Labels
from segkit.targets.weight_map import WeightMap

EIGHT = Normalization("uint8", 0, 255, (0.5,), (0.25,))
AUGMENT: list[dict[str, Any]] = [
    {"name": "D4", "p": 1.0},
    {"name": "ElasticTransform", "alpha": 40, "sigma": 6, "p": 0.5},
    {"name": "RandomBrightnessContrast", "p": 0.7},
    {"name": "GaussNoise", "p": 0.5},
]


def cells(mode: Any = "binary", **options: Any) -> CellsSource:
    return CellsSource(mode, **{"train": 6, "val": 3, "test": 0, "size": (48, 40), **options})


def train_set(augment: list[dict[str, Any]] = AUGMENT, norm: Normalization = EIGHT) -> TrainDataset:
    source = cells(channels=3 if len(norm.mean) == 3 else 1)
    transform = TrainTransform((32, 32), augment)
    return TrainDataset(
        source, source.splits()["train"], LabelCoding({}), norm, transform, Labels()
    )


def item_of(dataset: TrainDataset, index: int, seed: int) -> Any:
    """A training item as the network takes it."""
    crops = torch.utils.data.default_collate([dataset[index, seed]])
    return {key: value[0] for key, value in as_item(crops, dataset.normalization).items()}


def layers(root: Path) -> FolderSource:
    """One 16-bit image, two overlapping classes, and a value that is no label."""
    mask = np.zeros((9, 8, 2), np.uint16)
    mask[:4, :, 0] = 300
    mask[2:, :, 1] = 1
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    tifffile.imwrite(root / "images" / "a.tif", np.full((9, 8), 51, np.uint16))
    tifffile.imwrite(root / "masks" / "a.tif", mask, planarconfig="contig")
    return FolderSource("multilabel", root=root, val_fraction=0)


# --- items ---------------------------------------------------------------------------------------


def test_a_whole_item() -> None:
    source = cells()
    sample = source.splits()["val"][1]
    item = WholeDataset(source, source.splits()["val"], LabelCoding({}), EIGHT, Labels())[1]
    assert (item["image"].shape, item["image"].dtype) == ((1, 48, 40), torch.float32)
    assert (item["target"].shape, item["target"].dtype) == ((48, 40), torch.int64)
    assert item["index"] == 1
    wanted = (source.read_image(sample)[..., 0] / 255 - 0.5) / 0.25
    np.testing.assert_allclose(item["image"][0], wanted, atol=1e-5)
    np.testing.assert_array_equal(item["target"], source.read_mask(sample))


def test_a_training_item() -> None:
    dataset = train_set()
    assert len(dataset) == 6
    item = item_of(dataset, 2, 7)
    assert (item["image"].shape, item["image"].dtype) == ((1, 32, 32), torch.float32)
    assert (item["target"].shape, item["target"].dtype) == ((32, 32), torch.int64)
    assert item["index"] == 2
    assert set(item["target"].unique().tolist()) <= {0, 1, 255}


def test_without_augmentation_image_and_labels_are_those_of_the_source() -> None:
    dataset = train_set([])
    whole = WholeDataset(cells(), dataset.samples, LabelCoding({}), EIGHT, Labels())[3]
    item = item_of(dataset, 3, 11)
    height, width = 48 - 32 + 1, 40 - 32 + 1
    assert any(
        torch.equal(whole["image"][:, y : y + 32, x : x + 32], item["image"])
        and torch.equal(whole["target"][y : y + 32, x : x + 32], item["target"])
        for y in range(height)
        for x in range(width)
    )


def test_16_bits_and_overlapping_classes(tmp_path: Path) -> None:
    source = layers(tmp_path)
    norm = Normalization("uint16", 1, 101, (0.0,), (1.0,))
    samples = source.splits()["train"]
    coding = LabelCoding({300: 1})
    whole = WholeDataset(source, samples, coding, norm, Labels())[0]
    assert whole["target"].shape == (2, 9, 8)
    assert whole["target"].sum(dim=(1, 2)).tolist() == [32, 56]
    assert torch.allclose(whole["image"], torch.full((1, 9, 8), 0.5))
    transform = TrainTransform((5, 4), [{"name": "D4", "p": 1.0}])
    item = item_of(TrainDataset(source, samples, coding, norm, transform, Labels()), 0, 3)
    assert item["target"].shape == (2, 5, 4)
    assert item["target"].max() == 1
    assert torch.allclose(item["image"], torch.full((1, 5, 4), 0.5))


def test_errors_name_the_sample(tmp_path: Path) -> None:
    source = layers(tmp_path)
    norm = Normalization("uint16", 1, 101, (0.0,), (1.0,))
    samples, coding = source.splits()["train"], LabelCoding({})
    whole = WholeDataset(source, samples, coding, norm, Labels())
    train = TrainDataset(source, samples, coding, norm, TrainTransform((4, 4), []), Labels())
    for read in (lambda: whole[0], lambda: train[0, 0]):
        with pytest.raises(SegkitError, match=r"images/a\.tif: the mask has the values 300"):
            read()
    other = Normalization("uint16", 0, 1, (0,) * 3, (1,) * 3)
    with pytest.raises(SegkitError, match=r"images/a\.tif: .*3 channels"):
        WholeDataset(source, samples, coding, other, Labels())[0]


def test_objects_are_drawn_after_the_augmentation(tmp_path: Path) -> None:
    """Ids 255 and 70000 are objects, -1 is not labelled, and the weight map comes with them."""
    ids = np.zeros((32, 32), np.int32)
    ids[2:14, 2:16], ids[2:14, 16:30], ids[20:24] = 255, 70_000, -1
    image = np.full((32, 32), 9, np.uint8)
    for folder, array in (("images", image), ("masks", ids)):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / "a.tif", array)
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
    batch = torch.utils.data.default_collate([whole, whole])
    assert batch["weight"].shape == batch["ids"].shape == (2, 32, 32)


def test_markers_of_a_source_come_with_the_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """A marker in the first object of the first image only; the second image has none."""

    def read_markers(self: CellsSource, sample: Any) -> Any:
        first = (self.read_mask(sample) == 1) * np.int64(255)
        return None if sample.name.endswith("1") else first

    monkeypatch.setattr(CellsSource, "read_markers", read_markers)
    source = cells(instances=True)
    coding = LabelCoding({}, foreground=True)
    samples = source.splits()["val"]
    items = WholeDataset(source, samples, coding, EIGHT, Labels(), objects=True)
    assert items[0]["markers"].unique().tolist() == [0, 255]
    assert torch.equal(items[1]["markers"], items[1]["ids"])
    batch = torch.utils.data.default_collate([items[0], items[1]])
    assert batch["markers"].shape == (2, 48, 40)


def test_sets_without_ids_have_their_regions_as_objects() -> None:
    source = cells()
    item = WholeDataset(
        source, source.splits()["val"], LabelCoding({}), EIGHT, Labels(), objects=True
    )[0]
    assert torch.equal(item["ids"] > 0, item["target"] > 0)
    assert item["ids"].dtype == torch.int32


def test_an_augmentation_that_does_not_fit_is_said_before_the_first_batch() -> None:
    norm = Normalization("float32", 0, 1, (0.5,), (0.25,))
    with pytest.raises(
        SegkitError, match=r"transforms\[0\]: ChannelDropout .* 1 channels, float32"
    ):
        train_set([{"name": "ChannelDropout", "p": 0.01}], norm)


# --- draws ---------------------------------------------------------------------------------------


def draws(count: int, per_epoch: int, seed: int, epoch: int) -> list[tuple[int, int]]:
    sampler = DrawSampler(count, per_epoch, seed)
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == per_epoch
    return drawn


@given(st.integers(1, 40), st.integers(1, 90), st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_every_sample_is_drawn_as_often_as_the_others(
    count: int, per_epoch: int, seed: int, epochs: int
) -> None:
    counts = Counter(dict.fromkeys(range(count), 0))
    for epoch in range(epochs):
        counts.update(index for index, _ in draws(count, per_epoch, seed, epoch))
        assert max(counts.values()) - min(counts.values()) <= 1  # whenever the training ends
    assert set(counts) == set(range(count))


@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_draws_depend_on_seed_and_epoch_alone(seed: int, epoch: int) -> None:
    assert draws(20, 30, seed, epoch) == draws(20, 30, seed, epoch)
    assert draws(20, 30, seed, epoch) != draws(20, 30, seed, epoch + 1)
    assert draws(20, 30, seed, epoch) != draws(20, 30, seed + 1, epoch)


def test_seeds_are_not_repeated() -> None:
    seeds = [seed for epoch in range(5) for _, seed in draws(10, 200, 0, epoch)]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 0


def test_batches_are_the_same_with_any_number_of_workers() -> None:
    dataset = train_set()

    def batches(**options: Any) -> list[Any]:
        sampler = DrawSampler(len(dataset), 8, seed=3)
        return list(DataLoader(dataset, batch_size=4, sampler=sampler, **options))

    wanted = batches()
    got = batches(num_workers=2, multiprocessing_context="spawn")
    assert len(got) == len(wanted) == 2
    for one, two in zip(got, wanted, strict=True):
        for key in ("unit", "labels", "index"):
            assert torch.equal(one[key], two[key])


# --- the built-in set ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_cells_are_the_same_in_every_process(mode: Any, channels: int) -> None:
    source = cells(mode, channels=channels)
    other = pickle.loads(pickle.dumps(source))
    for samples in source.splits().values():
        for sample in samples:
            image, mask = source.read_image(sample), source.read_mask(sample)
            assert (image.shape, image.dtype) == ((48, 40, channels), np.uint8)
            assert (mask.shape, mask.dtype) == ((48, 40), np.uint8)
            assert mask.max() <= (1 if mode == "binary" else 2)
            np.testing.assert_array_equal(other.read_image(sample), image)
            np.testing.assert_array_equal(other.read_mask(sample), mask)


def test_cells_that_are_changed_are_not_changed_for_others() -> None:
    source = cells("multiclass")
    sample = source.splits()["train"][0]
    for read in (source.read_image, source.read_mask):
        before = read(sample).copy()
        read(sample)[:] = 77
        np.testing.assert_array_equal(read(sample), before)


def test_no_two_samples_are_alike() -> None:
    splits = cells().splits()
    assert {split: len(samples) for split, samples in splits.items()} == {
        "train": 6,
        "val": 3,
        "test": 0,
    }
    images = {
        source.read_image(sample).tobytes()
        for source in (cells(), cells(seed=1))
        for samples in splits.values()
        for sample in samples
    }
    assert len(images) == 2 * 9


def test_options_of_the_cells_are_checked() -> None:
    with pytest.raises(SegkitError, match="option 'size'"):
        DataSource.build("cells", mode="binary", size=(8, 8))
    with pytest.raises(SegkitError, match="option 'channels'"):
        DataSource.build("cells", mode="binary", channels=2)


def test_folder_options_are_checked_and_converted() -> None:
    source: Any = DataSource.build("folder", mode="binary", root="somewhere", label_map={"7": "1"})
    assert source.root == Path("somewhere")
    assert source.label_map == {7: 1}
    with pytest.raises(SegkitError, match="option 'label_map'"):
        DataSource.build("folder", mode="binary", root="somewhere", label_map={7: 256})
    with pytest.raises(SegkitError, match="option 'split'"):
        DataSource.build("folder", mode="binary", root="somewhere", split="blokcs")
