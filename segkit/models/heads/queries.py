"""Mask classification: queries that find a class and a mask each."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from segkit.core.errors import SegkitError
from segkit.core.labels import Mode
from segkit.models.heads.base import Head
from segkit.models.queries import (
    Masks,
    QueryLayer,
    find_seen,
    list_tokens,
    make_mlp,
    make_positions,
    pool,
)

FINEST = 8
"""Stride of the finest map that queries look at: attention to finer ones takes too long."""
MAPS = 3
"""Maps that queries look at, the coarsest ones."""
OVERLAP = 0.5
"""Share of its mask that an object keeps beside the others; with less it is a part of them.

It is 0.8 in the paper, where doubles are not taken out before. On nuclei (dsb2018) that gave a PQ
of 0.40, without doubles 0.47, and with 0.5 instead of 0.8 0.49."""
DOUBLE = 0.5
"""Intersection over union above which two masks are of one object."""
LEAST = 1e-6
"""Smallest score whose logarithm is taken."""


class QueriesHead(Head, name="queries"):
    """Queries find a class and a mask each (Cheng et al. 2022, "Mask2Former").

    In each layer the queries look at the next of the neck's coarser maps, from the coarsest on, but
    only where their masks are so far; without coarser maps at its only map. Then the score of a
    class at a pixel is the sum of p(class) p(pixel in mask) over the queries, which is the softmax
    of the logits of this head up to a factor (Cheng et al. 2021, "MaskFormer", section 3.4).

    Unlike there, positions are added to the pixels that make the masks, so that what looks alike
    differs by its place: after 5 minutes on nuclei (dsb2018) AP was 0.19 instead of 0.03.

    Needs ``loss=queries``. With ``encoder.query_blocks`` the queries go through blocks of the
    encoder instead of layers of their own.

    Args:
        in_channels: Channels of the neck's map.
        num_classes: Number of classes, background included; in a training the data's by default.
        queries: Number of queries: objects and classes that can be found in a crop or a tile.
        layers: Number of layers of their own; None: 3 (9 in the paper).
        width: Channels of the queries (256 in the paper).
        attention_heads: Heads of the attention of these layers; None: 8, as in the paper.
        objects: Whether it also tells objects apart, for ``instances=queries``; the target
            ``objects`` sets it.
        level_channels: Channels of all maps of the neck; None: there is one.
        level_strides: Their strides.
        multiple: What height and width of the padded image are multiples of, at least.
        query_channels: Channels that queries have in the encoder; 0: they have their own layers.
    """

    mode: ClassVar[Mode] = "multiclass"
    class_layer: ClassVar[str | None] = "classify"

    def __init__(
        self,
        in_channels: int,
        num_classes: Annotated[int, Field(ge=2, le=255)],
        queries: Annotated[int, Field(ge=1, le=1000)] = 100,
        layers: Annotated[int, Field(ge=1)] | None = None,
        width: Annotated[int, Field(ge=4, multiple_of=4)] = 256,
        attention_heads: Annotated[int, Field(ge=1)] | None = None,
        objects: bool = False,
        level_channels: tuple[int, ...] | None = None,
        level_strides: tuple[int, ...] | None = None,
        multiple: int | None = None,
        query_channels: int = 0,
    ) -> None:
        super().__init__()
        layers, attention_heads = layers or 3, attention_heads or 8
        self.num_classes = self.num_logits = num_classes
        self.queries, self.tells_objects = queries, objects
        channels, strides = level_channels or (in_channels,), level_strides or (1,)
        coarser = range(1, len(strides))  # some necks have finer ones too
        chosen = [i for i in coarser if strides[i] >= max(FINEST, strides[0])]
        self._chosen = sorted(chosen, key=lambda i: -strides[i])[: min(MAPS, layers)] or [0]
        self._times = [max(1, strides[i] // strides[0]) for i in self._chosen]
        if self._chosen == [0]:  # pooled, if it is fine and as far as all images can be
            sides = (multiple or strides[0]) // strides[0]
            most = max(1, FINEST // strides[0])
            self._times = [max(t for t in range(1, most + 1) if sides % t == 0)]
        if not query_channels:
            if width % attention_heads:
                raise SegkitError(
                    f"head.width is {width}, but it is divided among {attention_heads} heads of"
                    " attention: give a multiple of head.attention_heads."
                )
            self.place = nn.Embedding(queries, width)
            self.level = nn.Embedding(len(self._chosen), width)
            self.inputs = nn.ModuleList(nn.Conv2d(channels[i], width, 1) for i in self._chosen)
            self.layers = nn.ModuleList(QueryLayer(width, attention_heads) for _ in range(layers))
        given = query_channels or width
        self.start, self.norm = nn.Embedding(queries, given), nn.LayerNorm(given)
        self.classify = nn.Linear(given, num_classes + 1)
        self.embed = make_mlp(given, width, width, width)
        self.pixels = nn.Conv2d(in_channels, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, num_classes, h, w): the queries look at that map."""
        return self.score_classes(self.find_masks([x], 1, (x.shape[-2], x.shape[-1]))[-1])

    def find_masks(self, levels: list[Tensor], stride: int, size: tuple[int, int]) -> list[Masks]:
        """What each layer has found.

        Args:
            levels: The maps of the neck.
            stride: The stride of the first.
            size: Height and width of the image without its padding.
        """
        pixels = self.embed_pixels(levels[0])  # (B, width, h, w)
        maps: list[tuple[Tensor, Tensor, int]] = []
        for i, conv, times in zip(self._chosen, self.inputs, self._times, strict=True):
            given = conv(pool(levels[i], times) if i == 0 else levels[i])  # (B, width, h_i, w_i)
            values = list_tokens(given) + self.level.weight[len(maps)]
            maps.append((values + make_positions(given), values, times))
        x = self.start.weight.expand(len(pixels), -1, -1)  # (B, Q, width)
        found = [self.predict(x, pixels, stride, size)]
        for number, layer in enumerate(self.layers):
            keys, values, times = maps[number % len(maps)]
            seen = find_seen(found[-1].draw(times))
            x = layer(x, self.place.weight, keys, values, seen)
            found.append(self.predict(x, pixels, stride, size))
        return found

    def embed_pixels(self, level: Tensor) -> Tensor:
        """The neck's map (B, in_channels, h, w) to the pixels of masks, (B, width, h, w)."""
        pixels = self.pixels(level)
        return pixels + make_positions(pixels).T.reshape(pixels.shape[1:])

    def predict(self, x: Tensor, pixels: Tensor, stride: int, size: tuple[int, int]) -> Masks:
        """What queries (B, Q, C) have found in pixels (B, width, h, w)."""
        x = self.norm(x)
        return Masks(self.classify(x), self.embed(x), pixels, stride, size)

    def score_classes(self, found: Masks) -> Tensor:
        """Logits of the classes, (B, N, h, w), float32."""
        chances = found.classes.float().softmax(-1)[..., :-1]  # (B, Q, N)
        shares = found.draw().float().sigmoid()  # (B, Q, h, w)
        scores = chances.transpose(1, 2) @ shares.flatten(2)
        return scores.clamp(min=LEAST).log().view(len(scores), -1, *shares.shape[-2:])

    def drop_idle(self, found: Masks) -> tuple[Masks, Tensor]:
        """What the queries have found that have found anything, where that is known at once.

        To draw a mask takes as long as all else. A GPU would have to be waited for, and a graph
        that is exported cannot depend on it.

        Returns:
            The same of those queries, and their numbers, from 1.
        """
        numbers = torch.arange(1, self.queries + 1, device=found.classes.device)
        if found.classes.device.type != "cpu" or torch.compiler.is_compiling():
            return found, numbers
        active = (found.classes.argmax(-1) < self.num_classes).any(0).nonzero().squeeze(1)
        if len(active) == 0:
            active = active.new_zeros(1)
        fewer = found._replace(classes=found.classes[:, active], masks=found.masks[:, active])
        return fewer, numbers[active]

    def find_objects(self, found: Masks, masks: Tensor, numbers: Tensor) -> Tensor:
        """Tell objects apart (Cheng et al. 2021, section 3.4: inference of panoptic segmentation).

        A pixel goes to the query with the largest p(class) p(pixel in mask) among those that have
        found something, if it is in its mask. Of queries that have found the same only the best one
        counts, and none that keeps less than half of its mask. Class 0 is no object.

        Args:
            found: What the queries have found.
            masks: The logits of their masks at the size of the image, (B, Q, H, W).
            numbers: The numbers of the queries, (Q,).

        Returns:
            (B, 1, H, W), float32: the number of the query that has found an object; 0: none.
        """
        scores, labels = found.classes.float().softmax(-1).max(-1)  # (B, Q)
        scores = torch.where(labels < self.num_classes, scores, 0)
        shares = masks.float().sigmoid()  # (B, Q, H, W)
        scores = torch.where(find_doubles(scores, shares >= 0.5), 0, scores)
        best = (scores[..., None, None] * shares).max(1).indices  # (B, H, W)
        inside = shares.gather(1, best.unsqueeze(1)).squeeze(1) >= 0.5
        kept = torch.zeros_like(scores)
        kept = kept.scatter_add(1, best.flatten(1), inside.flatten(1).float())
        whole = (shares >= 0.5).flatten(2).float().sum(-1)  # (B, Q)
        counts = (labels > 0) & (scores > 0) & (kept >= OVERLAP * whole)
        ids = torch.where(counts, numbers.float(), 0)  # (B, Q)
        chosen = ids.gather(1, best.flatten(1)).view_as(best)
        return torch.where(inside, chosen, 0).unsqueeze(1)

    def activate(self, logits: Tensor) -> Tensor:
        """Softmax over the classes; the numbers of objects behind them stay."""
        chances = torch.softmax(logits[:, : self.num_classes], dim=1)
        return torch.cat([chances, logits[:, self.num_classes :]], 1)

    def decide(self, probabilities: Tensor) -> Tensor:
        """(B, N, H, W) -> (B, H, W): the class of the largest probability."""
        return probabilities[:, : self.num_classes].max(dim=1).indices.to(torch.uint8)


def find_doubles(scores: Tensor, masks: Tensor) -> Tensor:
    """Which queries have found what a query with a higher score has found, (B, Q) bool.

    Their masks share more than half of their union (as in "Fast NMS", Bolya et al. 2019, "YOLACT").

    Args:
        scores: (B, Q).
        masks: (B, Q, H, W) bool.
    """
    inside = masks.flatten(2).float()
    shared, areas = inside @ inside.transpose(1, 2), inside.sum(-1)
    same = shared > DOUBLE * (areas.unsqueeze(1) + areas.unsqueeze(2) - shared)  # (B, Q, Q)
    # of equal scores the first counts
    order = torch.arange(scores.shape[1], device=scores.device)
    better = scores.unsqueeze(1) > scores.unsqueeze(2)
    better |= (scores.unsqueeze(1) == scores.unsqueeze(2)) & (order[None] < order[:, None])
    return (same & better).any(-1)
