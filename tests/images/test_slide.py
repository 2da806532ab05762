"""Whole slides in the layouts of scanners, against what tiffslide and tifffile read."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from images.conftest import check_windows, cut, noise, pick_windows, same
from PIL import Image

from segkit.core.errors import SegkitError
from segkit.images.formats.base import find_format, is_image
from segkit.images.reading import ImageReader, count_pages, read_extent, read_image
from segkit.images.windows import open_windows

H, W = 230, 330
DESCRIPTION = "Aperio Image Library v12.0.15\r\n{} x {} [0,0 330x230] (64x64)|AppMag = 20|MPP = 0.5"


def shrink(pixels: np.ndarray, factor: int) -> np.ndarray:
    return np.ascontiguousarray(pixels[::factor, ::factor])


def aperio(path: Path, description: str = DESCRIPTION, **options) -> list[np.ndarray]:
    """Full size, thumbnail, levels, label and overview, in that order."""
    levels = [noise(H, W, 3)]
    levels += [shrink(levels[0], 4), shrink(levels[0], 16)]
    texts = [description.format(level.shape[1], level.shape[0]) for level in levels]
    options = {"photometric": "rgb", "metadata": None, "compression": "zlib", **options}
    with tifffile.TiffWriter(path) as tif:
        tif.write(levels[0], tile=(64, 64), description=texts[0], **options)
        tif.write(noise(50, 70, 3), rowsperstrip=16, description=texts[0], **options)
        for level, text in zip(levels[1:], texts[1:], strict=True):
            tif.write(level, tile=(16, 16), description=text, **options)
        for kind, side in ((1, 40), (9, 60)):
            shot = noise(side, side, 3)
            tif.write(shot, rowsperstrip=16, subfiletype=kind, description="label", **options)
    return levels


def test_aperio_is_one_image(tmp_path: Path) -> None:
    path = tmp_path / "Größe 細胞.svs"
    levels = aperio(path)
    assert is_image(path)
    assert find_format(path).name == "slide"
    assert count_pages(path) == 1
    same(read_image(path), levels[0])
    check_windows(path)
    for number, level in enumerate(levels):
        file = f"{path}::{number}"
        same(read_image(file), level)
        assert read_extent(file) == (*(max(side, 16) for side in level.shape[:2]), 3)  # whole tiles
    check_windows(f"{path}::1")
    assert open_windows(f"{path}::2") is None  # two tiles


def test_as_tiffslide_reads_it(tmp_path: Path) -> None:
    tiffslide = pytest.importorskip(
        "tiffslide", reason="tiffslide is not installed: it wants a zarr of old Python versions"
    )
    path = tmp_path / "a.svs"
    aperio(path)
    with tiffslide.TiffSlide(path) as slide, open_windows(path) as image:
        assert slide.level_count == 3
        assert slide.dimensions == (W, H)
        for top, left, height, width in pick_windows(H, W):
            found = slide.read_region((left, top), 0, (width, height), as_array=True)
            same(image.read(top, left, height, width), np.array(found))
        for level in range(3):
            found = slide.read_region((0, 0), level, slide.level_dimensions[level], as_array=True)
            same(read_image(f"{path}::{level}"), np.array(found))
            with ImageReader(f"{path}::{level}") as reader:
                pixel = reader.read_place().pixel_size
            wanted = slide.properties["tiffslide.mpp-x"] * slide.level_downsamples[level]
            assert np.mean(pixel) == pytest.approx(wanted, rel=0.05)


def test_tiles_of_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    aperio(path, compression="jpeg", compressionargs={"level": 95})
    with tifffile.TiffFile(path) as tif:
        same(read_image(path), tif.pages.first.asarray())
    check_windows(path)
    with ImageReader(path) as reader:
        assert reader.read().is_lossy


@pytest.mark.parametrize(
    ("wanted", "level"),
    [
        ("20x", 0), ("10X", 0), ("5x", 1), ("5.05x", 1), ("5.2x", 0), ("1.25x", 2), ("0.1x", 2),
        ("0.5um", 0), ("1um", 0), ("1.99um", 1), ("2µm", 1), ("2.5um", 1), ("100um", 2),
    ],
)  # fmt: skip
def test_levels_by_magnification_and_size(tmp_path: Path, wanted: str, level: int) -> None:
    levels = aperio(tmp_path / "a.svs")
    same(read_image(f"{tmp_path / 'a.svs'}::{wanted}"), levels[level])


def test_levels_that_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    aperio(path)
    listed = r"0 \(330 x 230, 20x, 0\.5um\), 1 \(83 x 58, 5\.0\dx, 1\.9\dum\), 2 \(21 x 15, "
    for wanted in ("3", "-1", "40x", "0.2um", "big", "x", "1.5", "0x0"):
        with pytest.raises(SegkitError, match=rf"a\.svs::{wanted}: it has no level '{wanted}'; .*"):
            read_image(f"{path}::{wanted}")
    with pytest.raises(SegkitError, match=rf"its levels are {listed}"):
        read_image(f"{path}::40x")
    aperio(path, "Aperio Image Library v12 {} x {}")
    for wanted in ("20x", "0.5um"):
        with pytest.raises(SegkitError, match=r"levels are 0 \(330 x 230\), 1 \(83 x 58\), 2"):
            read_image(f"{path}::{wanted}")
    with ImageReader(path) as reader:
        assert reader.read_place() is None


def test_size_of_a_pixel(tmp_path: Path) -> None:
    aperio(tmp_path / "a.svs")
    wanted = [(0.5, 0.5), (0.5 * H / 58, 0.5 * W / 83), (0.5 * H / 15, 0.5 * W / 21)]
    for level, size in enumerate(wanted):
        with ImageReader(f"{tmp_path / 'a.svs'}::{level}") as reader:
            assert reader.read_place().pixel_size == pytest.approx(size)


def test_focal_planes_are_pages(tmp_path: Path) -> None:
    path, text = tmp_path / "a.svs", DESCRIPTION.format(W, H)
    options = {"photometric": "rgb", "metadata": None, "description": text, "tile": (64, 64)}
    planes = [noise(H, W, 3), noise(H, W, 3)[::-1].copy()]
    with tifffile.TiffWriter(path) as tif:
        tif.write(planes[0], **options)
        tif.write(noise(50, 70, 3), **{**options, "tile": None})
        tif.write(planes[1], **options)
    assert count_pages(path) == 2
    for page, plane in enumerate(planes):
        same(read_image(path, page), plane)


def test_another_tiff_with_that_ending(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.svs", noise(H, W))
    same(read_image(tmp_path / "a.svs"), noise(H, W)[..., None])
    tifffile.imwrite(tmp_path / "b.tif", noise(H, W))
    with pytest.raises(SegkitError, match="a TIFF has no arrays to choose from"):
        read_image(f"{tmp_path / 'b.tif'}::0")
    Image.fromarray(noise(H, W)).save(tmp_path / "c.svs", "PNG")
    assert find_format(tmp_path / "c.svs").name == "png"


# --- Hamamatsu -----------------------------------------------------------------------------------


def hamamatsu(path: Path, width: int = 96, height: int = 64) -> np.ndarray:
    """A TIFF with offsets of 64 bits whose image is one JPEG with restart markers."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([y * 3, x * 2, 200 - y], axis=2).astype(np.uint8)
    buffer = io.BytesIO()
    options = {"quality": 95, "subsampling": 0, "restart_marker_blocks": 4}
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    jpeg = buffer.getvalue()
    scan = jpeg.index(b"\xff\xda")
    starts = [scan + 2 + int.from_bytes(jpeg[scan + 2 : scan + 4], "big")]
    at = starts[0]
    while at + 1 < len(jpeg):
        if jpeg[at] == 0xFF and 0xD0 <= jpeg[at + 1] <= 0xD7:
            starts.append(at + 2)
        at += 1
    assert len(starts) == height // 8 * width // 32
    data, more = bytearray(b"II*\0" + bytes(8)), bytearray()

    def append(values: bytes) -> int:
        data.extend(values + bytes(-len(values) % 8))
        return len(data) - len(values) - (-len(values) % 8)

    strip = append(jpeg)
    bits = append(struct.pack("<3H", 8, 8, 8))
    table = append(struct.pack(f"<{len(starts)}I", *starts))
    resolution = append(struct.pack("<2I", 20000, 1))
    maker = append(b"Hamamatsu\0")
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, bits), (259, 3, 1, 7),
        (262, 3, 1, 6), (271, 2, 10, maker), (273, 4, 1, strip), (277, 3, 1, 3),
        (278, 4, 1, height), (279, 4, 1, len(jpeg)), (282, 5, 1, resolution),
        (283, 5, 1, resolution), (296, 3, 1, 3), (65420, 4, 1, 1),
        (65421, 11, 1, struct.unpack("<I", struct.pack("<f", 40))[0]),
        (65426, 4, len(starts), table),
    ]  # fmt: skip
    more += struct.pack("<H", len(tags))
    for code, kind, count, value in tags:
        more += struct.pack("<HHII", code, kind, count, value)
    more += bytes(8 + 4 * len(tags))  # no next image; the upper halves of the values
    directory = append(bytes(more))
    struct.pack_into("<Q", data, 4, directory)
    path.write_bytes(data)
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image)


