"""What predict skips, redoes, removes, and leaves behind if it is stopped."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from segkit.core.errors import SegkitError
from segkit.data.sources.cells import draw
from segkit.images.reading import ImageReader, read_image
from segkit.images.writing import write_image
from segkit.predict import large, outputs, pipeline, progress
from segkit.predict.sharing import Share

MASKS = ["0.png", "1.png", "sub/2.png"]
PLAIN = ("overlays=false", "threshold=0.2")
ALL = ("instances=components", "probabilities=true", "polygons=geojson", "threshold=0.2")


@pytest.fixture
def images(tmp_path):
    for i, name in enumerate(MASKS):
        write_image(tmp_path / "images" / name, draw(i, (40, 48)).image)
    return tmp_path / "images"


@pytest.fixture
def stack(images):
    return write_stack(images / "stack.tif", 3)


def write_stack(path: Path, pages: int) -> Path:
    values = np.stack([draw(i, (32, 40)).image[..., 0] for i in range(pages)])
    tifffile.imwrite(path, values, photometric="minisblack")
    return path


def times(out: Path) -> dict[str, int]:
    found = sorted(path for path in out.rglob("*.png") if path.is_file())
    return {path.relative_to(out).as_posix(): path.stat().st_mtime_ns for path in found}


def changed(before: dict[str, int], out: Path) -> list[str]:
    after = times(out)
    return [name for name in before if after[name] != before[name]]


def full_disk() -> SegkitError:
    error = SegkitError("cannot write 'x': No space left on device.")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    return error


def test_finished_images_are_skipped_and_the_others_redone(
    binary_run, images, out, run_predict, capsys
):
    run_predict(binary_run, images, *PLAIN)
    before = times(out)
    (out / "1.png").unlink()
    capsys.readouterr()
    run_predict(binary_run, images, *PLAIN)
    said = capsys.readouterr().out
    assert "2 images are already finished" in said
    assert "3 of 3 masks are in" in said
    assert changed(before, out) == ["1.png"]
    before = times(out)
    run_predict(binary_run, images, "overwrite=true", *PLAIN)
    assert changed(before, out) == MASKS


def test_other_settings_and_other_images_are_redone(
    binary_run, images, out, run_predict, capsys, tmp_path
):
    run_predict(binary_run, images, *PLAIN)
    before = times(out)
    write_image(images / "1.png", draw(20, (40, 48)).image)
    run_predict(binary_run, images, *PLAIN)
    assert "1 images are redone: the image has changed" in capsys.readouterr().out
    assert changed(before, out) == ["1.png"]
    run_predict(binary_run, images, "tta=flips", *PLAIN)
    assert "3 images are redone: other settings (tta)" in capsys.readouterr().out
    copied = tmp_path / "copy.ckpt"  # known by its content, not by its name
    copied.write_bytes(binary_run.checkpoint.read_bytes())
    run_predict(binary_run, images, f"checkpoint='{copied}'", "tta=flips", "batch_size=1", *PLAIN)
    assert "3 images are already finished" in capsys.readouterr().out


def test_a_folder_of_version_0_1_0_is_resumed(binary_run, images, out, run_predict, capsys):
    """Its record as that version wrote it."""
    run_predict(binary_run, images, *PLAIN)
    (settings,) = (out / ".segkit").glob("settings-*.json")
    keys = "checkpoint context fill_holes instances large_format min_size overlap overlays polygons"
    keys += " probabilities pyramid threshold tile tta values waist"
    assert sorted(json.loads(settings.read_text())) == keys.split()  # others would redo all images
    lines = [
        {
            "file": name.removesuffix(".png"),
            "path": str((images / name).resolve()),
            "image": [(images / name).stat().st_mtime_ns, (images / name).stat().st_size],
            "settings": settings.stem.removeprefix("settings-"),
            "mask": name,
            "files": [name],
            "time": number,
        }
        for number, name in enumerate(MASKS[:2])
    ]
    text = "\n".join(map(json.dumps, lines))
    (out / ".segkit/finished-0.jsonl").write_text(text)
    (out / MASKS[2]).unlink()
    before = times(out)
    capsys.readouterr()
    run_predict(binary_run, images, *PLAIN)
    assert "2 images are already finished" in capsys.readouterr().out
    assert changed(before, out) == []
    assert sorted(times(out)) == MASKS


def test_an_image_of_another_folder_is_another_image(
    binary_run, images, out, run_predict, capsys, tmp_path
):
    """Even with the same name, size and time, as after unpacking."""
    for folder, value in ((images, 0), (tmp_path / "other", 255)):
        folder.mkdir(exist_ok=True)
        PIL.Image.new("L", (40, 40), value).save(folder / "0.bmp")
        os.utime(folder / "0.bmp", (1, 1))
        run_predict(binary_run, folder / "0.bmp", *PLAIN)
    assert "redone: the image is another file of the same name" in capsys.readouterr().out


def test_an_image_that_changes_while_it_is_read_is_redone(
    binary_run, images, out, run_predict, monkeypatch
):
    read = ImageReader.read_image

    def read_and_change(self, page=None):
        os.utime(images / "0.png", (1, 1))
        return read(self, page)

    with monkeypatch.context() as patched:
        patched.setattr(ImageReader, "read_image", read_and_change)
        run_predict(binary_run, images / "0.png", *PLAIN)
    before = times(out)
    run_predict(binary_run, images / "0.png", *PLAIN)
    assert changed(before, out) == ["0.png"]


def test_a_change_inside_a_zarr_is_seen(binary_run, run_predict, capsys, tmp_path):
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(tmp_path / "a.zarr", shape=(40, 40), chunks=(20, 20), dtype="uint8")
    array[:] = 1
    for said in ("1 of 1", "already finished", "redone: the image has changed"):
        run_predict(binary_run, tmp_path / "a.zarr", *PLAIN)
        assert said in capsys.readouterr().out
        if said == "already finished":
            array[:20, :20] = 9


def test_a_file_that_cannot_be_replaced_and_too_little_memory_fail_one_image(
    binary_run, images, out, run_predict, monkeypatch
):
    (out / "0.png").mkdir(parents=True)
    write = outputs.write_mask

    def full(path, mask):
        if path.stem == "1":
            raise MemoryError
        write(path, mask)

    monkeypatch.setattr(outputs, "write_mask", full)
    with pytest.raises(SegkitError, match="2 files could not be predicted") as error:
        run_predict(binary_run, images, "overwrite=true", *PLAIN)
    assert f"cannot remove '{out / '0.png'}'" in str(error.value)
    assert "1.png: it does not fit into memory" in str(error.value)
    assert list(times(out)) == ["sub/2.png"]


def test_a_line_that_was_cut_off_costs_one_image(binary_run, images, out, run_predict, capsys):
    run_predict(binary_run, images, *PLAIN)
    journal = out / ".segkit/finished-0.jsonl"
    text = journal.read_text().rstrip("\n")
    journal.write_text(text[:-20])
    last = json.loads(text.splitlines()[-1])["file"]
    (out / f"{last}.png").unlink()  # it was to be written next
    capsys.readouterr()
    for finished in (2, 3):
        run_predict(binary_run, images, *PLAIN)
        assert f"{finished} images are already finished" in capsys.readouterr().out


def test_an_interrupted_run_continues(binary_run, images, out, run_predict, capsys, monkeypatch):
    write, done = outputs.Outputs.write, []

    def interrupted(self, page, result):
        if len(done) == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        done.append(page.file.stem.name)
        return write(self, page, result)

    with monkeypatch.context() as patched:
        patched.setattr(outputs.Outputs, "write", interrupted)
        patched.setattr(pipeline, "WRITERS", 1)
        with pytest.raises(KeyboardInterrupt):
            run_predict(binary_run, images, *PLAIN)
    assert "the same command continues with the rest" in capsys.readouterr().out
    before = times(out)
    assert 1 <= len(before) < 3
    assert not list(out.rglob(".*.tmp"))
    run_predict(binary_run, images, *PLAIN)
    assert f"{len(before)} images are already finished" in capsys.readouterr().out
    assert changed(before, out) == []
    assert sorted(times(out)) == MASKS


@pytest.mark.parametrize(
    ("count", "named"), [(2, r"2 of 6 masks .* \(0, 1\)\."), (5, r"5 of 6 .* \(0, 1, 2 and 2 more")]
)
def test_a_full_disk_ends_the_run_at_once(
    binary_run, tmp_path, out, run_predict, monkeypatch, count, named
):
    for i in range(6):
        write_image(tmp_path / f"in/{i}.png", draw(i, (40, 48)).image)
    write_mask, done = outputs.write_mask, []

    def write(path, mask):
        if len(done) == count:
            raise full_disk()
        done.append(path.name)
        write_mask(path, mask)

    monkeypatch.setattr(outputs, "write_mask", write)
    monkeypatch.setattr(pipeline, "WRITERS", 1)
    with pytest.raises(SegkitError, match=named) as error:
        run_predict(binary_run, tmp_path / "in", *PLAIN)
    assert str(error.value).count("No space left") == 1
    assert sorted(times(out)) == [f"{i}.png" for i in range(count)]


def test_a_bug_in_a_thread_is_raised(binary_run, images, run_predict, monkeypatch):
    def broken(self, page):
        raise RuntimeError("in the reader")

    monkeypatch.setattr(ImageReader, "read_image", broken)
    with pytest.raises(RuntimeError, match="in the reader"):
        run_predict(binary_run, images, *PLAIN)


def test_coco_is_the_same_after_a_break_and_from_several_processes(
    binary_run, images, stack, out, run_predict, tmp_path, monkeypatch
):
    pytest.importorskip("pycocotools")
    (images / "broken.png").write_bytes(b"not a picture")  # is not in it
    given = binary_run, images, "polygons=coco", *PLAIN

    def predict_failing(*more) -> None:
        with pytest.raises(SegkitError, match=r"broken\.png"):
            run_predict(*given, *more)

    predict_failing()
    whole = (out / "coco.json").read_text()
    names = [image["file_name"] for image in json.loads(whole)["images"]]
    assert names == ["0.png", "1.png", *["stack.tif"] * 3, "sub/2.png"]
    assert json.loads(whole)["annotations"]
    for name in ("1.png", "stack.tif", "coco.json"):
        (out / name).unlink()
    predict_failing()
    assert (out / "coco.json").read_text() == whole
    run_predict(binary_run, images / "0.png", *PLAIN)  # describes an image that is redone
    assert not (out / "coco.json").exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    shared = f"output='{tmp_path / 'shared'}'"
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        with suppress(SegkitError):
            run_predict(*given, shared)
    assert (tmp_path / "shared/coco.json").read_text() == whole


@pytest.mark.slow
@pytest.mark.parametrize("knows_others", [False, True])
def test_two_processes_share_a_folder(
    binary_run, images, out, words, run_predict, tmp_path, knows_others
):
    (images / "1.png").write_bytes(b"not a picture")  # of the second process
    with pytest.raises(SegkitError, match="1 file could not"):
        run_predict(binary_run, images, f"output='{tmp_path / 'alone'}'", *PLAIN)
    command = [sys.executable, "-m", "segkit.predict", *words(binary_run, images, *PLAIN)]
    env = {**os.environ, "WORLD_SIZE": "2"}
    if knows_others:
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29500 + os.getpid() % 1000)}
    running = [
        subprocess.Popen(
            command,
            env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    (said, wrong), (quiet, own) = [process.communicate(timeout=300) for process in running]
    assert quiet == ""
    codes = [process.returncode for process in running]
    assert codes == ([2, 0] if knows_others else [0, 2]), wrong + own
    assert f"{2} of {3 if knows_others else 2} masks are in" in said
    assert "1.png" in (wrong if knows_others else own)
    alone = {path.name: path.read_bytes() for path in (tmp_path / "alone").rglob("*.png")}
    assert {path.name: path.read_bytes() for path in out.rglob("*.png")} == alone
    assert len(alone) == 2


@pytest.mark.slow
def test_ctrl_c_exits_with_130_and_a_line(binary_run, images, out, words):
    for i in range(3, 400):
        (images / f"{i}.png").write_bytes((images / "0.png").read_bytes())
    process = subprocess.Popen(
        [sys.executable, "-m", "segkit.predict", *words(binary_run, images, "tta=d4", *PLAIN)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 300
    while len(times(out)) < 3 and time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, wrong = process.communicate(timeout=60)
    assert process.returncode == 130, wrong
    assert "the same command continues with the rest" in said
    assert "Traceback" not in wrong
    assert 3 <= len(times(out)) < 400
    assert not list(out.rglob("*.tmp"))


def test_environments_that_do_not_fit_are_named(binary_run, images, run_predict, monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SegkitError, match="RANK=2, WORLD_SIZE=2"):
        run_predict(binary_run, images)


def test_the_first_process_does_not_wait_for_one_that_has_failed(
    binary_run, images, run_predict, monkeypatch
):
    class Store(dict):
        def set(self, key, value):
            self[key] = value

    store = Store()
    monkeypatch.setattr(Share, "join", classmethod(lambda cls: cls(1, 2, 1, store)))

    def write(path, mask):
        raise full_disk()

    monkeypatch.setattr(outputs, "write_mask", write)
    with pytest.raises(SegkitError, match="No space"):
        run_predict(binary_run, images, *PLAIN)
    (problem,) = json.loads(store["segkit/1"])["problems"]
    assert problem.startswith("process 1 has ended: cannot write")


def test_a_process_takes_a_gpu_of_its_own(monkeypatch):
    share = Share(rank=5, count=8, local_rank=1)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    given = ("auto", "cuda", "cuda:3", "cpu")
    assert [share.choose_device(device) for device in given] == [
        "cuda:1",
        "cuda:1",
        "cuda:3",
        "cpu",
    ]
    assert Share().choose_device("auto") == "auto"
    assert share.pick(list(range(20))) == [5, 13]


def test_a_bar_of_a_terminal_shows_the_speed(capsys):
    from rich.console import Console

    console = Console(force_terminal=True, width=100)
    with progress.Meter(console, "predicting", 2) as meter:
        meter.expect(2)
        meter.advance(0.5)
        meter.advance(3.5)
    said = capsys.readouterr().out
    assert "predicting" in said
    assert "4/4" in said
    assert " images/s" in said


def test_files_of_other_settings_go_with_their_masks(
    binary_run, images, out, run_predict, files_of
):
    run_predict(binary_run, images, *ALL)
    assert len(files_of(out)) == 5 * len(MASKS)
    (out / "overlays/mine.png").write_bytes(b"mine")
    (out / "polygons/mine.geojson").write_bytes(b"mine")
    run_predict(binary_run, images / "0.png", "threshold=0.2")  # the others stay
    assert len(files_of(out)) == 2 + 5 * len(MASKS) - 3
    run_predict(binary_run, images, *PLAIN)
    mine = ["overlays/mine.png", "polygons/mine.geojson"]
    assert files_of(out) == sorted([*MASKS, *mine])
    assert not (out / "probabilities").exists()
    assert not (out / "instances").exists()


def test_missing_files_beside_a_mask_are_redone(binary_run, images, out, run_predict, capsys):
    run_predict(binary_run, images, "polygons=geojson", "threshold=0.2")
    picture = (out / "overlays/1.png").read_bytes()
    (out / "overlays/1.png").unlink()
    (out / "polygons/sub/2.geojson").unlink()
    before = (out / "0.png").stat().st_mtime_ns
    capsys.readouterr()
    run_predict(binary_run, images, "polygons=geojson", "threshold=0.2")
    said = capsys.readouterr().out
    assert "1 images are already finished" in said
    assert "1 images are redone: files beside the mask are gone (overlays)" in said
    assert "1 images are redone: files beside the mask are gone (polygons)" in said
    assert (out / "overlays/1.png").read_bytes() == picture
    assert (out / "polygons/sub/2.geojson").is_file()
    assert (out / "0.png").stat().st_mtime_ns == before


def test_files_of_an_interrupted_run_are_known(
    binary_run, images, out, run_predict, files_of, monkeypatch
):
    """Its overlays exist and its masks do not: other settings remove them nevertheless."""

    def full(path, mask):
        raise SegkitError(f"cannot write {path}")

    with monkeypatch.context() as patched:
        patched.setattr(outputs, "write_mask", full)
        with pytest.raises(SegkitError, match="cannot write"):
            run_predict(binary_run, images)
    assert files_of(out) == [f"overlays/{name}" for name in MASKS]
    run_predict(binary_run, images, *PLAIN)
    assert files_of(out) == MASKS


@pytest.mark.parametrize(
    "name", ["0.png", "0.tif", "overlays/1.png", "instances/0.tif", "polygons/0.geojson"]
)
def test_foreign_files_are_not_replaced(binary_run, images, out, run_predict, files_of, name):
    write_image(images / "0.png", draw(0, (40, 48)).image)
    (out / name).parent.mkdir(parents=True)
    if name.endswith("tif"):
        tifffile.imwrite(out / name, np.full((4, 4), 7, np.uint8))
    else:
        (out / name).write_bytes(b"mine")
    before = (out / name).read_bytes()
    with pytest.raises(SegkitError, match=rf"(?s)1 files that predict did not write.*{name}"):
        run_predict(binary_run, images, *ALL)
    assert files_of(out) == [name]
    run_predict(binary_run, images, "overwrite=true", *PLAIN)
    assert sorted({*MASKS, name}) == files_of(out)
    assert ((out / name).read_bytes() == before) is (name != "0.png")


def test_a_foreign_coco_file_stays(binary_run, images, out, run_predict):
    out.mkdir()
    (out / "coco.json").write_text("mine")
    with pytest.raises(SegkitError, match=r"did not write .*coco\.json"):
        run_predict(binary_run, images, "polygons=coco")
    run_predict(binary_run, images / "0.png", *PLAIN)
    assert (out / "coco.json").read_text() == "mine"


def test_files_of_pages_go_too(binary_run, stack, out, run_predict, files_of):
    run_predict(binary_run, stack, *ALL)
    assert len(files_of(out)) == 1 + 4 * 3
    write_stack(stack, 2)
    run_predict(binary_run, stack, "threshold=0.2")
    assert files_of(out) == ["overlays/stack/0000.png", "overlays/stack/0001.png", "stack.tif"]
    (out / "overlays/stack/0001.png").unlink()
    run_predict(binary_run, stack, "threshold=0.2")
    assert (out / "overlays/stack/0001.png").is_file()
    assert read_image(out / "stack.tif", 1).shape == (32, 40, 1)


def test_files_of_large_images_go_too(
    binary_run, tmp_path, out, run_predict, files_of, monkeypatch
):
    tifffile.imwrite(tmp_path / "big.tif", draw(3, (200, 200)).image[..., 0], tile=(64, 64))
    monkeypatch.setattr(large, "LARGE", 10_000)
    for options, extras in (
        (["probabilities=true"], ["overlays/big.png", "probabilities/big.tif"]),
        (PLAIN, []),
    ):
        run_predict(binary_run, tmp_path / "big.tif", *options)
        assert files_of(out) == ["big.tif", *extras]


def test_a_record_that_points_elsewhere_removes_nothing_there(
    binary_run, images, out, run_predict, tmp_path
):
    """The record may have come with a folder from somewhere else."""
    run_predict(binary_run, images / "0.png", *PLAIN)
    (tmp_path / "precious").write_text("mine")
    journal = out / ".segkit/finished-0.jsonl"
    for name in ("../precious", str(tmp_path / "precious")):
        line = {"file": "0", "files": [name], "time": 2**62}
        journal.write_text(journal.read_text() + json.dumps(line) + "\n")
    run_predict(binary_run, images / "0.png", "tta=flips", *PLAIN)
    assert (tmp_path / "precious").read_text() == "mine"
