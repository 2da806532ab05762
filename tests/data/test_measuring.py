"""What a set measures: sizes, typical objects, and whether the images have an up and a down."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.data.checks.checking import Measures, check
from segkit.data.sources.folder import FolderSource
from segkit.images.reading import write_image, write_mask

NOISE = np.random.default_rng(0)


def squares(*sides: int, values: tuple[int, ...] = (), size: int = 64) -> np.ndarray:
    """A mask with squares of these sides along its diagonal."""
    mask, at = np.zeros((size, size), np.uint8), 1
    for number, side in enumerate(sides):
        mask[at : at + side, at : at + side] = values[number] if values else 1
        at += side + 2
    return mask


def measured(root: Path, masks: list[np.ndarray], mode: Any = "binary", **options: Any) -> Measures:
    for number, mask in enumerate(masks):
        pixels = NOISE.integers(0, 256, mask.shape).astype(np.uint8)
        write_image(root / "images" / f"{number:02}.png", pixels)
        write_mask(root / "masks" / f"{number:02}.png", mask)
    source = FolderSource(mode, root=root, split="blocks", val_fraction=0.2, **options)
    return check(source, mode).measures


def diameter(side: int) -> float:
    return float(np.sqrt(4 * side**2 / np.pi))


def test_a_typical_object_is_one_that_a_pixel_of_the_foreground_lies_in(tmp_path: Path) -> None:
    crumbs = squares(20, 1, 1, 1, 1, 1, 1)
    found = measured(tmp_path, [crumbs, crumbs, crumbs])
    assert found.object_diameter == pytest.approx(diameter(20))


def test_ids_tell_objects_that_touch_apart(tmp_path: Path) -> None:
    ids = np.zeros((64, 64), np.uint8)
    ids[:10, :10], ids[:10, 10:20], ids[10:20, :10] = 1, 2, 3
    found = measured(tmp_path / "ids", [ids] * 3, instances=True)
    assert found.object_diameter == pytest.approx(diameter(10))
    found = measured(tmp_path / "regions", [(ids > 0).astype(np.uint8)] * 3)
    assert found.object_diameter == pytest.approx(np.sqrt(4 * 300 / np.pi))


def test_regions_are_those_of_one_class(tmp_path: Path) -> None:
    mask = squares(30, values=(1,))
    mask[1:31, 1:16] = 2  # two halves
    found = measured(tmp_path, [mask] * 3, "multiclass")
    assert found.object_diameter == pytest.approx(np.sqrt(4 * 450 / np.pi))


def test_not_labelled_is_no_object_and_the_ground_neither(tmp_path: Path) -> None:
    mask = squares(10, values=(1,))
    mask[40:, :] = 255
    assert measured(tmp_path, [mask] * 3).object_diameter == pytest.approx(diameter(10))


def test_without_a_background_each_class_has_objects(tmp_path: Path) -> None:
    names = ("sky", "house")
    found = measured(tmp_path, [squares(10)] * 3, "multiclass", class_names=names)
    assert found.object_diameter > 60


def test_black_and_white_masks(tmp_path: Path) -> None:
    assert measured(tmp_path, [255 * squares(12)] * 3).object_diameter == pytest.approx(
        diameter(12)
    )


def test_large_masks_are_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segkit.data.checks.scanning.PIXELS_PER_MASK", 32 * 32)
    found = measured(tmp_path, [squares(20)] * 3).object_diameter
    assert found == pytest.approx(diameter(20))


def test_sizes(tmp_path: Path) -> None:
    sizes = [(30, 40), (10, 12), (20, 90), (22, 30), (400, 8)]
    masks = []
    for size in sizes:
        mask = np.zeros(size, np.uint8)
        mask[0, 0] = 1
        masks.append(mask)
    found = measured(tmp_path, masks)  # the last one validates
    assert (found.median, found.largest) == ((21, 35), (400, 90))


@pytest.mark.parametrize(
    ("sky", "count", "expected"), [(200, 12, True), (0, 12, False), (200, 5, None)]
)
def test_pictures_with_a_sky_have_an_up(
    tmp_path: Path, sky: int, count: int, expected: bool | None
) -> None:
    for number in range(count):
        pixels = NOISE.integers(0, 56, (20, 20, 3)).astype(np.uint8)
        pixels[:8] += np.uint8(sky)
        write_image(tmp_path / "images" / f"{number:02}.png", pixels)
        write_mask(tmp_path / "masks" / f"{number:02}.png", squares(5, size=20))
    source = FolderSource("binary", root=tmp_path, split="blocks", val_fraction=0.2)
    assert check(source, "binary").measures.upright is expected


def test_an_even_image_has_no_up(tmp_path: Path) -> None:
    write_image(tmp_path / "images/a.png", np.full((1, 9), 7, np.uint8))
    write_mask(tmp_path / "masks/a.png", np.ones((1, 9), np.uint8))
    source = FolderSource("binary", root=tmp_path)
    found = check(source, "binary", needed=()).measures
    assert (found.median, found.upright) == ((1, 9), None)
