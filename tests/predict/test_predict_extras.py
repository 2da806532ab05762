"""What stands beside masks: replaced with them, made again where it is gone, never of others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from segkit.config.compose import compose
from segkit.core.errors import SegkitError
from segkit.data.sources.cells import draw
from segkit.images.reading import read_image, write_image
from segkit.predict import large
from segkit.predict.command import predict


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for name in ("a", "b", "sub/c"):
        write_image(folder / f"{name}.png", draw(len(name), (40, 48)).image)
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def run_predict(run, given: Path, out: Path, *more: str) -> None:
    paths = [f"checkpoint='{run.checkpoint}'", f"input='{given}'", f"output='{out}'"]
    predict(compose([*paths, "device=cpu", "threshold=0.2", *more], "predict"))


def files_of(folder: Path) -> list[str]:
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    return sorted(name for name in names if not name.startswith(".segkit/"))


ALL = ["instances=components", "probabilities=true", "polygons=geojson"]
MASKS = ["a.png", "b.png", "sub/c.png"]


def test_extras_of_other_settings_go_with_their_masks(binary_run, images, out):
    run_predict(binary_run, images, out, *ALL)
    assert len(files_of(out)) == 5 * len(MASKS)
    (out / "overlays/mine.png").write_bytes(b"mine")
    (out / "polygons/mine.geojson").write_bytes(b"mine")
    run_predict(binary_run, images, out, "overlays=false")
    assert files_of(out) == [*MASKS[:2], "overlays/mine.png", "polygons/mine.geojson", MASKS[2]]
    assert not (out / "probabilities").exists()
    assert not (out / "instances").exists()


def test_of_images_that_are_not_done_anew_extras_stay(binary_run, images, out):
    run_predict(binary_run, images, out)
    run_predict(binary_run, images / "a.png", out, "overlays=false")
    assert files_of(out) == [*MASKS[:2], "overlays/b.png", "overlays/sub/c.png", MASKS[2]]


def test_a_missing_file_beside_a_mask_is_made_again(binary_run, images, out, capsys):
    run_predict(binary_run, images, out, "polygons=geojson")
    picture = (out / "overlays/b.png").read_bytes()
    (out / "overlays/b.png").unlink()
    (out / "polygons/sub/c.geojson").unlink()
    before = (out / "a.png").stat().st_mtime_ns
    capsys.readouterr()
    run_predict(binary_run, images, out, "polygons=geojson")
    said = capsys.readouterr().out
    assert "1 images are already finished" in said
    assert "1 images are redone: files beside the mask are gone (overlays)" in said
    assert "1 images are redone: files beside the mask are gone (polygons)" in said
    assert (out / "overlays/b.png").read_bytes() == picture
    assert (out / "polygons/sub/c.geojson").is_file()
    assert (out / "a.png").stat().st_mtime_ns == before


def test_what_an_interrupted_run_has_begun_is_known(binary_run, images, out, monkeypatch):
    """Its extras are there and its mask is not: other settings remove them nevertheless."""
    with monkeypatch.context() as patched:

        def full(path, mask):
            raise SegkitError(f"cannot write {path}")

        patched.setattr("segkit.predict.outputs.write_mask", full)
        with pytest.raises(SegkitError, match="cannot write"):
            run_predict(binary_run, images, out)
    assert files_of(out) == [f"overlays/{name}" for name in MASKS]
    run_predict(binary_run, images, out, "overlays=false")
    assert files_of(out) == MASKS


@pytest.mark.parametrize("name", ["overlays/b.png", "instances/a.tif", "polygons/a.geojson"])
def test_files_of_others_are_not_written_over(binary_run, images, out, name):
    path = out / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(SegkitError, match=rf"(?s)1 files that predict did not write.*{name}"):
        run_predict(binary_run, images, out, *ALL)
    assert files_of(out) == [name]
    run_predict(binary_run, images, out, "overlays=false")  # writes no such file
    assert path.read_bytes() == b"mine"


def test_a_mask_of_others_with_another_ending_stays(binary_run, images, out):
    out.mkdir()
    tifffile.imwrite(out / "a.tif", np.full((4, 4), 7, np.uint8))
    with pytest.raises(SegkitError, match=r"(?s)did not write.*a\.tif"):
        run_predict(binary_run, images, out)
    run_predict(binary_run, images, out, "overwrite=true", "overlays=false")
    assert files_of(out) == ["a.png", "a.tif", "b.png", "sub/c.png"]
    assert (read_image(out / "a.tif") == 7).all()


def test_extras_of_pages_go_too(binary_run, images, out):
    pages = np.stack([draw(i, (32, 40)).image[..., 0] for i in range(3)])
    tifffile.imwrite(images / "stack.tif", pages, photometric="minisblack")
    run_predict(binary_run, images / "stack.tif", out, *ALL)
    assert len(files_of(out)) == 1 + 4 * 3
    tifffile.imwrite(images / "stack.tif", pages[:2], photometric="minisblack")
    run_predict(binary_run, images / "stack.tif", out)
    assert files_of(out) == ["overlays/stack/0000.png", "overlays/stack/0001.png", "stack.tif"]
    (out / "overlays/stack/0001.png").unlink()
    run_predict(binary_run, images / "stack.tif", out)
    assert (out / "overlays/stack/0001.png").is_file()


def test_extras_of_large_images_go_too(binary_run, images, out, monkeypatch):
    tifffile.imwrite(images / "big.tif", draw(3, (200, 200)).image[..., 0], tile=(64, 64))
    monkeypatch.setattr(large, "LARGE", 10_000)
    run_predict(binary_run, images / "big.tif", out, "probabilities=true")
    assert files_of(out) == ["big.tif", "overlays/big.png", "probabilities/big.tif"]
    run_predict(binary_run, images / "big.tif", out, "overlays=false")
    assert files_of(out) == ["big.tif"]


def test_the_file_of_all_images_goes_with_the_images(binary_run, images, out):
    pytest.importorskip("pycocotools")
    run_predict(binary_run, images, out, "polygons=coco", "overlays=false")
    whole = (out / "coco.json").read_text()
    assert len(json.loads(whole)["images"]) == 3
    run_predict(binary_run, images, out, "overlays=false")
    assert files_of(out) == MASKS
    run_predict(binary_run, images, out, "polygons=coco", "overlays=false")
    assert (out / "coco.json").read_text() == whole


def test_a_coco_file_of_others_stays(binary_run, images, out):
    pytest.importorskip("pycocotools")
    out.mkdir()
    (out / "coco.json").write_text("mine")
    with pytest.raises(SegkitError, match=r"did not write .*coco\.json"):
        run_predict(binary_run, images, out, "polygons=coco")
    run_predict(binary_run, images, out)
    assert (out / "coco.json").read_text() == "mine"


def test_a_record_that_points_elsewhere_removes_nothing_there(binary_run, images, out, tmp_path):
    """The record may come with a folder from somewhere else."""
    run_predict(binary_run, images / "a.png", out)
    (tmp_path / "precious").write_text("mine")
    journal = out / ".segkit/finished-0.jsonl"
    for name in ("../precious", str(tmp_path / "precious")):
        line = {"file": "a", "files": [name], "time": 2**62}
        journal.write_text(journal.read_text() + json.dumps(line) + "\n")
    run_predict(binary_run, images / "a.png", out, "tta=flips")
    assert (tmp_path / "precious").read_text() == "mine"
