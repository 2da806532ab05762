"""Files of every kind, made on the fly, against the arrays that they were made from."""

import io
import logging
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from segkit.core.errors import SegkitError
from segkit.images.reading import (
    IMAGE_SUFFIXES,
    count_pages,
    read_image,
    read_mask,
    write_image,
    write_mask,
)
from segkit.images.windows import open_windows

H, W = 7, 5


def noise(*shape: int, dtype: str = "uint8") -> np.ndarray:
    high = 250 if dtype == "uint8" else 60_000
    return np.random.default_rng(sum(shape)).integers(0, high, shape).astype(dtype)


def png(bits: int, colour: int, rows: list[bytes], width: int, extra: bytes = b"") -> bytes:
    """A PNG written by hand, for the depths that no library here writes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + crc

    head = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + extra
        + chunk(b"IDAT", body)
        + chunk(b"IEND", b"")
    )


def same(got: np.ndarray, wanted: np.ndarray) -> None:
    assert got.dtype == wanted.dtype
    np.testing.assert_array_equal(got, wanted)
    assert got.flags.c_contiguous
    assert got.flags.writeable


# --- PNG, BMP, WebP, JPEG ------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".PNG", ".tif", ".TIFF", ".webp"])
@pytest.mark.parametrize("shape", [(H, W), (H, W, 3)])
def test_lossless_files_come_back(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    pixels = noise(*shape)
    path = tmp_path / f"Zelle größe 細胞{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(pixels).save(path, **options)
    assert path.suffix.lower() in IMAGE_SUFFIXES
    wanted = pixels.reshape(H, W, -1)
    if suffix == ".webp":  # it has no grey
        wanted = np.broadcast_to(wanted, (H, W, 3))
    same(read_image(path), np.ascontiguousarray(wanted))
    same(read_mask(path), pixels)
    assert count_pages(path) == 1


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_alpha_is_a_channel(tmp_path: Path, channels: int) -> None:
    pixels = noise(H, W, channels)
    Image.fromarray(pixels.squeeze()).save(tmp_path / "a.png")
    same(read_image(tmp_path / "a.png"), pixels)
    same(read_mask(tmp_path / "a.png"), pixels if channels > 1 else pixels[..., 0])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_png_keeps_its_bits_and_order(tmp_path: Path, channels: int) -> None:
    pixels = noise(H, W, channels, dtype="uint16")
    stored = pixels if channels == 1 else pixels[..., [2, 1, 0, 3][:channels]]
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", stored)[1].tobytes())
    same(read_image(tmp_path / "a.png"), pixels)


def test_16_bit_grey_with_alpha(tmp_path: Path) -> None:
    pixels = noise(H, W, 2, dtype="uint16")
    rows = [row.astype(">u2").tobytes() for row in pixels]
    (tmp_path / "a.png").write_bytes(png(16, 4, rows, W))
    same(read_image(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_palette_is_colours_in_an_image_and_indices_in_a_mask(tmp_path: Path, suffix: str) -> None:
    indices = noise(H, W) % 4
    picture = Image.fromarray(indices).convert("P")
    colours = np.array([[0, 0, 0], [200, 0, 0], [0, 100, 0], [7, 8, 9]], np.uint8)
    picture.putpalette(colours.tobytes())
    picture.save(tmp_path / f"a{suffix}")
    same(read_image(tmp_path / f"a{suffix}"), colours[indices])
    same(read_mask(tmp_path / f"a{suffix}"), indices)


def test_transparent_palette_stays_a_palette(tmp_path: Path) -> None:
    indices = noise(H, W) % 2
    picture = Image.fromarray(indices).convert("P")
    picture.putpalette([0, 0, 0, 9, 8, 7])
    picture.save(tmp_path / "a.png", transparency=b"\x00\xff")
    assert read_image(tmp_path / "a.png").shape == (H, W, 3)
    same(read_mask(tmp_path / "a.png"), indices)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_one_bit(tmp_path: Path, suffix: str) -> None:
    bits = noise(H, W) > 120
    Image.fromarray(bits).save(tmp_path / f"a{suffix}")
    same(read_image(tmp_path / f"a{suffix}"), (bits * 255).astype(np.uint8)[..., None])
    same(read_mask(tmp_path / f"a{suffix}"), bits.astype(np.uint8))


def test_four_bit_grey_is_spread_in_an_image_and_not_in_a_mask(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(4, 0, [b"\x01\x2f", b"\x30\x45"], 4))
    labels = np.array([[0, 1, 2, 15], [3, 0, 4, 5]], np.uint8)
    same(read_mask(tmp_path / "a.png"), labels)
    same(read_image(tmp_path / "a.png"), labels[..., None] * 17)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".lzw.tif"])
def test_orientation_is_followed(tmp_path: Path, suffix: str, orientation: int) -> None:
    pixels = np.zeros((16, 8), np.uint8)
    pixels[:8, :4] = 200
    pixels[:4, 4:] = 90
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    picture = Image.fromarray(pixels)
    if suffix.endswith(".tif"):
        compression = "tiff_lzw" if suffix == ".lzw.tif" else "raw"
        picture.save(path, tiffinfo={0x0112: orientation}, compression=compression)
    else:
        picture.save(path, exif=exif, **({"quality": 100} if suffix == ".jpg" else {}))
    upright = {
        1: pixels,
        2: np.fliplr(pixels),
        3: np.rot90(pixels, 2),
        4: np.flipud(pixels),
        5: pixels.T,
        6: np.rot90(pixels, -1),
        7: np.rot90(pixels, 2).T,
        8: np.rot90(pixels, 1),
    }[orientation]
    for got in (read_image(path)[..., 0], read_mask(path)):
        assert got.shape == upright.shape
        assert np.abs(got.astype(int) - upright).max() <= 3


def test_jpeg_kinds(tmp_path: Path) -> None:
    for mode, channels in (("L", 1), ("RGB", 3), ("CMYK", 3)):
        Image.new(mode, (W, H), 100 if mode == "L" else "red").save(tmp_path / "a.jpg")
        image = read_image(tmp_path / "a.jpg")
        assert image.shape == (H, W, channels)
        assert image.dtype == np.uint8
    Image.new("RGB", (W, H), (250, 10, 20)).save(tmp_path / "a.jpg")
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg")[0, 0], (250, 10, 20), atol=4)


def test_the_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    Image.fromarray(noise(H, W)).save(tmp_path / "a.tif", "PNG")
    same(read_mask(tmp_path / "a.tif"), noise(H, W))


# --- TIFF ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("channels", [2, 3, 4, 12])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_samples_of_a_page_are_channels(
    tmp_path: Path, dtype: str, planar: str, channels: int, compression: str | None
) -> None:
    pixels = noise(H, W, channels, dtype=dtype)
    stored = pixels if planar == "contig" else pixels.transpose(2, 0, 1)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, stored, planarconfig=planar, photometric="minisblack", compression=compression
    )
    same(read_image(path), pixels)
    assert count_pages(path) == 1
    if dtype != "float32":
        same(read_mask(path), pixels)


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}, {}])
def test_pages_called_c_are_channels(tmp_path: Path, options: dict[str, bool]) -> None:
    pixels = noise(3, 12, H, W, dtype="uint16")  # T, C, Y, X
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, metadata={"axes": "TCYX"}, photometric="minisblack", **options)
    assert count_pages(path) == 3
    for t in range(3):
        same(read_image(path, page=t), np.ascontiguousarray(pixels[t].transpose(1, 2, 0)))


@pytest.mark.parametrize("writer", ["tifffile", "bare", "imagej slices", "pillow lzw"])
def test_a_stack_is_read_by_page(tmp_path: Path, writer: str) -> None:
    stack, path = noise(4, H, W), tmp_path / "a.tif"
    if writer == "pillow lzw":
        first, *rest = [Image.fromarray(page) for page in stack]
        first.save(path, compression="tiff_lzw", save_all=True, append_images=rest)
    elif writer == "imagej slices":
        tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "ZYX"})
    else:
        options = {"metadata": None} if writer == "bare" else {}
        tifffile.imwrite(path, stack, photometric="minisblack", **options)
    assert count_pages(path) == 4
    for page in range(4):
        same(read_image(path, page=page), stack[page][..., None])
        same(read_mask(path, page=page), stack[page])
    with pytest.raises(SegkitError, match="4 pages"):
        read_image(path)
    for page in (4, -1):
        with pytest.raises(SegkitError, match=f"no page {page}"):
            read_mask(path, page=page)


def test_overviews_are_no_pages(tmp_path: Path) -> None:
    pixels = noise(16, 16)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(pixels, metadata=None)
        tif.write(pixels[::2, ::2], subfiletype=1, metadata=None)
    assert count_pages(tmp_path / "a.tif") == 1
    same(read_mask(tmp_path / "a.tif"), pixels)


def write_one_directory(path: Path, stack: np.ndarray, kind: str) -> None:
    """A stack whose pages follow each other behind a single directory, as ImageJ saves > 4 GB."""
    if kind == "shaped":
        tifffile.imwrite(path, stack, photometric="minisblack", truncate=True)
        return
    lines = f"ImageJ=1.54f\nimages={len(stack)}\nslices={len(stack)}\nloop=false\n"
    big = stack.astype(stack.dtype.newbyteorder(">"))
    tifffile.imwrite(path, big[0], byteorder=">", description=lines, metadata=None)
    with path.open("ab") as file:
        with tifffile.TiffFile(path) as tif:
            page = tif.pages.first
            assert page.dataoffsets[0] + page.databytecounts[0] == path.stat().st_size
        file.write(big[1:].tobytes())


@pytest.mark.parametrize("kind", ["imagej", "shaped"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_stack_with_a_single_directory(tmp_path: Path, kind: str, dtype: str) -> None:
    stack, path = noise(5, H, W, dtype=dtype), tmp_path / "a.tif"
    write_one_directory(path, stack, kind)
    assert count_pages(path) == 5
    for page in range(5):
        same(read_image(path, page), stack[page][..., None])
        same(read_mask(path, page), stack[page])
        with open_windows(path, page) as windows:
            same(windows.read(2, 1, 3, 4), np.ascontiguousarray(stack[page, 2:5, 1:5, None]))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - stack[0].nbytes // 2])
    for use in (count_pages, read_image, lambda path: open_windows(path, 0)):
        with pytest.raises(SegkitError, match=r"a\.tif: .*cut short: it should hold 5 images"):
            use(path)


def test_float_tiff_keeps_nan(tmp_path: Path) -> None:
    pixels = np.full((H, W), 0.5, np.float32)
    pixels[2, 3], pixels[0, 0] = np.nan, -np.inf
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    same(read_image(tmp_path / "a.tif"), pixels[..., None])
    with pytest.raises(SegkitError, match="whole numbers"):
        read_mask(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32", "float64", "float16"])
def test_other_numbers(tmp_path: Path, dtype: str) -> None:
    values = np.arange(H * W).reshape(H, W).astype(dtype)
    if dtype.startswith("int"):
        values -= 10
    tifffile.imwrite(tmp_path / "a.tif", values)
    same(read_image(tmp_path / "a.tif"), values[..., None].astype(np.float32))
    same(read_mask(tmp_path / "a.tif"), values.astype(np.int32))


def test_big_endian_becomes_native(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(H, W, dtype="uint16"), byteorder=">")
    got = read_mask(tmp_path / "a.tif")
    same(got, noise(H, W, dtype="uint16"))
    assert got.dtype.isnative


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "bool"])
def test_lzw_grey(tmp_path: Path, dtype: str) -> None:
    pixels = noise(H, W).astype(dtype)
    Image.fromarray(pixels).save(tmp_path / "a.tif", compression="tiff_lzw")
    shown = {"bool": (pixels * 255).astype(np.uint8), "int32": pixels.astype(np.float32)}
    same(read_image(tmp_path / "a.tif"), shown.get(dtype, pixels)[..., None])
    same(read_mask(tmp_path / "a.tif"), read_mask_dtype(pixels))


def read_mask_dtype(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(
        {"bool": np.uint8, "float32": np.int32}.get(str(pixels.dtype), pixels.dtype)
    )


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [3, 4])
def test_lzw_colour(tmp_path: Path, dtype: str, channels: int) -> None:
    pixels = noise(H, W, channels, dtype=dtype)
    stored = pixels[..., [2, 1, 0, 3][:channels]]
    data = cv2.imencode(".tif", stored, [cv2.IMWRITE_TIFF_COMPRESSION, 5])[1]
    (tmp_path / "a.tif").write_bytes(data.tobytes())
    same(read_image(tmp_path / "a.tif"), pixels)


@pytest.mark.parametrize("compression", ["raw", "group4", "tiff_lzw"])
def test_white_is_zero(tmp_path: Path, compression: str) -> None:
    bits = noise(H, W) > 120
    Image.fromarray(bits).save(
        tmp_path / "a.tif", compression=compression, tiffinfo={262: 0} if compression else {}
    )
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        turned = tif.pages.first.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    same(read_image(tmp_path / "a.tif")[..., 0], (bits * 255).astype(np.uint8))
    same(read_mask(tmp_path / "a.tif"), (bits ^ turned).astype(np.uint8))


def test_white_is_zero_in_grey(tmp_path: Path) -> None:
    pixels = noise(H, W, dtype="uint16")
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite")
    same(read_image(tmp_path / "a.tif"), 65535 - pixels[..., None])
    same(read_mask(tmp_path / "a.tif"), pixels)


def test_jpeg_in_tiff(tmp_path: Path) -> None:
    Image.new("RGB", (32, 16), (250, 10, 20)).save(tmp_path / "a.tif", compression="jpeg")
    np.testing.assert_allclose(read_image(tmp_path / "a.tif")[3, 3], (250, 10, 20), atol=4)


# --- masks ---------------------------------------------------------------------------------------


def test_grey_in_three_channels_is_one_label_map(tmp_path: Path) -> None:
    labels = noise(H, W)
    grey = np.repeat(labels[..., None], 3, axis=2)
    opaque = np.dstack([grey, np.full((H, W), 255, np.uint8)])
    for name, pixels in (("rgb", grey), ("rgba", opaque)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        same(read_mask(tmp_path / f"{name}.png"), labels)
        same(read_image(tmp_path / f"{name}.png"), pixels)


def test_a_coloured_mask_stays_coloured(tmp_path: Path) -> None:
    pixels = noise(H, W, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    same(read_mask(tmp_path / "a.png"), pixels)


def test_equal_channels_that_are_no_colours_stay(tmp_path: Path) -> None:
    pixels = np.ones((H, W, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig")
    assert read_mask(tmp_path / "a.tif").shape == (H, W, 3)


@pytest.mark.parametrize("value", [0.5, np.nan, 2.0**31])
def test_a_mask_of_no_integers(tmp_path: Path, value: float) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((H, W), value, np.float64))
    with pytest.raises(SegkitError, match=r"a\.tif: a mask must hold"):
        read_mask(tmp_path / "a.tif")


# --- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize(("high", "dtype"), [(1, "uint8"), (255, "uint8"), (256, "uint16")])
def test_labels_come_back(tmp_path: Path, suffix: str, high: int, dtype: str) -> None:
    labels = np.random.default_rng(0).integers(0, high + 1, (H, W))
    labels[0, 0] = high
    write_mask(tmp_path / f"ä{suffix}", labels)
    same(read_mask(tmp_path / f"ä{suffix}"), labels.astype(dtype))
    assert [path.name for path in tmp_path.iterdir()] == [f"ä{suffix}"]


def test_stacks_and_large_labels_go_into_tiff(tmp_path: Path) -> None:
    stack = np.arange(3 * H * W, dtype=np.int64).reshape(3, H, W) * 1000
    write_mask(tmp_path / "a.tif", stack)
    assert count_pages(tmp_path / "a.tif") == 3
    for page in range(3):
        same(read_mask(tmp_path / "a.tif", page), stack[page].astype(np.int32))
    write_mask(tmp_path / "b.tif", stack[:1] > 0)
    same(read_mask(tmp_path / "b.tif"), (stack[0] > 0).astype(np.uint8))


@pytest.mark.parametrize(
    ("name", "labels"),
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
def test_what_cannot_be_written(tmp_path: Path, name: str, labels: np.ndarray) -> None:
    with pytest.raises(SegkitError, match=r"a\.(jpg|png|tif)"):
        write_mask(tmp_path / name, labels)
    assert not list(tmp_path.iterdir())


def test_folders_above_a_file_are_created(tmp_path: Path) -> None:
    write_mask(tmp_path / "a" / "b" / "c.png", np.ones((H, W), np.uint8))
    write_image(tmp_path / "x" / "c.png", noise(H, W, 3))
    same(read_mask(tmp_path / "a" / "b" / "c.png"), np.ones((H, W), np.uint8))
    same(read_image(tmp_path / "x" / "c.png"), noise(H, W, 3))


def test_where_no_folder_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SegkitError, match=r"cannot write .*a\.png"):
        write_mask(tmp_path / "file" / "a.png", np.ones((H, W), np.uint8))


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mask(tmp_path / "a.png", np.ones((H, W), np.uint8))

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(SegkitError, match="No space left"):
        write_mask(tmp_path / "a.png", np.zeros((H, W), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert read_mask(tmp_path / "a.png").all()


@pytest.mark.parametrize("shape", [(H, W), (H, W, 1), (H, W, 3), (H, W, 4)])
def test_pictures_come_back(tmp_path: Path, shape: tuple[int, ...]) -> None:
    write_image(tmp_path / "a.png", noise(*shape))
    same(read_image(tmp_path / "a.png"), noise(*shape).reshape(H, W, -1))


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("a.jpg", noise(H, W, 3)),
        ("a.png", noise(H, W, 2)),
        ("a.png", noise(H, W, 3, dtype="uint16")),
        ("a.png", noise(W)),
    ],
)
def test_what_is_no_picture(tmp_path: Path, name: str, image: np.ndarray) -> None:
    with pytest.raises(SegkitError, match=r"a\.(jpg|png)"):
        write_image(tmp_path / name, image)


# --- broken files --------------------------------------------------------------------------------


def encoded(kind: str) -> bytes:
    pixels, buffer = noise(60, 50, 3), io.BytesIO()
    if kind == "png16":
        return bytes(cv2.imencode(".png", pixels.astype(np.uint16) * 200)[1])
    if kind == "tiff":
        tifffile.imwrite(buffer, pixels, compression="zlib")
    elif kind == "tiff raw":
        tifffile.imwrite(buffer, pixels)
    elif kind == "tiff lzw":
        Image.fromarray(pixels).save(buffer, "TIFF", compression="tiff_lzw")
    elif kind == "tiff16 lzw":
        options = [cv2.IMWRITE_TIFF_COMPRESSION, 5]
        return bytes(cv2.imencode(".tif", pixels.astype(np.uint16), options)[1])
    else:
        Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


KINDS = ["png", "png16", "jpeg", "bmp", "webp", "tiff", "tiff raw", "tiff lzw", "tiff16 lzw"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0.0, 0.001, 0.02, 0.3, 0.7, 0.98])
def test_a_file_that_is_cut_short(
    tmp_path: Path, kind: str, part: float, capfd: pytest.CaptureFixture[str]
) -> None:
    data = encoded(kind)
    path = tmp_path / "cut.img"
    path.write_bytes(data)
    read_image(path)
    path.write_bytes(data[: int(len(data) * part)])
    for read in (read_image, read_mask):
        with pytest.raises(SegkitError, match=r"cut\.img: cannot be read: "):
            read(path)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello, I am no image\n" * 20)
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8" + bytes(100))
    (tmp_path / "c.tif").write_bytes(b"II*\0" + bytes(100))
    (tmp_path / "d.png").mkdir()
    for name in ("a.png", "b.jpg", "c.tif", "d.png", "e.png"):
        with pytest.raises(SegkitError, match=rf"{name}: cannot be read: \w"):
            read_image(tmp_path / name)
    for name in ("d.png", "e.png"):
        with pytest.raises(SegkitError, match=name):
            count_pages(tmp_path / name)


def test_a_png_has_one_page(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", noise(H, W))
    same(read_mask(tmp_path / "a.png", page=0), noise(H, W))
    with pytest.raises(SegkitError, match="no page 1"):
        read_mask(tmp_path / "a.png", page=1)


def test_threads_that_read_leave_the_logger_as_it_was(tmp_path: Path, caplog) -> None:
    write_image(tmp_path / "a.png", noise(H, W))
    (tmp_path / "b.png").write_bytes(b"\x89PNG broken")
    log = logging.getLogger("tifffile")

    def read(number: int) -> bool:
        try:
            read_image(tmp_path / ("a.png" if number % 2 else "b.png"))
        except SegkitError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(read, range(200))) == 100
    assert not log.disabled
    log.warning("still heard")
    assert caplog.messages == ["still heard"]
