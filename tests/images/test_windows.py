"""Windows of files of every kind, against the same files read whole."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from images.conftest import check_windows, cut, noise, pick_windows, same
from PIL import Image

from segkit.core.errors import SegkitError
from segkit.images.reading import count_pages, read_image
from segkit.images.windows import open_windows

H, W = 83, 70


LAYOUTS = {
    "rows": {},
    "strips": {"rowsperstrip": 9},
    "tiles": {"tile": (32, 16)},
    "packed strips": {"rowsperstrip": 9, "compression": "lzw"},
    "packed tiles": {"tile": (16, 32), "compression": "zlib"},
    "predictor": {"tile": (16, 32), "compression": "zlib", "predictor": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float16", "float32"])
def test_every_layout_and_number(tmp_path: Path, layout: str, dtype: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(H, W, dtype=dtype), **LAYOUTS[layout])
    check_windows(tmp_path / "a.tif")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("planar", "channels"), [("contig", 3), ("separate", 3), ("separate", 5)])
@pytest.mark.parametrize("options", [{"bigtiff": True}, {"byteorder": ">"}])
def test_channels_of_a_page(tmp_path: Path, layout, planar, channels, options) -> None:
    shape = (H, W, channels) if planar == "contig" else (channels, H, W)
    photometric = "rgb" if channels == 3 else "minisblack"
    options = {"photometric": photometric, "planarconfig": planar, **options, **LAYOUTS[layout]}
    tifffile.imwrite(tmp_path / "a.tif", noise(*shape, dtype="uint16"), **options)
    assert check_windows(tmp_path / "a.tif").shape == (H, W, channels)


@pytest.mark.parametrize("layout", ["rows", "packed strips", "packed tiles"])
def test_palette_and_white_is_zero(tmp_path: Path, layout: str) -> None:
    colours = noise(3, 256, dtype="uint16")
    for name, options, dtype in (
        ("palette", {"photometric": "palette", "colormap": colours}, "uint8"),
        ("white", {"photometric": "miniswhite"}, "uint16"),
    ):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, noise(H, W, dtype=dtype), **options, **LAYOUTS[layout])
        assert check_windows(path).shape == (H, W, 3 if name == "palette" else 1)


@pytest.mark.parametrize("layout", ["strips", "tiles", "packed strips", "packed tiles"])
@pytest.mark.parametrize("bits", [1, 4, 12])
def test_packed_bits(tmp_path: Path, layout: str, bits: int) -> None:
    pixels = noise(H, W, dtype="uint8" if bits < 8 else "uint16") & (2**bits - 1)
    options = {key: value for key, value in LAYOUTS[layout].items() if key != "compression"}
    given = pixels.astype(bool) if bits == 1 else pixels
    more = {} if bits == 1 else {"bitspersample": bits}
    tifffile.imwrite(tmp_path / "a.tif", given, photometric="miniswhite", **more, **options)
    check_windows(tmp_path / "a.tif")


def test_tiles_of_jpeg(tmp_path: Path) -> None:
    """As in slides: luma and chroma, with tables that all tiles share."""
    smooth = np.arange(H * W * 3).reshape(H, W, 3) // 99
    options = {"photometric": "rgb", "compression": "jpeg", "tile": (32, 16)}
    tifffile.imwrite(tmp_path / "a.tif", smooth.astype(np.uint8), **options)
    check_windows(tmp_path / "a.tif")


@pytest.mark.parametrize("layout", ["rows", "packed strips", "packed tiles"])
@pytest.mark.parametrize("options", [{"ome": True}, {"imagej": True}, {}])
def test_pages_called_c_are_channels(tmp_path: Path, layout: str, options: dict) -> None:
    packed = {} if "imagej" in options else LAYOUTS[layout]  # ImageJ does not pack
    options = {"metadata": {"axes": "TCYX"}, "photometric": "minisblack", **options, **packed}
    tifffile.imwrite(tmp_path / "a.tif", noise(3, 7, H, W, dtype="uint16"), **options)
    for page in (0, 2):
        assert check_windows(tmp_path / "a.tif", page).shape == (H, W, 7)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pages(tmp_path: Path, layout: str) -> None:
    path, options = tmp_path / "a.tif", {"photometric": "minisblack", "metadata": None}
    tifffile.imwrite(path, noise(3, H, W), **options, **LAYOUTS[layout])
    for page in range(3):
        check_windows(path, page)
    with pytest.raises(SegkitError, match=r"a\.tif: the file has 3 pages"):
        open_windows(path)
    with pytest.raises(SegkitError, match=r"a\.tif: there is no page 3"):
        open_windows(path, 3)


@pytest.mark.parametrize(
    ("metadata", "inside"),
    [("ome", True), ("shaped", True), ("none", True), ("shaped", False), ("none", False)],
)
def test_levels_of_a_pyramid_are_no_pages(tmp_path: Path, metadata: str, inside: bool) -> None:
    pages = noise(2, 96, 128) if inside and metadata != "none" else noise(1, 96, 128)
    options = {"photometric": "minisblack", "tile": (32, 32)}
    options["metadata"] = {"ome": {"axes": "ZYX"}, "shaped": {}, "none": None}[metadata]
    path = tmp_path / ("a.ome.tif" if metadata == "ome" else "a.tif")
    with tifffile.TiffWriter(path) as file:
        file.write(pages, subifds=2 if inside else 0, **options)
        for step in (2, 4):
            file.write(pages[:, ::step, ::step], subfiletype=1, **options)
    with tifffile.TiffFile(path) as file:
        assert inside == (file.pages[0].subifds is not None)  # else directories of their own
    assert count_pages(path) == len(pages)
    for number, page in enumerate(pages):
        same(read_image(path, number), page[..., None])
        check_windows(path, number)


def test_tiles_that_were_left_out(tmp_path: Path) -> None:
    tiles = [noise(16, 16), None, None, noise(16, 16), None, noise(16, 16)]
    tifffile.imwrite(tmp_path / "a.tif", iter(tiles), shape=(40, 32), dtype="uint8", tile=(16, 16))
    check_windows(tmp_path / "a.tif")


def test_images_that_can_only_be_read_whole(tmp_path: Path) -> None:
    pixels = noise(H, W)
    for name in ("a.png", "a.jpg", "a.bmp", "a.webp"):
        Image.fromarray(pixels).save(tmp_path / name)
    tifffile.imwrite(tmp_path / "one strip.tif", pixels, compression="zlib", rowsperstrip=H)
    tifffile.imwrite(tmp_path / "three.tif", pixels, compression="zlib", rowsperstrip=40)
    Image.fromarray(pixels).save(tmp_path / "rotated.tif", tiffinfo={0x0112: 6})
    ycbcr = Image.new("RGB", (W, H), "red").convert("YCbCr")
    ycbcr.save(tmp_path / "ycbcr.tif", compression="tiff_lzw", strip_size=900)
    for path in tmp_path.iterdir():
        assert open_windows(path) is None, path
        assert read_image(path).shape[:2] in ((H, W), (W, H))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cut_short(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(H, W), **LAYOUTS[layout])
    data = path.read_bytes()
    with open_windows(path) as image:
        path.write_bytes(data[: len(data) // 2])
        image.read(0, 0, 5, 5)
        with pytest.raises(SegkitError, match=r"a\.tif: cannot be read: it is cut short"):
            image.read(H - 5, W - 5, 5, 5)
    path.write_bytes(data[:-200])
    with pytest.raises(SegkitError, match=r"a\.tif: cannot be read"):
        open_windows(path)


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
    with pytest.raises(SegkitError, match="closed"):
        image.read(0, 0, 1, 1)


@pytest.mark.parametrize("layout", ["rows", "packed tiles"])
def test_threads_may_read_at_once(tmp_path: Path, layout: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(H, W), **LAYOUTS[layout])
    whole, todo = read_image(tmp_path / "a.tif"), pick_windows(H, W, 200)
    with open_windows(tmp_path / "a.tif") as image, ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda window: image.read(*window), todo)
        for window, got in zip(todo, found, strict=True):
            same(got, cut(whole, *window))


@pytest.mark.parametrize("layout", ["packed strips", "packed tiles"])
def test_each_strip_or_tile_is_decoded_once(tmp_path: Path, layout: str, monkeypatch) -> None:
    """On the way through the image, from window to window."""
    tifffile.imwrite(tmp_path / "a.tif", noise(H, W), **LAYOUTS[layout])
    decoded, read = [], tifffile.FileHandle.read
    with open_windows(tmp_path / "a.tif") as image:
        monkeypatch.setattr(
            tifffile.FileHandle, "read", lambda *args: (decoded.append(1), read(*args))[1]
        )
        for top in (*range(0, H - 8, 4), H - 8):
            for left in (*range(0, W - 8, 4), W - 8):
                image.read(top, left, 8, 8)
    rows, columns = {"packed strips": (10, 1), "packed tiles": (6, 3)}[layout]
    assert len(decoded) == rows * columns
