from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import zarr

from segkit.core.errors import SegkitError
from segkit.images.reading import read_image
from segkit.images.writing import write_image
from segkit.predict.inputs import ImageFile, find_images, require_apart
from segkit.predict.record import read_state


def make_images(folder: Path, *names: str) -> None:
    for name in names:
        write_image(folder / name, np.zeros((3, 3), np.uint8))


@pytest.fixture
def images(tmp_path):
    make_images(tmp_path / "images", "a.png", "sub/b.c.PNG", "tiny.png")
    (tmp_path / "images/._a.png").write_bytes(b"what a Mac leaves behind")
    return tmp_path / "images"


def find_stems(given, output=None) -> list[str]:
    given = [str(each) for each in given] if isinstance(given, list) else str(given)
    return [file.stem.as_posix() for file in find_images(given, output).files]


@pytest.mark.parametrize(
    ("given", "stems"),
    [
        ([""], ["a", "sub/b.c", "tiny"]),
        (["a.png"], ["a"]),
        (["*.png"], ["a", "tiny"]),
        (["**/*.[pP][nN][gG]"], ["a", "sub/b.c", "tiny"]),  # folders after the fixed part are kept
        (["*/*.PNG"], ["sub/b.c"]),
        (["sub", "a.png"], ["b.c", "a"]),
    ],
)
def test_files_folders_and_patterns(images, given, stems):
    assert find_stems([images / each for each in given]) == stems


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["none"], "there is no file or folder"),
        (["empty"], "has no images"),
        (["same"], r"a\.jpg and .*a\.png would both be written to a\.png"),
        (["a.png", "*.png"], r"a\.png is named twice"),
        (["bad.txt"], r"(?s)line 2: .*none\.png.*line 3: .*nor\.png"),
        (["bad.csv"], r"no column 'image'\. Its columns are file"),
    ],
)
def test_wrong_inputs_are_named(images, given, message):
    (images / "empty").mkdir()
    make_images(images, "same/a.png")
    (images / "same/a.jpg").write_bytes((images / "a.png").read_bytes())
    (images / "bad.txt").write_text("a.png\nnone.png\nnor.png\n")
    (images / "bad.csv").write_text("file\na.png\n")
    with pytest.raises(SegkitError, match=message):
        find_stems([images / each for each in given])


@pytest.mark.parametrize("given", ["", ["a.png", ""]])
def test_an_empty_input_is_not_the_current_folder(images, monkeypatch, given):
    monkeypatch.chdir(images)
    with pytest.raises(SegkitError, match="input: a path is empty, as where a shell variable"):
        find_images(given)


def test_what_cannot_be_read_is_left_to_the_reader(images, monkeypatch):
    """One file or folder stops no other, and fails with its own reason."""
    (images / "sub/gone.png").symlink_to("nowhere.png")
    with pytest.raises(
        SegkitError, match=r"gone\.png: cannot be read: it is a link to nowhere\.png"
    ):
        read_image(images / "sub/gone.png")
    (images / "closed").mkdir()
    # permissions would not stop a test that runs as root
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "closed")
    assert find_stems(images) == ["a", "closed", "sub/b.c", "sub/gone", "tiny"]
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SegkitError, match=r"closed: cannot be read: Permission denied\.$"):
        read_image(images / "closed")


def refuse(path: Path) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def test_lists_name_images_relative_to_themselves(images, tmp_path):
    (tmp_path / "list.txt").write_text("images/sub/b.c.PNG\n\n  images/a.png\n")
    assert find_stems(tmp_path / "list.txt") == ["images/sub/b.c", "images/a"]
    (images / "sub/list.csv").write_text("id,image\n1,b.c.PNG\n2,../a.png\n")
    assert find_stems(images / "sub/list.csv") == ["b.c", "a"]  # a lies elsewhere


