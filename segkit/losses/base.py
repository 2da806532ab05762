"""The family of losses: what every loss takes, checks and guarantees."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX, MODES, Mode
from segkit.core.registry import Registrable
from segkit.losses.labels import check_target, split_target

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ClassWeights = list[float] | Literal["auto"] | None
"""One weight per class; ``auto`` stands for those that a training takes from its data."""


class Loss(nn.Module, Registrable, ABC, family="loss"):
    """Base of every loss: ``loss(logits, target)`` returns the scalar to minimise.

    Every loss guarantees:

    - Pixels labelled ``ignore_index`` change nothing: the value is that of the image without them,
      and their gradient is zero. If every pixel is ignored, the loss is 0 with a zero gradient.
    - Computation in float32 for logits of any dtype, also under autocast: sums over the
      pixels of an image overflow float16.
    - Finite gradients for finite logits.
    - False positives cost something even where a mask is empty or a class absent; each docstring
      says how much.

    A subclass implements :meth:`compute`, narrows ``modes`` if it cannot handle all of them, sets
    ``takes_weight`` if it can weight pixels, and describes its options in Args.

    Args:
        mode: What the channels of the logits mean: ``binary`` (1 channel, sigmoid), ``multiclass``
            (N channels, softmax) or ``multilabel`` (N channels, N sigmoids).
        ignore_index: Label of pixels that do not count.

    Example:
        >>> import torch
        >>> loss = Loss.build("dice", mode="multiclass")
        >>> target = torch.tensor([[[0, 1], [2, 255]]])  # (B, H, W); the last pixel is ignored
        >>> logits = torch.randn(1, 3, 2, 2, requires_grad=True)  # (B, C, H, W)
        >>> loss(logits, target).backward()
        >>> logits.grad[0, :, 1, 1]
        tensor([0., 0., 0.])
    """

    modes: ClassVar[tuple[Mode, ...]] = MODES
    takes_weight: bool = False
    """Whether it accepts pixel weights. Not a ClassVar: for a sum it depends on the terms."""
    takes_queries: ClassVar[bool] = False
    """Whether it takes what queries have found, see :mod:`segkit.losses.queries`, not logits."""
    fits_points: bool = False
    """Whether it treats pixels alike wherever they lie, so that it can be that of sampled points;
    see :mod:`segkit.losses.points`."""

    def __init__(self, mode: Mode, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        if mode not in self.modes:
            message = f"loss '{self.name}' has no mode '{mode}': it supports"
            message += f" {', '.join(self.modes)}."
            if mode in MODES:
                others = [n for n in Loss.names() if mode in Loss.resolve(n, {})[0].modes]
                message += f" Mode '{mode}' is supported by {', '.join(others)}."
            raise SegkitError(message)
        self.mode = mode
        self.ignore_index = ignore_index

    @final  # type: ignore[misc]  # torch declares forward as a variable
    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss of a batch.

        Invalid labels and weights raise an error on the CPU only: on other devices the check would
        wait for the device at every step, and a compiled graph cannot contain it.

        A weight map w multiplies the loss l of each pixel; the divisor stays the same as without
        the map::

            loss = sum w l / number of pixels that count

        This is the energy of Ronneberger et al., "U-Net", 2015, eq. 1, as a mean: a weight of 10
        makes a pixel count 10 times and changes no other pixel. Dividing by the sum of the weights
        would make the others count less.

        Args:
            logits: Scores before the sigmoid or softmax, (B, C, H, W), any float dtype.
            target: Labels (B, H, W), any integer dtype: 0 ... C - 1 (binary: 0 and 1) or
                ``ignore_index``. For multilabel also (B, C, H, W) of 0, 1 and ``ignore_index``; a
                label map then means exactly one class per pixel.
            weight: Pixel weights (B, H, W), any float dtype, finite and 0 or more; the values at
                ignored pixels do not matter. None: every pixel has weight 1.

        Returns:
            A float32 scalar.
        """
        self._check_logits(logits)
        check_target(target, self.mode, logits.shape)
        check_values = target.device.type == "cpu" and not torch.compiler.is_compiling()
        truth, valid = split_target(
            target, self.mode, logits.shape[1], self.ignore_index, check_values
        )
        if weight is not None:
            weight = self._prepare_weight(weight, logits.shape, valid, check_values)
        with torch.autocast(logits.device.type, enabled=False):
            value = self.compute(logits.float(), truth, valid, weight)
        if not isinstance(value, Tensor) or value.ndim:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise SegkitError(
                f"{type(self).__name__}.compute returned {found}, but a loss is a scalar tensor of"
                " shape (): average over the pixels that count, (losses * valid).sum() /"
                " valid.sum().clamp(min=1)."
            )
        return value

    @abstractmethod
    def compute(
        self, logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """The loss of checked inputs. Implement it without waiting for the device.

        Args:
            logits: (B, C, H, W), float32.
            truth: Multiclass: int64 labels (B, H, W). Binary and multilabel: bool (B, C, H, W).
                Undefined where ``valid`` is False.
            valid: Which entries of the truth count, bool, same shape.
            weight: Pixel weights that broadcast to the truth, (B, H, W) or (B, 1, H, W), float32, 0
                where nothing counts; always None without ``takes_weight``.
        """

    def _check_logits(self, logits: Tensor) -> None:
        shape = tuple(logits.shape)
        if logits.ndim != 4:
            message = f"loss '{self.name}' takes logits of the shape (B, C, H, W), not {shape}."
            raise SegkitError(message)
        if not logits.is_floating_point():
            raise SegkitError(
                f"loss '{self.name}' takes float logits, not {logits.dtype}: pass the output of the"
                " model, not decided labels."
            )
        if self.mode == "binary" and shape[1] != 1:
            raise SegkitError(
                f"loss '{self.name}': mode 'binary' takes 1 channel, but the logits {shape} have"
                f" {shape[1]}. Use mode 'multiclass', or a head with 1 channel."
            )
        if self.mode == "multiclass" and shape[1] < 2:
            raise SegkitError(
                f"loss '{self.name}': mode 'multiclass' takes 2 channels or more, but the logits"
                f" {shape} have {shape[1]}. Use mode 'binary', or a head with more channels."
            )

    def _prepare_weight(
        self, weight: Tensor, shape: torch.Size, valid: Tensor, check_values: bool
    ) -> Tensor:
        """Check the weights and bring them into the form that :meth:`compute` takes."""
        if not self.takes_weight:
            takers = [n for n in Loss.names() if Loss.resolve(n, {})[0].takes_weight]
            raise SegkitError(
                f"loss '{self.name}' takes no pixel weights. These do: {', '.join(takers)}, and a"
                " sum with one of them. Choose one, or remove the weight map."
            )
        B, _, H, W = shape
        if tuple(weight.shape) != (B, H, W):
            raise SegkitError(
                f"the weight map has the shape {tuple(weight.shape)}, but {(B, H, W)} is needed:"
                " one weight per pixel, for all channels."
            )
        if not weight.is_floating_point():
            raise SegkitError(
                f"the weight map is {weight.dtype}, but weights are floats: convert it with"
                " weight.float()."
            )
        if valid.ndim == 4:
            weight, valid = weight.unsqueeze(1), valid.any(1, keepdim=True)  # (B, 1, H, W)
        if check_values:
            wrong = valid & ~(weight.isfinite() & (weight >= 0))
            if wrong.any():
                raise SegkitError(
                    f"the weight map contains {weight[wrong][0].item()}: weights must be finite,"
                    " and 0 or more. Check how the map is computed."
                )
        # not by multiplication: ignored pixels may hold NaN
        return torch.where(valid, weight.float(), 0)


def build_typical_loss(mode: Mode, queries: bool) -> Loss:
    """Dice and cross-entropy, or the loss of queries: what a step is measured with."""
    if queries:
        return Loss.build("queries", mode=mode)
    return Loss.build("sum", mode=mode, terms={"dice": {}, "cross_entropy": {}})


def average_valid(values: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of the valid values over the sum of their weights, which the values contain already."""
    # at least 1 if nothing counts, so that neither the value nor the gradient is NaN
    if weights is None:
        total = valid.sum().clamp(min=1)
    else:
        total = torch.where(valid, weights, 0).sum()
        total = torch.where(total > 0, total, 1)
    return torch.where(valid, values, 0).sum() / total


def make_weights(option: str, values: list[float] | Literal["auto"]) -> Tensor:
    """The class weights of an option as a float32 tensor (N,), checked."""
    if isinstance(values, str):
        raise SegkitError(
            f"{option} is {values}, but no data are known here: only a training fills it in, from"
            " how often the classes occur. Give one weight per class."
        )
    if not all(math.isfinite(v) and v >= 0 for v in values) or not any(values):
        raise SegkitError(
            f"{option} is {values}: give weights of zero or more, at least one of them above zero."
        )
    return torch.tensor(values, dtype=torch.float32)


def require_count(option: str, weights: Tensor, expected: int, whose: str) -> None:
    """Raise SegkitError unless there are as many weights as expected: one per ``whose``."""
    if weights.numel() != expected:
        raise SegkitError(
            f"{option} has {weights.numel()} weight(s), but {expected} are needed: one per {whose}."
        )
