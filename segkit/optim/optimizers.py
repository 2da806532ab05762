"""The optimizers, and the learning rate and weight decay of each group of parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from segkit.core.errors import SegkitError
from segkit.core.registry import Registrable
from segkit.models.segmenter import Segmenter

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
LayerDecay = Annotated[float, Field(gt=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
HeadFactor = Positive | Literal["auto"]
WIDE = 128
"""Inputs per output of a head from which on ``auto`` leaves its learning rate unchanged."""


EMBEDDINGS = {
    *("pos_embed", "pos_embed_abs", "pos_embed_win", "pos_embed_window", "patch_pos", "pixel_pos"),
    *("relative_position_bias_table", "attention_biases", "cls_token", "dist_token", "reg_token"),
    *("temperature", "queries"),
}
"""Names of parameters of several dimensions that are no matrices: timm's authors exclude them from
weight decay."""


class Optimizer(Registrable, ABC, family="optimizer"):
    """Creates the torch optimizer of a network.

    Attributes:
        lr: Learning rate of neck and heads.
        weight_decay: Weight decay of matrices and kernels; biases and norms have none.
        encoder_lr_factor: Factor on the learning rate of the encoder.
        layer_decay: Factor from the learning rate of a layer of the encoder to the one before it.
        head_lr_factor: Factor on the learning rate of the heads; see :class:`AdamW` for ``auto``.
    """

    lr: float
    weight_decay: float
    encoder_lr_factor: float
    layer_decay: float
    head_lr_factor: HeadFactor = 1.0

    @abstractmethod
    def create(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The torch optimizer for parameter groups with their own ``lr`` and ``weight_decay``."""

    def for_model(self, model: Segmenter) -> torch.optim.Optimizer:
        """The torch optimizer for the trainable parameters of a network."""
        groups = parameter_groups(
            model,
            self.lr,
            self.weight_decay,
            self.encoder_lr_factor,
            self.head_lr_factor,
            self.layer_decay,
        )
        if not groups:
            raise SegkitError(
                "nothing is left to train: every parameter is frozen. Use encoder.freeze=none, or"
                " freeze fewer stages."
            )
        return self.create(groups)


class AdamW(Optimizer, name="adamw"):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    A step of Adam moves every weight by about the learning rate, regardless of the gradient, so the
    logits of a head over n channels by about n times as much. Over the 16 channels at the end of a
    ResNet's U-Net they would take hundreds of steps to reach probabilities near 0 and 1.
    ``head_lr_factor=auto`` multiplies the learning rate of a narrow head by 128 / n, as the rate of
    the last layer scales with 1 / n in Yang et al., "Tensor Programs V", 2022, table 3.

    Args:
        lr: Learning rate.
        weight_decay: Weight decay of matrices and kernels; biases and norms have none.
        betas: Decay rates of the averages of the gradient and of its square.
        encoder_lr_factor: Factor on the learning rate of the encoder.
        layer_decay: Factor on the learning rate of a layer of the encoder for each layer behind it,
            such as 0.75 to fine-tune a large transformer (Bao et al. 2022, "BEiT"). A layer is a
            block of a transformer, or a stage.
        head_lr_factor: Factor on the learning rate of the heads. auto: 128 / n, at least
            1, for a head whose narrowest convolution has n inputs per output.
    """

    def __init__(
        self,
        lr: Positive = 1e-3,
        weight_decay: NotNegative = 1e-2,
        betas: tuple[Beta, Beta] = (0.9, 0.999),
        encoder_lr_factor: Positive = 1.0,
        layer_decay: LayerDecay = 1.0,
        head_lr_factor: HeadFactor = "auto",
    ) -> None:
        self.lr, self.weight_decay, self.betas = lr, weight_decay, betas
        self.encoder_lr_factor, self.head_lr_factor = encoder_lr_factor, head_lr_factor
        self.layer_decay = layer_decay

    def create(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """torch.optim.AdamW."""
        return torch.optim.AdamW(_fuse_steps(groups), lr=self.lr, betas=self.betas)


class SGD(Optimizer, name="sgd"):
    """Stochastic gradient descent with momentum; the 2015 U-Net took 0.99.

    Args:
        lr: Learning rate.
        momentum: Momentum.
        nesterov: Whether to use Nesterov momentum.
        weight_decay: Weight decay of matrices and kernels; biases and norms have none.
        encoder_lr_factor: Factor on the learning rate of the encoder.
        layer_decay: Factor on the learning rate of a layer of the encoder for each layer behind it.
    """

    def __init__(
        self,
        lr: Positive = 1e-2,
        momentum: Beta = 0.9,
        nesterov: bool = False,
        weight_decay: NotNegative = 1e-4,
        encoder_lr_factor: Positive = 1.0,
        layer_decay: LayerDecay = 1.0,
    ) -> None:
        if nesterov and momentum == 0:
            raise SegkitError("optimizer.nesterov=true needs optimizer.momentum above 0.")
        self.lr, self.momentum, self.nesterov = lr, momentum, nesterov
        self.weight_decay, self.encoder_lr_factor = weight_decay, encoder_lr_factor
        self.layer_decay = layer_decay

    def create(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """torch.optim.SGD."""
        return torch.optim.SGD(
            _fuse_steps(groups), lr=self.lr, momentum=self.momentum, nesterov=self.nesterov
        )


def _fuse_steps(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """On a CPU and on CUDA, let a step read and write each weight once (``fused``).

    Set for each group: with the option on the whole optimizer, Lightning refuses to clip the
    gradients of mixed precision.
    """
    parameters = [p for group in groups for p in group["params"]]
    if not all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters):
        return groups
    return [{**group, "fused": True} for group in groups]


def parameter_groups(
    model: Segmenter,
    lr: float,
    weight_decay: float,
    encoder_lr_factor: float = 1.0,
    head_lr_factor: HeadFactor = 1.0,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Group the trainable parameters by learning rate, and by whether they have weight decay.

    Vectors and embeddings have none. The ``lr_factor`` of a group is the factor on its learning
    rate.
    """
    factors = {id(p): encoder_lr_factor for p in model.encoder.parameters()}
    if layer_decay < 1:
        for behind, layer in enumerate(reversed(model.encoder.layers()), start=1):
            factors |= {id(p): encoder_lr_factor * layer_decay**behind for p in layer}
    for head in (model.head, *model.auxiliary):
        factor = _compute_auto_factor(head) if head_lr_factor == "auto" else head_lr_factor
        factors |= {id(p): factor for p in head.parameters()}
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}  # as of queries
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and name.rpartition(".")[2] not in EMBEDDINGS
            decays = decays and id(parameter) not in tables
            key = factors.get(id(parameter), 1.0), decays
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * factor,
            "lr_factor": factor,
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (factor, decays), parameters in groups.items()
    ]


def _compute_auto_factor(head: nn.Module) -> float:
    """The value of ``auto``, from the narrowest convolution of the head."""
    inputs = [p[0].numel() for p in head.parameters() if p.ndim > 1]
    return max(1.0, WIDE / min(inputs, default=WIDE))
