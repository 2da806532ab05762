"""What a network costs in training, measured by running it on the meta device."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from segkit.config.schema import TrainConfig
from segkit.core.machine import Machine, choose_precision
from segkit.models.cost import gflops
from segkit.models.segmenter import Segmenter, create_model
from segkit.models.sizes import valid_input

REFERENCE = 256
"""Side of the crop to run, in pixels."""
BYTES_OF_PARAMETER = 20
"""A float32 parameter with its gradient, AdamW's two averages and the average of the weights."""


@dataclass(frozen=True)
class Network:
    """The cost of a network.

    Attributes:
        bytes_per_pixel: Activations kept for the backward pass, per pixel of a crop.
        flops_per_pixel: Floating-point operations of the forward pass per pixel.
        multiple: Height and width are padded to a multiple of this.
        layer_norm: Whether the encoder has layer norm and no batch norm, as transformers do.
        largest: Longest possible side, None for any.
        seconds_per_pixel: Time of a step per pixel of its crops, None if it was not measured.
        step_seconds: What a step takes besides.
    """

    parameters: int
    bytes_per_pixel: float
    flops_per_pixel: float
    multiple: int
    layer_norm: bool
    largest: int | None = None
    seconds_per_pixel: float | None = None
    step_seconds: float = 0.0

    @property
    def fixed_bytes(self) -> int:
        """Memory independent of the batch."""
        return BYTES_OF_PARAMETER * self.parameters

    def kept_bytes(self, size: tuple[int, int]) -> float:
        """Memory of a crop in training."""
        return self.bytes_per_pixel * math.prod(size)

    def time_step(self, size: tuple[int, int], crops: int, machine: Machine) -> float:
        """Seconds of a step of that many crops, over all devices; roughly, if not measured."""
        if self.seconds_per_pixel is None:
            return crops * self.training_flops(size) / machine.speed
        own = crops / machine.devices * math.prod(size)
        return self.step_seconds + own * self.seconds_per_pixel

    def training_flops(self, size: tuple[int, int]) -> float:
        """Operations of a crop in training: the backward pass costs twice the forward pass."""
        return 3 * self.flops_per_pixel * math.prod(size)


def measure_network(settings: TrainConfig, in_channels: int, num_classes: int) -> Network:
    """Build the network with random weights and measure what training it costs.

    It is built on the meta device, which takes no memory and hardly any time.

    Raises:
        SegkitError: The parts do not fit each other.
    """
    precision = choose_precision(settings.trainer.precision, settings.trainer.accelerator)

    def measure() -> Network:
        model = build_network(settings, in_channels, num_classes, REFERENCE)
        return _measure(model, in_channels, half=precision != "32-true")

    # planning must not change the random numbers of the training
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"):
                network = measure()
        except Exception:  # an encoder whose code depends on values
            network = measure()
    # without img_size, a backbone of one size is built for the crop
    return replace(network, largest=network.largest and settings.encoder.options.get("img_size"))


def build_network(
    settings: TrainConfig, in_channels: int, num_classes: int, img_size: int
) -> Segmenter:
    """The network of a config with random weights."""
    encoder = settings.encoder.as_dict()
    if "pretrained" in encoder:
        encoder["pretrained"] = False
    return create_model(
        encoder,
        settings.neck.as_dict(),
        {k: v for k, v in settings.head.as_dict().items() if k != "num_classes"},
        num_classes=num_classes,
        in_channels=in_channels,
        auxiliary=len(settings.auxiliary),
        img_size=img_size,
    )


def _measure(model: Segmenter, in_channels: int, half: bool) -> Network:
    encoder = model.encoder
    side = crop = REFERENCE
    if encoder.padding == "valid":
        side = valid_input(REFERENCE, len(encoder.strides))
    elif encoder.fixed_size is not None:
        side = crop = min(encoder.fixed_size)
    batch = 2  # batch norm needs several values
    image = next(model.parameters()).new_zeros(batch, in_channels, side, side)
    kept = _count_kept_bytes(model.train(), image) / batch
    return Network(
        parameters=sum(p.numel() for p in model.parameters()),
        bytes_per_pixel=kept / crop**2 / (2 if half else 1),
        flops_per_pixel=1e9 * gflops(model, in_channels, (crop, crop)) / crop**2,
        multiple=encoder.multiple or encoder.strides[-1],
        layer_norm=_has(encoder, nn.LayerNorm) and not _has(encoder, nn.BatchNorm2d),
        largest=side if encoder.fixed_size is not None else None,
    )


def _has(module: nn.Module, kind: type[nn.Module]) -> bool:
    return any(isinstance(part, kind) for part in module.modules())


def _count_kept_bytes(model: Segmenter, image: Tensor) -> int:
    """Count what autograd keeps for the backward pass, without the parameters."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.all_logits(image)
    return sum(size for key, size in kept.items() if key not in own)
