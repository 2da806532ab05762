"""Files of every kind, made on the fly, against the arrays that they were made from."""

import io
import logging
import resource
import struct
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from images.conftest import check_windows, noise, same
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from serve.conftest import gigapixel_png

from segkit.core.errors import SegkitError
from segkit.images.formats.base import find_format, list_suffixes
from segkit.images.reading import (
    ImageReader,
    count_pages,
    read_extent,
    read_image,
    read_mask,
)
from segkit.images.windows import open_windows
from segkit.images.writing import write_image, write_mask

H, W = 7, 5


def encode_png(bits: int, colour: int, rows: list[bytes], width: int) -> bytes:
    """A PNG with a depth that no library here writes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + crc

    head = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


# --- PNG, BMP, WebP, JPEG ------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".PNG", ".tif", ".TIFF", ".webp"])
@pytest.mark.parametrize("shape", [(H, W), (H, W, 3)])
def test_lossless_files_come_back(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    pixels = noise(*shape)
    path = tmp_path / f"Zelle größe 細胞{suffix}"
    Image.fromarray(pixels).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    assert path.suffix.lower() in list_suffixes()
    wanted = pixels.reshape(H, W, -1)
    if suffix == ".webp":  # it has no grey
        wanted = np.broadcast_to(wanted, (H, W, 3))
    same(read_image(path), np.ascontiguousarray(wanted))
    same(read_image(path.read_bytes()), np.ascontiguousarray(wanted))
    same(read_mask(path), pixels)
    assert count_pages(path) == 1
    assert read_extent(path) == read_extent(path.read_bytes()) == wanted.shape
    assert find_format(path.read_bytes()) is find_format(path)


def test_the_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    Image.fromarray(noise(H, W)).save(tmp_path / "a.tif", "PNG")
    same(read_mask(tmp_path / "a.tif", page=0), noise(H, W))
    with pytest.raises(SegkitError, match="no page 1"):
        read_mask(tmp_path / "a.tif", page=1)
    assert find_format(b"") is None
    assert find_format(b"hello") is None


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_of_a_png_keep_their_bits_and_order(tmp_path, channels, dtype) -> None:
    pixels, path = noise(H, W, channels, dtype=dtype), tmp_path / "a.png"
    if dtype == "uint8":
        Image.fromarray(pixels.squeeze()).save(path)
    elif channels == 2:
        path.write_bytes(encode_png(16, 4, [row.astype(">u2").tobytes() for row in pixels], W))
    else:
        stored = pixels if channels == 1 else pixels[..., [2, 1, 0, 3][:channels]]
        path.write_bytes(cv2.imencode(".png", stored)[1].tobytes())
    same(read_image(path, keep_alpha=True), pixels)
    if channels in (1, 3):
        same(read_image(path), pixels)
    same(read_mask(path), pixels if channels > 1 else pixels[..., 0])


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".gif"])
def test_palette_is_colours_in_an_image_and_indices_in_a_mask(tmp_path: Path, suffix: str) -> None:
    indices = noise(H, W) % 4
    picture = Image.fromarray(indices).convert("P")
    colours = np.array([[0, 0, 0], [200, 0, 0], [0, 100, 0], [7, 8, 9]], np.uint8)
    picture.putpalette(colours.tobytes())
    picture.save(tmp_path / f"a{suffix}")
    same(read_image(tmp_path / f"a{suffix}"), colours[indices])
    same(read_mask(tmp_path / f"a{suffix}"), indices)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_one_bit(tmp_path: Path, suffix: str) -> None:
    bits = noise(H, W, dtype="bool")
    Image.fromarray(bits).save(tmp_path / f"a{suffix}")
    same(read_image(tmp_path / f"a{suffix}"), (bits * 255).astype(np.uint8)[..., None])
    same(read_mask(tmp_path / f"a{suffix}"), bits.astype(np.uint8))


def test_four_bit_grey_is_spread_in_an_image_and_not_in_a_mask(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(4, 0, [b"\x01\x2f", b"\x30\x45"], 4))
    labels = np.array([[0, 1, 2, 15], [3, 0, 4, 5]], np.uint8)
    same(read_mask(tmp_path / "a.png"), labels)
    same(read_image(tmp_path / "a.png"), labels[..., None] * 17)


def write_text(path: Path, picture: Image.Image, key: str, text: str, kind: str) -> None:
    info = PngInfo()
    {"tEXt": info.add_text, "iTXt": info.add_itxt}[kind](key, text)
    picture.save(path, pnginfo=info)


XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF
xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:tiff="http://ns.adobe.com/tiff/1.0/">
<r:Description tiff:Orientation="6"/></r:RDF></x:xmpmeta>"""


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("extra", ["", "tEXt", "iTXt", "frames", "transparency"])
def test_pngs_with_and_without_more_than_pixels(tmp_path: Path, mode: str, extra: str) -> None:
    """Most are read without Pillow, to the same pixels."""
    path, values = tmp_path / "a.png", noise(H, W, len(mode))
    picture = Image.fromarray(values.squeeze(), mode)
    if extra == "tEXt":
        write_text(path, picture, "Software", "any", extra)
    elif extra == "iTXt":
        write_text(path, picture, "XML:com.adobe.xmp", XMP, extra)
        values = np.rot90(values, -1)
    elif extra == "frames":
        picture.save(path, save_all=True, append_images=[picture.rotate(180)])
    elif extra == "transparency" and mode in ("L", "RGB"):
        key = values[1, 2].tolist()
        picture.save(path, transparency=key[0] if mode == "L" else tuple(key))
    else:
        picture.save(path)
    image = read_image(path, keep_alpha=True)
    with Image.open(path) as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened))
    same(np.ma.getdata(image), upright.reshape(values.shape))
    same(np.ma.getdata(image), values)
    has_key = extra == "transparency" and mode in ("L", "RGB")
    assert np.ma.getmaskarray(image)[1, 2].all() == has_key


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_orientation_is_followed(tmp_path: Path, suffix: str, orientation: int) -> None:
    pixels = np.zeros((16, 8), np.uint8)
    pixels[:8, :4] = 200
    pixels[:4, 4:] = 90
    path, exif = tmp_path / f"a{suffix}", Image.Exif()
    exif[0x0112] = orientation
    options = {".tif": {"tiffinfo": {0x0112: orientation}, "compression": "tiff_lzw"}}
    Image.fromarray(pixels).save(path, **options.get(suffix, {"exif": exif, "quality": 100}))
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    for got in (read_image(path)[..., 0], read_mask(path)):
        assert got.shape == upright.shape
        assert np.abs(got.astype(int) - upright).max() <= 3
    stored = read_image(path, upright=False)[..., 0]
    assert stored.shape == pixels.shape
    assert np.abs(stored.astype(int) - pixels).max() <= 3
    for obeys, image in ((True, upright), (False, pixels)):
        with ImageReader(path, obeys) as reader:
            assert reader.read_size() == image.shape


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_luma_and_chroma(tmp_path: Path, orientation: int) -> None:
    pixels = np.zeros((16, 8, 3), np.uint8)
    pixels[:8, :4], pixels[:4, 4:] = (200, 30, 10), (20, 90, 90)
    tags = {0x0112: orientation}
    image = Image.fromarray(pixels).convert("YCbCr")
    image.save(tmp_path / "a.tif", tiffinfo=tags, compression="tiff_lzw")
    with Image.open(tmp_path / "a.tif") as image:
        same(read_image(tmp_path / "a.tif"), np.asarray(image.convert("RGB")))
    stored = read_image(tmp_path / "a.tif", upright=False)
    assert np.abs(stored.astype(int) - pixels).max() <= 3


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("CMYK", 3)])
def test_jpeg(tmp_path: Path, mode: str, channels: int) -> None:
    colour = 100 if mode == "L" else (250, 10, 20)
    Image.new("L" if mode == "L" else "RGB", (W, H), colour).convert(mode).save(tmp_path / "a.jpg")
    image = read_image(tmp_path / "a.jpg")
    assert (image.shape, image.dtype) == ((H, W, channels), np.uint8)
    np.testing.assert_allclose(image[0, 0], colour, atol=4)


