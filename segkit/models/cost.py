"""Operations and memory that a network needs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from segkit.models.contract import eval_mode
from segkit.models.conv import plain_joins
from segkit.models.segmenter import Segmenter
from segkit.models.sizes import valid_input


def gflops(model: Segmenter, in_channels: int, size: tuple[int, int]) -> float:
    """Count the billions of operations to predict one image of a size (H, W).

    torch counts convolutions, matrix products and attention of the architecture, a multiply-add as
    two. The CPU needs fewer for upsampled maps. An unpadded network also computes the surroundings
    that it needs.
    """
    if model.encoder.padding == "valid":
        depth = len(model.encoder.strides)
        size = valid_input(size[0], depth), valid_input(size[1], depth)
    counter = FlopCounterMode(display=False)
    # fused kernels of attention are not counted on a CPU
    with plain_joins(), sdpa_kernel(SDPBackend.MATH), counter:
        _predict_zeros(model, in_channels, size)
    return counter.get_total_flops() / 1e9


def peak_bytes(model: Segmenter, in_channels: int) -> float:
    """Estimate the memory for each pixel of the input when predicting in float32.

    The maps of the encoder live until the neck has used them. Of the others the largest counts
    three times, as input, output and workspace of a convolution.
    """
    sizes = [0]

    def measure(module: nn.Module, args: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel())

    height, width = model.example_size
    hooks = [module.register_forward_hook(measure) for module in model.modules()]
    try:
        _predict_zeros(model, in_channels, (height, width))
    finally:
        for hook in hooks:
            hook.remove()
    levels = zip(model.encoder.channels, model.encoder.strides, strict=True)
    kept = sum(channels / stride**2 for channels, stride in levels)
    return 4 * (kept + 3 * max(sizes) / (height * width))


def _predict_zeros(model: Segmenter, in_channels: int, size: tuple[int, int]) -> None:
    parameters = list(model.parameters())
    is_trained = [parameter.requires_grad for parameter in parameters]
    # torch's counter fails where a view of a trained parameter, such as a class token, is an input
    for parameter in parameters:
        parameter.requires_grad = False
    try:
        with torch.no_grad(), eval_mode(model):
            model(parameters[0].new_zeros(1, in_channels, *size))
    finally:
        for parameter, trained in zip(parameters, is_trained, strict=True):
            parameter.requires_grad = trained
