"""Learning from pixels without labels: a mean teacher labels those of which it is sure.

The teacher is the exponential average of the weights (Tarvainen and Valpola 2017, "Mean teachers
are better role models"). What it finds is learned from crops that are mixed by CutMix (French et
al. 2020, "Semi-supervised semantic segmentation needs strong, varied perturbations"), so that the
network has to find it in other surroundings.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from segkit.core.labels import IGNORE_INDEX
from segkit.losses.base import Loss
from segkit.models.heads import Head
from segkit.models.segmenter import Segmenter

RISE = 0.2
"""Share of the training in which the weight of pseudo-labels rises from nearly nothing."""


class PseudoLabels:
    """The loss of what the average of a network finds where there are no labels.

    Args:
        threshold: Probability of the decision from which a pixel is labelled.
        weight: Factor of the loss at the end of its rise, exp(-5 (1 - t)^2) as of Laine and Aila
            2017, where t goes from 0 to 1 in the first ``RISE`` of the training.
        guesses_all: Whether pixels without labels of labelled images get pseudo-labels too.
    """

    def __init__(
        self, threshold: float = 0.95, weight: float = 1.0, guesses_all: bool = False
    ) -> None:
        self.threshold, self.weight, self.guesses_all = threshold, weight, guesses_all

    def compute_loss(
        self,
        model: Segmenter,
        average: Segmenter,
        loss: Loss,
        image: Tensor,
        guess: Tensor,
        progress: float,
    ) -> dict[str, Tensor]:
        """The loss of pseudo-labels, times its weight, and the share of pixels that have one.

        Args:
            model: The network in training.
            average: Its average.
            loss: The loss of logits and labels.
            image: (B, C, H, W).
            guess: (B, H, W) or (B, N, H, W), true where there is no label.
            progress: Share of the training that is done.
        """
        labels, is_sure = find_labels(average, image, self.threshold)
        if guess.ndim < labels.ndim:
            guess = guess.unsqueeze(1)
        is_sure &= guess
        target = torch.where(is_sure, labels, IGNORE_INDEX)
        where = draw_rectangle(image.shape[-2:], image.device)
        mixed = torch.where(where, image.roll(1, 0), image)
        target = torch.where(where, target.roll(1, 0), target)
        share = is_sure.sum() / guess.expand_as(is_sure).sum().clamp(min=1)
        found: Tensor = loss(model(mixed), target)
        rise = math.exp(-5 * (1 - min(1.0, progress / RISE)) ** 2)
        # the mean over few pixels counts no more than they do
        return {"pseudo_loss": self.weight * rise * share * found, "pseudo_share": share}


@torch.no_grad()
def find_labels(network: Segmenter, image: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """What a network decides, int64, and where it is sure of that; each as :meth:`Head.decide`."""
    was_training = network.training
    network.eval()
    head: Head = network.head
    probabilities = head.activate(network(image).float())  # (B, N, H, W)
    network.train(was_training)
    labels = head.decide(probabilities).long()
    if head.mode == "multiclass":
        return labels, probabilities.amax(1) >= threshold
    chosen = probabilities if labels.ndim == 4 else probabilities[:, 0]
    return labels, torch.where(labels > 0, chosen, 1 - chosen) >= threshold


def draw_rectangle(size: torch.Size, device: torch.device) -> Tensor:
    """A rectangle anywhere in a map, half of it on average: (H, W), true inside.

    Its share of the area is uniform, its proportions are random, and it lies inside the map.
    """
    share, proportion, *corner = torch.rand(4).tolist()
    height = share**proportion  # of the map; the width is what makes the area the share
    sides = [max(1, round(f * n)) for f, n in zip((height, share / height), size, strict=True)]
    where = torch.zeros(tuple(size), dtype=torch.bool)
    top, left = (round(c * (n - s)) for c, n, s in zip(corner, size, sides, strict=True))
    where[top : top + sides[0], left : left + sides[1]] = True
    return where.to(device)
