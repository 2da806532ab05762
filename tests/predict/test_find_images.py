from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segkit.core.errors import SegkitError
from segkit.images.writing import write_image
from segkit.predict.inputs import find_images, require_apart


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for name in ("a.png", "sub/b.c.PNG", "tiny.png"):
        write_image(folder / name, np.zeros((3, 3), np.uint8))
    (folder / "._a.png").write_bytes(b"what a Mac leaves behind")
    return folder


def stems(given, output=None) -> list[str]:
    return [file.stem.as_posix() for file in find_images(given, output).files]


def test_inputs(images, tmp_path):
    assert find_images(str(images / "a.png")).files == [(images / "a.png", Path("a"))]
    assert stems(str(images)) == ["a", "sub/b.c", "tiny"]
    found = find_images(f"{images}/*.png").files
    assert [p.name for p, _ in found] == ["a.png", "tiny.png"]
    with pytest.raises(SegkitError, match="there is no file or folder"):
        find_images(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SegkitError, match="has no images"):
        find_images(str(tmp_path / "empty"))
    write_image(images / "a.bmp.png", np.zeros((3, 3), np.uint8))
    (images / "a.jpg").write_bytes((images / "a.png").read_bytes())
    with pytest.raises(SegkitError, match=r"a\.jpg and .*a\.png would both be written to a\.png"):
        find_images(str(images))


def test_a_pattern_keeps_the_folders_after_its_fixed_part(images):
    assert stems(f"{images}/**/*.[pP][nN][gG]") == ["a", "sub/b.c", "tiny"]
    assert stems(f"{images}/*/*.PNG") == ["sub/b.c"]


def test_several_inputs_are_taken_together(images):
    assert stems([f"{images}/sub", f"{images}/a.png"]) == ["b.c", "a"]
    with pytest.raises(SegkitError, match=r"a\.png is named twice"):
        find_images([f"{images}/a.png", f"{images}/*.png"])


def test_lists_name_images_relative_to_themselves(images, tmp_path):
    (tmp_path / "list.txt").write_text("images/sub/b.c.PNG\n\n  images/a.png\n")
    assert stems(str(tmp_path / "list.txt")) == ["images/sub/b.c", "images/a"]
    (images / "sub/list.csv").write_text("id,image\n1,b.c.PNG\n2,../a.png\n")
    assert stems(str(images / "sub/list.csv")) == ["b.c", "a"]  # a lies elsewhere
    (tmp_path / "bad.txt").write_text("images/a.png\nnone.png\nnor.png\n")
    with pytest.raises(SegkitError, match=r"(?s)line 2: .*none\.png.*line 3: .*nor\.png"):
        find_images(str(tmp_path / "bad.txt"))
    (tmp_path / "bad.csv").write_text("file\nimages/a.png\n")
    with pytest.raises(SegkitError, match=r"no column 'image'\. Its columns are file"):
        find_images(str(tmp_path / "bad.csv"))


def test_results_are_no_inputs(images):
    """So that a second run in the same place does not predict the first one's masks."""
    out = images / "predictions"
    for name in ("a.png", "overlays/a.png"):
        write_image(out / name, np.zeros((3, 3), np.uint8))
    assert stems(str(images), out) == ["a", "sub/b.c", "tiny"]
    assert stems(f"{images}/**/*.png", out) == ["a", "tiny"]
    assert stems(f"{out}/*.png", images / "other") == ["a"]
    assert stems(f"{out}/overlays/*.png", out) == ["a"]  # meant, and refused where it overwrites


@pytest.mark.parametrize("name", ["overlays/a.png", "overlays/a/0001.png"])
def test_what_is_written_besides_masks_overwrites_nothing(images, tmp_path, name):
    write_image(images / name, np.zeros((3, 3), np.uint8))
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


def test_masks_of_a_data_set_are_no_inputs(images, tmp_path):
    write_image(tmp_path / "masks/a.png", np.zeros((3, 3), np.uint8))
    found = find_images(str(tmp_path))
    assert len(found.files) == 3
    assert "holds images and masks" in found.notes[0]
    found = find_images(str(tmp_path.parent))
    assert all("masks" not in file.path.parts for file in found.files)
    assert "is skipped" in found.notes[0]


def test_a_zarr_is_an_image_and_no_pattern_looks_into_it(tmp_path):
    zarr = pytest.importorskip("zarr")
    for name in ("x.zarr", "sub/y"):
        zarr.create_array(tmp_path / name, shape=(4, 5), dtype="uint8")[:] = 1
    assert stems(str(tmp_path)) == ["sub/y", "x"]
    assert stems(str(tmp_path / "x.zarr")) == ["x"]
    assert sorted(stems(f"{tmp_path}/**/*")) == ["sub/y", "x"]


def test_an_image_is_never_a_mask_too(images):
    files = find_images(str(images)).files
    with pytest.raises(SegkitError, match=r"would overwrite the image .*a\.png"):
        require_apart(files, images, {})
    require_apart(files, images / "masks", {})


def test_results_of_an_earlier_prediction_are_no_images(tmp_path):
    for name in ("a.png", "masks/a.png", "masks/overlays/a.png"):
        write_image(tmp_path / name, np.zeros((3, 3), np.uint8))
    assert len(find_images(str(tmp_path)).files) == 3
    (tmp_path / "masks/.segkit").mkdir()
    found = find_images(str(tmp_path), tmp_path / "other")
    assert [file.path.name for file in found.files] == ["a.png"]
    assert found.notes == [
        f"{tmp_path / 'masks'} is skipped: it holds the results of an earlier prediction"
    ]
    # named by itself it is what the user means
    assert len(find_images(str(tmp_path / "masks")).files) == 2
