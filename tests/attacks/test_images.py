"""Image files by hostile or broken hands: bombs, damage, endless stacks, circles of links."""

from __future__ import annotations

import gzip
import io
import multiprocessing
import os
import random
import re
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from images.conftest import noise
from PIL import Image

from segkit.core.errors import SegkitError
from segkit.core.memory import find_max_pixels, limit_pixels
from segkit.images.formats import tiff
from segkit.images.reading import ImageReader, count_pages, read_image, read_mask
from segkit.images.windows import open_windows

H, W = 40, 30


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Sets the largest number of pixels, for the test."""
    monkeypatch.setenv("SEGKIT_MAX_PIXELS", "1")  # is restored
    return limit_pixels


# --- the limit --------------------------------------------------------------------------------


def write_picture(path: Path) -> None:
    Image.fromarray(noise(H, W)).save(path, "PPM" if path.suffix == ".pgm" else None)


def write_zarr(path: Path) -> None:
    zarr.create_array(path, shape=(H, W), chunks=(H, W), dtype="u1")[:] = noise(H, W)


def write_hdf5(path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="the extra hdf5 is not installed")
    with h5py.File(path, "w") as file:
        file["a"] = noise(H, W)


def write_volume(path: Path) -> None:
    nibabel = pytest.importorskip("nibabel", reason="the extra medical is not installed")
    nibabel.save(nibabel.Nifti1Image(noise(W, H, 1), np.eye(4)), path)


def write_dicom(path: Path) -> None:
    from images.dicom_files import make, save

    save(path, make(noise(H, W)))


def write_channels(path: Path) -> None:
    for name in ("red", "nir"):
        write_picture(path.with_name(f"a_{name}.png"))


WRITERS: dict[str, Callable[[Path], None]] = {
    **{
        f"a{suffix}": write_picture
        for suffix in (".png", ".jpg", ".bmp", ".webp", ".gif", ".jp2", ".pgm")
    },
    "a_{red,nir}.png": write_channels,
    "a.tif": lambda path: tifffile.imwrite(path, noise(H, W)),
    "packed.tif": lambda path: tifffile.imwrite(path, noise(H, W), compression="zlib"),
    "pages.ome.tif": lambda path: tifffile.imwrite(path, noise(1, H, W)),
    "slide.svs": lambda path: tifffile.imwrite(path, noise(H, W)),
    "a.npy": lambda path: np.save(path, noise(H, W)),
    "a.npz": lambda path: np.savez(path, noise(H, W)),
    "a.zarr": write_zarr,
    "a.h5": write_hdf5,
    "a.nii.gz": write_volume,
    "a.dcm": write_dicom,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_obeys_the_limit(tmp_path: Path, limit: Callable, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    limit(H * W)
    assert read_image(path).shape[:2] == (H, W)
    limit(H * W - 1)
    reads = [read_image] if name.endswith((".jpg", "}.png")) else [read_image, read_mask]
    for read in reads:
        message = rf"{re.escape(name)}: .*{H} x {W}.* the limit is {H * W - 1} pixels.* max_pixels"
        with pytest.raises(SegkitError, match=message):
            read(path)
    with ImageReader(path) as reader:  # needs no pixels
        assert reader.read_size() == (H, W)


def test_what_is_unpacked_with_a_page_counts_too(tmp_path: Path, limit: Callable) -> None:
    """A slice of a packed volume, or a part of a chunk, is small, but the rest is unpacked too."""
    volume = noise(50, H, W)
    np.savez(tmp_path / "a.npz", volume)
    zarr.create_array(tmp_path / "a.zarr", shape=volume.shape, chunks=volume.shape, dtype="u1")
    np.save(tmp_path / "a.npy", volume)
    nibabel = pytest.importorskip("nibabel", reason="the extra medical is not installed")
    nibabel.save(nibabel.Nifti1Image(volume.T, np.eye(4)), tmp_path / "a.nii.gz")
    limit(volume.size // 4 - 1)
    for name in ("a.npz", "a.zarr", "a.nii.gz"):
        with pytest.raises(SegkitError, match=rf"{name}: .* the limit is"):
            read_image(tmp_path / name, 3)
    assert read_image(tmp_path / "a.npy", 3).shape == (H, W, 1)  # is mapped
    limit(volume.size // 4)
    for name in ("a.npz", "a.zarr", "a.nii.gz"):
        assert read_image(tmp_path / name, 3).shape == (H, W, 1)


def test_windows_of_images_beyond_the_limit(tmp_path: Path, limit: Callable) -> None:
    path, pixels = tmp_path / "a.tif", noise(128, 128)
    tifffile.imwrite(path, pixels, tile=(32, 32), compression="zlib")
    limit(32 * 32)
    with pytest.raises(SegkitError, match="the limit is 1024 pixels"):
        read_image(path)
    windows = open_windows(path)
    assert windows is not None
    with windows:
        np.testing.assert_array_equal(windows.read(20, 30, 50, 60)[..., 0], pixels[20:70, 30:90])
    limit(32 * 32 - 1)  # not even a tile
    assert open_windows(path) is None


def test_the_limit_follows_from_free_memory(limit: Callable) -> None:
    limit(None)
    assert 10**6 < find_max_pixels() < 10**12


def give_limit(results: multiprocessing.Queue) -> None:
    results.put(find_max_pixels())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_have_the_limit_of_their_command(limit: Callable, method: str) -> None:
    limit(12345)
    context = multiprocessing.get_context(method)
    results = context.Queue()
    worker = context.Process(target=give_limit, args=(results,))
    worker.start()
    assert results.get(timeout=60) == 12345
    worker.join()


def test_running_out_of_memory_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    tifffile.imwrite(tmp_path / "a.tif", noise(H, W), compression="zlib")
    monkeypatch.setattr(tifffile.TiffPage, "asarray", fail)
    for read in (read_image, read_mask):
        with pytest.raises(SegkitError, match=r"a\.tif: does not fit into memory"):
            read(tmp_path / "a.tif")


# --- stacks -----------------------------------------------------------------------------------


def write_stack(path: Path, pages: int) -> None:
    """Pages of 8 x 8 with the same pixels."""
    tags = [(256, 8), (257, 8), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 8)]
    packed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*tags, (279, 64)])
    size, data = 2 + len(packed) + 4, [b"II*\0", struct.pack("<I", 72), bytes(64)]
    for page in range(1, pages + 1):
        after = 72 + page * size if page < pages else 0
        data.append(struct.pack("<H", 9) + packed + struct.pack("<I", after))
    path.write_bytes(b"".join(data))


def test_a_stack_is_listed_once_for_all_its_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples of a training are opened one by one: reading all pages must not be quadratic."""
    listed = []
    scan = tiff._list_directories
    monkeypatch.setattr(tiff, "_list_directories", lambda *given: listed.append(1) or scan(*given))
    path = tmp_path / "a.tif"
    write_stack(path, 300)
    assert count_pages(path) == 300
    for page in range(0, 300, 10):
        assert read_image(path, page).shape == (8, 8, 1)
    assert len(listed) == 1
    write_stack(path, 200)  # another version
    assert count_pages(path) == 200
    assert count_pages(path.read_bytes()) == 200


