"""What predict leaves alone, does anew, and leaves behind where it is stopped."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from segkit.config.compose import compose
from segkit.core.errors import SegkitError
from segkit.data.sources.cells import draw
from segkit.images.reading import write_image
from segkit.predict import outputs, pipeline
from segkit.predict.command import predict
from segkit.predict.sharing import Share


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for i in range(6):
        write_image(folder / f"{i}.png", draw(i, (40, 48)).image)
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def words(run, given: Path, out: Path, *more: str) -> list[str]:
    paths = [f"checkpoint='{run.checkpoint}'", f"input='{given}'", f"output='{out}'"]
    return [*paths, "device=cpu", "overlays=false", "threshold=0.2", *more]


def run_predict(run, given: Path, out: Path, *more: str) -> None:
    predict(compose(words(run, given, out, *more), "predict"))


def times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(out.glob("*.png"))}


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("segkit")]


def test_finished_images_are_left_and_the_others_made(binary_run, images, out, capsys):
    run_predict(binary_run, images, out)
    before = times(out)
    (out / "3.png").unlink()
    capsys.readouterr()
    run_predict(binary_run, images, out)
    said = capsys.readouterr().out
    assert "5 images are already finished" in said
    assert "6 of 6 masks are in" in said
    after = times(out)
    assert [name for name in before if after[name] != before[name]] == ["3.png"]
    run_predict(binary_run, images, out, "overwrite=true")
    assert all(times(out)[name] != after[name] for name in after)


def test_other_settings_and_other_images_are_done_anew(binary_run, images, out, capsys, tmp_path):
    run_predict(binary_run, images, out)
    before = times(out)
    write_image(images / "2.png", draw(20, (40, 48)).image)
    run_predict(binary_run, images, out)
    assert "1 images are redone: the image has changed" in capsys.readouterr().out
    assert [name for name in before if times(out)[name] != before[name]] == ["2.png"]
    run_predict(binary_run, images, out, "tta=flips")
    said = capsys.readouterr().out
    assert "6 images are redone: other settings (tta)" in said
    copied = tmp_path / "copy.ckpt"  # known by what is in it, not by its name
    copied.write_bytes(binary_run.checkpoint.read_bytes())
    run_predict(binary_run, images, out, f"checkpoint='{copied}'", "tta=flips", "batch_size=1")
    assert "6 images are already finished" in capsys.readouterr().out


def test_an_image_of_another_folder_is_another_image(binary_run, images, out, capsys, tmp_path):
    """Though it has the same name, the same size and the same time, as after unpacking."""
    other = tmp_path / "other"
    for folder, value in ((images, 0), (other, 255)):
        (folder / "0.bmp").parent.mkdir(exist_ok=True)
        PIL.Image.new("L", (40, 40), value).save(folder / "0.bmp")
        os.utime(folder / "0.bmp", (1, 1))
    run_predict(binary_run, images / "0.bmp", out)
    before = times(out)
    run_predict(binary_run, other / "0.bmp", out)
    assert "1 images are redone: the image is another file of the same name" in (
        capsys.readouterr().out
    )
    assert times(out) != before


def test_an_image_that_changes_while_it_is_read_is_done_anew(binary_run, images, out, monkeypatch):
    read_image = pipeline.read_image

    def read_and_change(path, page=None):
        image = read_image(path, page)
        os.utime(path, (1, 1))
        return image

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "read_image", read_and_change)
        run_predict(binary_run, images / "0.png", out)
    before = times(out)
    run_predict(binary_run, images / "0.png", out)
    assert times(out) != before


def test_a_change_inside_of_a_zarr_is_seen(binary_run, out, capsys, tmp_path):
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(tmp_path / "a.zarr", shape=(40, 40), chunks=(20, 20), dtype="uint8")
    array[:] = 1
    run_predict(binary_run, tmp_path / "a.zarr", out)
    run_predict(binary_run, tmp_path / "a.zarr", out)
    assert "already finished" in capsys.readouterr().out
    array[:20, :20] = 9
    run_predict(binary_run, tmp_path / "a.zarr", out)
    assert "1 images are redone: the image has changed" in capsys.readouterr().out


def test_a_pattern_goes_on_beside_its_own_results(binary_run, images, capsys):
    for _ in range(2):
        run_predict(binary_run, f"{images}/**/*.png", images / "predictions", "overlays=true")
    assert "6 images are already finished" in capsys.readouterr().out
    assert len(times(images / "predictions")) == 6


def test_what_is_in_the_place_of_a_mask_is_named(binary_run, images, out):
    (out / "3.png").mkdir(parents=True)
    with pytest.raises(SegkitError, match=r"(?s)1 file .*cannot remove .*3\.png'.*Remove it"):
        run_predict(binary_run, images, out, "overwrite=true")
    assert len([path for path in out.glob("*.png") if path.is_file()]) == 5


def test_too_little_memory_for_one_image_does_not_stop_the_others(
    binary_run, images, out, monkeypatch
):
    write = outputs.write_mask

    def full(path, mask):
        if path.stem == "2":
            raise MemoryError
        write(path, mask)

    monkeypatch.setattr(outputs, "write_mask", full)
    with pytest.raises(SegkitError, match=r"(?s)1 file .*2\.png: it does not fit into memory"):
        run_predict(binary_run, images, out)
    assert len(times(out)) == 5


def test_masks_of_others_are_not_written_over(binary_run, images, out):
    write_image(out / "4.png", np.full((40, 48), 7, np.uint8))
    with pytest.raises(SegkitError, match=r"(?s)1 files that predict did not write.*4\.png"):
        run_predict(binary_run, images, out)
    assert [path.name for path in out.glob("*.png")] == ["4.png"]
    run_predict(binary_run, images, out, "overwrite=true")
    assert len(times(out)) == 6


def test_a_record_that_was_cut_off_costs_one_image(binary_run, images, out, capsys):
    run_predict(binary_run, images, out)
    journal = out / ".segkit/finished-0.jsonl"
    text = journal.read_text().rstrip("\n")
    journal.write_text(text[:-20])
    last = json.loads(text.splitlines()[-1])["file"]
    (out / f"{last}.png").unlink()  # it was to be written next
    capsys.readouterr()
    for finished in (5, 6):
        run_predict(binary_run, images, out)
        assert f"{finished} images are already finished" in capsys.readouterr().out


def test_an_interrupted_run_goes_on(binary_run, images, out, capsys, monkeypatch):
    write = outputs.Outputs.write
    done = []

    def interrupted(self, page, result):
        if len(done) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        done.append(page.file.stem.name)
        return write(self, page, result)

    monkeypatch.setattr(outputs.Outputs, "write", interrupted)
    monkeypatch.setattr(pipeline, "WRITERS", 1)
    with pytest.raises(KeyboardInterrupt):
        run_predict(binary_run, images, out)
    assert "the same command continues with the rest" in capsys.readouterr().out
    assert not threads()
    finished = times(out)
    assert 2 <= len(finished) < 6
    assert not list(out.glob(".*.tmp"))
    monkeypatch.undo()
    run_predict(binary_run, images, out)
    assert f"{len(finished)} images are already finished" in capsys.readouterr().out
    assert {name: times(out)[name] for name in finished} == finished
    assert len(times(out)) == 6


def test_a_full_disk_ends_the_run_at_once(binary_run, images, out, monkeypatch):
    full = SegkitError("cannot write 'x': No space left on device.")
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    write_mask, done = outputs.write_mask, []

    def write(path, mask):
        if len(done) == 2:
            raise full
        done.append(path.name)
        write_mask(path, mask)

    monkeypatch.setattr(outputs, "write_mask", write)
    monkeypatch.setattr(pipeline, "WRITERS", 1)
    with pytest.raises(SegkitError) as error:
        run_predict(binary_run, images, out)
    said = str(error.value)
    assert said.count("No space left") == 1
    assert "2 of 6 masks were written" in said
    assert "(0, 1)" in said
    assert sorted(times(out)) == ["0.png", "1.png"]
    assert not threads()


def test_a_bug_in_a_thread_comes_out(binary_run, images, out, monkeypatch):
    def broken(path):
        raise RuntimeError("of the reader")

    monkeypatch.setattr(pipeline, "count_pages", broken)
    with pytest.raises(RuntimeError, match="of the reader"):
        run_predict(binary_run, images, out)
    assert not threads()


def test_coco_is_the_same_after_a_break_and_from_several_processes(
    binary_run, images, out, tmp_path, monkeypatch
):
    pytest.importorskip("pycocotools")
    pages = np.stack([draw(i, (32, 40)).image[..., 0] for i in range(3)])
    tifffile.imwrite(images / "stack.tif", pages, photometric="minisblack")
    run_predict(binary_run, images, out, "polygons=coco")
    whole = (out / "coco.json").read_text()
    assert len(json.loads(whole)["images"]) == 9
    assert json.loads(whole)["annotations"]
    for mask in ("1.png", "stack.tif"):
        (out / mask).unlink()
    (out / "coco.json").unlink()
    run_predict(binary_run, images, out, "polygons=coco")
    assert (out / "coco.json").read_text() == whole
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        run_predict(binary_run, images, tmp_path / "shared", "polygons=coco")
    assert (tmp_path / "shared/coco.json").read_text() == whole


def test_a_broken_image_is_in_no_coco(binary_run, images, out):
    pytest.importorskip("pycocotools")
    (images / "2.png").write_bytes(b"no picture")
    with pytest.raises(SegkitError, match=r"2\.png"):
        run_predict(binary_run, images, out, "polygons=coco")
    names = [image["file_name"] for image in json.loads((out / "coco.json").read_text())["images"]]
    assert names == ["0.png", "1.png", "3.png", "4.png", "5.png"]


@pytest.mark.slow
@pytest.mark.parametrize("knows_others", [False, True])
def test_two_processes_share_a_folder(binary_run, images, out, tmp_path, knows_others):
    (images / "5.png").write_bytes(b"no picture")  # of the second process
    with pytest.raises(SegkitError, match="1 file could not"):
        run_predict(binary_run, images, tmp_path / "alone")
    command = [sys.executable, "-m", "segkit.predict", *words(binary_run, images, out)]
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
    (said, wrong), (quiet, own) = [process.communicate(timeout=110) for process in running]
    assert quiet == ""
    if knows_others:
        assert [process.returncode for process in running] == [2, 0]
        assert "5 of 6 masks are in" in said
        assert "5.png" in wrong
    else:
        assert [process.returncode for process in running] == [0, 2]
        assert "3 of 3 masks are in" in said
        assert "5.png" in own
    alone = {path.name: path.read_bytes() for path in (tmp_path / "alone").glob("*.png")}
    assert {path.name: path.read_bytes() for path in out.glob("*.png")} == alone
    assert len(alone) == 5


@pytest.mark.slow
def test_ctrl_c_exits_with_130_and_a_line(binary_run, images, out):
    for i in range(6, 400):
        (images / f"{i}.png").write_bytes((images / "0.png").read_bytes())
    process = subprocess.Popen(
        [sys.executable, "-m", "segkit.predict", *words(binary_run, images, out, "tta=d4")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 90
    while len(times(out)) < 3 and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, wrong = process.communicate(timeout=30)
    assert process.returncode == 130, wrong
    assert "the same command continues with the rest" in said
    assert "Traceback" not in wrong
    assert 3 <= len(times(out)) < 400
    assert not list(out.rglob("*.tmp"))


def test_environments_that_do_not_fit_are_named(binary_run, images, out, monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SegkitError, match="RANK=2, WORLD_SIZE=2"):
        run_predict(binary_run, images, out)


def test_the_first_process_does_not_wait_for_one_that_has_failed(
    binary_run, images, out, monkeypatch
):
    class Store(dict):
        def set(self, key, value):
            self[key] = value

    store = Store()
    monkeypatch.setattr(Share, "join", classmethod(lambda cls: cls(1, 2, 1, store)))

    def write(path, mask):
        raise SegkitError("full") from OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(outputs, "write_mask", write)
    with pytest.raises(SegkitError, match="full"):
        run_predict(binary_run, images, out)
    (problem,) = json.loads(store["segkit/1"])["problems"]
    assert problem.startswith("process 1 has ended: full")


def test_a_process_takes_a_gpu_of_its_own(monkeypatch):
    share = Share(rank=5, count=8, local_rank=1)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert share.device("auto") == "cuda:1"
    assert share.device("cuda") == "cuda:1"
    assert share.device("cuda:3") == "cuda:3"
    assert share.device("cpu") == "cpu"
    assert Share().device("auto") == "auto"
    assert share.of(list(range(20))) == [5, 13]


def test_progress_is_a_line_now_and_then(binary_run, images, out, capsys, monkeypatch):
    monkeypatch.setattr("segkit.predict.progress.EVERY", 0.0)
    run_predict(binary_run, images, out)
    lines = [line for line in capsys.readouterr().out.splitlines() if "images/s" in line]
    assert len(lines) == 6
    assert "6 of 6 images" in lines[-1]
    assert "0:00 left" in lines[-1]


def test_a_run_that_is_ended_names_few_files(binary_run, images, out, monkeypatch):
    full = SegkitError("cannot write 'x': No space left on device.")
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    write_mask, done = outputs.write_mask, []

    def write(path, mask):
        if len(done) == 5:
            raise full
        done.append(path.name)
        write_mask(path, mask)

    monkeypatch.setattr(outputs, "write_mask", write)
    monkeypatch.setattr(pipeline, "WRITERS", 1)
    with pytest.raises(
        SegkitError, match=r"5 of 6 masks were written to .* \(0, 1, 2 and 2 more\)"
    ):
        run_predict(binary_run, images, out)