def test_arrays_in_files(tmp_path):
    for name in ("a", "sub/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.savez(tmp_path / f"{name}.npz", raw=np.zeros((3, 3)), other=np.zeros((3, 3)))
    zarr.create_group(tmp_path / "c.zarr").create_array("v/raw", data=np.zeros((3, 3)))
    raw = tmp_path / "a.npz::raw"
    assert find_stems(raw) == ["a-raw"]
    assert find_stems(f"{tmp_path}/**/*.npz::raw") == ["a-raw", "sub/b-raw"]
    (tmp_path / "list.txt").write_text("a.npz::raw\nsub/b.npz::other\nc.zarr::v/raw\n")
    assert find_stems(tmp_path / "list.txt") == ["a-raw", "sub/b-other", "c-v-raw"]
    (tmp_path / "list.csv").write_text("image\na.npz::raw\nd.npz::raw\n")
    with pytest.raises(SegkitError, match=r"line 3: there is no file .*d\.npz::raw"):
        find_stems(tmp_path / "list.csv")
    files = find_images(f"{tmp_path}/*.npz::raw").files
    assert read_image(files[0].path).shape == (3, 3, 1)
    assert read_state(files[0].path) == read_state(tmp_path / "a.npz") != []


def test_results_are_no_inputs(images):
    """So that a second run in the same place does not predict the first one's masks."""
    out = images / "predictions"
    make_images(out, "a.png", "overlays/a.png")
    assert find_stems(images, out) == ["a", "sub/b.c", "tiny"]
    assert find_stems(f"{images}/**/*.png", out) == ["a", "tiny"]
    assert find_stems(f"{out}/*.png", images / "other") == ["a"]
    assert find_stems(f"{out}/overlays/*.png", out) == ["a"]  # meant, and refused elsewhere
    (out / ".segkit").mkdir()  # of an earlier prediction
    found = find_images(str(images), images / "other")
    assert len(found.files) == 3
    assert found.notes == [f"{out} is skipped: it holds the results of an earlier prediction"]


@pytest.mark.parametrize("name", ["overlays/a.png", "overlays/a/0001.png"])
def test_what_is_written_besides_masks_overwrites_nothing(images, tmp_path, name):
    make_images(images, name)
    folders = {"overlays": (".png",)}
    files = find_images(str(images)).files
    with pytest.raises(SegkitError, match="where the overlays of another image go"):
        require_apart(files, tmp_path, folders)
    require_apart(files, tmp_path, {"instances": (".png", ".tif")})
    if name == "overlays/a.png":
        files = find_images(str(images / "overlays")).files
        with pytest.raises(SegkitError, match=r"overlays would overwrite the image .*overlays/a"):
            require_apart(files, images, folders)
        require_apart(files, tmp_path, folders)


def test_maps_of_volumes_overwrite_nothing(tmp_path):
    folders = {"probabilities": (".tif", ".nii.gz")}
    files = [
        ImageFile(tmp_path / f"{name}.nii.gz", Path(name)) for name in ("a", "probabilities/a")
    ]
    with pytest.raises(SegkitError, match="where the probabilities of another image go"):
        require_apart(files, tmp_path / "out", folders)
    with pytest.raises(SegkitError, match="probabilities would overwrite the image"):
        require_apart([ImageFile(files[1].path, Path("a"))], tmp_path, folders)


def test_masks_of_a_data_set_are_no_inputs(images, tmp_path):
    make_images(tmp_path, "masks/a.png")
    found = find_images(str(tmp_path))
    assert len(found.files) == 3
    assert "holds images and masks" in found.notes[0]
    found = find_images(str(tmp_path.parent))
    assert all("masks" not in file.path.parts for file in found.files)
    assert "is skipped" in found.notes[0]


def test_a_zarr_is_an_image_and_no_pattern_looks_into_it(tmp_path):
    for name in ("x.zarr", "sub/y"):
        zarr.create_array(tmp_path / name, shape=(4, 5), dtype="uint8")[:] = 1
    assert find_stems(tmp_path) == ["sub/y", "x"]
    assert find_stems(tmp_path / "x.zarr") == ["x"]
    assert sorted(find_stems(f"{tmp_path}/**/*")) == ["sub/y", "x"]
