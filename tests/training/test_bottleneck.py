"""The line that says what a training waits for: it comes when it does, and only then."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import train_quick
from torch.utils.data import DataLoader, Dataset

from segkit.data.loading import StageTimes
from segkit.data.sources.cells import CellsSource
from segkit.training import bottleneck
from segkit.training.bottleneck import Bottleneck, list_stages, recommend
from segkit.training.module import SegmentationModule

STAGES = {"reading": 0.004, "cropping": 0.0001, "Elastic": 0.018, "GaussNoise": 0.002}


def find_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [text for text in capsys.readouterr().out.splitlines() if "waited" in text]
    assert len(lines) <= 1
    return lines[0] if lines else ""


@pytest.fixture
def slow_down(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets a method sleep before it does its work; the line comes after shorter waits."""
    monkeypatch.setattr(bottleneck, "SECONDS", 0.2)

    def slow_down(owner: Any, name: str, seconds: float) -> None:
        plain = getattr(owner, name)

        def slow(self: Any, *args: Any, **kwargs: Any) -> Any:
            time.sleep(seconds)
            return plain(self, *args, **kwargs)

        monkeypatch.setattr(owner, name, slow)

    return slow_down


@pytest.mark.slow
def test_a_slow_source_is_named(tmp_path: Any, capsys: Any, slow_down: Any) -> None:
    slow_down(CellsSource, "read_image", 0.3)
    few = ["data.train=4", "data.val=1", "data.test=0"]
    train_quick(tmp_path, "data.num_workers=2", "data.cache=false", *few)
    line = find_line(capsys)
    assert line.startswith("epoch 0: waited ")
    assert " for data: reading 3" in line
    assert "data.cache=true" in line


@pytest.mark.slow
def test_waiting_for_a_validation_is_not_waiting_for_data(
    tmp_path: Any, capsys: Any, slow_down: Any
) -> None:
    slow_down(SegmentationModule, "validation_step", 0.1)
    slow_down(SegmentationModule, "training_step", 0.5)
    train_quick(tmp_path, "trainer.max_epochs=2")
    assert find_line(capsys) == ""


@pytest.mark.parametrize("loaded", [True, False])
def test_a_training_resumed_at_the_end_of_an_epoch_has_not_waited(
    loaded: bool, capsys: Any
) -> None:
    """Neither the start of that epoch nor a step of it comes by."""
    dataset = SimpleNamespace(times=StageTimes(["reading"], 0))
    loader = SimpleNamespace(dataset=dataset) if loaded else None
    trainer: Any = SimpleNamespace(train_dataloader=loader, is_global_zero=True)
    module: Any = SimpleNamespace(device=torch.device("cpu"))
    callback = Bottleneck()
    callback.on_train_start(trainer, module)
    callback.on_train_epoch_end(trainer, module)
    assert find_line(capsys) == ""


def test_the_longest_stage_comes_first_and_trifles_are_left_out() -> None:
    expected = "Elastic 18.0 ms, reading 4.0 ms, GaussNoise 2.0 ms; 24.1 ms for a crop in all"
    assert list_stages(STAGES) == expected


@pytest.mark.parametrize(
    ("slowest", "workers", "cached", "epoch", "needed", "remedy"),
    [
        ("reading", 3, None, 0, 9, "data.cache=true keeps"),
        ("reading", 3, True, 0, 9, "The next epochs read from the cache"),
        ("reading", 3, True, 1, 6, "data.num_workers=6 keeps up with the steps (now 3)"),
        ("reading", 7, True, 1, 9, "no more cores, 10 would keep up. Images on a faster disk"),
        ("Elastic", 0, None, 0, 9, "data.num_workers=7 helps (now 0), 9 would keep up. Make El"),
        ("Elastic", 7, None, 0, 9, "Make Elastic rarer"),
        ("Elastic", 7, None, 0, 4, "4 of the 7 workers keep up"),
        ("target", 7, None, 0, 9, "drawn from objects"),
        ("cropping", 7, None, 0, 9, "Smaller crops"),
    ],
)
def test_the_remedy_suits_the_slowest_stage(
    slowest: str,
    workers: int,
    cached: Any,
    epoch: int,
    needed: int,
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bottleneck, "count_usable_cores", lambda: 8)
    data: Any = SimpleNamespace(workers=workers, cache=cached, config=SimpleNamespace(cache="auto"))
    assert remedy in recommend(slowest, data, epoch, needed)


def test_on_a_gpu_only_idle_time_counts(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is busy in the first wait, idle in half of the second and longer than all of the third."""

    class Event:
        def __init__(self, at: float) -> None:
            self.at = at

        def elapsed_time(self, other: Event) -> float:
            return other.at - self.at

        def synchronize(self) -> None:
            pass

    events = iter([Event(at) for at in (10, 10, 100, 350, 400, 1100, 1200)])
    monkeypatch.setattr(bottleneck, "_record_event", lambda module: next(events))
    clock = iter([0.0, 0.5, 0.6, 1.1, 1.2, 1.7, 1.8])
    monkeypatch.setattr(bottleneck.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(bottleneck, "SECONDS", 0.7)
    dataset = SimpleNamespace(times=StageTimes(["reading"], 0))
    config = SimpleNamespace(cache="auto")
    trainer: Any = SimpleNamespace(
        train_dataloader=SimpleNamespace(dataset=dataset, batch_size=4),
        datamodule=SimpleNamespace(workers=0, cache=None, config=config),
        is_global_zero=True,
        current_epoch=3,
        print=print,
    )
    callback, module = Bottleneck(), Any
    callback.on_train_epoch_start(trainer, module)
    for _ in range(3):
        callback.on_train_batch_start(trainer, module)
        callback.on_train_batch_end(trainer, module)
    callback.on_train_epoch_end(trainer, module)
    assert "epoch 3: waited 42% of the time" in find_line(capsys)  # 0.75 of 1.8 seconds


def test_times_come_from_the_workers() -> None:
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
