"""Data sets of torchgeo: bands, splits, names and colours of classes, and what is refused."""

import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segkit.core.errors import SegkitError
from segkit.data.checks.summary import check
from segkit.data.sources.base import SPLITS, Sample
from segkit.data.sources.torchgeo import TorchgeoSource

geo = pytest.importorskip("torchgeo.datasets", reason="the extra torchgeo is not installed")

RNG = np.random.default_rng(0)
SIZE = (16, 24)


class Fields(geo.NonGeoDataset):
    """Four bands of reflectances in an undivided set, drawn from the index."""

    all_bands = ("B02", "B03", "B04", "B08")
    classes = ("soil", "wheat", "maize")
    colormap = ("saddlebrown", "#ffd700", (0, 128, 0))

    def __init__(self, root: str, bands: tuple[str, ...] = all_bands, kind: str = "classes"):
        assert isinstance(bands, tuple)
        self.bands, self.kind = bands, kind

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        random = torch.Generator().manual_seed(index)
        image = torch.rand(4, *SIZE, generator=random) * 0.3
        mask = torch.randint(0, 3, SIZE, generator=random)
        image = image[[self.all_bands.index(band) for band in self.bands]]
        if self.kind == "series":
            image = image[None]
        if self.kind == "layers":
            mask = torch.stack([mask == label for label in range(3)])
        if self.kind == "measured":
            mask = mask + 0.5
        if self.kind == "one":
            mask = mask[None].float()
        sample = {"image": image, "mask": mask, "label": torch.tensor(0)}
        return {"image": image} if self.kind == "no mask" else sample


@pytest.fixture
def fields(monkeypatch):
    monkeypatch.setattr(geo, "Fields", Fields, raising=False)


def write_land_cover(root: Path, **splits: int) -> None:
    """Chips in the layout of LandCover.ai."""
    (root / "output").mkdir()
    for split in SPLITS:
        names = [f"M-33_{split}_{number}" for number in range(splits.get(split, 0))]
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            image = RNG.integers(0, 256, (*SIZE, 3), np.uint8)
            Image.fromarray(image).save(root / f"output/{name}.jpg")
            mask = RNG.integers(0, 5, SIZE, np.uint8)
            Image.fromarray(mask).save(root / f"output/{name}_m.png")


def source(dataset: str, root: Path, mode: Any = "multiclass", **options: Any) -> TorchgeoSource:
    return TorchgeoSource(mode, dataset, root, **options)


def count(source: TorchgeoSource) -> list[int]:
    return [len(source.splits()[split]) for split in SPLITS]


def everything(source: TorchgeoSource) -> list[Sample]:
    return [sample for part in source.splits().values() for sample in part]


def test_land_cover_equals_torchgeo_pixel_for_pixel(tmp_path):
    write_land_cover(tmp_path, train=4, val=2, test=1)
    found = source("LandCoverAI100", tmp_path)
    assert count(found) == [4, 2, 1]
    for split in SPLITS:
        theirs = geo.LandCoverAI100(str(tmp_path), split=split)
        for number, sample in enumerate(found.splits()[split]):
            item = theirs[number]
            image = found.read_image(sample)
            assert (image.dtype, image.shape) == (np.float32, (*SIZE, 3))
            np.testing.assert_array_equal(image.transpose(2, 0, 1), item["image"].numpy())
            np.testing.assert_array_equal(found.read_mask(sample), item["mask"].numpy())
    assert everything(found)[0].name == "M-33_train_0"


def test_names_and_colours_are_those_of_the_class(tmp_path):
    write_land_cover(tmp_path, train=4, val=2, test=1)
    found = source("LandCoverAI100", tmp_path)
    summary = check(found, "multiclass")
    assert summary.class_names == ("Background", "Building", "Woodland", "Water", "Road")
    assert summary.background == 0
    assert found.class_colors is not None
    assert found.class_colors[3] == (0, 197, 255)
    own = source("LandCoverAI100", tmp_path, class_names=tuple("abcde"))
    assert (own.class_names, own.class_colors) == (tuple("abcde"), found.class_colors)
    mapped = source("LandCoverAI100", tmp_path, label_map={2: 0, 3: 0, 4: 0})
    assert (mapped.class_names, mapped.class_colors) == (None, None)
    assert check(mapped, "multiclass").num_classes == 2