# --- pictures inside files --------------------------------------------------------------------

CODECS = {
    "jpeg": 7,
    "jpeg2k": 34712,
    "png": 34933,
    "webp": 50001,
    "jpegxl": 50002,
    "jpegxr": 34934,
    "lerc": 34887,
}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [(96, 128), (101, 67)])
def test_a_strip_that_is_a_larger_picture_is_not_decoded(
    tmp_path: Path, limit: Callable, codec: str, size: tuple[int, int]
) -> None:
    path, channels = tmp_path / "a.tif", (3,) if codec == "webp" else ()
    data = getattr(imagecodecs, f"{codec}_encode")(noise(*size, *channels))
    path.write_bytes(encode_tiff(16, bytes(data), CODECS[codec]))
    limit(size[0] * size[1] - 1)
    with pytest.raises(SegkitError, match=rf"a\.tif: it would be decoded to {size[0]} x {size[1]}"):
        read_image(path)
    tifffile.imwrite(path, noise(16, 16, *channels), compression=CODECS[codec])
    assert read_image(path).shape[:2] == (16, 16)


def test_a_dicom_frame_that_is_a_larger_picture_is_not_decoded(
    tmp_path: Path, limit: Callable
) -> None:
    from images.dicom_files import JPEG, make, pack, save

    dataset = make(noise(H, W))
    pack(dataset, f"{JPEG}90", [imagecodecs.jpeg2k_encode(noise(100, 90))])
    save(tmp_path / "a.dcm", dataset)
    limit(8999)
    with pytest.raises(SegkitError, match=r"a\.dcm: it would be decoded to 100 x 90"):
        read_image(tmp_path / "a.dcm")
    limit(9000)
    with pytest.raises(SegkitError, match=r"a\.dcm: .*its pixels are \(100, 90\)"):
        read_image(tmp_path / "a.dcm")