def test_hamamatsu_has_windows(tmp_path: Path) -> None:
    path = tmp_path / "a.ndpi"
    wanted = hamamatsu(path)
    whole = read_image(path)
    assert np.abs(whole.astype(int) - wanted).max() <= 2
    with open_windows(path) as image:
        for window in pick_windows(*whole.shape[:2]):
            assert np.abs(image.read(*window).astype(int) - cut(wanted, *window)).max() <= 2
    with ImageReader(path) as reader:
        assert reader.read_place().pixel_size == pytest.approx((0.5, 0.5))
    same(read_image(f"{path}::40x"), whole)
    with pytest.raises(SegkitError, match=r"levels are 0 \(96 x 64, 40x, 0\.5um\)"):
        read_image(f"{path}::80x")


# --- Leica ---------------------------------------------------------------------------------------


def leica(path: Path, regions: int) -> list[np.ndarray]:
    """An overview of the glass, and regions with two levels."""
    images = [noise(H, W, 3)[::step].copy() for step in range(1, regions + 1)]
    xml, number = "", 2
    for image in images:
        h, w = image.shape[:2]
        xml += f'<image name="tissue"><view sizeX="{w * 500}" sizeY="{h * 500}" offsetX="7" '
        xml += 'offsetY="9"/><scanSettings><objectiveSettings><objective>20</objective>'
        xml += "</objectiveSettings></scanSettings><pixels>"
        xml += f'<dimension r="0" ifd="{number}" sizeX="{w}" sizeY="{h}"/>'
        xml += f'<dimension r="1" ifd="{number + 1}" sizeX="{-(-w // 4)}" sizeY="{-(-h // 4)}"/>'
        xml += "</pixels></image>"
        number += 2
    view = 'sizeX="9000000" sizeY="4000000"'
    glass = f'<image name="glass"><view {view} offsetX="0" offsetY="0"/><pixels>'
    glass += '<dimension r="0" ifd="0" sizeX="90" sizeY="40"/><dimension r="1" ifd="1"/>'
    space = "http://www.leica-microsystems.com/scn/2010/10/01"
    text = f'<scn xmlns="{space}"><collection {view}>{glass}</pixels></image>{xml}'
    options = {"photometric": "rgb", "metadata": None, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        text += "</collection></scn>"
        tif.write(noise(40, 90, 3), tile=(64, 64), description=text, **options)
        tif.write(noise(20, 45, 3), tile=(64, 64), **options)
        for image in images:
            for factor in (1, 4):
                fine = (20000 / factor, 20000 / factor)
                tif.write(shrink(image, factor), tile=(64, 64), resolution=fine, **options)
    return images


@pytest.mark.parametrize("regions", [1, 2])
def test_leica(tmp_path: Path, regions: int) -> None:
    path = tmp_path / "a.scn"
    images = leica(path, regions)
    assert count_pages(path) == regions
    for page, image in enumerate(images):
        same(read_image(path, page), image)
        same(read_image(f"{path}::1", page), shrink(image, 4))
        same(read_image(f"{path}::5x", page), shrink(image, 4))
        check_windows(path, page)
        with ImageReader(path) as reader:
            assert reader.read_place(page).pixel_size == pytest.approx((0.5, 0.5))


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".svs", ".scn", ".ndpi"])
def test_damaged_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    {".svs": aperio, ".ndpi": hamamatsu, ".scn": lambda path: leica(path, 1)}[suffix](path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 4])
    for use in (read_image, open_windows):
        with pytest.raises(SegkitError, match=rf"a\{suffix}: cannot be read"):
            use(path)
    for damaged in (data[:8], data[:4] + bytes(300), b"", b"hello" * 9):
        path.write_bytes(damaged)
        for use in (read_image, read_extent, open_windows):
            with pytest.raises(SegkitError, match=rf"a\{suffix}: cannot be read"):
                use(path)
