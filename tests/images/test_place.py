"""Where pixels lie: what files say, against what rasterio reads; and that TIFFs keep it."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from images.conftest import noise, same
from PIL import Image

from segkit.images.place import Place, measure_pixel, to_tiff_options
from segkit.images.reading import ImageReader, read_image, read_mask

H, W = 20, 30


def read_place(path: Path, page: int | None = None) -> Place | None:
    with ImageReader(path) as reader:
        return reader.read_place(page)


def read_size(path: Path, page: int | None = None) -> tuple[float, float] | None:
    place = read_place(path, page)
    assert place is None or place.transform is None
    return place.pixel_size if place else None


# --- GeoTIFF -------------------------------------------------------------------------------------


def geotiff(path: Path, crs, transform, *, point: bool = False, **options) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    profile = {"driver": "GTiff", "height": H, "width": W, "count": 1, "dtype": "uint8", **options}
    with rasterio.open(path, "w", crs=crs, transform=transform, **profile) as file:
        if point:
            file.update_tags(AREA_OR_POINT="Point")
        file.write(noise(1, H, W))


TRANSFORMS = {
    "north up": (10.0, 0.0, 399960.5, 0.0, -10.0, 5300040.25),
    "oblong": (0.5, 0.0, 7.25, 0.0, -0.25, 48.5),
    "south up": (10.0, 0.0, 399960.0, 0.0, 10.0, 5300040.0),
    "rotated": (8.0, 3.0, 399960.0, 2.0, -7.0, 5300040.0),
}


@pytest.mark.parametrize("point", [False, True])
@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("code", [32633, 4326, 3857])
def test_geotiff_comes_back(tmp_path: Path, code: int, name: str, point: bool) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    path, copy = tmp_path / "größe a.tif", tmp_path / "b.tif"
    affine = rasterio.Affine(*TRANSFORMS[name])
    geotiff(path, f"EPSG:{code}", affine, point=point, nodata=7)
    place = read_place(path)
    assert (place.crs, place.nodata, place.pixel_size) == (f"EPSG:{code}", 7.0, None)
    with rasterio.open(path) as given:
        assert place.transform == pytest.approx(tuple(given.transform)[:6], rel=1e-12)
        assert given.transform.almost_equals(affine)
    tifffile.imwrite(copy, noise(H, W), metadata=None, **to_tiff_options(place))
    with rasterio.open(copy) as written, rasterio.open(path) as given:
        assert written.crs == given.crs
        assert written.transform.almost_equals(affine)
        assert written.nodata is None
    assert read_place(copy) == Place(place.transform, place.crs, tags=place.tags)
    same(read_mask(copy), noise(H, W))


def test_a_system_of_its_own_is_copied_but_has_no_name(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    crs = "+proj=laea +lat_0=47 +lon_0=11.5 +ellps=GRS80 +units=m"
    affine = rasterio.Affine(*TRANSFORMS["north up"])
    geotiff(tmp_path / "a.tif", crs, affine)
    place = read_place(tmp_path / "a.tif")
    assert place.crs is None
    assert place.transform == TRANSFORMS["north up"]
    options = to_tiff_options(place)
    tifffile.imwrite(tmp_path / "b.tif", noise(H, W), metadata=None, **options)
    with rasterio.open(tmp_path / "a.tif") as given, rasterio.open(tmp_path / "b.tif") as written:
        assert written.crs == given.crs
        assert written.crs.to_dict()["lon_0"] == 11.5


@pytest.mark.parametrize(
    "options",
    [{"tiled": True, "blockxsize": 16, "blockysize": 16}, {"count": 3}, {"BIGTIFF": "YES"}],
)
def test_layouts_and_pages(tmp_path: Path, options: dict) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    affine = rasterio.Affine(*TRANSFORMS["north up"])
    path, count = tmp_path / "a.tif", options.get("count", 1)
    profile = {"driver": "GTiff", "height": H, "width": W, "dtype": "uint8", "count": 1, **options}
    with rasterio.open(path, "w", crs="EPSG:32633", transform=affine, **profile) as file:
        file.write(noise(count, H, W))
        file.build_overviews([2])
    assert read_place(path).transform == TRANSFORMS["north up"]


def test_ground_control_points_are_no_transform(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    point = rasterio.control.GroundControlPoint
    points = [point(0, 0, 5.0, 9.0), point(0, W, 8.0, 9.1), point(H, 0, 5.2, 7.0)]
    profile = {"driver": "GTiff", "height": H, "width": W, "count": 1, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", gcps=points, crs="EPSG:4326", **profile) as file:
        file.write(noise(1, H, W))
    assert read_place(tmp_path / "a.tif") is None
    same(read_mask(tmp_path / "a.tif"), noise(1, H, W)[0])


def test_the_first_of_several_tie_points_counts(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    points = (4.0, 2.0, 0.0, 5.0, 9.0, 0.0, 10.0, 3.0, 0.0, 99.0, 98.0, 0.0)
    tags = [(33550, "d", 3, (2.0, 3.0, 0.0), False), (33922, "d", 12, points, False)]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(H, W), metadata=None, extratags=tags)
    with rasterio.open(path) as given:
        assert read_place(path).transform == tuple(given.transform)[:6]


@pytest.mark.parametrize(
    ("code", "kind", "value"),
    [
        (33550, "d", (0.0, 0.0, 0.0)),
        (33550, "d", (1.0,)),
        (33550, "d", (float("nan"), 1.0, 0.0)),
        (33550, "s", "text"),
        (34264, "d", (0.0,) * 16),
        (34264, "d", (1.0,) * 5),
    ],
)
def test_damaged_geotiff_is_no_place(tmp_path: Path, code: int, kind: str, value) -> None:
    tags = [(33922, "d", 6, (0.0, 0.0, 0.0, 5.0, 9.0, 0.0), False)]
    tags.append((code, kind, len(value), value, False))
    tags.append((34735, "H", 5, (1, 1, 0, 7, 1024), False))
    tifffile.imwrite(tmp_path / "a.tif", noise(H, W), metadata=None, extratags=tags)
    assert read_place(tmp_path / "a.tif") is None


def test_a_turned_geotiff_has_no_place(tmp_path: Path) -> None:
    """As the pixels are returned upright, the transform would be wrong."""
    tags = [
        (33550, "d", 3, (2.0, 2.0, 0.0), False),
        (33922, "d", 6, (0.0, 0.0, 0.0, 5.0, 9.0, 0.0), False),
    ]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(H, W), metadata=None, extratags=tags)
    assert read_place(path).transform == (2.0, 0.0, 5.0, 0.0, -2.0, 9.0)
    assert read_place(path).crs is None
    tifffile.imwrite(path, noise(H, W), metadata=None, extratags=[*tags, (274, "H", 1, 6, True)])
    assert read_image(path).shape == (W, H, 1)
    assert read_place(path) is None
    with ImageReader(path, upright=False) as reader:
        assert reader.read_place().transform == (2.0, 0.0, 5.0, 0.0, -2.0, 9.0)


# --- files beside the image ----------------------------------------------------------------------


def check_copy(path: Path, place: Place) -> None:
    """What is written in this place, rasterio reads where it reads the image."""
    rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    copy = path.with_name("copy.tif")
    tifffile.imwrite(copy, noise(H, W), metadata=None, **to_tiff_options(place))
    with rasterio.open(copy) as written, rasterio.open(path) as given:
        assert place.transform == pytest.approx(tuple(given.transform)[:6])
        assert written.transform.almost_equals(given.transform)
        assert written.crs == given.crs
        assert place.crs == (f"EPSG:{given.crs.to_epsg()}" if given.crs else None)
    assert read_place(copy) == Place(pytest.approx(place.transform), place.crs, tags=place.tags)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize(
    ("suffix", "ending"),
    [
        (".tif", ".tfw"), (".tiff", ".tfw"), (".tif", ".TFW"), (".jpg", ".jgw"), (".png", ".pgw"),
        (".png", ".wld"), (".jpg", ".jpgw"), (".jp2", ".j2w"), (".bmp", ".bpw"),
    ],
)  # fmt: skip
def test_world_files(tmp_path: Path, suffix: str, ending: str, name: str) -> None:
    pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    a, b, c, d, e, f = TRANSFORMS[name]
    path = tmp_path / f"a.b{suffix}"
    Image.fromarray(noise(H, W)).save(path)
    assert read_place(path) is None
    numbers = (a, d, b, e, c + (a + b) / 2, f + (d + e) / 2)
    path.with_suffix(ending).write_text("\n".join(map(str, numbers)))
    check_copy(path, read_place(path))


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326", "EPSG:3857", None])
def test_files_of_gdal(tmp_path: Path, crs: str | None, name: str) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    path, affine = tmp_path / "a.png", rasterio.Affine(*TRANSFORMS[name])
    geotiff(path, crs, affine, driver="PNG")
    assert (tmp_path / "a.png.aux.xml").is_file()
    check_copy(path, read_place(path))
    path.with_suffix(".pgw").write_text("1\n0\n0\n-1\n5\n5\n")  # counts more
    check_copy(path, read_place(path))
    if crs:  # custom, without an EPSG number
        aux = path.with_name("a.png.aux.xml")
        aux.write_text(aux.read_text().replace("AUTHORITY", "OTHER"))
        assert read_place(path).crs is None


def test_a_transform_in_the_image_counts_more_than_a_world_file(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    path = tmp_path / "a.tif"
    geotiff(path, "EPSG:32633", rasterio.Affine(*TRANSFORMS["north up"]))
    (tmp_path / "a.tfw").write_text("1\n0\n0\n-1\n5\n5\n")
    check_copy(path, read_place(path))
    aux = "<GeoTransform>7, 1, 0, 9, 0, -1</GeoTransform>"  # counts more
    (tmp_path / "a.tif.aux.xml").write_text(f"<PAMDataset>{aux}</PAMDataset>")
    assert read_place(path).transform == (1, 0, 7, 0, -1, 9)
    with rasterio.open(path) as given:
        assert tuple(given.transform)[:6] == (1, 0, 7, 0, -1, 9)


@pytest.mark.parametrize("text", ["", "1 0 0 -1 5", "1 0 0 x 5 5", "0 0 0 0 5 5", "1 0 0 nan 5 5"])
def test_a_damaged_world_file_is_no_place(tmp_path: Path, text: str) -> None:
    Image.fromarray(noise(H, W)).save(tmp_path / "a.png")
    (tmp_path / "a.pgw").write_text(text)
    assert read_place(tmp_path / "a.png") is None


def test_a_world_file_of_a_turned_photograph(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(H, W)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "a.jgw").write_text("0,5\n0\n0\n-0,5\n5\n5\n")
    assert read_place(tmp_path / "a.jpg") is None
    with ImageReader(tmp_path / "a.jpg", upright=False) as reader:
        assert reader.read_place().transform == (0.5, 0, 4.75, 0, -0.5, 5.25)


# --- sizes of pixels -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("micron", 1), ("um", 1), ("\\u00B5m", 1), ("nm", 1e-3), ("mm", 1e3),
        ("cm", 1e4), ("inch", 25400), ("pixel", None), ("", None),
    ],
)  # fmt: skip
def test_imagej(tmp_path: Path, unit: str, factor: float | None) -> None:
    path = tmp_path / "a.tif"
    options = {"resolution": (4.0, 2.0), "metadata": {"unit": unit, "axes": "TYX"}}
    tifffile.imwrite(path, noise(3, H, W), imagej=True, **options)
    size = read_size(path, 2)
    assert size == (pytest.approx((0.5 * factor, 0.25 * factor)) if factor else None)


def test_ome(tmp_path: Path) -> None:
    """Each image has a size of its own."""
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tif:
        for unit, pages in (("nm", 2), ("mm", 3), (None, 1)):
            size = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}
            if unit:
                size |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
            tif.write(
                noise(pages, H, W), metadata={"axes": "TYX", **size}, photometric="minisblack"
            )
    wanted = [(0.25e-3, 0.5e-3)] * 2 + [(250.0, 500.0)] * 3 + [(0.25, 0.5)]
    for page, size in enumerate(wanted):
        assert read_size(tmp_path / "a.ome.tif", page) == pytest.approx(size)


@pytest.mark.parametrize("unit", ["pixel", "reference frame", "&#181;m", "μm"])
def test_units_of_ome(tmp_path: Path, unit: str) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, noise(H, W), metadata={"axes": "YX", "PhysicalSizeX": 7.5})
    xml = tifffile.tiffcomment(path)
    assert read_size(path) is None  # without the other one
    size = f'PhysicalSizeX="7.5" PhysicalSizeY="2.5" PhysicalSizeXUnit="{unit}"'
    changed = xml.replace('PhysicalSizeX="7.5"', size + f' PhysicalSizeYUnit="{unit}"')
    tifffile.tiffcomment(path, changed.encode())
    assert read_size(path) == ((2.5, 7.5) if unit.endswith("m") else None)


@pytest.mark.parametrize(
    ("resolution", "unit", "wanted"),
    [
        ((20000.0, 40000.0), "CENTIMETER", (0.25, 0.5)),
        ((25400.0, 50800.0), "INCH", (0.5, 1.0)),
        ((72.0, 72.0), "INCH", None),
        ((300.0, 300.0), "INCH", None),
        ((28.346, 28.346), "CENTIMETER", None),
        ((1.0, 1.0), "INCH", None),
        ((72.0, 50800.0), "INCH", (0.5, 25400 / 72)),
        ((20000.0, 20000.0), "NONE", None),
    ],
)
def test_dots_per_inch(tmp_path: Path, resolution, unit: str, wanted) -> None:
    path, options = tmp_path / "a.tif", {"resolution": resolution, "resolutionunit": unit}
    tifffile.imwrite(path, noise(H, W), metadata=None, **options)
    assert read_size(path) == (pytest.approx(wanted) if wanted else None)
    turned = [(274, "H", 1, 6, True)]
    tifffile.imwrite(path, noise(H, W), metadata=None, extratags=turned, **options)
    assert read_size(path) == (pytest.approx(wanted[::-1]) if wanted else None)


def test_a_size_comes_back(tmp_path: Path) -> None:
    options = to_tiff_options(Place(pixel_size=(0.4, 0.3)))
    tifffile.imwrite(tmp_path / "a.tif", noise(H, W), metadata=None, **options)
    assert read_size(tmp_path / "a.tif") == pytest.approx((0.4, 0.3), rel=1e-5)
    assert to_tiff_options(Place()) == {}


def test_files_that_say_nothing(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(H, W))
    tifffile.imwrite(tmp_path / "b.tif", noise(40, W, 5))  # pages that are one image
    np.save(tmp_path / "a.npy", noise(H, W))
    for path in tmp_path.iterdir():
        assert read_place(path) is None


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_sizes_that_are_none(value: float) -> None:
    assert measure_pixel((value, 1.0), ("um", "um")) is None
    assert measure_pixel((1.0, value), ("um", "um")) is None


@pytest.mark.parametrize(
    ("units", "scales", "wanted"),
    [
        (("micrometer", "micrometer"), [[5, 2, 0.5, 0.25]], (0.5, 0.25)),
        (("nanometer", "millimeter"), [[5, 2, 0.5, 0.25]], (0.5e-3, 250.0)),
        (("micrometer", "micrometer"), [[5, 2, 0.5, 0.25], [1, 1, 2, 2]], (1.0, 0.5)),
        ((None, None), [[5, 2, 0.5, 0.25]], None),
        (("micrometer", "micrometer"), [], None),
        (("micrometer", "micrometer"), [["a", "b", "c", "d"]], None),
        (("micrometer", "micrometer"), [3], None),
    ],
)
def test_ome_zarr(tmp_path: Path, units, scales, wanted) -> None:
    axes = [{"name": "t"}, {"name": "c"}, {"name": "y"}, {"name": "x"}]
    for axis, unit in zip(axes[2:], units, strict=True):
        if unit:
            axis |= {"type": "space", "unit": unit}
    changes = [[{"type": "scale", "scale": scale}] for scale in scales]
    image = {"axes": axes, "datasets": [{"path": "0"}]}
    if changes:
        image["datasets"][0]["coordinateTransformations"] = changes[0]
    if len(changes) > 1:
        image["coordinateTransformations"] = changes[1]
    group = zarr.create_group(tmp_path / "a.zarr", attributes={"ome": {"multiscales": [image]}})
    group.create_array("0", shape=(2, 3, H, W), dtype="u1", chunks=(1, 1, H, W))[:] = 1
    assert read_size(tmp_path / "a.zarr", 1) == (pytest.approx(wanted) if wanted else None)
    assert read_size(tmp_path / "a.zarr/0", 1) == (pytest.approx(wanted) if wanted else None)
