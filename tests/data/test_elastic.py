"""The elastic deformation of the 2015 U-Net: its field, and images aligned with masks."""

from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
import yaml

from segkit.core.labels import IGNORE_INDEX
from segkit.data.augment import ElasticGrid, check_augment, interpolate_grid

SIZES = [(33, 47), (64, 64), (2, 5)]


def warped(seed: int = 0, **options: Any) -> Any:
    """The seeded transform."""
    transform = ElasticGrid(**{"p": 1.0, **options})
    transform.set_random_seed(seed)
    return transform


def positions(height: int, width: int) -> np.ndarray:
    """(H, W, 2) float32: row and column of every pixel."""
    return np.stack(np.mgrid[:height, :width], axis=2).astype(np.float32)


# --- the field -----------------------------------------------------------------------------------


def test_three_nodes_are_interpolated_by_a_natural_cubic_spline():
    """Between y0 and y1: the straight line plus M (t^3 - t) / 6, M = 3/2 (y0 - 2 y1 + y2)."""
    y0, y1, y2 = 4.0, -7.0, 12.0
    field = interpolate_grid(np.repeat([[y0], [y1], [y2]], 3, axis=1), (41, 5))
    t, bend = np.arange(21) / 20, 1.5 * (y0 - 2 * y1 + y2)
    wanted = y0 + (y1 - y0) * t + bend * (t**3 - t) / 6
    np.testing.assert_allclose(field[:21], np.repeat(wanted[:, None], 5, axis=1), atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("grid", [2, 3, 5])
def test_planes_are_reproduced(size, grid):
    row, column = np.mgrid[0 : 1 : grid * 1j, 0 : 1 : grid * 1j]
    field = interpolate_grid(np.stack([3 + 5 * row - 8 * column, row]), size)
    assert (field.shape, field.dtype) == ((2, *size), np.float32)
    row, column = np.mgrid[0 : 1 : size[0] * 1j, 0 : 1 : size[1] * 1j]
    np.testing.assert_allclose(field, [3 + 5 * row - 8 * column, row], atol=1e-4)


def test_the_nodes_are_gaussian_and_independent():
    transform, drawn = warped(std=10), []
    for _ in range(800):
        at = transform.get_params_dependent_on_data({"shape": (21, 21, 1)}, {})
        moved = np.stack([at["y"], at["x"]], axis=2) - positions(21, 21)
        drawn.append(moved[::10, ::10].ravel())
    nodes = np.stack(drawn)  # (800, 3 * 3 * 2)
    np.testing.assert_allclose(nodes.std(axis=0), 10, rtol=0.12)
    np.testing.assert_allclose(nodes.mean(axis=0), 0, atol=1.6)
    assert np.abs(np.corrcoef(nodes.T) - np.eye(18)).max() < 0.18
    kurtosis = ((nodes / nodes.std(axis=0)) ** 4).mean()
    assert 2.7 < kurtosis < 3.3  # 1.8 if they were uniform


def test_with_a_spacing_crops_of_all_sizes_are_bent_alike():
    transform, bends = warped(std=10, spacing=10), {}
    for height, width in [(41, 101), (101, 41), (201, 201)]:
        drawn = []
        for _ in range(60):
            at = transform.get_params_dependent_on_data({"shape": (height, width, 1)}, {})
            drawn.append(np.stack([at["y"], at["x"]], axis=2) - positions(height, width))
        nodes = np.stack(drawn)[:, ::10, ::10]
        assert nodes.std() == pytest.approx(10, rel=0.05)
        together = np.mean(nodes[:, 1:] * nodes[:, :-1])
        assert abs(together) < 3  # of 100: they are independent
        bends[height, width] = np.diff(np.stack(drawn), axis=1).std()
    assert max(bends.values()) == pytest.approx(min(bends.values()), rel=0.05)


# --- images and masks ----------------------------------------------------------------------------


def test_each_pixel_shows_its_displaced_source():
    transform = warped(3, std=4)
    shown = transform(image=positions(60, 90))["image"]
    drawn = transform.get_applied_params()
    wanted = np.stack([drawn["y"], drawn["x"]], axis=2)
    inside = ((wanted >= 0) & (wanted <= (59, 89))).all(axis=2)
    assert 0.8 < inside.mean() < 1
    np.testing.assert_allclose(shown[inside], wanted[inside], atol=0.05)
    assert np.abs(wanted - positions(60, 90)).max() > 4


@pytest.mark.parametrize("rotate", [30, 180])
def test_rotation_about_the_center(rotate):
    transform, angles = warped(std=0, rotate=rotate), []
    for _ in range(300):
        at = transform.get_params_dependent_on_data({"shape": (31, 41)}, {})
        x, y = at["x"] - 20, at["y"] - 15
        np.testing.assert_allclose([x[15, 20], y[15, 20]], 0, atol=1e-4)
        rows, columns = np.mgrid[-15:16, -20:21]
        np.testing.assert_allclose(x**2 + y**2, rows**2 + columns**2, atol=1e-2)
        angle = np.arctan2(y[15, 40], x[15, 40])
        turned = np.exp(1j * angle) * (columns + 1j * rows)
        np.testing.assert_allclose(x + 1j * y, turned, atol=1e-3)  # and is not mirrored
        angles.append(np.rad2deg(angle))
    assert -rotate <= min(angles) < -0.9 * rotate
    assert 0.9 * rotate < max(angles) <= rotate
    assert abs(np.mean(angles)) < 0.12 * rotate


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_mask_stays_aligned_and_keeps_its_values(dtype):
    ids = (np.arange(80) * (3 if dtype == np.uint8 else 700)).astype(dtype)
    mask = np.repeat(ids[:, None], 70, axis=1)
    mask[mask == IGNORE_INDEX] = 0
    result = warped(5)(image=positions(80, 70), mask=mask)
    rows, target = result["image"][..., 0], result["mask"]
    assert (target.dtype, target.shape) == (dtype, mask.shape)
    assert set(np.unique(target)) <= {*np.unique(mask), IGNORE_INDEX}
    seen = target != IGNORE_INDEX
    clear = seen & (np.abs(rows - np.floor(rows) - 0.5) > 0.05)  # not half-way between two rows
    wanted = mask[np.rint(rows[clear]).astype(int), 0]
    assert (target[clear] == wanted).mean() > 0.97
    assert 0.5 < seen.mean() < 1


def test_outside_images_are_mirrored_and_masks_ignored():
    image, mask = np.full((50, 50, 1), 200, np.uint8), np.ones((50, 50), np.uint8)
    mirrored = warped(1, std=15)(image=image, mask=mask)
    assert (mirrored["image"] == 200).all()
    dark = warped(1, std=15, border="constant")(image=image, mask=mask)
    np.testing.assert_array_equal(dark["mask"], mirrored["mask"])
    outside = dark["mask"] == IGNORE_INDEX
    assert 100 < outside.sum() < 2000
    assert set(np.unique(dark["mask"])) == {1, IGNORE_INDEX}
    assert (dark["image"][~outside] > 95).all()  # but for the interpolated rim
    assert (dark["image"][outside] < 105).all()
    assert (dark["image"] == 0).any()


@pytest.mark.parametrize("channels", [1, 4, 5])
def test_any_number_of_channels(channels):
    image = np.random.default_rng(0).random((30, 40, channels), np.float32)
    mask = (255 * image).astype(np.uint8)
    result = warped(2)(image=image, mask=mask)
    assert result["image"].shape == result["mask"].shape == image.shape
    for n in range(channels):
        alone = warped(2)(image=image[..., n : n + 1], mask=mask[..., n])
        # OpenCV rounds positions to 1/32 of a pixel for some numbers of channels
        np.testing.assert_allclose(result["image"][..., n : n + 1], alone["image"], atol=0.05)
        np.testing.assert_array_equal(result["mask"][..., n], alone["mask"])


# --- by name in a config -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grid": 1}, "grid"),
        ({"std": -1}, "std"),
        ({"border": "wrap"}, "mirror"),
        ({"sigma": 10}, "has no option 'sigma'"),
    ],
)
def test_wrong_options_are_problems(options, words):
    [problem] = check_augment([{"name": "ElasticGrid", **options}])
    assert problem.startswith("augment.transforms[0]")
    assert words in problem


