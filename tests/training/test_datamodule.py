"""The batches of a training: the cache that a run makes and removes, workers, copies to a GPU."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest
import torch
from conftest import QUICK, train_quick
from threadpoolctl import threadpool_info, threadpool_limits

from segkit.checkpoint import reading as checkpoint
from segkit.config.schema import Data
from segkit.core.errors import SegkitError
from segkit.core.threads import VARIABLES
from segkit.data.augment import TrainTransform
from segkit.data.checks.summary import check
from segkit.data.loading import ArrayCache
from segkit.data.sources.cells import CellsSource
from segkit.report.table import read_csv
from segkit.targets.base import Labels
from segkit.training import datamodule
from segkit.training.datamodule import SegmentationData
from segkit.training.module import SegmentationModule

GB = 1024**3


def data(decoded: int | None = None, **options: Any) -> SegmentationData:
    source = CellsSource("binary", train=4, val=2, test=1, size=(32, 48))
    summary = check(source, "binary")
    if decoded is not None:
        summary = replace(summary, decoded={"train": decoded, "val": decoded, "test": 10**18})
    config = Data(name="cells", crop_size=(24, 24), batch_size=2, num_workers=0)
    return SegmentationData(
        source,
        summary,
        summary.normalization,
        TrainTransform((24, 24), []),
        Labels(),
        config.model_copy(update=options),
        seed=1,
    )


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


# --- the cache -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "size", "kept", "said"),
    [
        ("auto", 1 * GB, True, "cached during the run, 2.0 GB"),
        ("auto", 3 * GB, False, "6.0 GB, more than 25% of the memory"),
        ("auto", 2 * GB, False, "4.0 GB, more than 25% of the free disk"),
        (True, 90 * GB, True, "180.0 GB"),
        (False, 1, False, "data.cache=false"),
    ],
)
def test_what_auto_takes(
    asked: Any, size: int, kept: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datamodule, "find_main_memory", lambda: 20 * GB)
    monkeypatch.setattr(
        datamodule.shutil, "disk_usage", lambda folder: SimpleNamespace(free=15 * GB)
    )
    found = data(size, cache=asked)
    assert found.cached is kept
    assert said in found.cache_note
    assert "\n" not in found.cache_note
    found.setup("validate")
    assert found.cache is None
    found.setup("fit")
    assert (found.cache is not None) is kept
    found.close()


def test_without_a_place_for_it_images_are_read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError("Read-only file system")

    monkeypatch.setattr(tempfile, "mkdtemp", fail)
    found = data()
    with pytest.warns(RuntimeWarning, match="Read-only file system.*data.cache=false"):
        found.setup("fit")
    assert len(list(found.train_dataloader())) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raised", "ends"),
    [(None, None), (RuntimeError("broken"), RuntimeError), (KeyboardInterrupt(), SystemExit)],
)
def test_a_run_leaves_nothing_behind(
    raised: Any, ends: Any, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    step = SegmentationModule.training_step

    def spy(self: Any, batch: Any, number: int) -> Any:
        seen.append(len(list(next(temporary.glob("segkit-cache-*")).iterdir())))
        if raised is not None:
            raise raised
        return step(self, batch, number)

    monkeypatch.setattr(SegmentationModule, "training_step", spy)
    with nullcontext() if ends is None else pytest.raises(ends):
        train_quick(tmp_path / "run")
    assert seen[0] > 0
    assert not list(temporary.glob("segkit-cache-*"))


@pytest.mark.slow
def test_cache_and_workers_change_no_number(tmp_path: Path) -> None:
    """Two runs of one seed are equal to the bit."""
    options = ["augment=microscopy", "trainer.max_epochs=2", "data.foreground_share=0.5"]
    options += ["target=border_core", "data.instances=true", "data.val=2"]
    ways = (["data.cache=true", "data.num_workers=2"], ["data.cache=false", "data.num_workers=0"])
    runs = [train_quick(tmp_path / way[0], *options, *way) for way in ways]
    weights = [checkpoint.read_raw(run.folder / "checkpoints/last.ckpt") for run in runs]
    for key, value in weights[0]["state_dict"].items():
        assert torch.equal(value, weights[1]["state_dict"][key]), key
    rows = [read_csv(run.folder / "metrics.csv") for run in runs]
    for key in ("train/loss", "val/loss", "val/iou"):
        assert [row[key] for row in rows[0]] == [row[key] for row in rows[1]]


def test_the_processes_of_a_machine_share_one(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines with two processes each."""
    gathered: list[Any] = []

    def gather(into: list[Any], own: Any) -> None:
        gathered.append(own)
        into[:] = [*gathered, *[("", None)] * (4 - len(gathered))]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    found = []
    for rank in range(4):
        monkeypatch.setattr(datamodule.socket, "gethostname", lambda rank=rank: f"host{rank // 2}")
        one = data()
        trainer: Any = SimpleNamespace(world_size=4, global_rank=rank, local_rank=rank % 2)
        one.trainer = trainer
        one.setup("fit")
        assert isinstance(one.cache, ArrayCache)
        found.append(one)
    folders = [one.cache.folder for one in found if one.cache is not None]
    assert folders[0] == folders[1] != folders[2] == folders[3]
    found[1].close()
    assert folders[1].is_dir()  # the other one may still read
    for one in found:
        one.close()
    assert not list(temporary.iterdir())


