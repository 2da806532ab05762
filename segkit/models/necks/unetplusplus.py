"""UNet++: the skips of a U-Net filled with nested, dense convolution blocks."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from segkit.models.conv import Norm, Upsample, UpsampleMode, init_he
from segkit.models.joining import Attention, JoinStep
from segkit.models.necks.base import Neck, skip_finer


class UNetPlusPlusNeck(Neck, name="unetplusplus"):
    """A U-Net whose skips are nested, dense blocks (Zhou et al. 2020, "UNet++", equation 1).

    ``x[i][j]`` is made of all ``x[i][:j]`` and of ``x[i + 1][j - 1]`` upsampled, where ``x[i][0]``
    is the encoder's map of level i, finest first. Inner nodes have the channels of the encoder's
    map, the last of each level ``width * stride``. Steps beyond the encoder's finest map have no
    skip.

    Auxiliary heads (deep supervision) see the nodes ``x[0][j]``, from the last one back.

    Args:
        channels: Channels of the encoder's maps, finest first.
        strides: Strides of the encoder's maps.
        upsample: How each node upsamples: nearest or bilinear interpolation, or a learned
            transposed convolution ("deconv").
        width: The last node of a level of stride s has ``width * s`` channels.
        out_stride: Stride at which decoding stops; 1 decodes to full size.
        norm: Normalisation after each convolution; None takes the encoder's.
        attention: "scse" squeezes and excites channels and pixels in each node; "gate" weights its
            skips by attention.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        upsample: UpsampleMode = "nearest",
        width: Annotated[int, Field(ge=1)] = 16,
        out_stride: Annotated[int, Field(ge=1)] = 1,
        norm: Norm | None = None,
        attention: Attention = "none",
    ) -> None:
        super().__init__()
        self._first = skip_finer(strides, out_stride)
        channels, strides = channels[self._first :], strides[self._first :]
        self._depth = len(strides) - 1
        self.ups, self.nodes = nn.ModuleDict(), nn.ModuleDict()

        def add(name: str, below: int, skip: int, out: int, factor: int) -> None:
            up = self.ups[name] = Upsample(below, factor, upsample, out)
            self.nodes[name] = JoinStep(below, skip, out, up, norm or "batch", attention=attention)

        widths = [[c] for c in channels]  # of x[i][j]
        for j in range(1, self._depth + 1):
            for i in range(self._depth + 1 - j):
                is_last = i + j == self._depth
                out = width * strides[i] if is_last else channels[i]
                factor = strides[i + 1] // strides[i]
                add(f"{i}_{j}", widths[i + 1][j - 1], sum(widths[i][:j]), out, factor)
                widths[i].append(out)
        nodes = widths[0][:0:-1] or widths[0]
        stride, current = strides[0], nodes[0]
        self.level_channels, self.level_strides = tuple(nodes), (stride,) * len(nodes)
        self._beyond: list[str] = []
        while stride % 2 == 0 and stride // 2 >= out_stride:
            stride //= 2
            self._beyond.append(f"to_{stride}")
            add(self._beyond[-1], current, 0, width * stride, 2)
            current = width * stride
        if self._beyond:
            self.level_channels = (current, *self.level_channels)
            self.level_strides = (stride, *self.level_strides)
        self.out_channels, self.out_stride = current, stride
        init_he(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, c_i, H / s_i, W / s_i)] -> (B, out_channels, H / out_stride, W / out_stride)."""
        return self.levels(maps)[0]

    def levels(self, maps: list[Tensor]) -> list[Tensor]:
        """The map of :meth:`forward`, then the nodes of the finest level, the last one first."""
        x = [[m] for m in maps[self._first :]]
        for j in range(1, self._depth + 1):
            for i in range(self._depth + 1 - j):
                name, skips = f"{i}_{j}", torch.cat(x[i][:j], dim=1)
                x[i].append(self.nodes[name](x[i + 1][j - 1], self.ups[name], skips))
        nodes = x[0][:0:-1] or x[0]
        result = nodes[0]
        for name in self._beyond:
            result = self.nodes[name](result, self.ups[name])
        return [result, *nodes] if self._beyond else nodes
