"""Files of every kind, made on the fly, against the arrays that they were made from."""

import struct
import warnings
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from images.conftest import noise, same
from images.png_files import H, W, encode_png
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from scipy.io import netcdf_file

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


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_bmp_of_black_and_white_in_more_than_one_bit(tmp_path, bits, is_packed) -> None:
    pixels = np.array([[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], np.uint8)
    each = {4: (b"\0\0", b"\x11\x11"), 8: (bytes(4), b"\1" * 4)}[bits]
    rows = [each[row[0]] + bytes(-len(each[0]) % 4) for row in pixels[::-1]]
    if is_packed:  # run lengths: 4 times the value, the end of the row; and of the picture
        rows = [bytes([4, row[0], 0, 0]) for row in rows] + [b"\0\1"]
    body = b"".join(rows)
    packing = {False: 0, True: 2 if bits == 4 else 1}[is_packed]
    head = struct.pack("<IiiHHIIiiII", 40, 4, 3, 1, bits, packing, len(body), 0, 0, 2, 0)
    start = struct.pack("<2sIII", b"BM", 62 + len(body), 0, 62)
    path = tmp_path / "a.bmp"
    path.write_bytes(start + head + bytes(4) + b"\xff\xff\xff\0" + body)
    if not is_packed:  # OpenCV refuses short runs of 4 bits
        np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), pixels * 255)
    same(read_mask(path), pixels)
    same(read_image(path), pixels[..., None] * np.uint8(255))


def test_a_bmp_of_os2_with_one_bit(tmp_path: Path) -> None:
    head = struct.pack("<2sIIIIHHHH", b"BM", 40, 0, 32, 12, 4, 2, 1, 1)
    body = b"\x50\0\0\0\x30\0\0\0"  # from below
    (tmp_path / "a.bmp").write_bytes(head + b"\0\0\0\xff\xff\xff" + body)
    bits = np.array([[0, 0, 1, 1], [0, 1, 0, 1]], np.uint8)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.bmp"), 0), bits * 255)
    same(read_mask(tmp_path / "a.bmp"), bits)
    same(read_image(tmp_path / "a.bmp"), bits[..., None] * np.uint8(255))


def test_a_bmp_with_a_damaged_size_is_refused(tmp_path: Path) -> None:
    Image.fromarray(noise(H, W, 3)).save(tmp_path / "a.bmp")
    data = bytearray((tmp_path / "a.bmp").read_bytes())
    struct.pack_into("<ii", data, 18, 2**31 - 1, 2**31 - 1)
    (tmp_path / "a.bmp").write_bytes(data)
    with pytest.raises(SegkitError, match=r"a\.bmp: it would be decoded to 2147483647 x"):
        read_image(tmp_path / "a.bmp")


