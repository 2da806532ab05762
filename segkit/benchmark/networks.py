"""Networks with random weights, and the two things that are timed: predicting and a training step.

Both run the code of ``segkit.load`` and ``python -m segkit.train``, so that the figures are what
users get.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from segkit.checkpoint.card import ModelCard
from segkit.checkpoint.values import Normalization
from segkit.config.schema import Trainer
from segkit.config.settings import Precision
from segkit.core.allocator import keep_freed_memory
from segkit.data.loading import Item
from segkit.inference.runtimes.torch_network import TorchNetwork
from segkit.losses.base import build_typical_loss
from segkit.models.encoders import Encoder
from segkit.models.heads.queries import QueriesHead
from segkit.models.segmenter import Segmenter, create_model
from segkit.models.sizes import valid_input
from segkit.optim.optimizers import Optimizer
from segkit.optim.schedules import Schedule
from segkit.report.colors import choose_colors
from segkit.training.module import SegmentationModule
from segkit.training.speedup import compile_step


def build_network(
    encoder: Mapping[str, Any], neck: Mapping[str, Any], channels: int, classes: int, side: int
) -> Segmenter:
    """Build a network with random weights; one class is the foreground of a binary head."""
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


def find_input_side(model: Segmenter, side: int) -> int:
    """The side of the input for an output of ``side``: an unpadded network needs a margin."""
    if model.encoder.padding == "valid":
        return valid_input(side, len(model.encoder.strides))
    return side


def use_precision(device: str, precision: str) -> torch.autocast:
    """The context that computes in a precision; float32 and auto change nothing."""
    kind, is_plain = torch.device(device).type, precision in ("auto", "float32")
    return torch.autocast(kind, None if is_plain else getattr(torch, precision), not is_plain)


def prepare_prediction(
    model: Segmenter, batch: int, side: int, device: str = "cpu", precision: str = "float32"
) -> Callable[[], Tensor]:
    """Make a function that predicts a batch as ``segkit.load`` does; the model is moved.

    With the precision ``auto`` it computes as ``segkit.load`` does by default.
    """
    keep_freed_memory()  # as the commands do
    channels, seen = model.encoder.in_channels, find_input_side(model, side)
    card = make_bare_card(model, side)
    own: Precision = "auto" if precision == "auto" else "float32"
    network = TorchNetwork(model, card, device, tile=side, batch_size=batch, precision=own)
    if precision == "bfloat16":  # the packed convolutions of a CPU would compute in float32
        network.model = model.eval()
    images = torch.rand(batch, channels, seen, seen).numpy()

    def predict() -> Tensor:
        with use_precision(device, precision):
            return network.predict_batch(network.from_numpy(images))

    return predict


def prepare_training_step(
    model: Segmenter,
    batch: int,
    side: int,
    device: str = "cpu",
    precision: str = "float32",
    compiled: bool = False,
) -> Callable[[], None]:
    """Make a function that takes a step of the train command: forward, loss, backward, AdamW."""
    keep_freed_memory()  # as the commands do
    model = model.to(device).train()
    module = SegmentationModule(
        model,
        make_bare_card(model, side),
        build_typical_loss(model.head.mode, isinstance(model.head, QueriesHead)),
        Optimizer.build("adamw"),
        Schedule.build("constant"),
        [],
        Trainer(),
    )
    if compiled:
        plain = module.compute_loss
        compiled_step = compile_step(plain, torch.device(device), replays=True)
        module.compute_loss = compiled_step  # type: ignore[method-assign]  # as Speedup
    # without a trainer Lightning would warn at each step
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    torch.backends.cudnn.benchmark = True  # as trainings do after their first steps
    optimizer = module.optimizer.for_model(model)
    seen = find_input_side(model, side)
    images = torch.rand(batch, model.encoder.in_channels, seen, seen, device=device)
    size = (batch, *model.output_size(seen, seen))
    labels = torch.randint(0, max(2, model.head.num_classes), size, device=device)
    item: Item = {"image": images, "target": labels, "index": torch.arange(batch)}

    def step() -> None:
        with use_precision(device, precision):
            loss = module.training_step(item, 0)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    return step


def make_bare_card(
    model: Segmenter, side: int, dtype: str = "float32", high: float = 1.0
) -> ModelCard:
    """Make a card as a training would, for intensities from 0 to ``high``."""
    channels, count = model.encoder.in_channels, model.head.num_classes
    return ModelCard(
        encoder={"name": model.encoder.name},
        neck={"name": model.neck.name},
        head={"name": model.head.mode},
        in_channels=channels,
        num_classes=count,
        auxiliary=0,
        img_size=(side, side),
        class_names=tuple(f"class_{i}" for i in range(count)),
        class_colors=tuple(choose_colors(count)),
        normalization=Normalization(dtype, 0.0, high, (0.0,) * channels, (1.0,) * channels),
        mask_values=tuple(range(count)),
        mode=model.head.mode,
    )