def test_a_test_split_without_files_or_masks_is_left_out(tmp_path):
    write_land_cover(tmp_path, train=4, val=2)
    found = source("LandCoverAI100", tmp_path)
    assert count(found) == [4, 2, 0]
    assert found.notes()[0].startswith("the test split is left out: data.root: torchgeo's LandCove")


def test_bands_are_channels_in_the_order_of_the_class(tmp_path, fields):
    found = source("Fields", tmp_path, options={"bands": ["B08", "B02"]}, test_fraction=0.25)
    assert count(found) == [4, 2, 2]
    assert "the channels are the bands B08, B02, in this order" in found.notes()
    whole = source("Fields", tmp_path, test_fraction=0.25)
    for sample in everything(found):
        assert re.fullmatch(r"train/00000\d", sample.name)
        np.testing.assert_array_equal(
            found.read_image(sample), whole.read_image(sample)[..., [3, 0]]
        )
    summary = check(whole, "multiclass")
    assert (summary.in_channels, summary.class_names) == (4, ("soil", "wheat", "maize"))
    assert whole.class_colors == ((139, 69, 19), (255, 215, 0), (0, 128, 0))


def test_a_source_travels_to_workers_and_is_read_by_several_threads(tmp_path):
    write_land_cover(tmp_path, train=20, val=1)
    found = source("LandCoverAI100", tmp_path)
    copy = pickle.loads(pickle.dumps(found))
    assert copy.splits() == found.splits()
    samples = everything(found) * 6
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(copy.read_image, samples))
        masks = list(pool.map(copy.read_mask, samples))
    for sample, image, mask in zip(samples, images, masks, strict=True):
        np.testing.assert_array_equal(image, found.read_image(sample))
        np.testing.assert_array_equal(mask, found.read_mask(sample))
    images[0][:] = 0  # the set keeps its tensors
    assert found.read_image(samples[0]).any()


def test_masks_of_other_shapes(tmp_path, fields):
    plain = source("Fields", tmp_path)
    one = source("Fields", tmp_path, options={"kind": "one"})
    layers = source("Fields", tmp_path, "multilabel", options={"kind": "layers"})
    for sample in everything(plain):
        mask = plain.read_mask(sample)
        np.testing.assert_array_equal(one.read_mask(sample), mask)
        assert one.read_mask(sample).dtype == np.int32
        expected = np.stack([mask == label for label in range(3)], axis=2)
        np.testing.assert_array_equal(layers.read_mask(sample), expected)
    assert check(layers, "multilabel").num_classes == 3


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("series", r"the image has the shape \(1, 4, 16, 24\), not \(C, H, W\)"),
        ("measured", "the mask holds fractions"),
    ],
)
def test_items_that_are_no_image_with_classes_are_reported(tmp_path, fields, kind, message):
    with pytest.raises(SegkitError, match=message):
        check(source("Fields", tmp_path, options={"kind": kind}), "multiclass")


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("LandCoverAI10", {}, "torchgeo.datasets has no 'LandCoverAI10'. Did you mean"),
        ("Landsat8", {}, "Landsat8 is a GeoDataset, whose images are cut by coordinates"),
        ("BoundingBox", {}, "torchgeo"),
        ("LandCoverAI100", {}, "data.download=true downloads it"),
        ("Fields", {"options": {"kind": "no mask"}}, "Fields gives image; segkit needs"),
        ("Fields", {"options": {"band": "B02"}}, "no argument 'band'. Did you mean 'bands'"),
        ("Fields", {"options": {"bands": "B02"}}, "data.options: torchgeo's Fields does not take"),
        ("Fields", {"split_names": {"train": "train"}}, "remove data.split_names"),
        ("Fields", {"download": True}, "Fields cannot download its data"),
        ("EuroSAT", {}, "data.download=true downloads it"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, fields, dataset, options, message):
    with pytest.raises(SegkitError, match=re.escape(message)):
        source(dataset, tmp_path, **options)