# --- TIFF ----------------------------------------------------------------------------------------


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


# --- masks ---------------------------------------------------------------------------------------


def test_a_picture_of_grey_is_one_label_map(tmp_path: Path) -> None:
    labels = noise(H, W)
    grey = np.repeat(labels[..., None], 3, axis=2)
    opaque = np.dstack([grey, np.full((H, W), 255, np.uint8)])
    for pixels in (labels, labels[..., None], grey, opaque):
        write_image(tmp_path / "a.png", pixels)
        same(read_mask(tmp_path / "a.png"), labels)
        same(read_image(tmp_path / "a.png"), pixels.reshape(H, W, -1)[..., :3])


def test_channels_that_differ_or_are_no_colours_stay(tmp_path: Path) -> None:
    Image.fromarray(noise(H, W, 3)).save(tmp_path / "a.png")
    same(read_mask(tmp_path / "a.png"), noise(H, W, 3))
    pixels = np.ones((H, W, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig")
    assert read_mask(tmp_path / "a.tif").shape == (H, W, 3)


@pytest.mark.parametrize("value", [0.5, np.nan, 2.0**31])
def test_a_mask_without_integers(tmp_path: Path, value: float) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((H, W), value, np.float64))
    with pytest.raises(SegkitError, match=r"a\.tif: a mask must hold"):
        read_mask(tmp_path / "a.tif")


# --- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize(("high", "dtype"), [(1, "uint8"), (255, "uint8"), (256, "uint16")])
def test_labels_come_back(tmp_path: Path, suffix: str, high: int, dtype: str) -> None:
    labels = np.random.default_rng(0).integers(0, high + 1, (H, W))
    labels[0, 0] = high
    path = tmp_path / "above" / f"ä{suffix}"
    write_mask(path, labels)
    same(read_mask(path), labels.astype(dtype))
    assert list(path.parent.iterdir()) == [path]


def test_stacks_and_large_labels_go_into_tiff(tmp_path: Path) -> None:
    stack = np.arange(3 * H * W, dtype=np.int64).reshape(3, H, W) * 1000
    write_mask(tmp_path / "a.tif", stack)
    assert count_pages(tmp_path / "a.tif") == 3
    for page in range(3):
        same(read_mask(tmp_path / "a.tif", page), stack[page].astype(np.int32))
    write_mask(tmp_path / "b.tif", stack[:1] > 0)
    same(read_mask(tmp_path / "b.tif"), (stack[0] > 0).astype(np.uint8))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("a.jpg", np.zeros((H, W), np.uint8)),
        ("a.png", np.zeros((2, H, W), np.uint8)),
        ("a.png", np.zeros((H, W), np.float32)),
        ("a.png", np.full((H, W), -1)),
        ("a.png", np.full((H, W), 65_536)),
        ("a.tif", np.full((H, W), 2**31)),
        ("a.tif", np.zeros((0, W), np.uint8)),
    ],
)
def test_labels_that_cannot_be_written(tmp_path: Path, name: str, values) -> None:
    with pytest.raises(SegkitError, match=name):
        write_mask(tmp_path / name, values)
    assert not list(tmp_path.iterdir())


