"""The family of losses: what every loss takes, checks and promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from segkit.core.errors import SegkitError
from segkit.core.labels import MODES, Mode
from segkit.core.registry import Registrable
from segkit.losses.targets import check_target, split_target
from segkit.losses.weights import check_pixel_weights, require_pixel_weights


class Loss(nn.Module, Registrable, ABC, family="loss"):
    """Base of every loss: ``loss(logits, target)`` gives one number to descend.

    What all members promise:

    - Pixels of the label ``ignore_index`` do not exist: the value is the one of the image without
      them, and their gradient is zero. Where every pixel is ignored the loss is 0, with a zero
      gradient.
    - They compute in float32 whatever the logits' dtype and autocast say: sums over the pixels of
      an image overflow float16.
    - Finite logits give finite gradients.
    - False positives cost something where a mask is empty or a class absent; each docstring says
      how much.

    A member implements :meth:`compute`, narrows ``modes`` where it cannot serve them all, and sets
    ``takes_weight`` where it can weigh pixels.

    Args:
        mode: What the channels of the logits mean: ``binary`` (1 channel, sigmoid), ``multiclass``
            (N channels, softmax) or ``multilabel`` (N channels, N sigmoids).
        ignore_index: The label of pixels that do not count.

    Raises:
        SegkitError: The loss does not serve the mode.

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
    """Whether it takes a map of pixel weights; a sum knows only when its terms are built."""

    def __init__(self, mode: Mode, ignore_index: int = 255) -> None:
        super().__init__()
        if mode not in self.modes:
            raise SegkitError(_unserved(type(self), mode))
        self.mode = mode
        self.ignore_index = ignore_index

    @final  # type: ignore[misc]  # torch declares forward as a variable
    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss of a batch.

        Labels that are no class, and weights that are none, raise an error on the CPU. On other
        devices, and in a compiled graph, they are not looked for, since looking would wait for the
        device at every step.

        With a weight map w the loss of a pixel l becomes w l, and the mean still divides by what it
        divides by without the map::

            loss = sum w l / number of pixels that count

        This is the energy of Ronneberger et al., "U-Net", 2015, eq. 1, as a mean: a weight of 10
        makes its pixel count 10 times, and leaves all others as they were. Divided by the sum of
        the weights, it would make the others count less instead.

        Args:
            logits: Scores before the sigmoid or softmax, (B, C, H, W), of any float dtype.
            target: Labels (B, H, W) of any integer dtype: 0 ... C - 1 (binary: 0 and 1) or
                ``ignore_index``. With mode multilabel (B, C, H, W) of 0, 1 and ``ignore_index`` as
                well; a label map then means that each pixel has exactly one class.
            weight: Pixel weights (B, H, W) of any float dtype, finite and 0 or more. Those of
                ignored pixels mean nothing. None: each pixel weighs 1.

        Returns:
            A float32 scalar.

        Raises:
            SegkitError: A shape, a dtype, a label or a weight is wrong, or weights are given to a
                loss that takes none.
        """
        self._check_logits(logits)
        check_target(target, self.mode, logits.shape)
        check_values = target.device.type == "cpu" and not torch.compiler.is_compiling()
        truth, valid = split_target(
            target, self.mode, logits.shape[1], self.ignore_index, check_values
        )
        if weight is not None:
            weight = self._weight_map(weight, logits.shape, valid, check_values)
        with torch.autocast(logits.device.type, enabled=False):
            return self.compute(logits.float(), truth, valid, weight)

    @abstractmethod
    def compute(
        self, logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """The loss of checked inputs, to be implemented without waiting for the device.

        Args:
            logits: (B, C, H, W), float32.
            truth: Multiclass: int64 labels (B, H, W). Binary and multilabel: bool (B, C, H, W).
                What it says where ``valid`` is False means nothing.
            valid: Which entries of the truth count, bool, of the same shape.
            weight: Pixel weights that broadcast to the truth, (B, H, W) or (B, 1, H, W), float32, 0
                where nothing counts; always None without ``takes_weight``.

        Returns:
            A scalar of the logits' dtype.
        """

    def _check_logits(self, logits: Tensor) -> None:
        shape = tuple(logits.shape)
        if logits.ndim != 4:
            raise SegkitError(
                f"loss '{self.name}' takes logits of the shape (B, C, H, W), not {shape}."
            )
        if not logits.is_floating_point():
            raise SegkitError(
                f"loss '{self.name}' takes float logits, not {logits.dtype}: give the scores of the"
                " model, not the labels decided from them."
            )
        if self.mode == "binary" and logits.shape[1] != 1:
            raise SegkitError(
                f"loss '{self.name}': mode 'binary' takes 1 channel, but the logits {shape} have"
                f" {logits.shape[1]}. Use mode 'multiclass', or a head with 1 channel."
            )
        if self.mode == "multiclass" and logits.shape[1] < 2:
            raise SegkitError(
                f"loss '{self.name}': mode 'multiclass' takes 2 channels or more, but the logits"
                f" {shape} have {logits.shape[1]}. Use mode 'binary', or a head with more channels."
            )

    def _weight_map(
        self, weight: Tensor, shape: torch.Size, valid: Tensor, check_values: bool
    ) -> Tensor:
        """The weights as :meth:`compute` takes them."""
        if not self.takes_weight:
            raise SegkitError(_weightless(self))
        check_pixel_weights(weight, shape)
        if valid.ndim == 4:
            weight, valid = weight.unsqueeze(1), valid.any(1, keepdim=True)  # (B, 1, H, W)
        if check_values:
            require_pixel_weights(weight, valid)
        # Not by multiplication: what stands at ignored pixels may be NaN.
        return torch.where(valid, weight.float(), 0)


def masked_mean(values: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of the valid values over the sum of their weights, and 0 where that sum is 0.

    Args:
        values: Any shape; a weighted mean takes them multiplied by their weights already.
        valid: Which values count, bool, of the same shape.
        weights: The weight of each value, of the same shape; without it each weighs 1.
    """
    total = valid.sum() if weights is None else torch.where(valid, weights, 0).sum()
    # Where nothing counts: 0 / 1, so that neither the value nor the gradient is NaN.
    return torch.where(valid, values, 0).sum() / torch.where(total > 0, total, 1)


def _weightless(loss: Loss) -> str:
    takers = [name for name in Loss.names() if Loss.resolve(name, {})[0].takes_weight]
    return (
        f"loss '{loss.name}' takes no pixel weights. These do: {', '.join(takers)}, and a sum with"
        " one of them. Choose one, or leave the weight map out."
    )


def _unserved(loss: type[Loss], mode: str) -> str:
    message = f"loss '{loss.name}' has no mode '{mode}': it serves {', '.join(loss.modes)}."
    if mode in MODES:
        others = [name for name in Loss.names() if mode in Loss.resolve(name, {})[0].modes]
        message += f" Mode '{mode}' is served by {', '.join(others)}."
    return message