def test_four_bit_grey_is_spread_in_an_image_and_not_in_a_mask(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(4, 0, [b"\x01\x2f", b"\x30\x45"], 4))
    labels = np.array([[0, 1, 2, 15], [3, 0, 4, 5]], np.uint8)
    same(read_mask(tmp_path / "a.png"), labels)
    same(read_image(tmp_path / "a.png"), labels[..., None] * 17)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_transparent_colour_of_a_png_of_any_depth(tmp_path, bits, channels) -> None:
    if channels == 3 and bits < 8:
        return  # there is no such PNG
    pixels = noise(6, 8, channels, dtype="int64") % 2**bits
    pixels[2:4, 3] = key = pixels[0, 0]
    numbers = pixels.astype(np.uint8 if bits < 16 else ">u2").reshape(6, -1)
    rows = [row.tobytes() for row in numbers]
    if bits < 8:
        digits = np.unpackbits(numbers[..., None], axis=2)[..., -bits:].reshape(6, -1)
        rows = [np.packbits(row).tobytes() for row in digits]
    path, colour = tmp_path / "a.png", 0 if channels == 1 else 2
    path.write_bytes(encode_png(bits, colour, rows, 8, key.astype(">u2").tobytes()))
    hidden = (pixels == key).all(axis=2)
    image, dtype = read_image(path), np.uint8 if bits <= 8 else np.uint16
    shown = pixels * (255 // (2**bits - 1)) if bits < 8 else pixels
    np.testing.assert_array_equal(np.ma.getdata(image), shown.astype(dtype), strict=True)
    np.testing.assert_array_equal(np.ma.getmaskarray(image).all(axis=2), hidden)
    assert np.ma.getmaskarray(image).any(axis=2).sum() == hidden.sum() > 1
    same(read_mask(path), pixels.astype(dtype).squeeze())


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


@pytest.mark.parametrize(("kind", "stored"), [("B", 8), ("H", 8), ("I", 8), ("H", 0), ("H", 9)])
def test_orientation_of_any_type_and_none_that_is_unknown(tmp_path, kind, stored) -> None:
    path = tmp_path / "a.tif"  # IrfanView writes a byte
    tag = (0x0112, kind, 1, stored, True)
    tifffile.imwrite(path, noise(H, W), extratags=[tag], metadata=None)
    with Image.open(path) as picture:
        assert picture.tag_v2[0x0112] == (b"\x08" if kind == "B" else stored)
    upright = np.rot90(noise(H, W)) if stored == 8 else noise(H, W)
    same(read_mask(path), np.ascontiguousarray(upright))
    with ImageReader(path) as reader:
        assert reader.read_size() == upright.shape
    exif = Image.Exif()
    exif[0x0112] = stored
    Image.fromarray(noise(H, W)).save(tmp_path / "a.png", exif=exif)
    with ImageReader(tmp_path / "a.png") as reader:
        assert reader.read_size() == reader.read_mask().shape == upright.shape


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


def test_a_tag_that_is_cut_off_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"  # libtiff writes the bits of the three channels last
    Image.fromarray(noise(H, W, 3)).save(path, compression="tiff_lzw")
    data = path.read_bytes()
    path.write_bytes(data[:-2])
    with pytest.raises(SegkitError, match="it is damaged, or cut short: its tag 258 cannot be"):
        read_image(path)
    with pytest.raises(SegkitError, match="its tag 258"):
        open_windows(path)


@pytest.mark.parametrize("bigtiff", [False, True])
def test_pages_that_are_cut_off_are_missed(tmp_path: Path, bigtiff: bool) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as tif:
        for _ in range(3):
            tif.write(noise(H, W), metadata=None)
    with tifffile.TiffFile(path) as tif:
        last = tif.pages[2].offset
    data = path.read_bytes()
    assert count_pages(path) == 3
    for end in (last, last + 1, last + 30):
        path.write_bytes(data[:end])
        with pytest.raises(SegkitError, match="it is cut short: its page 2 is missing"):
            count_pages(path)


def test_children_of_a_page_are_no_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(noise(32, 32, 3), photometric="rgb", subifds=2)
        tif.write(noise(16, 16, 3), photometric="rgb")
        tif.write(noise(8, 8, 3), photometric="rgb")
    with Image.open(path) as picture:
        assert picture.n_frames == count_pages(path) == 1
    same(read_image(path), noise(32, 32, 3))


def test_luma_and_chroma_of_several_pixels_are_refused(tmp_path: Path) -> None:
    # as cameras wrote it: four of luma share two of chroma, without a codec
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(8, 8, 3), photometric="rgb", rowsperstrip=8, metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages.first.tags["PhotometricInterpretation"].overwrite(6)
        tif.pages.first.tags["StripByteCounts"].overwrite(96)
    for read in (read_image, read_mask):
        with pytest.raises(
            SegkitError, match=r"uncompressed YCbCr with subsampled chroma: save it as"
        ):
            read(path)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("CMYK", 3)])
def test_jpeg(tmp_path: Path, mode: str, channels: int) -> None:
    colour = 100 if mode == "L" else (250, 10, 20)
    Image.new("L" if mode == "L" else "RGB", (W, H), colour).convert(mode).save(tmp_path / "a.jpg")
    image = read_image(tmp_path / "a.jpg")
    assert (image.shape, image.dtype) == ((H, W, channels), np.uint8)
    np.testing.assert_allclose(image[0, 0], colour, atol=4)


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
    Image.fromarray(noise(H, W)).save(tmp_path / "iphone.jpg", "AVIF")
    with netcdf_file(tmp_path / "a.nc", "w") as file:
        file.createDimension("y", 2)
    (tmp_path / "a.exe").write_bytes(b"MZ" + bytes(600))
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n"
    (tmp_path / "a.png").write_text(pointer)
    for name, message in {
        "12.jpg": r"of a kind that is not read \(.*12-bit.*\): convert it to PNG or TIFF\.",
        "ls.jpg": r"of a kind that is not read \(.*\): convert it to PNG or TIFF\.",
        "a.jxl": r"it is JPEG XL, which is not read: convert it to PNG or TIFF\.",
        "iphone.jpg": r"it is AVIF, which is not read: convert it to PNG or TIFF\.",
        "a.nc": r"it is netCDF 3, which is not read: convert it with 'nccopy -k nc4 IN OUT'\.",
        "a.exe": r"it is not an image; known are .*\. Convert others to PNG or TIFF\.",
        "a.png": "a pointer of Git LFS, without the image: run 'git lfs pull'",
    }.items():
        for read in (read_image, read_extent):
            with pytest.raises(SegkitError, match=message):
                read(tmp_path / name)
        with pytest.raises(SegkitError, match=message):
            read_image((tmp_path / name).read_bytes())
