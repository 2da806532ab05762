"""The line that names what a training waits for: there when it does, and only then."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import train_quick

from segkit.data.loading import StageTimes
from segkit.data.sources.cells import CellsSource
from segkit.training import bottleneck
from segkit.training.bottleneck import Bottleneck, describe, recommend
from segkit.training.datamodule import SegmentationData
from segkit.training.module import SegmentationModule

STAGES = [
    ("reading", 0.004),
    ("cropping", 0.0001),
    ("ElasticTransform", 0.018),
    ("GaussNoise", 0.001),
    ("GaussNoise", 0.001),
    ("target", 0.0005),
]


def line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [text for text in capsys.readouterr().out.splitlines() if "waited" in text]
    assert len(lines) <= 1
    return lines[0] if lines else ""


# --- in a training -------------------------------------------------------------------------------


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short training waits for less than what is said in a long one."""
    monkeypatch.setattr(bottleneck, "SECONDS", 0.2)


@pytest.mark.slow
def test_a_slow_source_is_named(
    tmp_path: Any, capsys: Any, seconds: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = CellsSource.read_image

    def slow(self: Any, sample: Any) -> Any:
        time.sleep(0.3)
        return plain(self, sample)

    monkeypatch.setattr(CellsSource, "read_image", slow)
    few = ["data.train=4", "data.val=1", "data.test=0"]
    train_quick(tmp_path, "data.num_workers=2", "data.cache=false", *few)
    said = line(capsys)
    assert said.startswith("epoch 0: waited ")
    assert " for data: reading 3" in said
    assert "data.cache=true" in said


@pytest.mark.slow
def test_a_slow_transform_is_named(
    tmp_path: Any, capsys: Any, seconds: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import albumentations as A

    plain = A.HorizontalFlip.apply

    def slow(self: Any, img: Any, **params: Any) -> Any:
        time.sleep(0.3)
        return plain(self, img, **params)

    monkeypatch.setattr(A.HorizontalFlip, "apply", slow)
    monkeypatch.setattr(bottleneck, "usable_cores", lambda: 4)
    flip = "augment.transforms=[{name: HorizontalFlip, p: 1.0}]"
    train_quick(tmp_path, flip, "data.train=4", "data.val=1")
    said = line(capsys)
    assert " for data: augmentation 6" in said  # of the image and of the labels
    assert "(HorizontalFlip 6" in said
    assert "data.num_workers=2 (now 0)" in said


@pytest.mark.slow
def test_waiting_for_a_validation_is_not_waiting_for_data(
    tmp_path: Any, capsys: Any, seconds: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(self: Any, index: int) -> Any:
        time.sleep(0.1)
        return plain(self, index)

    from segkit.data.loading import WholeDataset

    plain = WholeDataset.__getitem__
    monkeypatch.setattr(WholeDataset, "__getitem__", slow)
    step = SegmentationModule.training_step

    def steady(self: Any, *args: Any) -> Any:
        time.sleep(0.5)
        return step(self, *args)

    monkeypatch.setattr(SegmentationModule, "training_step", steady)
    train_quick(tmp_path, "trainer.max_epochs=2")
    assert line(capsys) == ""


@pytest.mark.parametrize("loaded", [True, False])
def test_a_training_that_is_resumed_at_the_end_of_an_epoch(loaded: bool, capsys: Any) -> None:
    """Neither the start of that epoch nor a step of it comes by."""
    from segkit.data.loading import TrainDataset

    dataset = TrainDataset.__new__(TrainDataset)
    dataset.times = StageTimes(["reading"], 0)
    trainer: Any = SimpleNamespace(
        train_dataloader=SimpleNamespace(dataset=dataset) if loaded else None,
        datamodule=SegmentationData.__new__(SegmentationData),
        is_global_zero=True,
        current_epoch=3,
        print=print,
    )
    module: Any = SimpleNamespace(device=torch.device("cpu"))
    callback = Bottleneck()
    callback.on_train_start(trainer, module)
    callback.on_train_epoch_end(trainer, module)
    assert line(capsys) == ""


# --- what is said --------------------------------------------------------------------------------


def test_the_longest_comes_first_and_trifles_not_at_all() -> None:
    assert describe(STAGES) == (
        "augmentation 20 ms (ElasticTransform 18 ms), reading 4.0 ms; 25 ms for a crop in all"
    )
    assert describe([("reading", 0.0), ("cropping", 0.0), ("target", 0.02)]) == (
        "target 20 ms; 20 ms for a crop in all"
    )


@pytest.mark.parametrize(
    ("slow", "workers", "cached", "epoch", "wanted"),
    [
        ("reading", 3, None, 0, "data.cache=true keeps"),
        ("reading", 3, True, 0, "The next epochs read from the cache"),
        ("reading", 3, True, 1, "data.num_workers=6 (now 3)"),
        ("reading", 7, True, 1, "faster disk"),
        ("ElasticTransform", 0, None, 0, "data.num_workers=2 (now 0)"),
        ("ElasticTransform", 7, None, 0, "make ElasticTransform rarer"),
        ("target", 2, None, 0, "data.num_workers=4 (now 2)"),
        ("target", 7, None, 0, "drawn from objects"),
        ("cropping", 7, None, 0, "Smaller crops"),
    ],
)
def test_what_helps(
    slow: str,
    workers: int,
    cached: Any,
    epoch: int,
    wanted: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bottleneck, "usable_cores", lambda: 8)
    data: Any = SimpleNamespace(workers=workers, cache=cached, config=SimpleNamespace(cache="auto"))
    stages = [(name, 0.1 if name == slow else seconds) for name, seconds in STAGES]
    assert wanted in recommend(stages, data, epoch)


def test_on_a_gpu_only_the_time_counts_in_which_it_is_idle() -> None:
    """It is busy in the first wait, idle in half of the second and longer than all of the third."""

    class Event:
        def __init__(self, at: float) -> None:
            self.at = at

        def elapsed_time(self, other: Event) -> float:
            return other.at - self.at

        def synchronize(self) -> None:
            pass

    callback = Bottleneck()
    callback._idle = [
        (Event(10), Event(10), 0.5),
        (Event(100), Event(350), 0.5),
        (Event(400), Event(1100), 0.5),
    ]
    assert callback._waited_on_gpu() == pytest.approx(0.75)


# --- how it is measured --------------------------------------------------------------------------


def test_times_come_from_the_workers() -> None:
    from torch.utils.data import DataLoader, Dataset

    class Slow(Dataset[int]):
        times = StageTimes(["sleep", "rest"], 2)

        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> int:
            began = time.perf_counter()
            time.sleep(0.02)
            self.times.add([began, time.perf_counter(), time.perf_counter()])
            return index

    loader: Any = DataLoader(Slow(), num_workers=2, multiprocessing_context="fork")
    assert len(list(loader)) == 8
    count, (slept, rest) = Slow.times.totals()
    assert count == 8
    assert slept >= 0.16
    assert 0 <= rest < slept
