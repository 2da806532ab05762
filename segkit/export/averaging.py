"""Several networks in one file: what they must share, and the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from segkit.checkpoint.card import ModelCard
from segkit.core.errors import SegkitError
from segkit.inference.averaging import (
    find_common_windows,
    list_unseen,
    require_same_classes,
    require_same_tuning,
)
from segkit.inference.runtimes.exported import Contents
from segkit.inference.runtimes.network import Network

MEMORY = 1.6
"""Memory relative to that of the largest network alone. Networks run one after the other, but their
runtimes plan memory for all: with 3 and with 5 networks OpenVINO took 1.57 times as much, ONNX
Runtime 1.27 times."""


class AverageNetwork(Network):
    """The mean of the probabilities of networks, each of which prepares the images by itself.

    It is what an exported file of several networks is compared with.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks, first = list(networks), networks[0]
        self.card, self.xp, self.device = first.card, first.xp, first.device
        self.windows = find_common_windows([network.windows for network in networks])

    def prepare(self, window: NDArray[Any]) -> NDArray[Any]:
        """Nothing: the networks differ in it."""
        return window

    def load_batch(self, parts: Sequence[NDArray[Any]]) -> list[Any]:
        """A batch for each of the networks."""
        return [
            network.load_batch([network.prepare(part) for part in parts])
            for network in self._networks
        ]

    def _compute(self, batch: list[Any]) -> Any:
        pairs = zip(self._networks, batch, strict=True)
        maps = [network.predict_batch(own) for network, own in pairs]
        return sum(maps[1:], maps[0]) / len(maps)


def combine(contents: Sequence[Contents]) -> Contents:
    """Combine the metadata of networks to those of a file that averages their probabilities.

    Raises:
        SegkitError: They cannot be averaged; the message names what differs.
    """
    if len(contents) == 1:
        return contents[0]
    cards = [each.card for each in contents]
    _require_one_use(cards)
    maps = 4 * cards[0].num_logits * (len(cards) - 1)  # float32, of the networks that are done
    return replace(
        contents[0],
        card=_combine_cards(cards),
        others=tuple(cards[1:]),
        windows=find_common_windows([each.windows for each in contents]),
        bytes_per_pixel=MEMORY * max(each.bytes_per_pixel for each in contents) + maps,
    )


def _require_one_use(cards: Sequence[ModelCard]) -> None:
    """Raise a SegkitError if one file cannot be used as all of these networks are."""
    require_same_classes(cards)
    require_same_tuning(cards)
    first = cards[0]
    for number, other in enumerate(cards, 1):
        if other.tells_objects:
            raise SegkitError(
                f"checkpoint: number {number} of the list has queries that tell objects apart, and"
                " number them each time anew, so they cannot be averaged. Export it alone."
            )
        if other.normalization.dtype != first.normalization.dtype:
            raise SegkitError(
                f"checkpoint: number {number} of the list was trained on"
                f" {other.normalization.dtype} images, the first on {first.normalization.dtype},"
                " and one file takes one kind. Average the checkpoints themselves: predict,"
                " evaluate and serve take checkpoint=[A,B]."
            )
        if other.threshold != first.threshold:
            raise SegkitError(
                f"checkpoint: number {number} of the list has threshold={other.threshold:g}, the"
                f" first {first.threshold:g}, and one file has one. Average the checkpoints"
                " themselves: predict, evaluate and serve take checkpoint=[A,B] threshold=VALUE."
            )


def _combine_cards(cards: Sequence[ModelCard]) -> ModelCard:
    """The card of the first, whose validation images are those that no network was trained on."""
    config = cards[0].config
    unseen = list_unseen(cards)
    if unseen is not None:
        config = {**config, "data": {**config.get("data", {}), "val_names": unseen}}
    return replace(cards[0], config=config, bytes_per_pixel=None)
