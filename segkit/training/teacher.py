"""Distillation: a network learns what a trained one, mostly a larger one, gives for its crops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.checkpoint import reading as checkpoint
from segkit.checkpoint.card import ModelCard
from segkit.checkpoint.on_device import standardize
from segkit.checkpoint.values import Normalization
from segkit.core.errors import SegkitError, all_at_once
from segkit.core.labels import Mode
from segkit.models.fast import to_channels_last
from segkit.models.segmenter import Segmenter


class Teacher:
    """A trained network whose logits, and maps of its encoder, another one follows.

    It is no part of the other one's module, so that no checkpoint and no optimizer has its weights.

    Args:
        path: Its checkpoint.
        card: The card of the network that learns.
        crop: Height and width of the crops.
        weight: Factor of :func:`compare_logits` in the loss.
        temperature: That of :func:`compare_logits`.
        feature_weight: Factor of :func:`compare_attention` in the loss; 0: logits alone.

    Raises:
        SegkitError: It cannot be read, or says nothing about these classes or images.
    """

    def __init__(
        self,
        path: Path,
        card: ModelCard,
        crop: tuple[int, int],
        weight: float = 1.0,
        temperature: float = 2.0,
        feature_weight: float = 0.0,
    ) -> None:
        try:
            network, own = checkpoint.read(path)
        except SegkitError as error:
            raise SegkitError(f"teacher: {error}") from error
        problems = _find_differences(own, card)
        try:
            network.output_size(*crop)
        except SegkitError as error:
            problems.append(str(error))
        if problems:
            raise all_at_once(f"teacher={path} cannot teach this network:", problems)
        self.network = network.requires_grad_(False)
        to_channels_last(self.network)
        self.normalizations = own.normalization, card.normalization
        self.mode: Mode = card.mode
        self.weight, self.temperature, self.feature_weight = weight, temperature, feature_weight
        self._maps: dict[str, list[Tensor]] = {}

    def attach(self, student: Segmenter, device: torch.device) -> None:
        """Move to the device of the network that learns, and watch the maps of both encoders."""
        self.network.to(device)
        if self.feature_weight:
            for name, network in (("student", student), ("teacher", self.network)):
                network.encoder.register_forward_hook(self._keep(name))

    def compute_loss(self, image: Tensor, logits: Tensor) -> Tensor:
        """How far the logits (B, N, H, W) of a network are from the teacher's.

        ``image`` (B, C, H, W) is the input for which the network has just given them.
        """
        with torch.no_grad():
            wanted = self.network(_renormalize(image, *reversed(self.normalizations)))
        loss = self.weight * compare_logits(logits, wanted, self.mode, self.temperature)
        if self.feature_weight:
            maps = self._maps["student"], self._maps["teacher"]
            loss = loss + self.feature_weight * compare_attention(*maps)
            self._maps.clear()
        return loss

    def __deepcopy__(self, memo: object) -> Teacher:
        """An average of the weights of a module copies it; the teacher stays one."""
        return self

    def _keep(self, name: str) -> Callable[..., None]:
        def keep(module: nn.Module, given: object, maps: list[Tensor]) -> None:
            if name == "teacher" or torch.is_grad_enabled():  # not in a validation
                self._maps[name] = maps

        return keep


def compare_logits(logits: Tensor, wanted: Tensor, mode: Mode, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the probabilities at temperature T, a mean over the pixels.

    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2. Of sigmoids it is
    the divergence of two outcomes, summed over the channels.

    Args:
        logits: (B, N, H, W) of the network that learns.
        wanted: (B, N, H, W) of the teacher.
        mode: What the channels mean.
        temperature: T; above 1 the order of the improbable classes counts more.
    """
    own, given = logits.float() / temperature, wanted.float() / temperature
    if mode == "multiclass":
        ours, theirs = F.log_softmax(own, 1), F.log_softmax(given, 1)
        divergence = (theirs.exp() * (theirs - ours)).sum(1)
    else:
        yes, no = (F.logsigmoid(s * given) for s in (1, -1))
        found = yes.exp() * (yes - F.logsigmoid(own)) + no.exp() * (no - F.logsigmoid(-own))
        divergence = found.sum(1)
    return temperature**2 * divergence.mean()


def compare_attention(maps: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """How differently two encoders distribute their activity over an image.

    Zagoruyko and Komodakis 2017, "Paying More Attention to Attention", equation 2 with p = 2: the
    squared distance of the maps of squared activities, each of norm 1, a mean over images and
    levels. So channels, strides and depths may differ: each level is compared with the one of the
    teacher that is nearest in size, at the smaller size of both.
    """
    losses = []
    for own in maps:
        other = min(wanted, key=lambda each: abs(each.shape[-2] - own.shape[-2]))
        height, width = (min(own.shape[d], other.shape[d]) for d in (-2, -1))
        attention = [
            F.normalize(
                F.adaptive_avg_pool2d(m.float().square().mean(1), (height, width)).flatten(1)
            )
            for m in (own, other)
        ]
        losses.append((attention[0] - attention[1]).square().sum(1).mean())
    return torch.stack(losses).mean()


def _find_differences(own: ModelCard, card: ModelCard) -> list[str]:
    """Reasons why a network's probabilities do not mean those of another one."""
    problems = []
    if own.takes_queries or card.takes_queries:
        problems.append("networks of queries have no logits of pixels to compare")
    elif own.mode != card.mode:
        problems.append(f"its head is {own.mode}, and this one's {card.mode}: use head={own.mode}")
    elif own.class_names != card.class_names:
        names = [", ".join(each.class_names) for each in (own, card)]
        problems.append(f"its classes are {names[0]}, and those of this training {names[1]}")
    if own.target.get("name") != card.target.get("name"):
        problems.append(f"it learned target={own.target['name']}: use that, too")
    if own.in_channels != card.in_channels:
        problems.append(f"its images have {own.in_channels} channels, these {card.in_channels}")
    types = [each.normalization.dtype for each in (own, card)]
    if types[0] != types[1]:
        problems.append(f"its images are {types[0]}, these {types[1]}")
    if any(each.encoder.get("padding") == "valid" for each in (own, card)):
        problems.append("one of both has encoder.padding=valid, where maps differ in size")
    return problems


def _renormalize(image: Tensor, given: Normalization, wanted: Normalization) -> Tensor:
    """A network's input (B, C, H, W) for one whose intensities are normalized in another way."""
    if given == wanted:
        return image

    def spread(values: object) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=image.device).reshape(-1, 1, 1)

    unit = image.float() * spread(given.std) + spread(given.mean)
    low, high = spread(given.low), spread(given.high)
    other_low, other_high = spread(wanted.low), spread(wanted.high)
    unit = (unit * (high - low) + low - other_low) / (other_high - other_low)
    return standardize(unit.clamp(0, 1), wanted)