# --- workers and devices -------------------------------------------------------------------------


def test_a_core_is_left_to_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    table = [(1, False, 0), (2, False, 0), (2, True, 1), (6, False, 5), (64, True, 16)]
    for cores, gpu, workers in table:
        monkeypatch.setattr(datamodule, "count_usable_cores", lambda cores=cores: cores)
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        assert datamodule.default_workers() == workers
        assert data(num_workers=None).workers == workers
        assert data(num_workers=3).workers == 3


@pytest.mark.parametrize(
    ("device", "seconds", "workers"), [("cpu", 0.004, 1), ("cuda", 0.001, 4), ("cuda", 0.01, 8)]
)
def test_there_are_as_many_workers_as_keep_up(
    monkeypatch: pytest.MonkeyPatch, device: str, seconds: float, workers: int
) -> None:
    monkeypatch.setattr(datamodule, "default_workers", lambda processes=1: 8 // processes)
    times = iter([0.1, *[seconds] * 5])  # the first crop is slower
    made: list[Any] = []

    def take(dataset: Any, draw: Any) -> None:
        made.append(draw)
        now = next(times)
        dataset.times.add([*[0.0] * len(dataset.times.stages), now])

    monkeypatch.setattr(datamodule.TrainDataset, "__getitem__", take)
    found = data(num_workers=None, cache=False)
    strategy = SimpleNamespace(root_device=torch.device(device))
    stand_in = SimpleNamespace(world_size=1, num_nodes=1, strategy=strategy)
    found.trainer = stand_in  # type: ignore[assignment]  # no trainer, but all that is asked
    found.setup("fit")
    assert len(made) == 6
    assert found.workers == workers
    found.trainer.world_size = 4
    monkeypatch.setattr(datamodule.TrainDataset, "__getitem__", lambda *_: 1 / 0)
    found.setup("fit")  # what is wrong will be said by the training
    assert found.workers == 2


def read_with_one_thread(sample: Any, read: Any) -> Any:
    """An image, where no library would compute with more threads."""
    taken = [each["num_threads"] for each in threadpool_info()]
    most = max([*taken, torch.get_num_threads(), cv2.getNumThreads()])
    if most > 1:
        raise SegkitError(f"{most} threads")
    return read(sample)


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.nightly)])
def test_a_worker_computes_with_one_thread_in_every_library(
    start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "16")
    found = data(num_workers=1)
    read = partial(read_with_one_thread, read=found.source.read_image)
    monkeypatch.setattr(found.source, "read_image", read)
    with threadpool_limits(16):
        for loader in (found.train_dataloader(), found.val_dataloader()):
            loader.multiprocessing_context = start
            assert len(list(loader)) == len(loader)
        free = found.val_dataloader()
        free.worker_init_fn = None
        with pytest.raises(SegkitError, match="16 threads"):
            list(free)


