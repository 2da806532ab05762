"""Predictions lie where their images lie, and are written in the format of volumes."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import segkit
from segkit.data.sources.cells import draw
from segkit.data.sources.folder import FolderSource
from segkit.images.reading import ImageReader, read_image, read_mask

rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")

TRANSFORM = rasterio.Affine(0.5, 0, 400_000, 0, -0.5, 5_600_000)


def write_geotiff(path: Path, image: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = image.shape
    profile = {"driver": "GTiff", "count": 1, "height": height, "width": width}
    profile |= {"crs": "EPSG:32633", "transform": TRANSFORM, "dtype": image.dtype}
    with rasterio.open(path, "w", **(profile | options)) as file:
        file.write(image, 1)


def find_threshold(run, image) -> float:
    """The threshold that half of an image exceeds: seconds of training do not reach 0.5."""
    probabilities = segkit.load(run.checkpoint, device="cpu")(
        image, probabilities=True
    ).probabilities
    return float(np.median(probabilities))


def cells(height: int = 64, width: int = 80) -> np.ndarray:
    image = draw(3, (height, width)).image[..., 0].copy()
    image[image == 0] = 1
    image[:6, :9] = 0
    return image


def test_every_output_of_a_geotiff_is_georeferenced(binary_run, tmp_path, out, run_predict) -> None:
    write_geotiff(tmp_path / "in/a.tif", cells(), nodata=0)
    options = ["probabilities=true", "polygons=geojson", "instances=components"]
    run_predict(binary_run, tmp_path / "in", *options)
    for name in ("a.tif", "overlays/a.tif", "probabilities/a.tif", "instances/a.tif"):
        with rasterio.open(out / name) as file:
            assert (file.crs.to_epsg(), file.transform) == (32633, TRANSFORM)
            assert file.shape == (64, 80)
    with rasterio.open(out / "a.tif") as file:
        mask, missing = file.read(1), file.read_masks(1) == 0
        assert missing[:6, :9].all()
        assert missing.sum() == 54
        assert set(np.unique(mask[~missing])) <= {0, 255}
    with rasterio.open(out / "probabilities/a.tif") as file:
        assert (file.read_masks(1) == 0).sum() == 54
    with rasterio.open(out / "instances/a.tif") as file:
        assert not file.read(1)[:6, :9].any()
    found = json.loads((out / "polygons/a.geojson").read_text())
    assert found["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    from rasterio.features import rasterize

    shapes = [(f["geometry"], f["properties"]["id"]) for f in found["features"]]
    drawn = rasterize(shapes, out_shape=(64, 80), transform=TRANSFORM, dtype="int32")
    with rasterio.open(out / "instances/a.tif") as file:
        np.testing.assert_array_equal(drawn, file.read(1))


def test_a_large_geotiff(binary_run, tmp_path, out, run_predict, monkeypatch) -> None:
    monkeypatch.setattr("segkit.predict.large.LARGE", 100 * 100)
    monkeypatch.setattr("segkit.predict.large.OVERVIEW", 64)
    blocks = {"tiled": True, "blockxsize": 64, "blockysize": 64}
    write_geotiff(tmp_path / "in/a.tif", cells(192, 256), nodata=0, **blocks)
    run_predict(binary_run, tmp_path / "in", "probabilities=true", "tile=64")
    for name in ("a.tif", "probabilities/a.tif"):
        with rasterio.open(out / name) as file:
            assert (file.crs.to_epsg(), file.transform) == (32633, TRANSFORM)
    with rasterio.open(out / "a.tif") as file:
        assert (file.read_masks(1) == 0)[:6, :9].all()
        assert (file.read_masks(1) == 0).sum() == 54
    with rasterio.open(out / "overlays/a.tif") as file:
        assert file.shape == (48, 64)
        assert file.transform == TRANSFORM @ rasterio.Affine.scale(4)
        assert file.crs.to_epsg() == 32633


def test_a_picture_with_a_world_file(binary_run, tmp_path, out, run_predict, files_of) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(cells()).save(tmp_path / "in/a.png")
    (tmp_path / "in/a.pgw").write_text("0.5\n0\n0\n-0.5\n400000.25\n5599999.75\n")
    threshold = find_threshold(binary_run, cells())
    run_predict(binary_run, tmp_path / "in", "polygons=geojson", f"threshold={threshold}")
    assert files_of(out) == ["a.tif", "overlays/a.tif", "polygons/a.geojson"]
    for name in ("a.tif", "overlays/a.tif"):
        with rasterio.open(out / name) as file:
            assert (file.crs, file.transform) == (None, TRANSFORM)
    found = json.loads((out / "polygons/a.geojson").read_text())
    points = np.concatenate([f["geometry"]["coordinates"][0] for f in found["features"]])
    assert points.min(axis=0) == pytest.approx([400_000, 5_600_000 - 32], abs=5)


def test_pages_of_a_georeferenced_file(binary_run, tmp_path, out, run_predict) -> None:
    write_geotiff(tmp_path / "one.tif", cells())
    with ImageReader(tmp_path / "one.tif") as reader:
        tags = list(reader.read_place(0).tags)
    (tmp_path / "in").mkdir()
    with tifffile.TiffWriter(tmp_path / "in/two.tif") as file:
        for _ in range(2):
            file.write(cells(), metadata=None, photometric="minisblack", extratags=tags)
    run_predict(binary_run, tmp_path / "in")
    for page in (0, 1):
        with ImageReader(out / "two.tif") as reader:
            place = reader.read_place(page)
            assert place is not None
            assert (place.crs, place.transform) == ("EPSG:32633", tuple(TRANSFORM)[:6])


@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_sizes_of_pixels(binary_run, tmp_path, out, run_predict, kind: str) -> None:
    (tmp_path / "in").mkdir()
    metadata = {"unit": "um"} if kind == "imagej" else {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5}
    options = {kind: True, "metadata": metadata, "resolution": (4, 2)}
    tifffile.imwrite(tmp_path / "in/a.tif", cells(), **options)
    with ImageReader(tmp_path / "in/a.tif") as reader:
        assert reader.read_place(0).pixel_size == pytest.approx((0.5, 0.25))
    run_predict(binary_run, tmp_path / "in")
    with ImageReader(out / "a.tif") as reader:
        assert reader.read_place(0).pixel_size == pytest.approx((0.5, 0.25))
    assert (out / "overlays/a.png").is_file()  # a picture


@pytest.mark.parametrize("orientation", ["exif", "stored"])
def test_photographs_are_turned_as_in_the_training(
    binary_run, tmp_path, out, run_predict, orientation: str
) -> None:
    state = torch.load(binary_run.checkpoint, weights_only=True)
    state["segkit"]["config"]["data"]["orientation"] = orientation
    torch.save(state, tmp_path / "best.ckpt")
    image = Image.fromarray(cells())
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "in").mkdir()
    image.save(tmp_path / "in/a.png", exif=exif)
    shown = image if orientation == "stored" else image.transpose(Image.Transpose.ROTATE_270)
    shown.save(tmp_path / "in/b.png")
    predictor = segkit.load(tmp_path / "best.ckpt", device="cpu")
    threshold = float(np.median(predictor(tmp_path / "in/b.png", probabilities=True).probabilities))
    options = [f"checkpoint='{tmp_path}/best.ckpt'", f"threshold={threshold}", "polygons=coco"]
    run_predict(binary_run, tmp_path / "in", *options)
    mask = read_mask(out / "a.png")
    assert mask.shape == ((64, 80) if orientation == "stored" else (80, 64))
    np.testing.assert_array_equal(mask, read_mask(out / "b.png"))
    first, second = (
        predictor(tmp_path / f"in/{name}.png", probabilities=True).probabilities for name in "ab"
    )
    np.testing.assert_array_equal(first, second)
    entries = json.loads((out / "coco.json").read_text())["images"]
    assert {(each["height"], each["width"]) for each in entries} == {mask.shape}


@pytest.mark.parametrize("kind", ["coco", "geojson"])
def test_outlines_of_pages_are_labels_of_pages(
    binary_run, tmp_path, out, run_predict, kind: str
) -> None:
    pages = np.stack([draw(i, (32, 40)).image[..., 0] for i in range(3)])
    (root := tmp_path / "in").mkdir()
    tifffile.imwrite(root / "stack.tif", pages, photometric="minisblack")
    Image.fromarray(pages[1]).save(root / "one.png")
    threshold = find_threshold(binary_run, pages[1])
    run_predict(binary_run, root, f"polygons={kind}", f"threshold={threshold}")
    if kind == "coco":
        found = json.loads((out / "coco.json").read_text())["images"]
        assert [each["id"] for each in found] == [1, 2, 3, 4]
        assert [each["file_name"] for each in found] == ["one.png", *["stack.tif"] * 3]
        assert [each.get("page") for each in found] == [None, 0, 1, 2]
    name = "coco.json" if kind == "coco" else "polygons"
    (out / name).rename(root / name)
    source = FolderSource("binary", root=root)
    samples = [sample for split in source.splits().values() for sample in split]
    assert source.problems() == []
    assert len(samples) == 4
    for sample in samples:
        suffix = ".tif" if sample.page is not None else ".png"
        mask = read_mask(out / sample.image.with_suffix(suffix).name, sample.page)
        np.testing.assert_array_equal(source.read_mask(sample), mask != 0)


def test_volumes_come_back_as_volumes(binary_run, tmp_path, out, run_predict, files_of) -> None:
    nibabel = pytest.importorskip("nibabel", reason="the extra medical is not installed")
    affine = np.array([[-0.7, 0, 0, 10], [0, 0, 2.0, -5], [0, 0.7, 0, 3], [0, 0, 0, 1]])
    voxels = np.stack([draw(n, (48, 40)).image[..., 0] for n in range(3)], axis=2)
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "in/scan.v1.nii.gz")
    threshold = find_threshold(binary_run, voxels[..., 1])
    options = ["probabilities=true", "instances=components", "overlays=false"]
    options.append(f"threshold={threshold}")
    run_predict(binary_run, tmp_path / "in", *options)
    names = [f"{folder}scan.v1.nii.gz" for folder in ("instances/", "probabilities/", "")]
    assert files_of(out) == names
    ids, maps, labels = (nibabel.load(out / name) for name in names)
    for image in (ids, maps, labels):
        np.testing.assert_allclose(image.affine, affine, atol=1e-6)
    values = np.asanyarray(labels.dataobj)
    assert (values.shape, values.dtype) == (voxels.shape, np.uint8)
    assert set(np.unique(values)) == {0, 255}
    assert (maps.shape, maps.get_data_dtype()) == ((*voxels.shape, 1), np.float32)
    np.testing.assert_array_equal(np.asanyarray(maps.dataobj)[..., 0] > threshold, values > 0)
    np.testing.assert_array_equal(np.asanyarray(ids.dataobj) > 0, values > 0)
    with ImageReader(tmp_path / "in/scan.v1.nii.gz") as reader:
        images = [reader.read_image(page) for page in range(len(reader))]
    (tmp_path / "pages").mkdir()
    for page, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(tmp_path / f"pages/{page}.png")
    alone = tmp_path / "out2"
    run_predict(binary_run, tmp_path / "pages", f"output='{alone}'", *options)
    before = 0
    for page in range(len(images)):
        found, wanted = (
            read_mask(p, n) for p, n in ((out / names[2], page), (alone / f"{page}.png", 0))
        )
        np.testing.assert_array_equal(found, wanted)
        wanted = read_image(alone / f"probabilities/{page}.tif") / 65535
        np.testing.assert_allclose(read_image(out / names[1], page), wanted, atol=1e-5)
        wanted = read_mask(alone / f"instances/{page}.png").astype(int)
        wanted[wanted > 0] += before
        before = wanted.max()
        np.testing.assert_array_equal(read_mask(out / names[0], page), wanted)
    (out / names[0]).unlink()
    run_predict(binary_run, tmp_path / "in", *options)
    assert files_of(out) == names


def test_outlines_of_slices_have_the_ids_of_the_volume(binary_run, tmp_path, out, run_predict):
    voxels = np.stack([draw(n, (48, 40)).image[..., 0] for n in range(3)], axis=2)
    (tmp_path / "in").mkdir()
    nibabel = pytest.importorskip("nibabel", reason="the extra medical is not installed")
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, -1, 1, 1])), tmp_path / "in/a.nii")
    options = ["instances=components", "polygons=geojson", "overlays=false"]
    options.append(f"threshold={find_threshold(binary_run, voxels[..., 1])}")
    run_predict(binary_run, tmp_path / "in", *options)
    ids = np.asanyarray(nibabel.load(out / "instances/a.nii.gz").dataobj)
    assert ids.max() > ids[..., 0].max() > 0
    for page in range(3):
        [file] = out.glob(f"polygons/**/*{page}.geojson")
        found = {
            feature["properties"]["id"]: feature["properties"]["area"]
            for feature in json.loads(file.read_text())["features"]
        }
        numbers, areas = np.unique(ids[..., page], return_counts=True)
        assert found == {n: a for n, a in zip(numbers.tolist(), areas.tolist(), strict=True) if n}


def test_volumes_of_overlapping_classes(multilabel_run, tmp_path, out, run_predict) -> None:
    nibabel = pytest.importorskip("nibabel", reason="the extra medical is not installed")
    voxels = np.stack([draw(n, (48, 40)).image[..., 0] for n in range(3)], axis=2)
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "in/a.nii")
    threshold = find_threshold(multilabel_run, voxels[..., 1])
    options = ["probabilities=true", f"threshold={threshold}"]
    run_predict(multilabel_run, tmp_path / "in", *options)
    labels, maps = (nibabel.load(out / f"{name}a.nii.gz") for name in ("", "probabilities/"))
    assert labels.get_data_dtype() == np.uint8
    assert labels.shape == maps.shape
    assert labels.shape[:3] == voxels.shape
    found = np.asanyarray(maps.dataobj) > threshold
    np.testing.assert_array_equal(np.asanyarray(labels.dataobj), found * 255)
    assert 0 < found.mean() < 1


def test_pixels_without_data_in_a_plain_image(binary_run, tmp_path, out, run_predict) -> None:
    image = cells()
    alpha = np.where(image > 0, 255, 0).astype(np.uint8)
    (tmp_path / "in").mkdir()
    Image.merge("LA", [Image.fromarray(image), Image.fromarray(alpha)]).save(tmp_path / "in/a.png")
    run_predict(binary_run, tmp_path / "in")
    mask = read_mask(out / "a.png")
    assert (mask[:6, :9] == 128).all()  # 255 is the foreground
    assert (mask == 128).sum() == 54
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(out / "overlays/a.png").shape == (64, 80, 3)
