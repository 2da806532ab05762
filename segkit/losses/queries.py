"""The loss of queries: which query is to find what, and how well it does."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Annotated, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX, Mode
from segkit.losses.base import Loss
from segkit.losses.labels import check_target, split_target
from segkit.losses.points import IMPORTANCE, OVERSAMPLE, Points, draw_points, pick_pixels
from segkit.models.queries import Masks

SHARE = 12544 / 256**2
"""Points for each pixel of a mask (Cheng et al. 2022, section 4.1)."""
FEWEST, MOST = 256, 12544
"""Points of a mask."""

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class TooFewQueriesWarning(UserWarning):
    """A crop has more objects than the network has queries."""


class Segments(NamedTuple):
    """What there is to find in an image, at points.

    Attributes:
        labels: (M,) classes, int64.
        inside: (M, K) whether a point is in a segment, float32.
    """

    labels: Tensor
    inside: Tensor


class QueryLoss(Loss, name="queries"):
    """A query for each segment, matched by their costs (Cheng et al. 2022, "Mask2Former").

    The segments of an image are its objects, if there are ids, and otherwise the pixels of each
    class; those of class 0 are one segment in any case. The Hungarian algorithm gives each segment
    the query that has found it best. With q that query and p the class probabilities::

        loss = mask_weight bce(mask_q) + dice_weight dice(mask_q) - class_weight log p_q(class)

    The first two are means over the segments, the last one over all queries; those without a
    segment are to find nothing, which has the weight ``no_object_weight``. The same is computed
    for what each layer of queries has found, and added up.

    Masks are compared at random points (section 3.3): the matching at all of them, the loss at
    those where the mask is least certain, and at as many others as a third of these. Ignored pixels
    count nowhere: a query without a segment counts with the share of its mask that is elsewhere.
    Masks of 256 x 256 have 12544 points in the paper; by default others have the same share.

    Args:
        class_weight: Weight of the classes.
        mask_weight: Weight of the cross-entropy of the masks.
        dice_weight: Weight of the Dice loss of the masks.
        no_object_weight: Weight of queries that are to find nothing.
        points: Points of each mask in the loss; three times as many, and a quarter, are drawn for
            each image. None: a fifth of the pixels of the neck's map, 256 to 12544.
    """

    modes: ClassVar[tuple[Mode, ...]] = ("multiclass",)
    takes_queries = True

    def __init__(
        self,
        mode: Mode,
        class_weight: Weight = 2.0,
        mask_weight: Weight = 5.0,
        dice_weight: Weight = 5.0,
        no_object_weight: Weight = 0.1,
        ignore_index: int = IGNORE_INDEX,
        points: Points | None = None,
    ) -> None:
        super().__init__(mode, ignore_index)
        self.class_weight, self.mask_weight = class_weight, mask_weight
        self.dice_weight, self.no_object_weight = dice_weight, no_object_weight
        self.points = points

    def forward(  # type: ignore[misc,override]  # of queries instead of logits
        self,
        found: Sequence[Masks],
        target: Tensor,
        weight: Tensor | None = None,
        ids: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            found: What each layer has found: ``Segmenter.all_logits(images)[0]``.
            target: Labels (B, H, W), any integer dtype: 0 ... N - 1 or ``ignore_index``.
            weight: Not taken.
            ids: Ids of objects (B, H, W), any integer dtype; 0: none.

        Returns:
            A float32 scalar.
        """
        if isinstance(found, Tensor) or not all(isinstance(each, Masks) for each in found):
            raise SegkitError(
                f"loss '{self.name}' takes what queries have found, not logits: use head=queries,"
                " and give it model.all_logits(images)[0]."
            )
        if weight is not None:
            raise SegkitError(f"loss '{self.name}' takes no pixel weights: leave them out.")
        last = found[-1]
        shape = torch.Size((len(target), last.classes.shape[-1] - 1, *last.size))
        check_target(target, self.mode, shape)
        if ids is not None and ids.shape != target.shape:
            raise SegkitError(
                f"the ids have the shape {tuple(ids.shape)}, the labels {tuple(target.shape)}: give"
                " one id for each pixel."
            )
        if target.is_cuda and torch.are_deterministic_algorithms_enabled():
            raise SegkitError(
                "loss=queries interpolates masks at points, for which torch has no deterministic"
                " gradient on a GPU: leave trainer.deterministic=true out."
            )
        truth, valid = split_target(
            target, self.mode, shape[1], self.ignore_index, target.device.type == "cpu"
        )
        with torch.autocast(target.device.type, enabled=False):
            return self._compute(found, truth, valid, ids)

    def compute(
        self, logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Not for logits: see :meth:`forward`."""
        raise SegkitError(f"loss '{self.name}' takes what queries have found: call it as a whole.")

    def _compute(
        self, found: Sequence[Masks], truth: Tensor, valid: Tensor, ids: Tensor | None
    ) -> Tensor:
        chosen = self.points or choose_count(found[-1])
        evenly = chosen - round(IMPORTANCE * chosen)
        points = draw_points(truth, evenly + round(OVERSAMPLE * chosen))  # (B, K, 2)
        counts = pick_pixels(valid, points).float()  # (B, K)
        labels = pick_pixels(truth, points)
        numbers = None if ids is None else pick_pixels(ids.long(), points)
        segments = [
            list_segments(labels[i], counts[i] > 0, None if numbers is None else numbers[i])
            for i in range(len(truth))
        ]
        self._warn_of_many(segments, found[-1].classes.shape[1])
        losses = []
        for number, masks in enumerate(found):
            if number == 0 or masks.pixels is not found[number - 1].pixels:
                pixels = masks._replace(pixels=masks.pixels.float()).sample(points)  # (B, D, K)
            drawn = masks.masks.float() @ pixels  # (B, Q, K)
            losses.append(self._score(masks.classes.float(), drawn, segments, counts, evenly))
        return torch.stack(losses).sum()

    def _score(
        self,
        classes: Tensor,
        drawn: Tensor,
        segments: list[Segments],
        counts: Tensor,
        evenly: int,
    ) -> Tensor:
        """The loss of a layer: classes (B, Q, N + 1), and masks at points (B, Q, K)."""
        nothing = classes.shape[-1] - 1
        wanted = torch.full(drawn.shape[:2], nothing, device=drawn.device)
        chosen, inside, taken = [], [], []
        for i, segment in enumerate(segments):
            if len(segment.labels) == 0:
                continue
            queries, rows = self.match(classes[i], drawn[i], segment, counts[i])
            wanted[i, queries] = segment.labels[rows]
            chosen.append(drawn[i, queries])
            inside.append(segment.inside[rows])
            taken.append(counts[i].expand(len(rows), -1))
        loss = self.class_weight * self._score_classes(classes, wanted, drawn, counts)
        if not chosen:
            return loss
        logits, truth, count = torch.cat(chosen), torch.cat(inside), torch.cat(taken)  # (M, K)
        order = _order_by_uncertainty(logits, count, evenly)
        logits, truth, count = (each.gather(1, order) for each in (logits, truth, count))
        entropy = F.binary_cross_entropy_with_logits(logits, truth, count, reduction="none").sum(1)
        entropy = (entropy / count.sum(1).clamp(min=1)).mean()
        dice = 1 - _score_dice(logits.sigmoid() * count, truth * count)
        return loss + self.mask_weight * entropy + self.dice_weight * dice.mean()

    def _score_classes(
        self, classes: Tensor, wanted: Tensor, drawn: Tensor, counts: Tensor
    ) -> Tensor:
        """Cross-entropy of the classes (B, Q, N + 1), the wanted ones (B, Q)."""
        shares = drawn.detach().sigmoid()  # (B, Q, K)
        known = (shares * counts.unsqueeze(1)).sum(-1) / shares.sum(-1).clamp(min=1e-6)
        idle = wanted == classes.shape[-1] - 1
        weights = torch.where(idle, self.no_object_weight * known, 1.0)
        entropy = F.cross_entropy(classes.transpose(1, 2), wanted, reduction="none")  # (B, Q)
        return (weights * entropy).sum() / weights.sum().clamp(min=1e-6)

    @torch.no_grad()
    def match(
        self, classes: Tensor, drawn: Tensor, segments: Segments, counts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Find the queries that fit the segments best, one for each as long as there are any.

        Args:
            classes: (Q, N + 1) logits.
            drawn: (Q, K) logits of the masks at points.
            segments: M segments.
            counts: (K,) 1 where a point counts, else 0.

        Returns:
            The numbers of queries and of their segments.
        """
        from scipy.optimize import linear_sum_assignment  # takes 0.1 s

        inside = segments.inside * counts  # (M, K)
        known = counts.sum().clamp(min=1)
        chance = classes.softmax(-1)[:, segments.labels]  # (Q, M)
        # softplus(x) - x t, summed over the points
        entropy = (F.softplus(drawn) @ counts)[:, None] - drawn @ inside.T
        shares = drawn.sigmoid() * counts
        overlap = shares @ inside.T
        size = shares.sum(1)[:, None] + inside.sum(1)[None]
        dice = 1 - (2 * overlap + 1) / (size + 1)
        cost = self.dice_weight * dice + self.mask_weight * entropy / known
        cost = cost - self.class_weight * chance
        # a network that has gone astray says so in its loss, not here
        queries, rows = linear_sum_assignment(cost.nan_to_num(1e9, 1e9, -1e9).cpu().numpy())
        device = drawn.device
        return torch.from_numpy(queries).to(device), torch.from_numpy(rows).to(device)

    def _warn_of_many(self, segments: list[Segments], queries: int) -> None:
        most = max((len(each.labels) for each in segments), default=0)
        if most > queries:
            warnings.warn(
                f"there are crops with more objects and classes than the {queries} queries of the"
                " head, which cannot be learned all. Give a larger head.queries, or smaller crops.",
                TooFewQueriesWarning,
                stacklevel=2,
            )


def choose_count(found: Masks) -> int:
    """The number of points of a mask: the share of its pixels that the paper has, within limits."""
    height, width = found.pixels.shape[-2:]
    return min(max(round(SHARE * height * width), FEWEST), MOST)


def list_segments(labels: Tensor, counts: Tensor, ids: Tensor | None) -> Segments:
    """The segments of an image that have any of the points that count.

    Args:
        labels: (K,) classes at the points.
        counts: (K,) which points count.
        ids: (K,) ids of objects, 0 for none; None: each class is a segment.
    """
    # background 0 has no objects; a class of things without an id is a segment of its own
    key = labels if ids is None else torch.where(ids > 0, ids + 256, labels)
    values = torch.unique(key[counts])
    inside = key[None] == values[:, None]  # (M, K)
    inside &= counts
    first = inside.to(torch.uint8).argmax(1)
    return Segments(labels[first], inside.float())


def _order_by_uncertainty(logits: Tensor, counts: Tensor, evenly: int) -> Tensor:
    """The points of each mask (M, K) to compare: the least certain ones, and the last ones."""
    margin = torch.where(counts > 0, logits.detach().abs(), torch.inf)
    candidates = logits.shape[1] - evenly
    certain = round(candidates / OVERSAMPLE * IMPORTANCE)
    least = margin[:, :candidates].topk(certain, largest=False).indices
    rest = torch.arange(candidates, logits.shape[1], device=logits.device)
    return torch.cat([least, rest.expand(len(logits), -1)], 1)


def _score_dice(shares: Tensor, truth: Tensor) -> Tensor:
    """Dice of masks (M, K), with 1 added to both sides as in the paper's code."""
    return (2 * (shares * truth).sum(1) + 1) / (shares.sum(1) + truth.sum(1) + 1)
