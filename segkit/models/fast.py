"""The copy of a network that predicts: the same results, faster."""

from __future__ import annotations

import copy
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segkit.models.necks.joining import JoinBlock, plain_joins
from segkit.models.segmenter import Segmenter

# Of these the forward is known: others may change their weights on the way.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


def for_inference(model: Segmenter) -> Segmenter:
    """A copy that gives what the network gives in eval mode, up to rounding.

    Batch norms behind a convolution are folded into it, the kernels of upsampled maps are computed
    beforehand, and weights are laid out as the device wants them. The copy shares nothing with the
    network and cannot be trained or moved.

    Where there can be no such copy, of parts that are written in a way which it does not know, it
    is the network itself, in eval mode.
    """
    try:
        fast = _fast_copy(model)
    except Exception:  # whatever somebody's module does: without the copy it predicts as well
        fast = None
    return model.eval() if fast is None else fast


def to_channels_last(model: nn.Module) -> None:
    """Lay the weights of 2D convolutions out with the channels last, in place."""
    for parameter in model.parameters():
        if parameter.ndim == 4:  # torch's own way stops at one of 5
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _fast_copy(model: Segmenter) -> Segmenter | None:
    device = next(model.parameters()).device.type
    # A validation is in inference mode, where tensors have no versions, and perhaps in autocast.
    with (
        torch.inference_mode(mode=False),
        torch.no_grad(),
        torch.autocast(device, enabled=False),
    ):
        fast = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
        weight = next(fast.parameters())
        size = 1, fast.encoder.in_channels, *fast.example_size
        example = torch.rand(size, generator=torch.Generator().manual_seed(0)).to(weight)
        with plain_joins():
            pairs, expected = _pairs(fast, example)
        _fold(fast, pairs)
        to_channels_last(fast)
        if (weight.device.type, weight.dtype) == ("cpu", torch.float32):
            _pack(fast)
        got = fast(example)
    # An encoder may have used a convolution's result elsewhere too, which no hook tells.
    same = torch.allclose(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    return fast if same else None


def _pairs(model: Segmenter, example: Tensor) -> tuple[dict[nn.BatchNorm2d, nn.Conv2d], Tensor]:
    """Each batch norm of fixed statistics with the convolution that it follows, and the logits."""
    made: dict[int, tuple[nn.Conv2d, Tensor, int]] = {}
    pairs: dict[nn.BatchNorm2d, nn.Conv2d] = {}
    calls: dict[nn.Module, int] = {}

    def after(conv: Any, args: Any, output: Tensor) -> None:
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


def _fold(model: nn.Module, pairs: dict[nn.BatchNorm2d, nn.Conv2d]) -> None:
    """Let the convolutions do what the batch norms after them did."""
    rest: dict[nn.Module, nn.Module] = {}
    for norm, conv in pairs.items():
        fused = fuse_conv_bn_eval(conv, norm)
        conv.weight, conv.bias = fused.weight, fused.bias
        acts = isinstance(norm, BatchNormAct2d)
        rest[norm] = nn.Sequential(*norm.children()) if acts else nn.Identity()  # drop, act
    _replace(model, rest)


def _pack(model: nn.Module) -> None:
    """Lay the weights out once as oneDNN computes with them, instead of in each call."""
    onednn = torch.backends.mkldnn
    # torch gives it no types
    if not (onednn.enabled and onednn.is_available()):  # type: ignore[no-untyped-call]
        return
    for module in list(model.modules()):
        if isinstance(module, JoinBlock) and module.doubles:
            module.kept = _KeptJoin(module)
            module[0] = nn.Identity()
    for conv in [m for m in model.modules() if type(m) is nn.Conv2d and _packable(m)]:
        # one by one, so that never more than one is there twice
        _replace(model, {conv: _PackedConv(conv.weight, conv.bias, conv)})


def _packable(conv: nn.Conv2d) -> bool:
    zeros = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return zeros and not (conv._forward_hooks or conv._forward_pre_hooks)


def _replace(model: nn.Module, by: dict[nn.Module, nn.Module]) -> None:
    for module in list(model.modules()):
        for name, child in module.named_children():
            if child in by:
                setattr(module, name, by[child])


class _PackedConv(nn.Module):
    """A convolution on the CPU whose weights lie as oneDNN wants them: equal to the bit."""

    def __init__(self, weight: Tensor, bias: Tensor | None, like: nn.Conv2d) -> None:
        super().__init__()
        self._shape = list(like.stride), list(like.dilation), like.groups
        self._padding = [int(p) for p in like.padding]
        self._bias = bias
        self._pack(weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            *(_channels_last(x), self._packed, self._bias, self._padding, *self._shape),
            *("none", [], ""),
        )

    def _pack(self, weight: Tensor) -> None:
        self._packed = torch.ops.mkldnn._reorder_convolution_weight(
            weight, self._padding, *self._shape
        )

    def __getstate__(self) -> dict[str, Any]:
        return _unpacked(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # torch gives it no types
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._pack(self._packed)


def _channels_last(x: Tensor) -> Tensor:
    if x.stride(1) == 1:
        return x
    x = x.contiguous(memory_format=torch.channels_last)
    if x.shape[1] == 1:  # of one channel both layouts are alike, and torch takes the other
        height, width = x.shape[-2:]
        x = x.as_strided(x.shape, (height * width, 1, width, 1))
    return x


class _KeptJoin:
    """The fast way of a JoinBlock, with kernels that were computed once."""

    def __init__(self, block: JoinBlock) -> None:
        conv = block.convolution
        own, upsampled = block.kernels()
        self._skip = _PackedConv(own, None, conv) if block.skip_channels else None
        self._shape = [2 - int(p) for p in conv.padding], [0, 0], [2, 2], [1, 1], 1
        self._bias = conv.bias
        self._pack(upsampled.contiguous(memory_format=torch.channels_last))

    def __call__(self, x: Tensor, skip: Tensor | None) -> Tensor:
        joined = torch.ops.mkldnn._convolution_transpose_pointwise(
            *(_channels_last(x), self._packed, self._bias, *self._shape), *("none", [], "")
        )
        return joined if self._skip is None else joined.add_(self._skip(skip))

    def _pack(self, kernel: Tensor) -> None:
        """(in, out, 4, 4)."""
        self._packed = torch.ops.mkldnn._reorder_convolution_transpose_weight(kernel, *self._shape)

    def __getstate__(self) -> dict[str, Any]:
        state = _unpacked(self.__dict__)
        return {**state, "_packed": state["_packed"].transpose(0, 1)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pack(self._packed.contiguous(memory_format=torch.channels_last))


def _unpacked(state: dict[str, Any]) -> dict[str, Any]:
    """For a copy or a pickle, to which oneDNN's own tensors are closed."""
    return {**state, "_packed": state["_packed"].to_dense()}
