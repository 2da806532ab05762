"""The optimizers, and which parameters get which learning rate and weight decay."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from segkit.errors import SegkitError
from segkit.models.segmenter import Segmenter
from segkit.registry import Registrable

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Optimizer(Registrable, ABC, family="optimizer"):
    """Makes the torch optimizer of a network.

    Attributes:
        lr: Learning rate of neck and heads.
        weight_decay: Weight decay of matrices and kernels; biases and norms have none.
        encoder_lr_factor: Factor on the learning rate of the encoder.
    """

    lr: float
    weight_decay: float
    encoder_lr_factor: float

    @abstractmethod
    def create(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The torch optimizer for groups that have their own ``lr`` and ``weight_decay``."""

    def for_model(self, model: Segmenter) -> torch.optim.Optimizer:
        """The torch optimizer for what is to be trained of a network."""
        groups = parameter_groups(model, self.lr, self.weight_decay, self.encoder_lr_factor)
        if not groups:
            raise SegkitError("nothing is left to train: every parameter is frozen.")
        return self.create(groups)


class AdamW(Optimizer, name="adamw"):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    Args:
        lr: Learning rate.
        weight_decay: Weight decay of kernels.
        betas: Decay of the two averages.
        encoder_lr_factor: Factor on the learning rate of the encoder.
    """

    def __init__(
        self,
        lr: Positive = 1e-3,
        weight_decay: NotNegative = 1e-2,
        betas: tuple[Beta, Beta] = (0.9, 0.999),
        encoder_lr_factor: Positive = 1.0,
    ) -> None:
        self.lr, self.weight_decay = lr, weight_decay
        self.betas, self.encoder_lr_factor = betas, encoder_lr_factor

    def create(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """torch.optim.AdamW."""
        return torch.optim.AdamW(_in_one_pass(groups), lr=self.lr, betas=self.betas)


class SGD(Optimizer, name="sgd"):
    """Stochastic gradient descent with momentum; the 2015 U-Net took 0.99.

    Args:
        lr: Learning rate.
        momentum: Momentum.
        nesterov: Whether the gradient is taken ahead (Nesterov).
        weight_decay: Weight decay of kernels.
        encoder_lr_factor: Factor on the learning rate of the encoder.
    """

    def __init__(
        self,
        lr: Positive = 1e-2,
        momentum: Beta = 0.9,
        nesterov: bool = False,
        weight_decay: NotNegative = 1e-4,
        encoder_lr_factor: Positive = 1.0,
    ) -> None:
        if nesterov and momentum == 0:
            raise SegkitError("optimizer.nesterov=true needs optimizer.momentum above 0.")
        self.lr, self.momentum, self.nesterov = lr, momentum, nesterov
        self.weight_decay, self.encoder_lr_factor = weight_decay, encoder_lr_factor

    def create(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """torch.optim.SGD."""
        return torch.optim.SGD(
            _in_one_pass(groups), lr=self.lr, momentum=self.momentum, nesterov=self.nesterov
        )


def _in_one_pass(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """On a CPU, have a step read and write each weight once (``fused``).

    It is an option of each group here: of the whole optimizer, Lightning would not clip gradients
    of mixed precision.
    """
    parameters = [p for group in groups for p in group["params"]]
    if not all(p.device.type == "cpu" and p.is_floating_point() for p in parameters):
        return groups
    return [{**group, "fused": True} for group in groups]


def parameter_groups(
    model: Segmenter, lr: float, weight_decay: float, encoder_lr_factor: float
) -> list[dict[str, Any]]:
    """Up to four groups: encoder and rest, with and without weight decay; no frozen parameters."""
    encoder = {id(p) for p in model.encoder.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            key = id(parameter) in encoder, parameter.ndim > 1
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * (encoder_lr_factor if in_encoder else 1),
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (in_encoder, decays), parameters in groups.items()
    ]