def read_preset(name: str) -> Any:
    """The options of ElasticGrid in a preset."""
    path = Path(__file__).parents[2] / "conf" / "augment" / f"{name}.yaml"
    steps = yaml.safe_load(path.read_text(encoding="utf-8"))["transforms"]
    [options] = [step for step in steps if step.pop("name") == "ElasticGrid"]
    return options


def test_the_2015_preset_has_the_numbers_of_the_paper():
    wanted = {"grid": 3, "std": 10, "rotate": 45, "border": "mirror", "p": 1.0}
    assert read_preset("unet2015") == wanted


def test_the_microscopy_preset_has_the_field_of_elastic_transform():
    ours = warped(**read_preset("microscopy"))
    theirs = A.ElasticTransform(alpha=40, sigma=6, p=1.0)
    theirs.set_random_seed(0)
    image, fields = np.zeros((256, 256, 1), np.uint8), []
    for key, transform in (("x", ours), ("map_x", theirs)):
        drawn = []
        for _ in range(40):
            at = transform.get_params_dependent_on_data({"shape": image.shape}, {"image": image})
            moved = at[key] - positions(256, 256)[..., 1]
            drawn.append(moved[40:-40, 40:-40])  # theirs differs near the border
        fields.append(np.stack(drawn))
    own, other = fields
    assert own.std() == pytest.approx(other.std(), rel=0.1)
    assert np.diff(own, axis=2).std() == pytest.approx(np.diff(other, axis=2).std(), rel=0.1)
    for apart in (4, 8, 12, 24):  # pixels
        a, b = ((f[..., :-apart] * f[..., apart:]).mean() / f.var() for f in (own, other))
        assert a == pytest.approx(b, abs=0.2)
