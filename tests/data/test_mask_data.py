"""Masks that are turned, that lie in the world, or lack data in places."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from data.masks import (
    BLACK,
    BLUE,
    GREEN,
    RED,
    WHITE,
    H,
    W,
    draw,
    encode_all,
    find_problems,
    index,
    paint,
    put,
    run,
)
from PIL import Image

from segkit.core.errors import SegkitError
from segkit.data.checks.summary import check
from segkit.data.sources.folder import FolderSource

# --- images that are turned, and opacity ---------------------------------------------------------


@pytest.mark.parametrize("orientation", [3, 6])
def test_images_that_are_turned_while_their_masks_are_not(tmp_path: Path, orientation: int) -> None:
    put(tmp_path, [(draw(n) > 0).astype(np.uint8) for n in range(3)])
    exif = Image.Exif()
    exif[0x0112] = orientation
    for n in range(3):
        (tmp_path / f"images/{n}.png").unlink()
        Image.fromarray(draw(n) * 100).save(tmp_path / f"images/{n}.jpg", exif=exif)
    if orientation == 6:
        assert "both must have the same size" in find_problems(tmp_path, "binary")
        assert "data.orientation=stored" in find_problems(tmp_path, "binary")
    else:
        summary = check(FolderSource("binary", root=tmp_path), "binary")
        [note] = [n for n in summary.notes if "EXIF" in n]
        assert note.startswith("3 images are turned by their EXIF orientation, their masks are not")
    source = FolderSource("binary", root=tmp_path, orientation="stored")
    summary = check(source, "binary")
    assert not [n for n in summary.notes if "EXIF" in n]
    for sample in summary.splits["train"]:
        image, mask = source.read_image(sample), source.read_mask(sample)
        assert image[mask > 0].min() > 50


def test_opaque_images_have_three_channels_and_transparent_pixels_are_ignored(
    tmp_path: Path,
) -> None:
    put(tmp_path, [(draw(n) > 0).astype(np.uint8) for n in range(3)])
    for n in range(3):
        colour = np.dstack([draw(n) * 100] * 3 + [np.full((H, W), 255)]).astype(np.uint8)
        if n == 2:
            colour[:, :4, 3] = 0
        Image.fromarray(colour).save(tmp_path / f"images/{n}.png")
    summary = check(FolderSource("binary", root=tmp_path, split="blocks"), "binary")
    assert summary.in_channels == 3
    assert summary.with_empty == {"images/2.png"}
    assert "1 images have an alpha channel, which is left out" in "".join(summary.notes)
    kept = check(FolderSource("binary", root=tmp_path, channels=4), "binary")
    assert (kept.in_channels, kept.with_empty) == (4, frozenset())


# --- georeferenced masks -------------------------------------------------------------------------


def write_geotiff(
    path: Path, values: np.ndarray, left: float = 0.0, crs: str = "EPSG:32633", **options
) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "count": 1, "height": H, "width": W, "dtype": values.dtype}
    profile |= {"crs": crs, "transform": rasterio.Affine(2, 0, left, 0, -2, 0)}
    with rasterio.open(path, "w", **profile, **options) as file:
        file.write(values, 1)


@pytest.mark.parametrize("nodata", [255, 9, 0])
def test_nodata_of_masks(tmp_path: Path, nodata: int) -> None:
    for n in range(3):
        write_geotiff(tmp_path / f"images/{n}.tif", draw(n) * 100)
        mask = draw(n)
        mask[20:] = nodata
        write_geotiff(tmp_path / f"masks/{n}.tif", mask, nodata=nodata)
    source = FolderSource("multiclass", root=tmp_path)
    summary = check(source, "multiclass")
    assert summary.num_classes == 3
    assert f"masks have the nodata value {nodata}" in "".join(summary.notes)
    labels = summary.coding.encode(source.read_mask(summary.splits["train"][0]))
    assert (labels[20:] == (255 if nodata else 0)).all()
    assert set(np.unique(labels[:20])) == {0, 1, 2}


def test_masks_at_another_place(tmp_path: Path) -> None:
    for n in range(3):
        write_geotiff(tmp_path / f"images/{n}.tif", draw(n) * 100)
        write_geotiff(tmp_path / f"masks/{n}.tif", draw(n), left=16.0 if n == 1 else 0.0)
    text = find_problems(tmp_path)
    assert "images/1.tif and its mask" in text
    assert "lie at different places by their headers, up to 8 pixels apart" in text
    assert "images/0.tif" not in text
    write_geotiff(tmp_path / "masks/1.tif", draw(1), crs="EPSG:32634")
    assert "by their headers, in other coordinate systems" in find_problems(tmp_path)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_black_and_white_palettes_are_what_they_look_like(tmp_path: Path, order: list[int]) -> None:
    masks = [index((draw(n) > 0).astype(int), order, BLACK, WHITE) for n in range(3)]
    put(tmp_path, masks)
    run(tmp_path, "binary")


def test_ids_in_palettes_that_differ(tmp_path: Path) -> None:
    orders = [[0, 1, 2], [2, 0, 1], [1, 0, 5]]
    put(tmp_path, [index(draw(n), order, BLACK, RED, BLUE) for n, order in enumerate(orders)])
    source = FolderSource("binary", root=tmp_path, instances=True)
    summary = check(source, "binary")
    expected = np.mean([draw(n) > 0 for n in range(3)])
    assert summary.class_share[1] == pytest.approx(expected)


def test_rounding_keeps_zero_and_void() -> None:
    source = FolderSource(
        "multiclass", root=Path(), mask_values="nearest", label_map={128: 1, 255: 2}
    )
    assert source.nearest == (0, 128, 255)
    source = FolderSource("multiclass", root=Path(), mask_values="nearest", class_names=("a", "b"))
    assert source.nearest == (0, 1, 255)


def test_masks_with_the_fewest_bits_each(tmp_path: Path) -> None:
    """As an optimiser writes them: a file of 0 and 255 with 1 bit beside others of 8 bits."""
    masks = [np.array([0, 1, 2, 255], np.uint8)[draw(n)] for n in range(3)]
    put(tmp_path, masks)
    void = (draw(0) == 1) * np.uint8(255)
    Image.fromarray(void).convert("1").save(tmp_path / "masks/0.png")
    source = FolderSource("multiclass", root=tmp_path)
    summary = check(source, "multiclass", needed=())
    sample = next(s for part in summary.splits.values() for s in part if s.name == "images/0.png")
    np.testing.assert_array_equal(source.read_mask(sample), void)
    assert "masks have different bit depths and are read as greys" in summary.notes


def test_nodata_is_in_no_proposal_and_what_is_not_labelled_stays_so(tmp_path: Path) -> None:
    put(tmp_path, [draw(n) for n in range(3)])
    for n in range(3):
        (tmp_path / f"masks/{n}.png").unlink()
        mask = draw(n) * 85
        mask[20:], mask[22:] = 254, 33
        write_geotiff(tmp_path / f"masks/{n}.tif", mask, nodata=254)
    text = find_problems(tmp_path, label_map={33: 255})
    assert "the masks have the values 0, 85, 170, which" in text
    assert "'data.label_map={85: 1, 170: 2, 33: 255}' for 3 classes" in text
    text = find_problems(tmp_path, "binary", label_map={33: 255})
    assert "head=multiclass 'data.label_map={85: 1, 170: 2, 33: 255}' for 3 classes" in text
    options = {"label_map": {85: 1, 170: 2, 33: 255}}
    assert (
        check(FolderSource("multiclass", root=tmp_path, **options), "multiclass").num_classes == 3
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"label_map": {1: 255}}, "hold 0 (background), 1 (not labelled); data.label_map says"),
        ({"mask_values": "nearest"}, "made all values one of 0, 255: name those of the masks"),
    ],
)
def test_options_that_hide_the_foreground_are_told(tmp_path: Path, options, words: str) -> None:
    put(tmp_path, [(draw(n) > 0).astype(np.uint8) for n in range(3)])
    text = find_problems(tmp_path, "binary", **options)
    assert "no training mask has a pixel of the class 'foreground'" in text
    assert words in text


def test_nodata_that_hides_the_foreground_is_told_with_the_notes(tmp_path: Path) -> None:
    put(tmp_path, [draw(n) for n in range(3)])
    for n in range(3):
        (tmp_path / f"masks/{n}.png").unlink()
        write_geotiff(tmp_path / f"masks/{n}.tif", (draw(n) > 0).astype(np.uint8), nodata=1)
    with pytest.raises(SegkitError) as caught:
        check(FolderSource("binary", root=tmp_path), "binary")
    assert "the masks hold no data (not labelled), 0 (background); remove the nodata" in str(
        caught.value
    )
    assert caught.value.__notes__ == [
        "note: masks have the nodata value 1: there is no label there"
    ]


def test_transparent_masks_that_hide_the_foreground_are_told(tmp_path: Path) -> None:
    """BBBC039 has the labels in the red channel of pixels that no viewer shows."""
    put(tmp_path, [(draw(n) > 0).astype(np.uint8) for n in range(3)])
    for n in range(3):
        mask = np.dstack([draw(n), *[0 * draw(n)] * 3]).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / f"masks/{n}.png")
    text = find_problems(tmp_path, "binary")
    assert "the masks hold transparent pixels (background); what lies below" in text
    assert "save masks without alpha" in text


def test_transparent_images_that_hide_the_foreground_are_told(tmp_path: Path) -> None:
    put(tmp_path, [(draw(n) > 0).astype(np.uint8) for n in range(3)])
    for n in range(3):
        image = np.dstack([paint(draw(n), RED, GREEN, BLUE), (draw(n) == 0) * 255])
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / f"images/{n}.png")
    text = find_problems(tmp_path, "binary")
    assert "the masks hold 0 (background); 2 images have pixels without data" in text


def test_more_colours_than_classes_are_proposed_as_one_line(tmp_path: Path) -> None:
    put(tmp_path, [paint(draw(n), BLACK, RED, BLUE) for n in range(3)])
    known = {"class_colors": (BLACK, RED), "class_names": ("background", "red car")}
    text = find_problems(tmp_path, "binary", **known)
    assert (
        "Add classes, head=multiclass 'data.class_colors=[[0,0,0],[255,0,0],[0,0,255]]'"
        ' \'data.class_names=[background,"red car","#0000ff"]\', or say'
    ) in text


# --- pixels without data -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mask", "alpha"])
@pytest.mark.parametrize("instances", [False, True])
def test_masked_pixels_of_a_label_raster_are_not_labelled(
    tmp_path: Path, kind: str, instances: bool
) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    profile = {"driver": "GTiff", "height": H, "width": W, "dtype": "uint8", "crs": "EPSG:32633"}
    profile |= {"transform": rasterio.Affine(2, 0, 0, 0, -2, 0), "count": 1 + (kind == "alpha")}
    for n in range(3):
        write_geotiff(tmp_path / f"images/{n}.tif", draw(n) * 100)
        (tmp_path / "masks").mkdir(exist_ok=True)
        valid = np.full((H, W), 255, np.uint8)
        valid[:5, :8] = 0
        environment = rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True)
        with environment, rasterio.open(tmp_path / f"masks/{n}.tif", "w", **profile) as file:
            file.write(draw(n), 1)
            if kind == "alpha":
                meaning = rasterio.enums.ColorInterp
                file.colorinterp = [meaning.gray, meaning.alpha]
                file.write(valid, 2)
            else:
                file.write_mask(valid)
        with rasterio.open(tmp_path / f"masks/{n}.tif") as file:
            np.testing.assert_array_equal(file.dataset_mask(), valid)
    mode = "binary" if instances else "multiclass"
    source = FolderSource(mode, root=tmp_path, instances=instances)
    summary, labels = encode_all(source, mode)
    for n in range(3):
        wanted = draw(n)
        wanted[:5, :8] = 255
        wanted = np.where(wanted == 2, 1, wanted) if instances else wanted
        np.testing.assert_array_equal(labels[n], wanted)
    assert "masks have pixels without data (mask, alpha, NaN)" in "".join(summary.notes)


def put_transparent(root: Path, mode: str, painted: bool) -> None:
    """Masks whose background is transparent, and black in the first rows if it is painted there."""
    masks = []
    for n in range(3):
        labels = (draw(n) > 0) * np.uint8(255)
        opacity = np.where(labels > 0, 255, 0).astype(np.uint8)
        opacity[:2] = 255 * painted
        labels = np.where(opacity > 0, labels, 200)  # what lies below is not seen
        colours = np.dstack([labels, opacity])
        if mode == "RGBA":
            colours = np.dstack([labels] * 3 + [opacity])
        masks.append(Image.fromarray(colours.astype(np.uint8), mode))
    put(root, masks)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_backgrounds(tmp_path: Path, mode: str) -> None:
    put_transparent(tmp_path / "a", mode, painted=False)
    summary = run(tmp_path / "a", "binary")
    assert "masks are transparent in places: this is read as black" in "".join(summary.notes)
    assert [summary.coding.value_of(label) for label in (0, 1)] == [0, 255]
    put_transparent(tmp_path / "b", mode, painted=True)
    text = find_problems(tmp_path / "b", "binary")
    assert "transparent pixels, which may be background or not labelled" in text
    assert "'data.label_map={-2: 0}'" in text
    run(tmp_path / "b", "binary", label_map={-2: 0})
    source = FolderSource("binary", root=tmp_path / "b", label_map={-2: 255})
    for n, labels in enumerate(encode_all(source, "binary")[1]):
        wanted = np.where(draw(n) > 0, 1, 255)
        wanted[:2] = draw(n)[:2] > 0
        np.testing.assert_array_equal(labels, wanted)
    options = {"instances": True, "label_map": {255: 1}}
    source = FolderSource("binary", root=tmp_path / "b", **options)
    summary, found = encode_all(source, "binary")
    np.testing.assert_array_equal(found[0], draw(0) > 0)
    assert "masks are transparent in places: no object is there" in summary.notes


def test_proposals_name_transparent_pixels_black(tmp_path: Path) -> None:
    opacity = np.where(draw(0) > 0, 255, 0).astype(np.uint8)
    put(tmp_path / "grey", [np.dstack([draw(0) * 100, opacity])])
    assert "'data.label_map={100: 1, 200: 2}' for 3 classes" in find_problems(tmp_path / "grey")
    put(tmp_path / "rgb", [np.dstack([paint(draw(0), BLACK, RED, BLUE), opacity])])
    assert "'data.class_colors=[[0,0,0],[255,0,0],[0,0,255]]'" in find_problems(tmp_path / "rgb")


def test_opaque_grey_and_alpha_are_grey(tmp_path: Path) -> None:
    put(tmp_path, [np.dstack([draw(n), np.full((H, W), 255, np.uint8)]) for n in range(3)])
    run(tmp_path)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_with_layers_alpha_is_a_class(tmp_path: Path, mode: str) -> None:
    layers = [np.dstack([draw(n) == c for c in (1, 2, 0, 1)][: len(mode)]) for n in range(3)]
    put(tmp_path, [Image.fromarray(layer * np.uint8(255), mode) for layer in layers])
    source = FolderSource("multilabel", root=tmp_path)
    for found, wanted in zip(encode_all(source, "multilabel")[1], layers, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_transparent_index_of_a_palette(tmp_path: Path) -> None:
    """By index it is an index; by colour it is what is not painted, and not the colour below."""
    masks = [index(draw(n), [0, 1, 2], WHITE, RED, BLUE) for n in range(3)]
    put(tmp_path / "a", masks, transparency=0)
    run(tmp_path / "a")
    put(tmp_path / "b", [index(draw(3), [2, 0, 1], WHITE, RED, BLUE)], transparency=2)
    for n in range(1, 3):
        mask = index(draw(n), [0, 1, 2], WHITE, RED, BLUE)
        mask.save(tmp_path / f"b/masks/{n}.png", transparency=0)
        Image.fromarray(draw(n)).save(tmp_path / f"b/images/{n}.png")
    source = FolderSource("multiclass", root=tmp_path / "b", class_colors=(BLACK, RED, BLUE))
    for labels, n in zip(encode_all(source)[1], (3, 1, 2), strict=True):
        np.testing.assert_array_equal(labels, draw(n))


def test_colours_of_16_bits(tmp_path: Path) -> None:
    put(tmp_path, [draw(0)] * 3)
    for n in range(3):
        colours = paint(draw(n), BLACK, RED, (0, 128, 255)).astype(np.uint16)
        (tmp_path / f"masks/{n}.png").unlink()
        tifffile.imwrite(tmp_path / f"masks/{n}.tif", colours * 257, photometric="rgb")
    run(tmp_path, class_colors=(BLACK, RED, (0, 128, 255)))
    tifffile.imwrite(tmp_path / "masks/1.tif", colours * 256, photometric="rgb")
    text = find_problems(tmp_path, class_colors=(BLACK, RED, BLUE))
    assert "colours of 16 bits that 8 bits do not hold: save it as RGB with 8 bits" in text
    assert "multilabel" not in text
    greys = np.repeat((draw(1).astype(np.uint16) * 3)[..., None], 3, axis=2)
    tifffile.imwrite(tmp_path / "grey.tif", greys, photometric="rgb")
    put(tmp_path / "grey", [draw(1)])
    (tmp_path / "grey/masks/0.png").unlink()
    (tmp_path / "grey.tif").rename(tmp_path / "grey/masks/0.tif")
    source = FolderSource("multiclass", root=tmp_path / "grey", label_map={3: 1, 6: 2})
    np.testing.assert_array_equal(encode_all(source)[1][0], draw(1))


@pytest.mark.parametrize("nodata", [float(np.finfo(np.float32).min), float("nan"), -9999.0])
def test_masks_of_floats_without_labels_in_places(tmp_path: Path, nodata: float) -> None:
    for n in range(3):
        write_geotiff(tmp_path / f"images/{n}.tif", draw(n) * 100)
        mask = draw(n).astype(np.float32)
        mask[20:] = nodata
        write_geotiff(tmp_path / f"masks/{n}.tif", mask, nodata=nodata)
    source = FolderSource("multiclass", root=tmp_path)
    for n, labels in enumerate(encode_all(source)[1]):
        wanted = draw(n)
        wanted[20:] = 255
        np.testing.assert_array_equal(labels, wanted)
    assert any("no label" in note for note in source.notes())
