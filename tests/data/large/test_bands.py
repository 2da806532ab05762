"""The check reads large images in bands."""

from __future__ import annotations

import numpy as np
import pytest
from data.large.conftest import (
    BY_WINDOWS,
    REGIONS,
    RNG,
    H,
    W,
    in_blocks,
    list_samples,
    put,
    put_again,
    put_nodata,
)
from PIL import Image

from segkit.core.errors import SegkitError
from segkit.data import file_reading
from segkit.data.checks import facts, parts
from segkit.data.checks.facts import Facts
from segkit.data.checks.summary import check
from segkit.data.layout.blocks import take_whole
from segkit.data.sources.folder import FolderSource


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
    monkeypatch.setattr(file_reading, "LARGE", 0)
    monkeypatch.setattr(file_reading.ImageReader, "read", None)
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
    monkeypatch.setattr(file_reading, "LARGE", 0)
    monkeypatch.setattr(parts, "MOST_PIXELS", 5000)
    monkeypatch.setattr(facts, "PIXELS_PER_IMAGE", 500)
    found = scan_whole(in_blocks(tmp_path))
    assert found.share == pytest.approx(2 * 16 / 150)
    assert not found.digest  # what was not read may differ
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