# --- broken and hostile files --------------------------------------------------------------------


def encode(kind: str) -> bytes:
    pixels, buffer = noise(60, 50, 3), io.BytesIO()
    if kind == "png16":
        return bytes(cv2.imencode(".png", pixels.astype(np.uint16) * 200)[1])
    if kind.startswith("tiff "):
        compression = kind.removeprefix("tiff ")
        tifffile.imwrite(buffer, pixels, compression=None if compression == "raw" else compression)
    else:
        Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "kind", ["png", "png16", "jpeg", "bmp", "webp", "tiff zlib", "tiff raw", "tiff lzw"]
)
def test_a_file_that_is_cut_short(tmp_path: Path, kind: str, capfd) -> None:
    data, path = encode(kind), tmp_path / "cut.img"
    path.write_bytes(data)
    read_image(path)
    for part in (0.0, 0.001, 0.02, 0.3, 0.7, 0.98):
        path.write_bytes(data[: int(len(data) * part)])
        for read in (read_image, read_mask):
            with pytest.raises(SegkitError, match=r"cut\.img: cannot be read: "):
                read(path)
    assert capfd.readouterr() == ("", "")


def test_files_that_are_not_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello, I am not an image\n" * 20)
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8" + bytes(100))
    (tmp_path / "c.tif").write_bytes(b"II*\0" + bytes(100))
    (tmp_path / "d.tif").mkdir()
    (tmp_path / "f.png").write_bytes(encode_png(8, 0, [], W))
    tifffile.imwrite(tmp_path / "g.tif", noise(H, W))
    with tifffile.TiffFile(tmp_path / "g.tif", mode="r+") as tif:
        tif.pages.first.tags["ImageLength"].overwrite(0)
    tifffile.imwrite(tmp_path / "h.tif", noise(H, W), compression="zlib")
    with tifffile.TiffFile(tmp_path / "h.tif", mode="r+") as tif:
        tif.pages.first.tags["Compression"].overwrite(32771)
    for name, reason in (
        ("a.png", r"it is not an image; known are .*\.png, .*\.tif"),
        ("b.jpg", ""),
        ("c.tif", "no pages"),
        ("d.tif", "it is a folder, but not a zarr"),
        ("e.tif", "No such file"),
        ("f.png", f"no pixels, only 0 x {W}"),
        ("g.tif", f"no pixels, only 0 x {W}"),
        ("h.tif", r"CCIRLEW.* not supported\. Save it again with deflate or LZW"),
    ):
        for read in (read_image, read_mask, open_windows):
            if read is open_windows and name in ("a.png", "b.jpg", "f.png", "h.tif"):
                continue  # it decodes nothing
            with pytest.raises(SegkitError, match=rf"{name}: cannot be read: .*{reason}"):
                read(tmp_path / name)
    for data in (b"", b"text", b"\x89PNG", b"II*\0", b"BM", b"RIFF1234"):
        with pytest.raises(SegkitError, match="the file: cannot be read"):
            read_extent(data)


