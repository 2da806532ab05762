"""Large images: divided into blocks, and read by windows wherever only a part is needed."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from conftest import QUICK, train_quick
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segkit.checkpoint.values import LabelCoding
from segkit.config.schema import Data
from segkit.core.errors import SegkitError
from segkit.data.augment import TrainTransform, count_by_row
from segkit.data.checks import facts, parts
from segkit.data.checks.facts import Facts
from segkit.data.checks.summary import DataSummary, check
from segkit.data.layout.blocks import Shares, divide_samples, take_whole
from segkit.data.loading import SMALL, ArrayCache, TrainDataset, WholeDataset
from segkit.data.open_images import OPEN, OpenImages
from segkit.data.sources import folder
from segkit.data.sources.base import SPLITS, Sample
from segkit.data.sources.folder import FolderSource
from segkit.targets.base import BorderCore, Labels
from segkit.training import datamodule
from segkit.training.datamodule import SegmentationData

RNG = np.random.default_rng(5)
H, W = 150, 130
COLOURS = RNG.integers(0, 256, (H, W, 3)).astype(np.uint8)
REGIONS = np.kron(RNG.integers(0, 3, (15, 13)), np.ones((10, 10))).astype(np.uint8)
TILED: dict[str, Any] = {"tile": (32, 32), "compression": "zlib"}


def put(root: Path, image: Any = COLOURS, mask: Any = REGIONS, name: str = "a") -> Path:
    """An image and a mask as tiled TIFFs that are read by windows."""
    for where, array in (("images", image), ("masks", mask)):
        (root / where).mkdir(parents=True, exist_ok=True)
        kind = "rgb" if array.shape[2:] == (3,) else "minisblack"
        options: Any = {"planarconfig": "contig"} if array.shape[2:] else {}
        path = root / where / f"{name}.tif"
        tifffile.imwrite(path, array, photometric=kind, **TILED, **options)
    return root


def in_blocks(root: Path, mode: Any = "multiclass", **options: Any) -> FolderSource:
    return FolderSource(mode, root, split="tiles", **{"tile_size": 40, **options})


def list_samples(source: FolderSource) -> list[Sample]:
    assert source.problems() == []
    return [sample for part in source.splits().values() for sample in part]


# --- blocks --------------------------------------------------------------------------------------


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


def files(root: Path, name: str = "a") -> tuple[Path, Path]:
    return root / "images" / f"{name}.tif", root / "masks" / f"{name}.tif"


def at(sample: Sample) -> tuple[slice, slice]:
    assert sample.window is not None
    top, left, height, width = sample.window
    return slice(top, top + height), slice(left, left + width)


# --- every format --------------------------------------------------------------------------------


def put_png(root: Path) -> FolderSource:
    for where, array in (("images", COLOURS), ("masks", REGIONS)):
        (root / where).mkdir()
        Image.fromarray(array).save(root / where / "a.png")
    return in_blocks(root)


def put_turned(root: Path) -> FolderSource:
    put_png(root)
    (root / "images" / "a.png").unlink()
    turned = Image.fromarray(np.ascontiguousarray(COLOURS[::-1, ::-1]))
    exif = turned.getexif()
    exif[0x0112] = 3
    turned.save(root / "images" / "a.png", exif=exif)
    return in_blocks(root)


def put_alpha(root: Path) -> FolderSource:
    alpha = np.where(REGIONS == 2, 0, 255).astype(np.uint8)
    put(root)
    image, _ = files(root)
    options = {**TILED, "photometric": "rgb", "planarconfig": "contig"}
    tifffile.imwrite(image, np.dstack([COLOURS, alpha]), extrasamples=["unassalpha"], **options)
    return in_blocks(root)


def put_nodata(root: Path) -> FolderSource:
    put(root)
    image = COLOURS[..., 0].astype(np.uint16) * 7
    image[30:90, 20:60] = 9
    tags = [(42113, "s", 0, "9", True)]
    tifffile.imwrite(files(root)[0], image, photometric="minisblack", extratags=tags, **TILED)
    return in_blocks(root)


def put_nan(root: Path) -> FolderSource:
    image = RNG.normal(3, 1, (H, W, 2)).astype(np.float32)
    image[40:80, :50] = np.nan
    image[100, 100, 0] = np.nan
    return in_blocks(put(root, image))


def put_palettes(root: Path) -> FolderSource:
    """Masks whose palettes differ, so that colours count."""
    for name, order in (("a", [0, 1, 2]), ("b", [2, 1, 0])):
        put(root, name=name)
        colours = np.zeros((3, 256), np.uint16)
        colours[:, :3] = np.array([[0, 0, 0], [255, 0, 0], [0, 200, 50]])[order].T * 257
        mask = np.array(order, np.uint8)[REGIONS]
        path = files(root, name)[1]
        tifffile.imwrite(path, mask, photometric="palette", colormap=colours, **TILED)
    colors = ((0, 0, 0), (255, 0, 0), (0, 200, 50))
    return in_blocks(root, class_colors=colors)


def put_colours(root: Path) -> FolderSource:
    colors = ((0, 0, 0), (255, 0, 0), (0, 200, 50))
    return in_blocks(
        put(root, mask=np.array(colors, np.uint8)[REGIONS]), class_colors=colors, channels=1
    )


def put_nearest(root: Path) -> FolderSource:
    colors = ((0, 0, 0), (255, 0, 0), (0, 200, 50))
    mask = np.clip(np.array(colors)[REGIONS] + RNG.integers(-20, 20, (H, W, 3)), 0, 255)
    put(root, mask=mask.astype(np.uint8))
    return in_blocks(root, class_colors=colors, mask_values="nearest")


def put_bits(root: Path) -> FolderSource:
    """1 bit, in which white is stored as 0."""
    put(root)
    for path, shift in zip(files(root), (0, 3), strict=True):
        bits = np.roll(REGIONS, shift) > 0
        tifffile.imwrite(path, bits, photometric="miniswhite", tile=(32, 32))
    return in_blocks(root, "binary")


def put_white(root: Path) -> FolderSource:
    put(root)
    options = {**TILED, "photometric": "miniswhite"}
    tifffile.imwrite(files(root)[0], COLOURS[..., 0], **options)
    return in_blocks(root)


def put_ids(root: Path) -> FolderSource:
    ids = 1000 * np.kron(np.arange(195).reshape(15, 13), np.ones((10, 10), int)).astype(np.int32)
    return in_blocks(put(root, mask=ids), "binary", instances=True)


def put_ids_nodata(root: Path) -> FolderSource:
    put_nodata(root)
    tifffile.imwrite(files(root)[1], REGIONS * np.uint16(300), photometric="minisblack", **TILED)
    return in_blocks(root, "binary", instances=True)


def put_layers(root: Path) -> FolderSource:
    layers = np.stack([REGIONS == 1, REGIONS == 2, REGIONS > 0, REGIONS < 9], 2).astype(np.uint8)
    return in_blocks(put(root, mask=layers), "multilabel")


def put_pages_of_layers(root: Path) -> FolderSource:
    put(root)
    with tifffile.TiffWriter(files(root)[1]) as out:
        for value in (1, 2):
            layer = np.equal(REGIONS, value).astype(np.uint8)
            out.write(layer, photometric="minisblack", metadata=None, **TILED)
    return in_blocks(root, "multilabel")


def put_same_channels(root: Path) -> FolderSource:
    """RGB masks whose channels are equal but for one pixel, which only the whole mask tells."""
    mask = np.dstack([REGIONS > 0] * 3).astype(np.uint8)
    mask[-1, -1] = 0, 1, 0
    return in_blocks(put(root, mask=mask), "multilabel")


def put_stack(root: Path) -> FolderSource:
    for where, array in (("images", COLOURS[..., 0]), ("masks", REGIONS)):
        (root / where).mkdir()
        with tifffile.TiffWriter(root / where / "a.tif") as out:
            for page in range(2):
                turned = np.roll(array, 5 * page)
                out.write(turned, photometric="minisblack", metadata=None, **TILED)
    return in_blocks(root)


def put_npy(root: Path) -> FolderSource:
    for where, array in (("images", COLOURS), ("masks", REGIONS.astype(np.int16))):
        (root / where).mkdir()
        np.save(root / where / "a.npy", array)
    return in_blocks(root)


def put_zarr(root: Path) -> FolderSource:
    zarr = pytest.importorskip("zarr")
    for where, array in (("images", COLOURS), ("masks", REGIONS)):
        (root / where).mkdir()
        chunks = (40, 40, *array.shape[2:])
        zarr.create_array(root / where / "a.zarr", data=array, chunks=chunks)
    return in_blocks(root)


def put_hdf5(root: Path) -> FolderSource:
    h5py = pytest.importorskip("h5py")
    for where, array in (("images", COLOURS), ("masks", REGIONS)):
        (root / where).mkdir()
        with h5py.File(root / where / "a.h5", "w") as file:
            chunks = (40, 40, *array.shape[2:])
            file.create_dataset("raw", data=array, chunks=chunks, compression="gzip")
    return in_blocks(root)


def put_slide(root: Path) -> FolderSource:
    put(root)
    tifffile.imwrite(root / "images" / "a.svs", COLOURS, photometric="rgb", **TILED)
    (root / "images" / "a.tif").unlink()
    return in_blocks(root)


BY_WINDOWS: list[Callable[[Path], FolderSource]] = [
    *(put_alpha, put_nodata, put_nan, put_palettes, put_colours, put_nearest, put_bits, put_white),
    *(
        put_ids,
        put_ids_nodata,
        put_layers,
        put_pages_of_layers,
        put_stack,
        put_npy,
        put_zarr,
        put_hdf5,
        put_slide,
    ),
]
WHOLE: list[Callable[[Path], FolderSource]] = [put_png, put_turned, put_same_channels]


def same(one: Any, two: Any) -> None:
    """Equal masked arrays, or equal arrays of the same type."""
    assert type(one) is type(two) or not np.ma.is_masked(two)
    if np.ma.is_masked(two):
        np.testing.assert_array_equal(np.ma.getmaskarray(one), np.ma.getmaskarray(two))
    np.testing.assert_array_equal(np.ma.getdata(one), np.ma.getdata(two))


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
    monkeypatch.setattr(folder.ImageReader, "read", None)
    for sample in samples[:3]:
        source.read_image(sample)
        source.read_mask(sample)


def test_others_are_decoded_once(tmp_path, monkeypatch):
    source, read = put_png(tmp_path), []
    monkeypatch.setattr(
        folder.ImageReader,
        "read",
        lambda self, page=None, real=folder.ImageReader.read: (
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


# --- crops ---------------------------------------------------------------------------------------


@pytest.fixture
def large(monkeypatch):
    """Images of any size are large."""
    monkeypatch.setattr(folder, "LARGE", 0)


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
    summary = summary or check(source, source.mode)
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
    summary = check(source, source.mode)
    make = make_dataset(source, samples, context=context, summary=summary)
    wanted = [make[draw] for draw in draws]
    again = put_again(source)
    monkeypatch.setattr(folder, "LARGE", 0)
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


def put_again(source: FolderSource) -> FolderSource:
    """A copy that has measured nothing yet."""
    copied: FolderSource = pickle.loads(pickle.dumps(source))
    copied._large.clear()
    return copied


def test_only_what_a_crop_touches_is_decoded(tmp_path, large, monkeypatch):
    source = in_blocks(put(tmp_path))
    whole = take_whole(list_samples(source)[0])
    dataset, read = make_dataset(source, [whole], share=0), []
    for name in ("read_image", "read_mask"):

        def spy(sample: Sample, real: Any) -> Any:
            read.append(sample.window)
            return real(sample)

        monkeypatch.setattr(source, name, partial(spy, real=getattr(source, name)))
    monkeypatch.setattr(folder.ImageReader, "read", None)
    _ = dataset[0, 1]
    assert len(read) == 2
    assert read[0] == read[1]
    assert read[0][2:] == (24, 24)  # square, because it may be turned


@pytest.mark.parametrize("put_files", [put_png, put_same_channels])
def test_what_has_no_windows_is_read_whole(put_files, tmp_path, monkeypatch):
    source = put_files(tmp_path)
    whole = [*dict.fromkeys(map(take_whole, list_samples(source)))]
    wanted = [make_dataset(source, whole)[0, seed] for seed in range(4)]
    monkeypatch.setattr(folder, "LARGE", 0)
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
    with source._open.open(sample.image, None) as ours:
        pass
    source._open._process += 1  # as a fork sees it
    with source._open.open(sample.image, None) as own:
        assert own is not ours


def test_small_images_are_not_large(tmp_path, monkeypatch):
    source = in_blocks(put(tmp_path))
    sample = list_samples(source)[0]
    assert source.measure_large(sample) is None
    for limit, is_large in ((H * W * 3 - 1, True), (H * W * 3, False)):
        monkeypatch.setattr(folder, "LARGE", limit)
        assert (put_again(source).measure_large(sample) is not None) is is_large


# --- whole images --------------------------------------------------------------------------------


def test_the_summary_tells_what_is_large(tmp_path, monkeypatch):
    source = put_same_channels(tmp_path)
    together = check(source, "multilabel")
    assert not together.large
    assert together.decoded["train"] + together.decoded["val"] == H * W * (3 + 2 * 3)
    monkeypatch.setattr(folder, "LARGE", 0)
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
    monkeypatch.setattr(folder, "LARGE", 0)
    again = make(put_again(source))
    for index, item in enumerate(wanted):
        same_items(again[index], item)
    part = again.take_part(0, (10, 20, 30, 40)).truth(0)["target"]
    np.testing.assert_array_equal(part, wanted[0]["target"][10:40, 20:60])


def make_data(source: FolderSource, **options: Any) -> SegmentationData:
    summary = check(source, source.mode)
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
    assert len(seen) == 9
    assert max(max(item["target"].shape[1:]) for item in seen) <= 60
    [whole] = [data.whole("val")[0]]
    counts = sum(np.bincount(item["target"].numpy().ravel(), minlength=3) for item in seen)
    np.testing.assert_array_equal(counts, np.bincount(whole["target"].numpy().ravel()))
    monkeypatch.setattr(datamodule, "PART", 150)
    assert len(list(data.val_dataloader())) == 1


# --- the check -----------------------------------------------------------------------------------


@pytest.fixture
def bands(monkeypatch):
    """Bands of a few rows."""
    monkeypatch.setattr("segkit.data.layout.blocks.BAND_BYTES", 1)
    monkeypatch.setattr("segkit.data.layout.blocks.TILE", 16)


def scan_whole(source: FolderSource) -> Facts:
    whole = take_whole(list_samples(source)[0])
    [found] = facts.scan(source, {"train": [whole]})
    assert found.errors == []
    return found


@pytest.mark.parametrize("put_files", BY_WINDOWS)
def test_bands_tell_the_same_as_the_whole(put_files, tmp_path, monkeypatch, bands):
    monkeypatch.setattr(facts, "PIXELS_OF_INTENSITIES", 1000)
    monkeypatch.setattr(facts, "PIXELS_PER_MASK", 2000)
    monkeypatch.setattr(facts, "PIXELS_PER_IMAGE", 500)
    source = put_files(tmp_path)
    wanted = scan_whole(source)
    monkeypatch.setattr(folder, "LARGE", 0)
    monkeypatch.setattr(folder.ImageReader, "read", None)
    found = scan_whole(put_again(source))
    assert wanted.layers == found.layers
    for name in ("shape", "dtype", "mask_shape", "empty", "share"):
        assert getattr(found, name) == getattr(wanted, name), name
    assert found.brighter_above == pytest.approx(wanted.brighter_above)
    assert found.areas.keys() == wanted.areas.keys()
    for value, areas in wanted.areas.items():
        np.testing.assert_array_equal(found.areas[value], areas)
    assert found.pixels is not None
    assert wanted.pixels is not None
    assert len(found.pixels) == len(wanted.pixels) == 500
    assert np.isfinite(found.pixels).all()
    if not wanted.empty and found.dtype != "float32":
        np.testing.assert_array_equal(found.pixels, wanted.pixels)
    else:
        scale = wanted.pixels.std(axis=0)
        difference = found.pixels.mean(axis=0) - wanted.pixels.mean(axis=0)
        assert (np.abs(difference) < 0.3 * scale).all()


def test_masks_that_are_read_whole_are_counted_too(tmp_path, large, bands):
    put_nodata(tmp_path)
    (tmp_path / "masks" / "a.tif").unlink()
    Image.fromarray(REGIONS).save(tmp_path / "masks" / "a.png")
    found = scan_whole(in_blocks(tmp_path))
    shown = np.ones((H, W), np.bool_)
    shown[30:90, 20:60] = False
    assert found.layers == [dict(enumerate(np.bincount(REGIONS[shown]).tolist()))]


def test_large_images_with_problems(tmp_path, large, bands):
    image = RNG.normal(3, 1, (H, W)).astype(np.float32)
    image[-1, -1] = np.inf
    put(tmp_path, image)
    zeros = np.zeros_like(image)
    put(tmp_path, zeros, REGIONS[:-1], "b")
    put(tmp_path, zeros, REGIONS.astype(np.int32) - 1, "c")
    put(tmp_path, name="d")
    path = tmp_path / "images" / "d.tif"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(SegkitError) as caught:
        check(FolderSource("binary", tmp_path, instances=True), "binary")
    text = str(caught.value)
    assert "a.tif: the image has infinite values" in text
    assert "b.tif: the image has 150 x 130 pixels (height x width), its mask 149 x 130" in text
    assert "c.tif: the mask has the negative value -1" in text
    assert text.count("d.tif") == 1
    assert "d.tif: cannot be read: it is cut short" in text


def test_a_sample_of_a_huge_image_is_checked_and_a_note_says_so(tmp_path, monkeypatch, bands):
    put(tmp_path)
    put_nodata(tmp_path / "b")
    monkeypatch.setattr(folder, "LARGE", 0)
    monkeypatch.setattr(parts, "MOST_PIXELS", 5000)
    monkeypatch.setattr(facts, "PIXELS_PER_IMAGE", 500)
    found = scan_whole(in_blocks(tmp_path))
    assert found.share == pytest.approx(2 * 16 / 150)
    assert found.pixels is not None
    assert len(found.pixels) > 400
    [counts] = found.layers
    assert sum(counts.values()) == pytest.approx(H * W, rel=0.01)
    for value, share in enumerate(np.bincount(REGIONS.ravel()) / REGIONS.size):
        assert counts[value] / (H * W) == pytest.approx(share, abs=0.15)
    areas = np.concatenate([*found.areas.values()])
    assert areas.sum() == pytest.approx(2 * 16 * W, rel=0.1)
    for name in "bcd":
        put(tmp_path, name=name)
    summary = check(FolderSource("multiclass", tmp_path), "multiclass")
    [note] = [note for note in summary.notes if "so large" in note]
    assert "4 images are so large that only a sample of them is checked, 0 of 0 million" in note
    assert not summary.with_empty
    summary = check(in_blocks(tmp_path / "b", tile_size=70), "multiclass")
    assert len(summary.with_empty) == len(summary.splits["train"]) + len(summary.splits["val"])


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_trains_on_blocks_and_on_windows_of_them(tmp_path, large):
    regions = np.kron(RNG.integers(0, 2, (30, 30)), np.ones((100, 100))).astype(np.uint8)
    image = RNG.integers(0, 90, (3000, 3000, 3)).astype(np.uint8) + 120 * regions[..., None]
    root = put(tmp_path / "data", image, regions)
    options = [
        *("data=folder", f"data.root={root}", "data.split=tiles", "trainer.max_steps=4"),
        *("encoder.pretrained=false", "data.crop_size=128", "data.foreground_share=0.5"),
    ]
    fixed = [each for each in QUICK if "experiment" not in each]
    command = [sys.executable, "-m", "segkit.train", *options, *fixed]
    started = subprocess.run(
        [*command, f"hydra.run.dir={tmp_path / 'whole'}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode == 0, started.stderr
    assert "folder: 20 train, 5 val, 0 test" in started.stdout
    train_quick(tmp_path / "windows", *options, quick=fixed)
    results = [json.loads((tmp_path / run / "result.json").read_text()) for run in RUNS]
    for result in results:
        for key in ("seconds", "seconds_per_step", "overrides"):
            del result[key]
    assert results[0] == results[1]
    assert results[0]["val/iou"] > 0


RUNS = ("whole", "windows")
