"""The summary of a good data set: notes, intensities and sizes."""

import numpy as np
import pytest
import tifffile
from data.small_sets import HALF, NOISE, put, run_check, write

from segkit.data.checks import facts, parts
from segkit.data.checks.summary import check
from segkit.data.sources.folder import FolderSource

# --- notes ---------------------------------------------------------------------------------------


def test_empty_masks_are_noted_by_file(tmp_path):
    put(tmp_path, HALF, HALF * 0, HALF)
    wanted = "1 of 3 masks are empty (background only): images/b.png"
    assert wanted in run_check(tmp_path).notes
    assert wanted in run_check(tmp_path, "multiclass").notes
    assert not run_check(tmp_path, "multiclass", class_names=("sky", "tree")).notes
    put(tmp_path, HALF, HALF * 0 + 255, HALF)
    notes = run_check(tmp_path, label_map={255: 255}).notes
    assert "1 of 3 masks have no labelled pixel: images/b.png" in notes


def test_sizes_may_differ_between_images(tmp_path):
    put(tmp_path, np.tile(HALF, (2, 1)), HALF, HALF)
    sizes = run_check(tmp_path).sizes
    assert sorted(sizes.values()) == [HALF.shape, HALF.shape, (2 * HALF.shape[0], HALF.shape[1])]


def test_shuffled_pages_are_noted(tmp_path):
    for folder, values in (("images", NOISE), ("masks", HALF)):
        (tmp_path / folder).mkdir()
        pages = np.stack([values + np.uint8(page * (values is NOISE)) for page in range(20)])
        tifffile.imwrite(tmp_path / folder / "s.tif", pages, photometric="minisblack")
    assert run_check(tmp_path, split="blocks").notes == []
    [note] = run_check(tmp_path, split="random").notes
    assert "neighbouring pages of s.tif" in note
    assert "data.split=blocks" in note


def test_a_quick_scan_prints_nothing(tmp_path, capfd):
    put(tmp_path, HALF, HALF)
    run_check(tmp_path)
    assert capfd.readouterr() == ("", "")


# --- intensities ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 3), ("uint16", 2), ("float32", 1)])
def test_intensities_are_those_of_the_training_images(tmp_path, dtype, channels):
    values = np.random.default_rng(0).uniform(10, 200, (3, 40, 30, channels)).astype(dtype)
    values[2] += 50  # the validation image
    for name, pixels in zip("abc", values, strict=True):
        write(tmp_path / f"images/{name}.tif", pixels)
        write(tmp_path / f"masks/{name}.png", np.eye(40, 30, dtype=np.uint8))
    summary = run_check(tmp_path)
    norm = summary.normalization
    assert (summary.in_channels, norm.dtype) == (channels, dtype)
    np.testing.assert_allclose(norm.high, 255 if dtype == "uint8" else 200, atol=1)
    train = np.stack([norm(pixels) for pixels in values[:2]]).reshape(-1, channels)
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(train.std(axis=0), 1, atol=1e-4)


def test_large_sets_are_sampled(tmp_path, monkeypatch):
    put(tmp_path, HALF, HALF, HALF)
    monkeypatch.setattr(facts, "PIXELS_PER_SET", 20)
    source = FolderSource("binary", root=tmp_path, split="blocks")
    kept = [each.pixels for each in facts.scan(source, source.splits())]
    assert [None if pixels is None else pixels.shape for pixels in kept] == [(11, 1), (11, 1), None]


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "?"])
@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (70, 90), (40, 30, 5)])
def test_fast_counting_gives_what_sorting_gives(kind, shape, monkeypatch):
    monkeypatch.setattr(parts, "EXACT_COUNTS", 1000)  # several parts
    values = np.random.default_rng(0).integers(-300, 300, shape).astype(kind)
    for array in (values, values[..., ::2], values.T, values[:, :0]):
        found, counts = np.unique(array, return_counts=True)
        wanted = list(zip(map(int, found), counts.tolist(), strict=True))
        assert list(parts.count_values(array).items()) == wanted


def test_counts_are_exact_beyond_what_float32_holds():
    array = np.zeros((2**12 + 1, 2**12), np.uint8)
    array[0, 0] = 7
    assert parts.count_values(array) == {0: array.size - 1, 7: 1}


@pytest.mark.parametrize(("dtype", "channels"), [("u1", 3), ("u2", 1), ("u2", 13), ("f4", 2)])
def test_intensities_of_an_image(tmp_path, dtype, channels):
    image = np.random.default_rng(0).uniform(20, 200, (41, 30, channels)).astype(dtype)
    image[:9] += image.dtype.type(50)
    write(tmp_path / "images/a.tif", image)
    write(tmp_path / "masks/a.png", np.eye(41, 30, dtype=np.uint8))
    source = FolderSource("binary", root=tmp_path)
    [found] = facts.scan(source, source.splits())
    assert found.intensities is not None
    values = image.astype(np.float64)
    wanted = (values.min(), values.max(), values.mean(), values.std())
    assert found.intensities[:4] == pytest.approx(wanted)
    assert found.intensities.at_top == pytest.approx((values == values.max()).mean())
    above = (values[:20].mean() - values[-20:].mean()) / values.std()
    assert found.brighter_above == pytest.approx(above)