def test_a_codec_that_is_not_installed(tmp_path: Path, monkeypatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(H, W), compression="zstd")

    def fail(*_: object, **__: object) -> None:
        raise ImportError("No module named 'compression'")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", fail)
    with pytest.raises(
        SegkitError, match=r"a\.tif: cannot be read: the installed imagecodecs has no"
    ):
        read_image(tmp_path / "a.tif")


def test_a_gigapixel_png_costs_nothing() -> None:
    data = gigapixel_png()
    assert len(data) < 5000
    tracemalloc.start()
    assert read_extent(data).pixels == 3_600_000_000
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_tiles_larger_than_the_picture_count_in_full(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8), tile=(2048, 1024), compression="zlib")
    assert read_extent(path)[:2] == (2048, 1024)


def test_a_strip_that_unpacks_to_more_than_its_place_is_refused(tmp_path: Path) -> None:
    path, bomb = tmp_path / "bomb.tif", zlib.compress(bytes(10**8))
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8), compression="zlib")
    place = path.stat().st_size
    path.write_bytes(path.read_bytes() + bomb)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[0].tags["StripOffsets"].overwrite(place)
        tif.pages[0].tags["StripByteCounts"].overwrite(len(bomb), dtype="I")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SegkitError, match=r"bomb\.tif: cannot be read"):
        read_image(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.parametrize(
    ("described", "reason"),
    [
        ("ImageJ=1.53\nimages=2000000000\nslices=2000000000\n", "it should hold 2000000000 images"),
        ('{"shape": [1000000, 1000000, 7, 5]}', "it should hold 1000000000000 images"),
        (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
            '<Image ID="Image:0"><Pixels ID="P" DimensionOrder="XYCZT" Type="uint8" SizeX="5" '
            'SizeY="7" SizeC="1" SizeZ="10000" SizeT="10000"><TiffData/></Pixels></Image></OME>',
            "its OME metadata describe 100000000 images",
        ),
    ],
)
def test_metadata_that_promise_too_much(tmp_path: Path, described: str, reason: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(H, W), description=described, metadata=None)
    for use in (count_pages, read_image, read_extent, open_windows):
        with pytest.raises(SegkitError, match=rf"a\.tif: cannot be read: .*{reason}"):
            use(tmp_path / "a.tif")


def test_threads_that_read_leave_the_logger_as_it_was(tmp_path: Path, caplog) -> None:
    write_image(tmp_path / "a.png", noise(H, W))
    (tmp_path / "b.tif").write_bytes(b"II*\0\xff\0\0\0")

    def read(number: int) -> bool:
        try:
            read_image(tmp_path / ("a.png" if number % 2 else "b.tif"))
        except SegkitError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(read, range(200))) == 100
    assert not caplog.messages
    logging.getLogger("tifffile").warning("still heard")
    assert caplog.messages == ["still heard"]