def test_crops_made_beside_the_network_multiply_with_one_thread() -> None:
    with threadpool_limits(2, "blas"):
        data(num_workers=0).train_dataloader()
        taken = {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}
    assert taken == {1}


def test_batches_travel_as_bytes_and_are_normalised_where_the_network_is() -> None:
    found = data()
    batch = next(iter(found.train_dataloader()))
    assert (batch["unit"].dtype, batch["labels"].dtype) == (torch.uint8, torch.uint8)
    item = found.on_after_batch_transfer(batch, 0)
    assert (item["image"].dtype, item["image"].shape) == (torch.float32, (2, 1, 24, 24))
    assert item["target"].dtype == torch.int64
    whole = next(iter(found.val_dataloader()))
    assert found.on_after_batch_transfer(whole, 0) is whole


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("cuda:0", True), ("mps:0", False)])
def test_only_batches_for_a_gpu_are_pinned(device: str, pinned: bool) -> None:
    found = data()
    strategy = SimpleNamespace(root_device=torch.device(device))
    trainer: Any = SimpleNamespace(world_size=1, num_nodes=1, global_rank=0, strategy=strategy)
    found.trainer = trainer
    assert found.train_dataloader().pin_memory is pinned
    assert found.val_dataloader().pin_memory is pinned


@pytest.mark.parametrize(("room", "workers"), [(100, 4), (99, 3), (64, 2), (39, 0)])
def test_there_are_no_more_workers_than_shared_memory_holds(
    monkeypatch: pytest.MonkeyPatch, room: int, workers: int
) -> None:
    found, state = data(num_workers=4), SimpleNamespace(f_bavail=room, f_frsize=2**20)
    monkeypatch.setattr(datamodule.os, "statvfs", lambda path: state)
    with (
        nullcontext()
        if workers == 4
        else pytest.warns(
            RuntimeWarning, match=rf"{workers} of 4 processes .* {room} MB .* takes 10\.0.*size=2g"
        )
    ):
        assert found._fit_workers(10 * 2**20) == workers


def test_without_shared_memory_there_are_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    found, state = data(num_workers=1), SimpleNamespace(f_bavail=0, f_frsize=1)
    monkeypatch.setattr(datamodule.os, "statvfs", lambda path: state)
    for make in (found.val_dataloader, found.train_dataloader):
        with pytest.warns(RuntimeWarning, match="0 of 1 processes"):
            assert make().num_workers == 0


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("DataLoader worker (pid 9) is killed by signal: Bus error. "), "shm-size=2g"),
        (RuntimeError("unable to allocate shared memory(shm) for file </t>"), "shm-size=2g"),
        (OSError(28, "No space left on device"), "shm-size=2g"),
        (RuntimeError("DataLoader worker (pid 9) is killed by signal: Killed. "), "memory is used"),
    ],
)
def test_a_worker_that_dies_for_want_of_memory(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(self: Any) -> None:
        raise error

    loader = data(num_workers=1, cache=False).train_dataloader()
    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", fail)
    with pytest.raises(SegkitError, match=message):
        next(iter(loader))


@pytest.mark.nightly
def test_a_training_with_the_shared_memory_of_a_container(tmp_path: Path) -> None:
    """Needs the right to mount one for itself."""
    mount = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], check=False).returncode:
        pytest.skip("no /dev/shm can be mounted")
    options = [*QUICK, "data.num_workers=2", "data.crop_size=256", "data.size=[256,256]"]
    train = shlex.join([sys.executable, "-m", "segkit.train", *options, "hydra.run.dir=run"])
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{mount} && exec {train}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "of 2 processes read images, as /dev/shm has room for 1 MB" in done.stderr
