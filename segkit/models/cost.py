"""What a network costs."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from segkit.models.segmenter import Segmenter
from segkit.models.sizes import valid_input


def gflops(model: Segmenter, in_channels: int, size: tuple[int, int]) -> float:
    """Billions of floating-point operations of predicting one image; a multiply-add counts as two.

    Convolutions, matrix products and attention are counted, as torch does.

    Args:
        model: The network. An unpadded one is given the surroundings that it needs.
        in_channels: Channels of the image.
        size: Height and width of what is predicted.
    """
    if model.encoder.padding == "valid":
        depth = len(model.encoder.strides)
        size = valid_input(size[0], depth), valid_input(size[1], depth)
    was_training = model.training
    parameter = next(model.parameters())
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(parameter.new_zeros(1, in_channels, *size))
    model.train(was_training)
    return counter.get_total_flops() / 1e9