def test_intensities_are_those_of_pixels_with_data(tmp_path):
    image = np.full((8, 8, 4), 60, np.uint8)
    image[:4] = 90
    image[2:6, :, 3] = 0
    image[image[..., 3] > 0, 3] = 255
    image[image[..., 3] == 0, :3] = 255  # hidden
    for name, pixels in (("a", image), ("b", image * [1, 1, 1, 0])):
        write(tmp_path / f"images/{name}.png", pixels.astype(np.uint8))
        write(tmp_path / f"masks/{name}.png", np.eye(8, dtype=np.uint8))
    source = FolderSource("binary", root=tmp_path)
    first, second = sorted(facts.scan(source, source.splits()), key=lambda f: f.sample.name)
    assert first.intensities == (60, 90, 75, 15, 0.5)
    assert second.intensities is None


# --- sizes ---------------------------------------------------------------------------------------


def draw_squares(*sides: int) -> np.ndarray:
    """A mask with squares of these sides along its diagonal."""
    mask, at = np.zeros((64, 64), np.uint8), 1
    for side in sides:
        mask[at : at + side, at : at + side] = 1
        at += side + 2
    return mask


TOUCHING = np.zeros((64, 64), np.uint8)
TOUCHING[:10, :10], TOUCHING[:10, 10:20], TOUCHING[10:20, :10] = 1, 2, 3
HALVES = draw_squares(30)
HALVES[1:31, 1:16] = 2
PARTLY = draw_squares(10)
PARTLY[40:] = 255


@pytest.mark.parametrize(
    ("mask", "mode", "options", "area"),
    [
        # a typical foreground pixel lies in the large object
        (draw_squares(20, 1, 1, 1, 1, 1, 1), "binary", {}, 400),
        (TOUCHING, "binary", {"instances": True}, 100),
        ((TOUCHING > 0).astype(np.uint8), "binary", {}, 300),
        (HALVES, "multiclass", {}, 450),  # regions of one class
        (PARTLY, "binary", {}, 100),  # unlabelled pixels and background are not objects
        (255 * draw_squares(12), "binary", {}, 144),
    ],
    ids=["specks", "ids", "regions", "classes", "unlabelled", "black and white"],
)
def test_typical_objects(tmp_path, mask, mode, options, area):
    summary = run_check(put(tmp_path, mask, mask, mask), mode, **options)
    assert summary.measures.object_diameter == pytest.approx(np.sqrt(4 * area / np.pi))


def test_large_masks_are_subsampled(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "PIXELS_PER_MASK", 32 * 32)
    found = run_check(put(tmp_path, *[draw_squares(20)] * 3)).measures.object_diameter
    assert found == pytest.approx(np.sqrt(4 * 400 / np.pi))


def test_sizes(tmp_path):
    sizes = [(30, 40), (10, 12), (20, 90), (22, 30), (400, 8)]  # the last one validates
    put(tmp_path, *[np.eye(*size, dtype=np.uint8) for size in sizes])
    found = run_check(tmp_path, val_fraction=0.2).measures
    assert (found.median, found.largest) == ((21, 35), (400, 90))


@pytest.mark.parametrize(
    ("sky", "count", "expected"), [(200, 12, True), (0, 12, False), (200, 5, None)]
)
def test_images_with_a_sky_are_upright(tmp_path, sky, count, expected):
    rng = np.random.default_rng(0)
    put(tmp_path, *[np.eye(20, dtype=np.uint8)] * count)
    for path in (tmp_path / "images").iterdir():
        pixels = rng.integers(0, 56, (20, 20, 3)).astype(np.uint8)
        pixels[:8] += np.uint8(sky)
        write(path, pixels)
    assert run_check(tmp_path, val_fraction=0.2).measures.upright is expected


def test_an_image_of_one_row_and_value(tmp_path):
    put(tmp_path, np.ones((1, 9), np.uint8), pixels=np.full((1, 9), 7, np.uint8))
    found = check(FolderSource("binary", root=tmp_path), "binary", needed=()).measures
    assert (found.median, found.upright) == ((1, 9), None)


# --- sides ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layered", [False, True])
def test_classes_that_lie_on_the_same_side_of_each_other(tmp_path, layered):
    """Class 2 right of class 1 in all images, class 3 anywhere."""
    rng = np.random.default_rng(0)
    for number in range(20):
        mask = np.zeros((30, 40), np.uint8)
        places = rng.permutation([(2, 3), (12, 3), (22, 3)])
        for label, (row, _), column in zip((1, 2), places, (3, 20), strict=False):
            mask[row : row + 6, column + number % 5 : column + 9] = label
        row, column = rng.integers(0, 25), rng.integers(0, 35)
        mask[row : row + 5, column : column + 5] = 3
        write(tmp_path / f"images/{number}.png", (mask * 60).astype(np.uint8))
        saved = np.stack([mask == label for label in (1, 2, 3)]).astype(np.uint8)
        if layered:
            tifffile.imwrite(tmp_path / f"images/{number}.tif", mask * 60)
            (tmp_path / f"images/{number}.png").unlink()
            (tmp_path / "masks").mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / f"masks/{number}.tif", saved, photometric="minisblack")
        else:
            write(tmp_path / f"masks/{number}.png", mask)
    mode = "multilabel" if layered else "multiclass"
    sides = run_check(tmp_path, mode).measures.sides
    names = ("class 0", "class 1") if layered else ("class 1", "class 2")
    assert sides == {"left of": f"'{names[0]}' is left of '{names[1]}'"}
