"""TIFFs of all kinds."""

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from images.conftest import check_windows, noise, same
from images.png_files import H, W
from PIL import Image

from segkit.core.errors import SegkitError
from segkit.images.reading import (
    ImageReader,
    count_pages,
    read_extent,
    read_image,
    read_mask,
)
from segkit.images.windows import open_windows


@pytest.mark.parametrize(
    ("dtype", "planar", "channels", "compression"),
    [
        ("uint8", "contig", 1, "lerc"),
        ("uint16", "contig", 1, "lzw"),
        ("float32", "contig", 1, "zstd"),
        ("uint8", "contig", 2, None),
        ("uint8", "separate", 3, "lzw"),
        ("uint8", "contig", 4, "packbits"),
        ("uint16", "contig", 12, "lzw"),
        ("uint16", "separate", 12, "zlib"),
        ("uint16", "contig", 3, "zstd"),
        ("float32", "contig", 4, "lzma"),
        ("float32", "separate", 2, None),
    ],
)
def test_samples_of_a_page_are_channels(
    tmp_path: Path, dtype: str, planar: str, channels: int, compression: str | None
) -> None:
    pixels, path = noise(H, W, channels, dtype=dtype), tmp_path / "a.tif"
    stored = pixels if planar == "contig" else pixels.transpose(2, 0, 1)
    options = {"planarconfig": planar} if channels > 1 else {}
    tifffile.imwrite(path, stored, photometric="minisblack", compression=compression, **options)
    same(read_image(path), pixels)
    assert read_extent(path) == pixels.shape
    assert count_pages(path) == 1
    if dtype != "float32":
        same(read_mask(path), pixels if channels > 1 else pixels[..., 0])


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}, {}])
def test_pages_called_c_are_channels(tmp_path: Path, options: dict[str, bool]) -> None:
    pixels = noise(3, 12, H, W, dtype="uint16")  # T, C, Y, X
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, metadata={"axes": "TCYX"}, photometric="minisblack", **options)
    assert count_pages(path) == 3
    for t in range(3):
        same(read_image(path, page=t), np.ascontiguousarray(pixels[t].transpose(1, 2, 0)))


STACKS = {
    "tifffile": {},
    "one directory": {"truncate": True},
    "packed": {"compression": "zlib"},
    "bare": {"metadata": None},
    "bare bigtiff": {"metadata": None, "bigtiff": True, "byteorder": ">"},
    "ome": {"ome": True, "metadata": {"axes": "ZYX"}},
    "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}},
}