def test_a_deflated_dicom_is_not_unpacked_beyond_the_limit(tmp_path: Path, limit: Callable) -> None:
    from images.dicom_files import make, pydicom, save

    dataset = make(noise(H, W))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.PixelData = noise(H, W).tobytes() + bytes(2**24)
    save(tmp_path / "a.dcm", dataset)
    limit(2**22)
    for use in (count_pages, read_image):
        with pytest.raises(SegkitError, match=r"a\.dcm: it would be decoded to 1 x 1 x 1\d{7}"):
            use(tmp_path / "a.dcm")
    dataset.PixelData = noise(H, W).tobytes()
    save(tmp_path / "a.dcm", dataset)
    assert read_image(tmp_path / "a.dcm").shape == (H, W, 1)


# --- bombs ------------------------------------------------------------------------------------


def encode_chunk(kind: bytes, data: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + crc


def encode_png(
    side: int, *chunks: tuple[bytes, bytes], bits: int = 8, interlaced: int = 0
) -> bytes:
    head = struct.pack(">IIBBBBB", side, side, bits, 0, 0, 0, interlaced)
    parts = [(b"IHDR", head), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(encode_chunk(*part) for part in parts)


def encode_tiff(side: int, data: bytes, compression: int, **tags: int) -> bytes:
    """A TIFF of one strip with such data."""
    known = {256: side, 257: side, 258: 8, 259: compression, 262: 1, 273: 8, 277: 1, 278: side}
    known |= {279: len(data), **{int(tag[1:]): value for tag, value in tags.items()}}
    packed = b"".join(struct.pack("<HHII", tag, 4, 1, known[tag]) for tag in sorted(known))
    head = b"II*\0" + struct.pack("<I", 8 + len(data)) + data
    return head + struct.pack("<H", len(known)) + packed + bytes(4)


def encode_jpeg(side: int) -> bytes:
    """The start of a grey JPEG that says so many pixels."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def write_bombs(folder: Path, size: int = 2**30) -> None:
    """Files of about a megabyte that unpack to ``size`` bytes or more, or would do so."""
    packer = zlib.compressobj(9)
    zeros = b"".join(packer.compress(bytes(2**20)) for _ in range(size // 2**20)) + packer.flush()
    pixels = zlib.compress(bytes(72))
    bombs = {
        "size.png": encode_png(60_000, (b"IDAT", zeros), bits=1),
        "interlaced.png": encode_png(60_000, (b"IDAT", zeros), interlaced=1),
        "text.png": encode_png(8, (b"zTXt", b"k\0\0" + zeros), (b"IDAT", pixels)),
        "profile.png": encode_png(8, (b"iCCP", b"k\0\0" + zeros), (b"IDAT", pixels)),
        "late_text.png": encode_png(8, (b"IDAT", pixels), (b"zTXt", b"k\0\0" + zeros)),
        "pixels.png": encode_png(8, (b"IDAT", zeros)),
        "size.tif": encode_tiff(60_000, zeros, 8),
        "raw_size.tif": encode_tiff(60_000, bytes(1000), 1),
        "strip.tif": encode_tiff(8, zeros, 8),
        "rows.tif": encode_tiff(8, zeros, 8, _278=2**31),
        "tile.tif": encode_tiff(8, zeros, 8, _322=2**31, _323=2**31, _324=8, _325=len(zeros)),
        "jpeg.tif": encode_tiff(16, encode_jpeg(65_000), 7),
        "size.jpg": encode_jpeg(65_000),
        "size.gif": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\x80\0\0" + bytes(6)
        + b"," + struct.pack("<HHHH", 0, 0, 65_535, 65_535) + b"\0\2\2D\1\0;",
        "size.bmp": b"BM" + struct.pack("<IHHI", 100, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 60_000, 60_000, 1, 8, 1, 0, 0, 0, 2, 0) + bytes(200),
        "size.pgm": b"P5\n60000 60000\n255\n" + bytes(1000),
    }  # fmt: skip
    for name, data in bombs.items():
        (folder / name).write_bytes(data)
    head, shape = io.BytesIO(), (1024, 1024, 256)  # more than READ_ALL allows
    np.lib.format.write_array_header_1_0(
        head, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    with (
        zipfile.ZipFile(folder / "packed.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w") as file,
    ):
        file.write(head.getvalue())
        for _ in range(shape[2]):
            file.write(bytes(2**20))
    nibabel = pytest.importorskip("nibabel", reason="the extra medical is not installed")
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.uint8)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with gzip.open(folder / "packed.nii.gz", "wb") as file:
        file.write(header.binaryblock + bytes(4))
        for _ in range(shape[2]):
            file.write(bytes(2**20))


READ_ALL = r"""
import sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from segkit.core.errors import SegkitError
from segkit.core.memory import limit_pixels
from segkit.images.reading import ImageReader, count_pages, read_extent, read_image, read_mask
from segkit.images.windows import open_windows

def read_windows(file):
    windows = open_windows(file, 0)
    if windows is not None:
        with windows:
            windows.read(0, 0, 1, 1)

def measure():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) >> 10

limit_pixels(50_000_000)
for suffix in (".png", ".tif", ".nii.gz", ".npz"):  # imports what it needs
    try:
        read_image(next(path for path in Path(sys.argv[1]).iterdir() if path.name.endswith(suffix)))
    except (SegkitError, StopIteration):
        pass
uses = {
    "pages": count_pages, "extent": lambda file: read_extent(file, 0),
    "image": lambda file: read_image(file, 0), "mask": lambda file: read_mask(file, 0),
    "windows": read_windows,
}
for path in sorted(Path(sys.argv[1]).iterdir()):
    for kind, use in uses.items():
        for file in (path, path.read_bytes()):
            if kind == "windows" and isinstance(file, bytes):
                continue
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak
            before = measure()
            try:
                use(file)
                how = "read"
            except SegkitError as error:
                is_named = str(path) in str(error) or "the file" in str(error)
                how = "refused" if is_named else "nameless"
            except BaseException as error:
                how = repr(error)
            print(path.name, kind, measure() - before, how, sep="\t", flush=True)
"""


def read_all(folder: Path, seconds: float) -> list[list[str]]:
    """Read all files in all ways, in a process of little memory: name, way, megabytes, outcome."""

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30,) * 2)

    run = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(folder)],
        capture_output=True, text=True, timeout=seconds, preexec_fn=bound,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    return [line.split("\t") for line in run.stdout.splitlines()]


def check_outcomes(found: list[list[str]], megabytes: int) -> None:
    """All were read or refused, none took much memory."""
    assert [row for row in found if row[3] not in ("read", "refused")] == []
    assert [row for row in found if int(row[2]) > megabytes] == []


@pytest.mark.slow
def test_bombs_do_not_explode(tmp_path: Path) -> None:
    write_bombs(tmp_path, 2**26)
    found = read_all(tmp_path, 120)
    check_outcomes(found, 40)
    refused = {row[0] for row in found if row[1] == "image" and row[3] == "refused"}
    assert refused >= {path.name for path in tmp_path.glob("size.*")}


@pytest.mark.nightly
def test_large_bombs_do_not_explode(tmp_path: Path) -> None:
    write_bombs(tmp_path)
    check_outcomes(read_all(tmp_path, 600), 40)


@pytest.mark.nightly
def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    draw, pixels = random.Random(0), noise(96, 120, 3)
    for suffix in (".png", ".jpg", ".webp", ".bmp", ".gif", ".jp2"):
        Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    for number, options in enumerate(
        ({}, {"compression": "zlib"}, {"tile": (16, 16), "compression": "jpeg"}, {"bigtiff": True})
    ):
        tifffile.imwrite(tmp_path / f"{number}.tif", pixels, **options)
    for path in list(tmp_path.iterdir()):
        data = path.read_bytes()
        for number in range(30):
            broken = bytearray(data)
            for _ in range(draw.choice([1, 3, 20])):
                broken[draw.randrange(min(len(data), draw.choice([200, 10**9])))] = draw.randrange(
                    256
                )
            cut = broken[: draw.randrange(1, len(data))] if number % 3 == 0 else broken
            path.with_name(f"{path.stem}_{number}{path.suffix}").write_bytes(cut)
    check_outcomes(read_all(tmp_path, 600), 300)


@pytest.mark.nightly
def test_a_stack_of_60_000_pages(tmp_path: Path) -> None:
    write_stack(tmp_path / "a.tif", 60_000)
    found = read_all(tmp_path, 60)  # it took 8 s a call
    assert {row[3] for row in found} == {"read"}
    with ImageReader(tmp_path / "a.tif") as reader:
        assert len(reader) == 60_000
        assert reader.read_image(59_999).shape == (8, 8, 1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    for use in (read_image, read_mask, count_pages, open_windows):
        with pytest.raises(SegkitError, match=r"a\.png: cannot be read: it is a pipe or a device"):
            use(tmp_path / "a.png")


# --- links ------------------------------------------------------------------------------------


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder with a link to itself, and one to a folder elsewhere."""
    from segkit.images.writing import write_image

    for name in ("set/a.png", "set/sub/b.png", "elsewhere/c.png"):
        write_image(tmp_path / name, np.zeros((3, 3), np.uint8))
    (tmp_path / "set/sub/loop").symlink_to(tmp_path / "set")
    (tmp_path / "set/self").symlink_to("self")
    (tmp_path / "set/link").symlink_to(tmp_path / "elsewhere")
    return tmp_path / "set"


@pytest.mark.parametrize("given", [".", "**/*.png"])
def test_predictions_follow_links_but_in_no_circle(linked: Path, given: str) -> None:
    from segkit.predict.inputs import find_images

    found = find_images(str(linked / given)).files
    assert [file.stem.as_posix() for file in found] == ["a", "link/c", "sub/b"]


def test_data_sets_follow_links_but_in_no_circle(linked: Path) -> None:
    from segkit.data.labels.tree import FileTree
    from segkit.data.layout.files import list_files

    assert sorted(list_files(linked).images) == ["a.png", "link/c.png", "sub/b.png"]
    assert FileTree(linked).images == ["a.png", "link/c.png", "sub/b.png"]
