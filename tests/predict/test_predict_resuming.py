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
import zarr
from rich.console import Console

from segkit.core.errors import SegkitError
from segkit.core.sharing import Share
from segkit.data.sources.cells import draw
from segkit.images.reading import ImageReader, read_image
from segkit.images.writing import write_image
from segkit.predict import outputs, pipeline, progress

MASKS = ["0.png", "1.png", "sub/2.png"]
PLAIN = ("overlays=false", "threshold=0.2")
ALL = ("instances=components", "probabilities=true", "polygons=geojson", "threshold=0.2")


@pytest.fixture
def images(tmp_path):
    for i, name in enumerate(MASKS):
        write_image(tmp_path / "images" / name, draw(i, (40, 48)).image)
    return tmp_path / "images"


@pytest.fixture
def run(binary_run, images, run_predict, capsys):
    """Predict the images, or some of them, and return what is printed."""

    def run_and_listen(*options: str, given=images) -> str:
        capsys.readouterr()
        run_predict(binary_run, given, *options)
        return capsys.readouterr().out

    return run_and_listen


def write_stack(path: Path, pages: int) -> Path:
    values = np.stack([draw(i, (32, 40)).image[..., 0] for i in range(pages)])
    tifffile.imwrite(path, values, photometric="minisblack")
    return path


def read_times(out: Path) -> dict[str, int]:
    found = sorted(path for path in out.rglob("*.png") if path.is_file())
    return {path.relative_to(out).as_posix(): path.stat().st_mtime_ns for path in found}


def list_changed(before: dict[str, int], out: Path) -> list[str]:
    after = read_times(out)
    return [name for name in before if after[name] != before[name]]


def fail_on_full_disk(path: Path, *mask: object) -> None:
    error = SegkitError(f"cannot write '{path}': No space left on device.")
    raise error from OSError(errno.ENOSPC, "No space left on device")


def test_finished_images_are_skipped_and_the_others_redone(run, out):
    run(*PLAIN)
    before = read_times(out)
    (out / "1.png").unlink()
    said = run(*PLAIN)
    assert "2 images are already finished" in said
    assert "3 of 3 masks are in" in said
    assert list_changed(before, out) == ["1.png"]
    before = read_times(out)
    run("overwrite=true", *PLAIN)
    assert list_changed(before, out) == MASKS


def test_other_settings_and_other_images_are_redone(binary_run, run, images, out, tmp_path):
    run(*PLAIN)
    before = read_times(out)
    write_image(images / "1.png", draw(20, (40, 48)).image)
    assert "1 images are redone: the image has changed" in run(*PLAIN)
    assert list_changed(before, out) == ["1.png"]
    assert "3 images are redone: other settings (tta)" in run("tta=flips", *PLAIN)
    copied = tmp_path / "copy.ckpt"  # known by its content, not by its name
    copied.write_bytes(binary_run.checkpoint.read_bytes())
    said = run(f"checkpoint='{copied}'", "tta=flips", "batch_size=1", *PLAIN)
    assert "3 images are already finished" in said


