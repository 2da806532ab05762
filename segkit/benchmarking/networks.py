"""Networks of segkit as candidates: what its users get when they predict and when they train."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from segkit.benchmarking.child import Candidate
from segkit.benchmarking.roofline import BYTES_OF_ADAMW, Work, count_work
from segkit.checkpoint.card import ModelCard
from segkit.checkpoint.normalization import Normalization
from segkit.config.schema import Trainer
from segkit.core.allocator import keep_freed_memory
from segkit.data.loading.dataset import Item
from segkit.inference.runtimes.torch_network import TorchNetwork, choose_device
from segkit.losses import Loss
from segkit.models.encoders import Encoder
from segkit.models.necks.joining import plain_joins
from segkit.models.segmenter import Segmenter, create_model
from segkit.models.sizes import valid_input
from segkit.optim.optimizers import Optimizer
from segkit.optim.schedules import Schedule
from segkit.report.colors import palette
from segkit.training.module import SegmentationModule

Part = Mapping[str, Any]
LOSS: dict[str, dict[str, Any]] = {"dice": {}, "cross_entropy": {}}
"""The terms of the loss of a training step."""


def build(encoder: Part, neck: Part, channels: int, classes: int, side: int) -> Segmenter:
    """The network, with random weights: 1 class is the foreground of a binary head."""
    options = dict(encoder)
    member, _ = Encoder.resolve(options["name"], {})
    if "pretrained" in inspect.signature(member).parameters:
        options["pretrained"] = False
    return create_model(
        options,
        neck,
        "binary" if classes == 1 else "multiclass",
        num_classes=None if classes == 1 else classes,
        in_channels=channels,
        img_size=side,
    )


def inference(
    encoder: Part,
    neck: Part,
    batch: int,
    side: int,
    channels: int = 3,
    classes: int = 1,
    device: str = "cpu",
    dtype: str = "float32",
) -> Candidate:
    """Probabilities of a batch, as ``segkit.load`` and ``python -m segkit.predict`` compute them.

    Args:
        encoder: Name and options.
        neck: Name and options.
        batch: Images.
        side: Height and width of what is predicted; an unpadded network sees more.
        channels: Channels of the images.
        classes: Number of classes; 1: the foreground.
        device: Where to compute.
        dtype: Type of the arithmetic: float32, or bfloat16 and float16 by autocast.
    """
    keep_freed_memory()  # as the commands do
    device = str(choose_device(device))
    torch.manual_seed(0)
    model = build(encoder, neck, channels, classes, side)
    facts = Facts(model)
    network = TorchNetwork(
        model, bare_card(model, encoder, neck, side, channels), device, tile=side, batch_size=batch
    )
    if dtype != "float32":  # which the packed convolutions of a CPU would compute in all the same
        network.model = model.eval()
    seen = _seen(model, side)
    images = torch.rand(batch, channels, seen, seen)
    given = images.numpy()

    def run() -> Tensor:
        with autocast(device, dtype):
            return network.probabilities(given)

    def said() -> dict[str, Any]:
        # built anew, as the one that predicts is computed otherwise; building runs a backbone too
        plain = build(encoder, neck, channels, classes, side).to(device).eval()
        with torch.no_grad(), autocast(device, dtype):
            return facts.of(lambda: plain(images.to(device)))()

    return Candidate(run, said, device)


def training(
    encoder: Part,
    neck: Part,
    batch: int,
    side: int,
    channels: int = 3,
    classes: int = 1,
    device: str = "cpu",
    dtype: str = "float32",
    compiled: bool = False,
) -> Candidate:
    """A training step as ``python -m segkit.train`` does it: forward, loss, backward, AdamW.

    Args:
        encoder: Name and options.
        neck: Name and options.
        batch: Images.
        side: Height and width of the labels; an unpadded network sees more.
        channels: Channels of the images.
        classes: Number of classes; 1: the foreground.
        device: Where to compute.
        dtype: Type of the arithmetic: float32, or bfloat16 by autocast.
        compiled: Whether the network is compiled.
    """
    keep_freed_memory()  # as the commands do
    device = str(choose_device(device))
    torch.manual_seed(0)
    model = build(encoder, neck, channels, classes, side).to(device).train()
    facts = Facts(model)
    module = _module(model, bare_card(model, encoder, neck, side, channels), compiled)
    optimizer = module.optimizer.for_model(model)
    seen = _seen(model, side)
    images = torch.rand(batch, channels, seen, seen, device=device)
    height, width = model.output_size(seen, seen)
    labels = torch.randint(0, max(2, classes), (batch, height, width), device=device)

    item: Item = {"image": images, "target": labels, "index": torch.arange(batch)}

    def run() -> None:
        with autocast(device, dtype):
            loss = module.training_step(item, 0)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    return Candidate(run, facts.of(run, BYTES_OF_ADAMW), device)


class Facts:
    """What a candidate says of itself after its runs."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = sum(p.numel() for p in model.parameters())

    def of(
        self, run: Callable[[], object], bytes_per_parameter: int = 0
    ) -> Callable[[], dict[str, Any]]:
        """Parameters and counted work; for the parameters the bytes that the optimizer moves."""

        def facts() -> dict[str, Any]:
            with plain_joins():  # what the architecture says, however it is computed
                work = count_work(run)
            moved = work.bytes + bytes_per_parameter * self.parameters
            return {"parameters": self.parameters, **asdict(Work(work.flops, moved))}

        return facts


def autocast(device: str, dtype: str) -> torch.autocast:
    """The context of that arithmetic."""
    kind = torch.device(device).type
    return torch.autocast(kind, getattr(torch, dtype), enabled=dtype != "float32")


def _module(model: Segmenter, card: ModelCard, compiled: bool) -> SegmentationModule:
    settings = Trainer()
    module = SegmentationModule(
        model,
        card,
        Loss.build("sum", mode=model.head.mode, terms=LOSS),
        Optimizer.build("adamw"),
        Schedule.build("constant"),
        [],
        channels_last=settings.channels_last,
        compiled=compiled,
    )
    # without a trainer Lightning would warn in each step
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return module


def _seen(model: Segmenter, side: int) -> int:
    """What the network must be given for a map of that side."""
    if model.encoder.padding == "valid":
        return valid_input(side, len(model.encoder.strides))
    return side


def bare_card(
    model: Segmenter,
    encoder: Part,
    neck: Part,
    side: int,
    channels: int,
    dtype: str = "float32",
    high: float = 1.0,
) -> ModelCard:
    """A card as a training would write it, of intensities from 0 to ``high``."""
    count = model.head.num_classes
    return ModelCard(
        encoder=dict(encoder),
        neck=dict(neck),
        head={"name": model.head.mode},
        in_channels=channels,
        num_classes=count,
        auxiliary=0,
        img_size=(side, side),
        class_names=tuple(f"class_{i}" for i in range(count)),
        class_colors=tuple(palette(count)),
        normalization=Normalization(dtype, 0.0, high, (0.0,) * channels, (1.0,) * channels),
        mask_values=tuple(range(count)),
        mode=model.head.mode,
    )
