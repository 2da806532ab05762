"""Windows of files of every kind, against the same files read whole."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from segkit.core.errors import SegkitError
from segkit.images.reading import read_image
from segkit.images.windows import WindowedImage, open_windows

H, W = 83, 70


def noise(*shape: int, dtype: str = "uint8") -> np.ndarray:
    values = np.random.default_rng(sum(shape)).integers(0, 2**16, shape)
    return values.astype(bool if dtype == "bool" else dtype)


def windows(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Corners, single pixels, whole rows and columns, all of it, and some in between."""
    rng = np.random.default_rng(0)
    picked = [(0, 0, height, width), (height - 1, width - 1, 1, 1), (0, 0, 1, 1)]
    picked += [(height // 2, 0, 1, width), (0, width // 2, height, 1)]
    for _ in range(25):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        below, beside = height - top, width - left
        picked.append((top, left, int(rng.integers(below)) + 1, int(rng.integers(beside)) + 1))
    return picked


def same(got: np.ndarray, wanted: np.ndarray) -> None:
    assert got.dtype == wanted.dtype
    np.testing.assert_array_equal(got, wanted, strict=True)


def check(path: Path, page: int | None = None) -> WindowedImage:
    """The file opens, and its windows are parts of the whole."""
    whole = read_image(path, page)
    image = open_windows(path, page)
    assert image is not None
    with image:
        assert image.shape == whole.shape
        assert image.dtype == whole.dtype
        for top, left, height, width in windows(*whole.shape[:2]):
            window = image.read(top, left, height, width)
            same(window, whole[top : top + height, left : left + width])
            assert window.flags.c_contiguous
    return image


# --- TIFF ----------------------------------------------------------------------------------------

LAYOUTS = {
    "rows": {},
    "strips": {"rowsperstrip": 9},
    "tiles": {"tile": (32, 16)},
    "packed strips": {"rowsperstrip": 9, "compression": "zlib"},
    "packed tiles": {"tile": (16, 32), "compression": "zlib"},
    "predictor": {"tile": (16, 32), "compression": "zlib", "predictor": 2},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "int8", "int16", "int32", "uint32", "float16", "float32"]
)
def test_every_layout_and_number(tmp_path: Path, layout: str, dtype: str) -> None:
    if layout == "predictor" and dtype.startswith("float"):
        pytest.skip("is a predictor of integers")
    tifffile.imwrite(tmp_path / "a.tif", noise(H, W, dtype=dtype), **LAYOUTS[layout])
    check(tmp_path / "a.tif")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("channels", [3, 5])
def test_channels_of_a_page(tmp_path: Path, layout: str, planar: str, channels: int) -> None:
    shape = (H, W, channels) if planar == "contig" else (channels, H, W)
    tifffile.imwrite(
        tmp_path / "a.tif",
        noise(*shape, dtype="uint16"),
        photometric="rgb" if channels == 3 else "minisblack",
        planarconfig=planar,
        **LAYOUTS[layout],
    )
    check(tmp_path / "a.tif")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", [{"bigtiff": True}, {"byteorder": ">"}])
def test_bigtiff_and_big_endian(tmp_path: Path, layout: str, options: dict) -> None:
    pixels = noise(H, W, dtype="uint16")
    tifffile.imwrite(tmp_path / "a.tif", pixels, **LAYOUTS[layout], **options)
    check(tmp_path / "a.tif")


@pytest.mark.parametrize("layout", ["rows", "packed strips", "packed tiles"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_palette_and_white_is_zero(tmp_path: Path, layout: str, dtype: str) -> None:
    pixels = noise(H, W, dtype=dtype)
    colours = noise(3, 2 ** (8 * pixels.itemsize), dtype="uint16")
    for name, options in (
        ("palette", {"photometric": "palette", "colormap": colours}),
        ("white", {"photometric": "miniswhite"}),
    ):
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, **options, **LAYOUTS[layout])
        assert check(tmp_path / f"{name}.tif").shape == (H, W, 3 if name == "palette" else 1)


@pytest.mark.parametrize("layout", ["strips", "tiles", "packed strips", "packed tiles"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_one_bit(tmp_path: Path, layout: str, photometric: str) -> None:
    pixels = noise(H, W, dtype="bool")
    try:
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=photometric, **LAYOUTS[layout])
    except NotImplementedError:
        pytest.skip("older versions of tifffile do not pack single bits")
    assert check(tmp_path / "a.tif").dtype == np.uint8


@pytest.mark.parametrize("layout", ["rows", "packed strips", "packed tiles"])
@pytest.mark.parametrize("kind", ["ome", "imagej", "shaped"])
def test_pages_called_c_are_channels(tmp_path: Path, layout: str, kind: str) -> None:
    if kind == "imagej" and layout != "rows":
        pytest.skip("ImageJ's files are not packed")
    options = {} if kind == "shaped" else {kind: True}
    tifffile.imwrite(
        tmp_path / "a.tif",
        noise(3, 7, H, W, dtype="uint16"),
        metadata={"axes": "TCYX"},
        photometric="minisblack",
        **options,
        **LAYOUTS[layout],
    )
    for page in range(3):
        assert check(tmp_path / "a.tif", page).shape == (H, W, 7)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pages(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, noise(4, H, W), photometric="minisblack", metadata=None, **LAYOUTS[layout]
    )
    for page in range(4):
        check(path, page)
    with pytest.raises(SegkitError, match=r"a\.tif: the file has 4 pages"):
        open_windows(path)
    with pytest.raises(SegkitError, match=r"a\.tif: there is no page 4"):
        open_windows(path, 4)


def test_overviews_are_no_pages(tmp_path: Path) -> None:
    pixels = noise(H, W)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(pixels, metadata=None, subifds=1, tile=(16, 16))
        tif.write(pixels[::2, ::2], metadata=None, subfiletype=1, tile=(16, 16))
        tif.write(pixels[::2, ::2], metadata=None, subfiletype=1, tile=(16, 16))
    check(tmp_path / "a.tif")


def test_tiles_that_were_left_out(tmp_path: Path) -> None:
    tiles = [noise(16, 16), None, None, noise(16, 16), None, noise(16, 16)]
    tifffile.imwrite(tmp_path / "a.tif", iter(tiles), shape=(40, 32), dtype="uint8", tile=(16, 16))
    check(tmp_path / "a.tif")


def test_what_can_only_be_had_whole(tmp_path: Path) -> None:
    pixels = noise(H, W)
    for name in ("a.png", "a.jpg", "a.bmp", "a.webp"):
        Image.fromarray(pixels).save(tmp_path / name)
    tifffile.imwrite(tmp_path / "one strip.tif", pixels, compression="zlib", rowsperstrip=H)
    tifffile.imwrite(tmp_path / "three.tif", pixels, compression="zlib", rowsperstrip=40)
    Image.fromarray(pixels).save(tmp_path / "turned.tif", tiffinfo={0x0112: 6})
    Image.fromarray(pixels).save(tmp_path / "lzw.tif", compression="tiff_lzw", strip_size=900)
    Image.new("RGB", (W, H), "red").save(tmp_path / "jpeg.tif", compression="jpeg")
    for path in tmp_path.iterdir():
        if path.name == "lzw.tif" and _tifffile_has_lzw():
            continue
        assert open_windows(path) is None, path
        assert read_image(path).shape[:2] in ((H, W), (W, H))


def _tifffile_has_lzw() -> bool:
    try:
        return bool(tifffile.TIFF.DECOMPRESSORS[5])
    except KeyError:
        return False


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cut_short(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(H, W), **LAYOUTS[layout])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(SegkitError, match=r"a\.tif: cannot be read"):
        open_windows(path)


@pytest.mark.parametrize("layout", ["rows", "packed tiles"])
def test_cut_short_after_it_was_opened(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(H, W), **LAYOUTS[layout])
    data = path.read_bytes()
    with open_windows(path) as image:
        path.write_bytes(data[: len(data) // 2])
        image.read(0, 0, 5, 5)
        with pytest.raises(SegkitError, match=r"a\.tif: cannot be read: it is cut short"):
            image.read(H - 5, W - 5, 5, 5)


def test_a_damaged_tile_spoils_only_its_windows(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(H, W), tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(path) as tif:
        at, count = tif.pages.first.dataoffsets[7], tif.pages.first.databytecounts[7]
    data = bytearray(path.read_bytes())
    data[at : at + count] = bytes(count)
    path.write_bytes(data)
    with open_windows(path) as image:
        image.read(0, 0, 16, W)
        with pytest.raises(SegkitError, match=r"a\.tif: cannot be read"):
            image.read(0, 0, 40, W)
        image.read(48, 0, 16, W)


@pytest.mark.parametrize(
    "window",
    [(-1, 0, 5, 5), (0, -1, 5, 5), (0, 0, 0, 5), (0, 0, 5, 0), (H - 4, 0, 5, 5), (0, W, 1, 1)],
)
def test_windows_lie_inside(tmp_path: Path, window: tuple[int, int, int, int]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(H, W))
    with open_windows(tmp_path / "a.tif") as image, pytest.raises(SegkitError, match="reaches out"):
        image.read(*window)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    (tmp_path / "folder.tif").mkdir()
    for name in ("a.tif", "b.tif", "folder.tif"):
        with pytest.raises(SegkitError, match=name):
            open_windows(tmp_path / name)


def test_a_closed_image_says_so(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(H, W))
    image = open_windows(tmp_path / "a.tif")
    image.close()
    with pytest.raises(SegkitError, match="closed"):
        image.read(0, 0, 1, 1)


@pytest.mark.parametrize("layout", ["rows", "packed tiles"])
def test_threads_may_read_at_once(tmp_path: Path, layout: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(H, W), **LAYOUTS[layout])
    whole = read_image(tmp_path / "a.tif")
    with open_windows(tmp_path / "a.tif") as image, ThreadPoolExecutor(8) as pool:
        todo = windows(H, W) * 20
        for (top, left, height, width), got in zip(
            todo, pool.map(lambda window: image.read(*window), todo), strict=True
        ):
            same(got, whole[top : top + height, left : left + width])