@pytest.mark.parametrize("writer", [*STACKS, "pillow lzw"])
def test_a_stack_is_read_by_page(tmp_path: Path, writer: str) -> None:
    stack, path = noise(4, H, W), tmp_path / "a.tif"
    if writer in STACKS:
        tifffile.imwrite(path, stack, photometric="minisblack", **STACKS[writer])
    else:
        first, *rest = [Image.fromarray(page) for page in stack]
        first.save(path, compression="tiff_lzw", save_all=True, append_images=rest)
    assert count_pages(path) == count_pages(path.read_bytes()) == 4
    with ImageReader(path) as reader:
        for page in (2, 0, 3, 1):
            same(reader.read_image(page), stack[page][..., None])
            same(read_mask(path, page), stack[page])
            assert reader.read_extent(page) == (H, W, 1)
    for read in (read_image, read_extent):
        with pytest.raises(SegkitError, match=r"a\.tif: the file has 4 pages; choose one"):
            read(path)
    for page in (4, -1):
        with pytest.raises(SegkitError, match=f"no page {page}"):
            read_mask(path, page=page)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_imagej_stacks_above_4_gigabytes(tmp_path: Path, dtype: str) -> None:
    """They have one directory; the other pages follow the first."""
    stack, path = noise(5, H, W, dtype=dtype), tmp_path / "a.tif"
    big = stack.astype(stack.dtype.newbyteorder(">"))
    described = "ImageJ=1.54f\nimages=5\nslices=5\nloop=false\n"
    tifffile.imwrite(path, big[0], byteorder=">", description=described, metadata=None)
    path.write_bytes(path.read_bytes() + big[1:].tobytes())
    assert count_pages(path) == 5
    for page in range(5):
        same(read_image(path, page), stack[page][..., None])
        same(read_mask(path, page), stack[page])
        check_windows(path, page)
    path.write_bytes(path.read_bytes()[: -stack[0].nbytes // 2])
    for use in (count_pages, read_image, lambda path: open_windows(path, 0)):
        with pytest.raises(SegkitError, match=r"a\.tif: .*cut short: it should hold 5 images"):
            use(path)


@pytest.mark.parametrize("byteorder", "<>")
def test_overviews_are_no_pages(tmp_path: Path, byteorder: str) -> None:
    pixels, path = noise(16, 16), tmp_path / "a.tif"
    with tifffile.TiffWriter(path, byteorder=byteorder) as tif:
        tif.write(pixels, metadata=None)
        tif.write(pixels[::2, ::2], subfiletype=1, metadata=None)
        tif.write(pixels > 9, subfiletype=4, metadata=None)
    assert count_pages(path) == 1
    same(read_mask(path), pixels)


def test_directories_that_run_in_a_circle(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(2, H, W), metadata=None, photometric="minisblack")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        first, second = (page.offset for page in tif.pages)
    (count,) = struct.unpack_from("<H", data, second)
    struct.pack_into("<I", data, second + 2 + 12 * count, first)
    (tmp_path / "a.tif").write_bytes(data)
    assert count_pages(tmp_path / "a.tif") == 2


def test_many_pages_are_found_and_read_quickly(tmp_path: Path) -> None:
    """A million pages in all, of which each call would parse a thousand."""
    stack, path = noise(1000, 2, 2), tmp_path / "a.tif"
    tifffile.imwrite(path, stack, photometric="minisblack", metadata=None)
    parsed, init = [], tifffile.TiffPage.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tifffile.TiffPage,
            "__init__",
            lambda *args, **kw: (parsed.append(1), init(*args, **kw))[1],
        )
        with ImageReader(path) as reader:
            for page in range(1000):
                same(reader.read_image(page), stack[page][..., None])
    assert len(parsed) < 1100


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32", "float64", "float16"])
@pytest.mark.parametrize("byteorder", "<>")
def test_other_numbers(tmp_path: Path, dtype: str, byteorder: str) -> None:
    values = np.arange(H * W).reshape(H, W).astype(dtype)
    if dtype.startswith("int"):
        values -= 10
    tifffile.imwrite(tmp_path / "a.tif", values, byteorder=byteorder)
    same(read_image(tmp_path / "a.tif"), values[..., None].astype(np.float32))
    same(read_mask(tmp_path / "a.tif"), values.astype(np.int32))
    if dtype.startswith("float"):
        values[2, 3], values[0, 0] = np.nan, -np.inf
        tifffile.imwrite(tmp_path / "a.tif", values, byteorder=byteorder)
        image = read_image(tmp_path / "a.tif")
        same(np.ma.getdata(image), values[..., None].astype(np.float32))
        np.testing.assert_array_equal(np.ma.getmaskarray(image)[..., 0], np.isnan(values))


@pytest.mark.parametrize(("bits", "step"), [(2, 85), (4, 17), (6, 1), (8, 1), (12, 1)])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_packed_grey(tmp_path: Path, bits: int, step: int, photometric: str) -> None:
    pixels = noise(H, W, dtype="uint8" if bits <= 8 else "uint16") & (2**bits - 1)
    tifffile.imwrite(tmp_path / "a.tif", pixels, bitspersample=bits, photometric=photometric)
    shown = pixels if photometric == "minisblack" else pixels.dtype.type(2**bits - 1) - pixels
    same(read_mask(tmp_path / "a.tif"), shown)
    same(read_image(tmp_path / "a.tif"), shown[..., None] * pixels.dtype.type(step))


@pytest.mark.parametrize("compression", ["raw", "group4", "tiff_lzw"])
def test_white_is_zero_in_one_bit(tmp_path: Path, compression: str) -> None:
    bits = noise(H, W, dtype="bool")
    Image.fromarray(bits).save(tmp_path / "a.tif", compression=compression, tiffinfo={262: 0})
    same(read_image(tmp_path / "a.tif")[..., 0], (bits * 255).astype(np.uint8))
    same(read_mask(tmp_path / "a.tif"), bits.astype(np.uint8))  # white is 1, as it is seen


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("tiled", [False, True])
def test_a_palette_of_few_bits(tmp_path: Path, bits: int, tiled: bool) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    labels = noise(83, 70) & np.uint8(2**bits - 1)
    colours = {n: (255 - n, n, 3 * n % 256, 255) for n in range(2**bits)}
    options = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nbits": bits}
    if tiled:
        options |= {"tiled": True, "blockxsize": 16, "blockysize": 16}
    path = tmp_path / "a.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is not georeferenced
        with rasterio.open(path, "w", height=83, width=70, **options) as file:
            file.write_colormap(1, colours)
            file.write(labels, 1)
    expected = np.array([colours[n][:3] for n in range(2**bits)], np.uint8)[labels]
    same(read_image(path), expected)
    same(read_mask(path), labels)
    if tiled:
        check_windows(path)


@pytest.mark.parametrize("compression", ["jpeg", "tiff_lzw", "raw"])
def test_luma_and_chroma_become_rgb(tmp_path: Path, compression: str) -> None:
    picture = Image.new("RGB", (32, 16), (250, 10, 20)).convert("YCbCr")
    picture.save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_allclose(read_image(tmp_path / "a.tif")[3, 3], (250, 10, 20), atol=4)


def test_luma_and_chroma_after_an_overview(tmp_path: Path) -> None:
    picture = np.asarray(Image.new("RGB", (32, 16), (250, 10, 20)).convert("YCbCr"))
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(noise(16, 32), metadata=None)
        tif.write(noise(8, 16), subfiletype=1, metadata=None)
        tif.write(picture, photometric="ycbcr", compression="lzw", metadata=None)
    np.testing.assert_allclose(read_image(tmp_path / "a.tif", 1)[3, 3], (250, 10, 20), atol=4)
