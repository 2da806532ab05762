"""Predictions of images whose channels lie in several files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import train_quick

import segkit
from segkit.config.compose import compose
from segkit.core.errors import SegkitError
from segkit.images.reading import read_image
from segkit.predict.command import predict
from segkit.predict.inputs import Found, find_images, require_apart
from segkit.predict.record import read_state

NUMBERS = ("0000", "0001")


def make_files(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x89PNG\r\n\x1a\n")


def paths(found: Found, folder: Path) -> dict[str, str]:
    return {f.stem.as_posix(): f.path.relative_to(folder).as_posix() for f in found.files}


def test_files_of_a_folder_are_put_together(tmp_path: Path) -> None:
    make_files(tmp_path, *(f"sub/c_{n}_{c}.png" for n in ("0001", "b") for c in NUMBERS))
    make_files(tmp_path, "other.png", "c_0002.png")
    expected = {"sub/c_0001": "sub/c_0001_{0000,0001}.png", "sub/c_b": "sub/c_b_{0000,0001}.png"}
    found = find_images(str(tmp_path), None, NUMBERS)
    assert paths(found, tmp_path) == expected
    assert found.notes == [
        "files are put together as the channels of images: 0000, 0001",
        "2 files whose names fit none of these are left out:"
        f" {tmp_path / 'c_0002.png'}, {tmp_path / 'other.png'}",
    ]
    assert paths(find_images(f"{tmp_path}/**/*.png", None, NUMBERS), tmp_path) == expected
    backwards = find_images(str(tmp_path), None, NUMBERS[::-1])
    assert paths(backwards, tmp_path)["sub/c_b"] == "sub/c_b_{0001,0000}.png"
    assert len(find_images(str(tmp_path)).files) == 6
    assert len(find_images(str(tmp_path), None, ("red", "nir")).files) == 6  # nothing fits


def test_lists_and_single_files(tmp_path: Path) -> None:
    make_files(tmp_path, *(f"c_{n}_{c}.png" for n in "ab" for c in NUMBERS))
    both = {"c_a": "c_a_{0000,0001}.png"}
    (tmp_path / "list.txt").write_text("c_a_0000.png\nc_a_0001.png\n")
    (tmp_path / "list.csv").write_text('image\n"c_a_{0000,0001}.png"\n')
    for given in ("list.txt", "list.csv", "c_a_0000.png", "c_a_{0000,0001}.png"):
        assert paths(find_images(str(tmp_path / given), None, NUMBERS), tmp_path) == both
    assert paths(find_images(str(tmp_path / "c_a_{0000,0001}.png")), tmp_path) == both
    (tmp_path / "list.txt").write_text("c_a_{0000,0003}.png\n")
    with pytest.raises(SegkitError, match=r"line 1: there is no file .*c_a_0003\.png"):
        find_images(str(tmp_path / "list.txt"))
    with pytest.raises(SegkitError, match=r"there is no file or folder .*/c_a_0003\.png\.$"):
        find_images(str(tmp_path / "c_a_{0000,0003}.png"))


def test_a_channel_that_is_missing(tmp_path: Path) -> None:
    make_files(tmp_path, "c_a_0000.png", "c_a_0001.png", "c_b_0001.png")
    with pytest.raises(SegkitError) as caught:
        find_images(str(tmp_path), None, NUMBERS)
    assert str(caught.value).splitlines() == [
        "input: the model was trained on images in 2 files each (0000, 0001), and there are no"
        " files:",
        f"  - {tmp_path / 'c_b_0000.png'}",
    ]


def test_folders_of_channels(tmp_path: Path) -> None:
    """Those of the test images are called otherwise than those of the training."""
    make_files(tmp_path, *(f"test_{c}/{c}_1_2.png" for c in ("red", "nir")))
    pattern = "train_{channel}/{channel}_{id}.TIF"
    found = find_images(str(tmp_path), None, ("red", "nir"), pattern.replace("TIF", "png"))
    assert paths(found, tmp_path) == {"test/1_2": "test_{red,nir}/{red,nir}_1_2.png"}


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    make_files(tmp_path, "c_{0000}.png", "c_0000.png", "c_0001.png", "c/c_0000.png", "c/c_0001.png")
    found = find_images(str(tmp_path / "c"), None, NUMBERS)
    require_apart(found.files, tmp_path / "out", {})
    files = find_images(str(tmp_path / "c_{0000,0001}.png")).files
    with pytest.raises(SegkitError, match="would overwrite the image"):
        require_apart([files[0]._replace(stem=Path("c_0001"))], tmp_path, {})


def test_an_image_has_changed_if_a_channel_has(tmp_path: Path) -> None:
    make_files(tmp_path, "c_0000.png", "c_0001.png")
    before = read_state(tmp_path / "c_{0000,0001}.png")
    (tmp_path / "c_0001.png").write_bytes(b"another")
    assert read_state(tmp_path / "c_{0000,0001}.png") != before
    assert read_state(tmp_path / "c_{0000,0002}.png") == []


@pytest.mark.slow
def test_from_training_to_prediction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """nnU-Net's volumes: the model remembers the channels, and masks are named after the cases."""
    nibabel = pytest.importorskip("nibabel", reason="the extra medical is not installed")
    rng, affine = np.random.default_rng(0), np.diag([-1, -1, 2, 1])
    root = tmp_path / "raw"
    for case, folder in enumerate(("imagesTr", "imagesTr", "imagesTs")):
        mask = np.zeros((40, 32, 2), np.uint8)
        mask[10 + case : 25, 8:20] = 1
        names = {f"{folder}/c_{case}_{c:04d}": mask * 60.0 * c + 99 for c in range(2)}
        if folder == "imagesTr":
            names[f"labelsTr/c_{case}"] = mask
        for name, volume in names.items():
            path = root / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            if "images" in name:
                volume = (volume + rng.normal(0, 5, volume.shape)).astype(np.int16)
            nibabel.save(nibabel.Nifti1Image(volume, affine), path)
    options = ["data=folder", f"data.root='{root}'", "data.crop_size=32", "trainer.max_epochs=1"]
    run = train_quick(tmp_path / "run", *options)
    assert "channels 0000, 0001 in this order" in capsys.readouterr().out
    assert "channel_files:\n  - '0000'\n  - '0001'" in (tmp_path / "run/config.yaml").read_text()
    predictor = segkit.load(run.checkpoint, device="cpu")
    assert predictor.card.channel_files == NUMBERS

    def run_predict(given: Path, out: str, *more: str) -> None:
        words = [f"checkpoint='{run.checkpoint}'", f'input="{given}"', "device=cpu", *more]
        predict(compose([*words, f"output='{tmp_path / out}'"], "predict"))

    run_predict(root / "imagesTs", "out", "polygons=coco", "threshold=0.4", "values=ids")
    written = nibabel.load(tmp_path / "out/c_2.nii.gz")
    np.testing.assert_array_equal(written.affine, affine)
    files = [root / f"imagesTs/c_2_{number}.nii.gz" for number in NUMBERS]
    lower = segkit.load(run.checkpoint, device="cpu", threshold=0.4)
    for page in range(2):
        image = np.concatenate([read_image(path, page) for path in files], axis=2)
        labels = lower(image).labels
        np.testing.assert_array_equal(np.asarray(written.dataobj)[:, :, page].T, labels)
    [entry, _] = json.loads((tmp_path / "out/coco.json").read_text())["images"]
    assert entry["file_name"] == "c_2.nii.gz"
    one = predictor(str(root / "imagesTs/c_2_{0000,0001}.nii.gz"), page=1, probabilities=True)
    np.testing.assert_allclose(
        one.probabilities, predictor(image, probabilities=True).probabilities
    )
    run_predict(root / "imagesTs/c_2_{0001,0000}.nii.gz", "turned")
    (tmp_path / "alone").mkdir()
    files[0].rename(tmp_path / "alone/c.nii.gz")
    with pytest.raises(SegkitError, match=r"2 channels in several files \(0000, 0001\), this"):
        run_predict(tmp_path / "alone", "alone_out")
