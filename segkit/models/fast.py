"""The copy of a network that predicts: the same results, faster."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segkit.models.conv import JoinBlock, plain_joins
from segkit.models.encoders.adapters import merge_adapters
from segkit.models.segmenter import Segmenter

# The forward of these is known: others may change their weights on the way.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


class SlowPredictionWarning(UserWarning):
    """A network predicts as it was trained, since no faster copy of it can be made."""


def for_inference(model: Segmenter, half: torch.dtype | None = None) -> Segmenter:
    """A copy that gives what the network gives in eval mode, up to rounding.

    Batch norms behind a convolution are folded into it, weights are laid out with the channels
    last, and the kernels of joins are computed in advance. The copy shares nothing with the network
    and is not to be trained. One that will run under autocast holds the weights of convolutions and
    linear layers in the type ``half``, so that they need not be converted at every call.

    If no such copy of a part can be made, the network itself is returned in eval mode, with a
    SlowPredictionWarning.
    """
    try:
        return _make_fast_copy(model, half)
    except Exception as error:  # a module of a plugin may do anything
        warnings.warn(
            f"no faster copy of the network for predicting can be made: {error}. It predicts as it"
            " was trained, with the same results.",
            SlowPredictionWarning,
            stacklevel=2,
        )
        return model.eval()


def to_channels_last(model: nn.Module) -> None:
    """Lay the weights of 2D convolutions out with the channels last, in place."""
    for parameter in model.parameters():
        if parameter.ndim == 4:  # module.to(memory_format=...) refuses parameters of 5 dimensions
            _, channels, height, width = parameter.shape
            laid = parameter.data.contiguous(memory_format=torch.channels_last)
            if channels == 1:  # fits both layouts: only the strides tell torch which one is meant
                laid = laid.as_strided(laid.shape, (height * width, 1, width, 1))
            parameter.data = laid


def _make_fast_copy(model: Segmenter, half: torch.dtype | None) -> Segmenter:
    device = next(model.parameters()).device.type
    # A validation is in inference mode, where tensors have no versions, and perhaps in autocast.
    with (
        torch.inference_mode(mode=False),
        torch.no_grad(),
        torch.autocast(device, enabled=False),
    ):
        fast = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
        merge_adapters(fast)
        weight = next(fast.parameters())
        size = 1, fast.encoder.in_channels, *fast.example_size
        example = torch.rand(size, generator=torch.Generator().manual_seed(0)).to(weight)
        with plain_joins():
            pairs, expected = _find_pairs(fast, example)
        for norm, conv in pairs.items():
            fused = fuse_conv_bn_eval(conv, norm)
            conv.weight, conv.bias = fused.weight, fused.bias
            acts = isinstance(norm, BatchNormAct2d)
            rest = nn.Sequential(*norm.children()) if acts else nn.Identity()  # drop, act
            _replace(fast, norm, rest)
        to_channels_last(fast)
        for module in fast.modules():
            if isinstance(module, JoinBlock) and half is None:  # autocast takes the plain path
                module.keep_kernels()
        got = fast(example)
    # An encoder may have used the output of a convolution elsewhere too, which no hook shows.
    if not torch.allclose(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
        raise ValueError("it gives other logits when its batch norms are folded")
    for module in fast.modules() if half is not None else ():
        if type(module) in (*_CONVOLUTIONS, nn.ConvTranspose2d, nn.Linear):
            module.to(half)
    return fast


def _find_pairs(model: Segmenter, example: Tensor) -> tuple[dict[Any, Any], Tensor]:
    """Each batch norm of fixed statistics with the convolution before it, and the logits."""
    made: dict[int, tuple[nn.Module, Tensor, int]] = {}
    pairs: dict[Any, Any] = {}
    calls: dict[nn.Module, int] = {}

    def after(conv: nn.Module, args: Any, output: Tensor) -> None:
        calls[conv] = calls.get(conv, 0) + 1
        made[id(output)] = conv, output, output._version  # held, so that its id stays its own

    def before(norm: Any, args: tuple[Tensor]) -> None:
        calls[norm] = calls.get(norm, 0) + 1
        conv, output, version = made.get(id(args[0]), (None, args[0], -1))
        # An activation in place between both would give the same tensor, in a later version.
        if conv is not None and output._version == version and norm.running_var is not None:
            pairs[norm] = conv

    hooks = []
    for module in model.modules():
        if module._forward_hooks or module._forward_pre_hooks:
            continue  # these may change the weights
        if type(module) in _CONVOLUTIONS:
            hooks.append(module.register_forward_hook(after))
        elif type(module) in _NORMS:
            hooks.append(module.register_forward_pre_hook(before))
    logits = model(example)
    for hook in hooks:
        hook.remove()
    return {n: c for n, c in pairs.items() if calls[n] == calls[c] == 1}, logits


def _replace(model: nn.Module, child: nn.Module, by: nn.Module) -> None:
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module is child:
            model.set_submodule(name, by)
