"""A weighted sum of other losses."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any, cast

import torch
from torch import Tensor, nn

from segkit.core.errors import SegkitError, all_at_once
from segkit.core.labels import IGNORE_INDEX, Mode
from segkit.losses.base import Loss
from segkit.losses.points import Points, select_points


class WeightedSum(Loss, name="sum"):
    """A weighted sum of other losses.

    With the weight w_i of each term::

        loss = sum_i w_i loss_i

    Dice + cross-entropy is the usual pair: Isensee et al., "nnU-Net", 2021. Pixel weights go to the
    terms that take them; at least one term must.

    Args:
        terms: The options of each term, and its ``weight`` in the sum, above 0 (default 1). The key
            is the name of the loss, or any word if the options hold a ``name``.
        points: Compute it in training on so many points per image, the same for all terms, three
            quarters of them where the prediction is least certain; None: on all pixels. Terms that
            depend on where pixels lie, boundary and cldice, cannot.

    Example:
        >>> loss = Loss.build(
        ...     "sum",
        ...     mode="multiclass",
        ...     terms={"dice": {}, "cross_entropy": {"weight": 0.5, "label_smoothing": 0.1}},
        ... )
        >>> loss.weights
        (1.0, 0.5)
    """

    def __init__(
        self,
        mode: Mode,
        terms: dict[str, dict[str, Any]],
        ignore_index: int = IGNORE_INDEX,
        points: Points | None = None,
    ) -> None:
        super().__init__(mode, ignore_index)
        if not terms:
            raise SegkitError(
                "loss 'sum' has no terms: give at least one, such as terms={'dice': {}}."
            )
        losses, weights, problems = [], [], []
        for key, options in terms.items():
            try:
                loss, weight = _build_term(key, dict(options), mode, ignore_index)
            except SegkitError as error:
                problems.append(f"term '{key}': {error}")
            else:
                if points is not None and not loss.fits_points:
                    problems.append(
                        f"term '{key}': loss '{loss.name}' needs whole images: remove it, or points"
                    )
                if points is not None and options.get("points") is not None:
                    problems.append(
                        f"term '{key}': all terms share the points of the sum. Remove its own."
                    )
                losses.append(loss)
                weights.append(weight)
        if problems:
            raise all_at_once("loss 'sum' cannot be built with these terms:", problems)
        # a ModuleList, as the keys of a ModuleDict cannot hold dots or be names of its methods
        self.terms = nn.ModuleList(losses)
        self.weights = tuple(weights)
        self.takes_weight = any(loss.takes_weight for loss in losses)
        self.fits_points = all(loss.fits_points for loss in losses)
        self.points = points

    def compute(
        self, logits: Tensor, truth: Tensor, valid: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """See :meth:`Loss.compute`."""
        if self.points is not None and self.training:
            inputs = logits, truth, valid, weight
            logits, truth, valid, weight = select_points(*inputs, self.mode, self.points)
        losses = []
        for factor, module in zip(self.weights, self.terms, strict=True):
            term = cast("Loss", module)
            own = weight if term.takes_weight else None
            value = term.compute(logits, truth, valid, own)
            losses.append(value if factor == 1 else factor * value)
        return reduce(torch.add, losses)


def _build_term(
    key: str, options: dict[str, Any], mode: Mode, ignore_index: int
) -> tuple[Loss, float]:
    weight = options.pop("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise SegkitError(f"the weight is {weight!r}: give a number above 0.")
    if not (math.isfinite(weight) and weight > 0):
        raise SegkitError(f"the weight is {weight}: give a number above 0, or remove the term.")
    own = {"mode", "ignore_index"} & options.keys()
    if own:
        raise SegkitError(
            f"{' and '.join(sorted(own))}: all terms share those of the sum. Remove them here."
        )
    name = options.pop("name", key)
    if Loss.resolve(name, {})[0].takes_queries:
        raise SegkitError(
            f"loss '{name}' takes what queries have found, not logits, so it is no term of a sum:"
            " use it alone."
        )
    return Loss.build(name, mode=mode, ignore_index=ignore_index, **options), float(weight)
