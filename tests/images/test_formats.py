"""What holds for all formats: each file has one, and none costs anything before it is needed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from images.conftest import noise
from PIL import Image

from segkit.images.formats.base import START, ImageFormat, find_format

HEAVY = ("nibabel", "pydicom", "h5py", "tiffslide", "zarr", "rasterio", "torch")


def test_heavy_packages_are_imported_where_a_file_needs_them() -> None:
    code = (
        "import sys, segkit.images.reading, segkit.images.windows\n"
        "from segkit.images.formats.base import ImageFormat\n"
        f"members = ImageFormat.members(); print(*sorted(set({HEAVY}) & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def write_samples(folder: Path) -> dict[str, Path]:
    """A file or folder of each format, under a name without an ending where that is enough."""
    files = {}

    def name(kind: str, ending: str = "") -> Path:
        files[kind] = folder / f"{kind}{ending}"
        return files[kind]

    pixels = noise(20, 30)
    for kind in ("png", "jpeg", "bmp", "webp", "gif", "jpeg2000"):
        Image.fromarray(pixels).save(name(kind), kind)
    Image.fromarray(pixels).save(name("pnm"), "ppm")
    tifffile.imwrite(name("tiff"), pixels)
    tifffile.imwrite(name("slide", ".svs"), pixels)
    zarr.create_array(name("zarr"), shape=(20, 30), dtype="u1")[:] = pixels
    with name("npy").open("wb") as file:
        np.save(file, pixels)
    with name("npz").open("wb") as file:
        np.savez(file, pixels)
    h5py = pytest.importorskip("h5py", reason="the extra hdf5 is not installed")
    with h5py.File(name("hdf5"), "w") as file:
        file["a"] = pixels
    nibabel = pytest.importorskip("nibabel", reason="the extra medical is not installed")
    image = nibabel.Nifti1Image(pixels, np.eye(4))
    name("nifti").write_bytes(image.to_bytes())
    name("dicom").write_bytes(bytes(128) + b"DICM" + bytes(50))
    return files


def test_each_file_has_one_format(tmp_path: Path) -> None:
    files, members = write_samples(tmp_path), ImageFormat.members()
    own = {each for each in members if members[each].__module__[:7] == "segkit."}
    assert files.keys() == own - {"channel_files"}  # has no files of its own
    for kind, path in files.items():
        if path.is_dir():
            owners = [name for name, each in members.items() if each.owns_folder(path)]
        else:
            with path.open("rb") as file:
                start = file.read(START)
            owners = [name for name, each in members.items() if each.owns(path, start)]
        assert owners == [kind]
        assert find_format(path) is members[kind]


def test_strangers_cannot_send_formats_that_open_files() -> None:
    """Formats that are read by path are not for uploads."""
    given = {name for name, each in ImageFormat.members().items() if each.takes_content}
    assert given >= {"png", "jpeg", "tiff"}
    assert given.isdisjoint({"npy", "npz", "hdf5", "nifti", "dicom", "slide", "zarr"})


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"II*", b"PK\3\4", b"\x1f\x8b", b"\x93NUM", bytes(600)]
)
def test_scraps_have_no_format_that_fails(tmp_path: Path, data: bytes) -> None:
    """Whatever the name, asking for the format of a file is no error."""
    endings = sorted(
        {suffix for each in ImageFormat.members().values() for suffix in each.suffixes}
    )
    for ending in ["", *endings]:
        path = tmp_path / f"a{ending}"
        path.write_bytes(data)
        assert find_format(path) is None
