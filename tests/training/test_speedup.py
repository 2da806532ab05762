"""When the training step is compiled, and what happens when it cannot be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import train_quick

from segkit.core.errors import SegkitError
from segkit.losses.base import Loss
from segkit.training import speedup
from segkit.training.budget import Budget
from segkit.training.speedup import FIRST, LAST, TRIALS, Speedup


class Module(torch.nn.Module):
    """What the callback needs of a LightningModule."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = torch.device(device)
        self.norm = torch.nn.BatchNorm1d(1, momentum=0.5)
        self.loss = Loss.build("dice", mode="binary")
        self.calls = 0

    def compute_loss(self, images: torch.Tensor, target: Any, weight: Any) -> torch.Tensor:
        self.calls += 1
        return self.norm(images).sum() + 1


IMAGES = torch.tensor([[0.0], [2.0]])


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is compiled, by a compiler that changes nothing."""
    given: list[Any] = []

    def compile_eagerly(compute: Any, mode: Any = None) -> Any:
        given.append(compute)
        return lambda *args: compute(*args)

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    return given


@pytest.mark.slow
def test_a_compiled_training_says_so_and_trains_the_same(
    tmp_path: Any, capsys: Any, compiled: list[Any]
) -> None:
    losses = []
    for name, when in (("plain", "false"), ("compiled", "true")):
        run = train_quick(tmp_path / name, f"trainer.compile={when}")
        said = capsys.readouterr().out
        assert ("the training step is compiled; that took " in said) is (when == "true")
        losses.append((run.folder / "metrics.csv").read_text().splitlines()[-1].split(",")[5:])
    assert len(compiled) == 1
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_what_cannot_be_compiled_is_said(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(compute: Any, mode: Any = None) -> Any:
        def fail(*args: Any) -> Any:
            raise RuntimeError("no compiler\nand a long trace")

        return fail

    monkeypatch.setattr(torch, "compile", refuse)
    message = r"trainer.compile=true: this training step cannot be compiled: no compiler\."
    with pytest.raises(SegkitError, match=message):
        train_quick(tmp_path, "trainer.compile=true")


@pytest.mark.parametrize(
    ("steps", "budget", "wanted", "tuned"),
    [
        (10**6, None, True, True),
        (10**6, 70.0, False, True),
        (10**6, 50.0, False, False),
        (LAST + 9, None, False, False),
    ],
)
def test_only_a_long_training_on_a_gpu_is_made_faster(
    monkeypatch: pytest.MonkeyPatch,
    compiled: list[Any],
    steps: int,
    budget: Any,
    wanted: bool,
    tuned: bool,
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: False)
    clock = iter(range(0, 1000, LAST - FIRST))  # a step takes a second
    monkeypatch.setattr(speedup.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)
    said: list[str] = []
    trainer: Any = SimpleNamespace(
        callbacks=[] if budget is None else [Budget(budget)],
        estimated_stepping_batches=steps,
        global_step=LAST,
        world_size=1,
        accumulate_grad_batches=1,
        print=said.append,
    )
    module: Any = Module("cuda")
    callback = Speedup("auto")
    for _ in range(LAST):
        callback.on_train_batch_start(trainer, module)
    assert bool(compiled) is wanted
    assert torch.backends.cudnn.benchmark is tuned
    callback.on_validation_start(trainer, module)
    assert not torch.backends.cudnn.benchmark
    callback.on_validation_end(trainer, module)
    assert torch.backends.cudnn.benchmark is tuned
    callback.teardown(trainer, module, "fit")
    assert not torch.backends.cudnn.benchmark
    assert module.compute_loss(IMAGES, None, None).item() == pytest.approx(1)
    callback.on_train_batch_end(trainer)
    assert bool(said) is wanted


def test_a_training_goes_on_where_compiling_by_itself_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch, "compile", lambda compute, mode: fail)
    said: list[str] = []
    trainer: Any = SimpleNamespace(world_size=1, accumulate_grad_batches=1, print=said.append)
    module: Any = Module("cpu")
    callback = Speedup("auto")
    callback._compile(trainer, module)
    for _ in range(2):
        assert module.compute_loss(IMAGES, None, None).item() == pytest.approx(1)
        callback.on_train_batch_end(trainer)
    assert said == ["the training step is not compiled, as that failed: out of memory"]


def test_trying_a_step_out_leaves_everything_as_it_was(compiled: list[Any]) -> None:
    said: list[str] = []
    trainer: Any = SimpleNamespace(world_size=1, accumulate_grad_batches=1, print=said.append)
    module: Any = Module("cpu")
    module.norm.weight.grad = torch.tensor([7.0])
    callback = Speedup(True)
    callback._compile(trainer, module)
    module.compute_loss(IMAGES, None, None)
    assert module.calls == TRIALS + 1
    assert module.norm.weight.grad.item() == 7
    assert module.norm.bias.grad is None
    assert module.norm.running_mean.item() == 0.5  # of one step, from 0 to 1
    assert module.norm.num_batches_tracked.item() == 1


def test_what_fails_on_the_way_back_is_not_compiled_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no kernel")

    def compile_badly(compute: Any, mode: Any = None) -> Any:
        return lambda *args: Broken.apply(compute(*args))

    monkeypatch.setattr(torch, "compile", compile_badly)
    said: list[str] = []
    trainer: Any = SimpleNamespace(world_size=1, accumulate_grad_batches=1, print=said.append)
    module: Any = Module("cpu")
    Speedup("auto")._compile(trainer, module)
    loss = module.compute_loss(IMAGES, None, None)
    loss.backward()
    assert said == ["the training step is not compiled, as that failed: no kernel"]