# --- values of other kinds ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(9, 8), (9, 8, 2), (9, 8, 5)])
def test_complex_numbers_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.ones(shape, np.complex64)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack")
    np.save(tmp_path / "a.npy", values)
    message = r"complex64 are not an image: save their magnitude or phase, or both as channels\."
    for file in (tmp_path / "a.tif", tmp_path / "a.npy"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for read in (read_image, read_mask):
                with pytest.raises(SegkitError, match=message):
                    read(file, 0)


LEAST = {"float32": float(np.finfo("f4").min), "float64": float(np.finfo("f8").min)}


@pytest.mark.parametrize("stated", ["-1.7976931348623157e+308", "-3.4028234663852886e+38", "-inf"])
@pytest.mark.parametrize("stored", [LEAST["float32"], -np.inf])
def test_the_lowest_number_as_nodata(tmp_path: Path, stated: str, stored: float) -> None:
    values, path = np.arange(72, dtype=np.float32).reshape(9, 8), tmp_path / "a.tif"
    values[2, 3] = stored
    nodata = (42113, "s", 0, stated, True)
    tifffile.imwrite(path, values, extratags=[nodata])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(path)
    assert np.ma.getmaskarray(image)[..., 0].nonzero() == (np.array([2]), np.array([3]))


def test_the_lowest_number_of_64_bits_as_nodata(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    values, path = np.arange(72.0).reshape(9, 8), tmp_path / "a.tif"
    values[2, 3] = LEAST["float64"]
    profile = {"driver": "GTiff", "count": 1, "height": 9, "width": 8, "dtype": "float64"}
    profile["transform"] = rasterio.Affine(2, 0, 0, 0, -2, 0)
    with rasterio.open(path, "w", nodata=LEAST["float64"], **profile) as file:
        file.write(values, 1)
    with rasterio.open(path) as file:
        wanted = file.read(1, masked=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(path)[..., 0]
    np.testing.assert_array_equal(np.ma.getmaskarray(image), np.ma.getmaskarray(wanted))
    np.testing.assert_array_equal(image.filled(0), wanted.filled(0))


def test_files_that_are_not_read_name_the_remedy(tmp_path: Path) -> None:
    values = np.arange(0, 4096, 7, dtype=np.uint16)[:576].reshape(24, 24)
    twelve = imagecodecs.jpeg8_encode(values, bitspersample=12)
    (tmp_path / "12.jpg").write_bytes(twelve)
    (tmp_path / "ls.jpg").write_bytes(imagecodecs.jpegls_encode(values))
    (tmp_path / "a.jxl").write_bytes(imagecodecs.jpegxl_encode(values))
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n"
    (tmp_path / "a.png").write_text(pointer)
    for name, message in {
        "12.jpg": r"of a kind that is not read \(.*12-bit.*\): convert it to PNG or TIFF\.",
        "ls.jpg": r"of a kind that is not read \(.*\): convert it to PNG or TIFF\.",
        "a.jxl": r"it is not an image; known are .*\. Convert others to PNG or TIFF\.",
        "a.png": "a pointer of Git LFS, without the image: run 'git lfs pull'",
    }.items():
        for read in (read_image, read_extent):
            with pytest.raises(SegkitError, match=message):
                read(tmp_path / name)
        with pytest.raises(SegkitError, match=message):
            read_image((tmp_path / name).read_bytes())