def test_a_folder_of_version_0_1_0_is_resumed(run, images, out):
    """Its record as that version wrote it."""
    run(*PLAIN)
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
    (out / ".segkit/finished-0.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (out / MASKS[2]).unlink()
    before = read_times(out)
    assert "2 images are already finished" in run(*PLAIN)
    assert list_changed(before, out) == []
    assert sorted(read_times(out)) == MASKS


def test_an_image_of_another_folder_is_another_image(run, images, tmp_path):
    """Even with the same name, size and time, as after unpacking."""
    for folder, value in ((images, 0), (tmp_path / "other", 255)):
        folder.mkdir(exist_ok=True)
        PIL.Image.new("L", (40, 40), value).save(folder / "0.bmp")
        os.utime(folder / "0.bmp", (1, 1))
        said = run(*PLAIN, given=folder / "0.bmp")
    assert "redone: the image is another file of the same name" in said


def test_an_image_that_changes_while_it_is_read_is_redone(run, images, out, monkeypatch):
    read = ImageReader.read_image

    def read_and_change(self, *args):
        os.utime(images / "0.png", (1, 1))
        return read(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(ImageReader, "read_image", read_and_change)
        run(*PLAIN, given=images / "0.png")
    before = read_times(out)
    run(*PLAIN, given=images / "0.png")
    assert list_changed(before, out) == ["0.png"]


def test_a_change_inside_a_zarr_is_seen(run, tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=(40, 40), chunks=(20, 20), dtype="uint8")
    array[:] = 1
    for expected in ("1 of 1", "already finished", "redone: the image has changed"):
        assert expected in run(*PLAIN, given=tmp_path / "a.zarr")
        if expected == "already finished":
            array[:20, :20] = 9


def test_a_file_that_cannot_be_replaced_and_too_little_memory_fail_one_image(run, out, monkeypatch):
    (out / "0.png").mkdir(parents=True)
    write = outputs.write_mask

    def write_but_one(path, *mask):
        if path.stem == "1":
            raise MemoryError
        write(path, *mask)

    monkeypatch.setattr(outputs, "write_mask", write_but_one)
    with pytest.raises(SegkitError, match="2 files could not be predicted") as error:
        run("overwrite=true", *PLAIN)
    assert f"cannot remove '{out / '0.png'}'" in str(error.value)
    assert "1.png: it does not fit into memory" in str(error.value)
    assert list(read_times(out)) == ["sub/2.png"]


def test_a_line_that_was_cut_off_costs_one_image(run, out):
    run(*PLAIN)
    journal = out / ".segkit/finished-0.jsonl"
    text = journal.read_text().rstrip("\n")
    journal.write_text(text[:-20])
    last = json.loads(text.splitlines()[-1])["file"]
    (out / f"{last}.png").unlink()  # it was to be written next
    assert "2 images are already finished" in run(*PLAIN)
    assert "3 images are already finished" in run(*PLAIN)


@pytest.mark.parametrize(
    ("count", "named"), [(2, r"2 of 6 masks .* \(0, 1\)\."), (5, r"5 of 6 .* \(0, 1, 2 and 2 more")]
)
def test_a_full_disk_ends_the_run_at_once(run, tmp_path, out, monkeypatch, count, named):
    for i in range(6):
        write_image(tmp_path / f"in/{i}.png", draw(i, (40, 48)).image)
    write = outputs.write_mask

    def write_some(path, *mask):
        (write if len(read_times(out)) < count else fail_on_full_disk)(path, *mask)

    monkeypatch.setattr(outputs, "write_mask", write_some)
    monkeypatch.setattr(pipeline, "WRITERS", 1)
    with pytest.raises(SegkitError, match=named) as error:
        run(*PLAIN, given=tmp_path / "in")
    assert str(error.value).count("No space left") == 1
    assert sorted(read_times(out)) == [f"{i}.png" for i in range(count)]


def test_coco_is_the_same_after_a_break_and_from_several_processes(
    run, images, out, tmp_path, monkeypatch
):
    pytest.importorskip("rasterio", reason="the extra polygons is not installed")
    write_stack(images / "stack.tif", 3)
    (images / "broken.png").write_bytes(b"not a picture")  # is not in it

    def run_failing(*more) -> None:
        with pytest.raises(SegkitError, match=r"broken\.png"):
            run("polygons=coco", *PLAIN, *more)

    run_failing()
    whole = (out / "coco.json").read_text()
    names = [image["file_name"] for image in json.loads(whole)["images"]]
    assert names == ["0.png", "1.png", *["stack.tif"] * 3, "sub/2.png"]
    assert json.loads(whole)["annotations"]
    for name in ("1.png", "stack.tif", "coco.json"):
        (out / name).unlink()
    run_failing()
    assert (out / "coco.json").read_text() == whole
    run(*PLAIN, given=images / "0.png")  # describes an image that is redone
    assert not (out / "coco.json").exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        with suppress(SegkitError):
            run("polygons=coco", *PLAIN, f"output='{tmp_path / 'shared'}'")
    assert (tmp_path / "shared/coco.json").read_text() == whole


def start(words: list[str], **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "segkit.predict", *words]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env={**os.environ, **variables}, text=True, **streams)


@pytest.mark.parametrize(
    "knows_others",
    [pytest.param(False, marks=pytest.mark.nightly), pytest.param(True, marks=pytest.mark.slow)],
)
def test_two_processes_share_a_folder(binary_run, run, images, out, words, tmp_path, knows_others):
    (images / "1.png").write_bytes(b"not a picture")  # of the second process
    with pytest.raises(SegkitError, match="1 file could not"):
        run(f"output='{tmp_path / 'alone'}'", *PLAIN)
    variables = {"WORLD_SIZE": "2"}
    if knows_others:
        port = str(29500 + os.getpid() % 1000)
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    given = words(binary_run, images, *PLAIN)
    running = [start(given, RANK=rank, LOCAL_RANK=rank, **variables) for rank in "01"]
    (said, wrong), (quiet, own) = [process.communicate(timeout=300) for process in running]
    assert quiet == ""
    codes = [process.returncode for process in running]
    assert codes == ([2, 0] if knows_others else [0, 2]), wrong + own
    assert f"2 of {3 if knows_others else 2} masks are in" in said
    assert "1.png" in (wrong if knows_others else own)
    alone = {path.name: path.read_bytes() for path in (tmp_path / "alone").rglob("*.png")}
    assert {path.name: path.read_bytes() for path in out.rglob("*.png")} == alone
    assert len(alone) == 2


@pytest.mark.slow
def test_ctrl_c_exits_with_130_and_the_same_command_continues(binary_run, run, images, out, words):
    for i in range(3, 400):
        (images / f"{i}.png").write_bytes((images / "0.png").read_bytes())
    process = start(words(binary_run, images, "tta=d4", *PLAIN))
    until = time.monotonic() + 300
    while len(read_times(out)) < 3 and time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        said, wrong = process.communicate(timeout=60)
    finally:
        process.kill()  # else what it holds fails another test too
    assert process.returncode == 130, wrong
    assert "the same command continues with the rest" in said
    assert "Traceback" not in wrong
    before = read_times(out)
    assert 3 <= len(before) < 400
    assert not list(out.rglob("*.tmp"))
    assert f"{len(before)} images are already finished" in run("tta=d4", *PLAIN)
    assert list_changed(before, out) == []
    assert len(read_times(out)) == 400


def test_environments_that_do_not_fit_are_named(run, monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SegkitError, match="RANK=2, WORLD_SIZE=2"):
        run()


def test_the_first_process_does_not_wait_for_one_that_has_failed(run, monkeypatch):
    sent: list[list[str]] = []
    monkeypatch.setattr(Share, "join", classmethod(lambda cls: cls(1, 2, 1)))
    monkeypatch.setattr(Share, "gather", lambda share, problems: sent.append(problems))
    monkeypatch.setattr(outputs, "write_mask", fail_on_full_disk)
    with pytest.raises(SegkitError, match="No space"):
        run(*PLAIN)
    ((problem,),) = sent
    assert problem.startswith("process 1 has ended: cannot write")


def test_a_process_takes_a_gpu_of_its_own(monkeypatch):
    share = Share(rank=5, count=8, local_rank=1)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    chosen = {"auto": "cuda:1", "cuda": "cuda:1", "cuda:3": "cuda:3", "cpu": "cpu"}
    assert {device: share.choose_device(device) for device in chosen} == chosen
    assert Share().choose_device("auto") == "auto"
    assert share.pick(list(range(20))) == [5, 13]


def test_a_bar_of_a_terminal_shows_the_speed(capsys):
    with progress.Meter(Console(force_terminal=True, width=100), "predicting", 2) as meter:
        meter.expect(2)
        meter.advance(0.5)
        meter.advance(3.5)
    said = capsys.readouterr().out
    for expected in ("predicting", "4/4", " images/s"):
        assert expected in said


def test_files_of_other_settings_go_with_their_masks(run, images, out, files_of):
    run(*ALL)
    assert len(files_of(out)) == 5 * len(MASKS)
    mine = ["overlays/mine.png", "polygons/mine.geojson"]
    for name in mine:
        (out / name).write_bytes(b"mine")
    run("threshold=0.2", given=images / "0.png")  # the others stay
    assert len(files_of(out)) == 2 + 5 * len(MASKS) - 3
    run(*PLAIN)
    assert files_of(out) == sorted([*MASKS, *mine])
    assert not (out / "probabilities").exists()
    assert not (out / "instances").exists()


def test_missing_files_beside_a_mask_are_redone(run, out):
    run("polygons=geojson", "threshold=0.2")
    picture = (out / "overlays/1.png").read_bytes()
    (out / "overlays/1.png").unlink()
    (out / "polygons/sub/2.geojson").unlink()
    before = (out / "0.png").stat().st_mtime_ns
    said = run("polygons=geojson", "threshold=0.2")
    assert "1 images are already finished" in said
    assert "1 images are redone: files beside the mask are gone (overlays)" in said
    assert "1 images are redone: files beside the mask are gone (polygons)" in said
    assert (out / "overlays/1.png").read_bytes() == picture
    assert (out / "polygons/sub/2.geojson").is_file()
    assert (out / "0.png").stat().st_mtime_ns == before


def test_files_of_an_interrupted_run_are_known(run, out, files_of, monkeypatch):
    """Its overlays exist and its masks do not: other settings remove them nevertheless."""

    def fail(path, *mask):
        raise SegkitError(f"cannot write {path}")

    with monkeypatch.context() as patched:
        patched.setattr(outputs, "write_mask", fail)
        with pytest.raises(SegkitError, match="cannot write"):
            run()
    assert files_of(out) == [f"overlays/{name}" for name in MASKS]
    run(*PLAIN)
    assert files_of(out) == MASKS


@pytest.mark.parametrize(
    "name", ["0.png", "0.tif", "overlays/1.png", "instances/0.tif", "polygons/0.geojson"]
)
def test_foreign_files_are_not_replaced(run, out, files_of, name):
    (out / name).parent.mkdir(parents=True)
    (out / name).write_bytes(b"mine")
    with pytest.raises(SegkitError, match=rf"(?s)1 files that predict did not write.*{name}"):
        run(*ALL)
    assert files_of(out) == [name]
    run("overwrite=true", *PLAIN)
    assert sorted({*MASKS, name}) == files_of(out)
    assert ((out / name).read_bytes() == b"mine") is (name != "0.png")


def test_a_foreign_coco_file_stays(run, images, out):
    out.mkdir()
    (out / "coco.json").write_text("mine")
    with pytest.raises(SegkitError, match=r"did not write .*coco\.json"):
        run("polygons=coco")
    run(*PLAIN, given=images / "0.png")
    assert (out / "coco.json").read_text() == "mine"


def test_files_of_pages_go_too(run, out, files_of, tmp_path):
    stack = write_stack(tmp_path / "stack.tif", 3)
    run(*ALL, given=stack)
    assert len(files_of(out)) == 1 + 4 * 3
    write_stack(stack, 2)
    run("threshold=0.2", given=stack)
    assert files_of(out) == ["overlays/stack/0000.png", "overlays/stack/0001.png", "stack.tif"]
    (out / "overlays/stack/0001.png").unlink()
    run("threshold=0.2", given=stack)
    assert (out / "overlays/stack/0001.png").is_file()
    assert read_image(out / "stack.tif", 1).shape == (32, 40, 1)


def test_a_record_that_points_elsewhere_removes_nothing_there(run, images, out, tmp_path):
    """The record may have come with a folder from somewhere else."""
    run(*PLAIN, given=images / "0.png")
    (tmp_path / "precious").write_text("mine")
    journal = out / ".segkit/finished-0.jsonl"
    for name in ("../precious", str(tmp_path / "precious")):
        line = {"file": "0", "files": [name], "time": 2**62}
        journal.write_text(journal.read_text() + json.dumps(line) + "\n")
    journal.write_text(journal.read_text() + '[]\n{"time": 1}\n')  # not of segkit
    (tmp_path / "away").mkdir()
    (tmp_path / "away/0.png").write_text("mine")
    (out / "link").symlink_to(tmp_path / "away")
    odd = [
        {"file": "0", "files": ["link/0.png"], "time": 2**62},
        {"file": "0", "files": ["a"], "time": "x"},
        {"file": [], "files": ["a"], "time": 3},
        {"file": "0", "files": 5, "time": 3},
        {"file": 5, "files": [None], "time": 3},
        {"file": "0", "path": 1, "image": 2, "settings": 5, "mask": 5, "files": [], "time": 3},
        {"file": "0", "path": "", "image": [], "settings": "../../x", "mask": "../precious"},
    ]
    lines = [json.dumps({"files": ["0.png"], "time": 4} | line) for line in odd]
    journal.write_text("\n".join([journal.read_text(), *lines, "[1]", "5", "[" * 10**5]))
    run("tta=flips", *PLAIN, given=images / "0.png")
    assert (tmp_path / "precious").read_text() == "mine"
    assert (tmp_path / "away/0.png").read_text() == "mine"
