"""The copy of a network that predicts: the same results, faster."""

from __future__ import annotations

import copy
import warnings
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segkit.models.conv import JoinBlock, plain_joins
from segkit.models.encoders.adapters import merge_adapters
from segkit.models.heads.queries import QueriesHead
from segkit.models.segmenter import Segmenter

# The forward of these is known: others may change their weights on the way.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


DIFFERENCE = 1e-3
"""Largest difference of probabilities, and of logits as a share of the largest one."""


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
    for module in model.modules():
        if type(module) is nn.Conv2d and _is_unsafe(module):
            module.__class__ = _PickingConv
    for parameter in model.parameters():
        if parameter.ndim == 4:  # module.to(memory_format=...) refuses parameters of 5 dimensions
            _, channels, height, width = parameter.shape
            laid = parameter.data.contiguous(memory_format=torch.channels_last)
            if channels == 1:  # fits both layouts: only the strides tell torch which one is meant
                laid = laid.as_strided(laid.shape, (height * width, 1, width, 1))
            parameter.data = laid


def _is_unsafe(conv: nn.Conv2d) -> bool:
    """Whether its backward pass on a CPU writes beside its memory, as oneDNN's in torch 2.14 does.

    It does so for 1 x 1 kernels with a stride and fewer than 16 channels in this layout, such as
    those that RepVGG, MobileOne and FastViT have on the image.
    """
    return (
        (conv.kernel_size, conv.padding, conv.groups) == ((1, 1), (0, 0), 1)
        and conv.stride != (1, 1)
        and conv.in_channels < 16
    )


class _PickingConv(nn.Conv2d):
    """A 1 x 1 convolution with a stride: the pixels are picked before."""

    def forward(self, x: Tensor) -> Tensor:
        down, right = self.stride
        return F.conv2d(x[..., ::down, ::right], self.weight, self.bias)


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
        examples = [each.to(next(fast.parameters())) for each in _draw_examples(fast)]
        with plain_joins():
            pairs = _find_pairs(fast, examples[0])
            expected = [_compute(fast, each) for each in examples]
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
        got = [_compute(fast, each) for each in examples]
        both = zip(chain(*got), chain(*expected), strict=True)
        # max() of Python would pass over NaN
        difference = float(torch.stack([_find_difference(*maps) for maps in both]).max())
        if not difference <= DIFFERENCE:
            raise ValueError(
                f"with folded batch norms its results differ by {difference:.1e} of the largest"
            )
    for module in fast.modules() if half is not None else ():
        if type(module) in (*_CONVOLUTIONS, nn.ConvTranspose2d, nn.Linear):
            module.to(half)
    return fast


def _compute(model: Segmenter, x: Tensor) -> list[Tensor]:
    """Logits and probabilities of an image, or the maps of the neck for queries behind it.

    What queries look at depends on thresholds, where the smallest difference may become a large
    one: equal networks give equal maps before them.
    """
    if isinstance(model.head, QueriesHead) and not model.encoder.query_channels:
        return model.neck.levels(model.encoder.complete(model.extract(x)))
    logits = model(x)
    return [logits, model.head.activate(logits)]


def _find_difference(one: Tensor, wanted: Tensor) -> Tensor:
    """The largest difference between two maps, as a share of the largest value."""
    return (one - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6)


def _draw_examples(model: Segmenter) -> list[Tensor]:
    """Images (1, C, H, W) to compare both networks on: noise, and one that is smooth like a photo.

    On noise differences may average out that smooth areas show.
    """
    random = torch.Generator().manual_seed(0)
    channels, (height, width) = model.encoder.in_channels, model.example_size
    noise = torch.rand(1, channels, height, width, generator=random)
    if model.encoder.fixed_size is None and model.encoder.padding != "valid":
        height, width = 2 * height, 2 * width
    coarse = torch.randn(1, channels, max(2, height // 16), max(2, width // 16), generator=random)
    smooth = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    return [noise, smooth + 0.05 * torch.randn(smooth.shape, generator=random)]


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types of it
    """Counts how many operators outside of batch norms read each of the tensors that it watches."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.counts: dict[int, int] = {}
        self.is_counting = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.is_counting:
            for each in tree_leaves((args, kwargs)):
                if id(each) in self.counts:
                    self.counts[id(each)] += 1
        return func(*args, **kwargs)


def _find_pairs(model: Segmenter, example: Tensor) -> dict[Any, Any]:
    """Each batch norm of fixed statistics with the convolution whose output only it reads."""
    made: dict[int, tuple[nn.Module, Tensor, int]] = {}
    pairs: dict[Any, Any] = {}
    read: dict[nn.Module, int] = {}
    calls: dict[nn.Module, int] = {}
    uses = _Uses()

    def after(conv: nn.Module, args: Any, output: Tensor) -> None:
        calls[conv] = calls.get(conv, 0) + 1
        made[id(output)] = conv, output, output._version  # held, so that its id stays its own
        uses.counts[id(output)] = 0

    def before(norm: Any, args: tuple[Tensor]) -> None:
        calls[norm] = calls.get(norm, 0) + 1
        conv, output, version = made.get(id(args[0]), (None, args[0], -1))
        # An activation in place between both would give the same tensor, in a later version.
        if conv is not None and output._version == version and norm.running_var is not None:
            pairs[norm], read[norm] = conv, id(output)
        uses.is_counting = False

    def done(norm: Any, args: Any, output: Any) -> None:
        uses.is_counting = True

    hooks = []
    for module in model.modules():
        if module._forward_hooks or module._forward_pre_hooks:
            continue  # these may change the weights
        if type(module) in _CONVOLUTIONS:
            hooks.append(module.register_forward_hook(after))
        elif type(module) in _NORMS:
            hooks.append(module.register_forward_pre_hook(before))
            hooks.append(module.register_forward_hook(done))
    with uses:
        model(example)
    for hook in hooks:
        hook.remove()
    once = {norm for norm in pairs if not uses.counts[read[norm]]}
    return {n: c for n, c in pairs.items() if n in once and calls[n] == calls[c] == 1}


def _replace(model: nn.Module, child: nn.Module, by: nn.Module) -> None:
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module is child:
            model.set_submodule(name, by)
