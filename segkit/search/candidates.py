"""The configurations that a search compares, as options of a training."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from segkit.config.quoting import quote_value
from segkit.config.schema import OF_OBJECTS, TrainConfig
from segkit.core.errors import SegkitError
from segkit.core.machine import Machine
from segkit.core.yaml_files import read_yaml_text
from segkit.data.checks.summary import DataSummary, Measures
from segkit.planning import rules
from segkit.planning.network import Network
from segkit.search.command_line import name_key

ENCODERS = {
    False: ("mobilenetv3_large_100", "resnet18", "resnet34"),
    True: ("resnet18", "resnet34", "convnext_tiny"),
}
"""Small, medium and large, without and with a GPU."""
WITHOUT_WEIGHTS = {"convnext_tiny": "resnet50"}
"""What replaces an encoder that is not worth its time without pretrained weights."""
SMALL_OBJECTS = 48.0
"""Diameter in pixels below which a decoder should see the finest maps."""
STEP = 1.5
"""Factor between neighbouring crop sizes."""
SMALLEST_CROP = 64

Options = list[str]


def propose(
    settings: TrainConfig,
    choices: Mapping[str, Any],
    summary: DataSummary,
    network: Network,
    machine: Machine,
    typed: Collection[str],
    has_weights: Callable[[str], bool],
) -> list[Options]:
    """List what differs from the plan in each candidate: nothing in the first one.

    The most promising come first, as a short budget leaves out the last ones. What the user has
    set stays.

    Args:
        settings: The planned training.
        choices: What the planner has chosen, by key.
        summary: The data set.
        network: The planned network.
        machine: Where it is trained.
        typed: The keys that the user has set.
        has_weights: Whether the pretrained weights of an encoder can be had.
    """

    def is_free(group: str) -> bool:
        return not any(key == group or key.startswith(f"{group}.") for key in typed)

    small, large, fpn, other, crop, loss = [], [], [], [], [], []
    if not {"encoder", "encoder.name", "init"} & set(typed):
        sizes = [name for name in ENCODERS[machine.has_gpu] if name != settings.encoder.name]
        smallest, largest = sizes[0], sizes[-1]
        if largest in WITHOUT_WEIGHTS and not has_weights(largest):
            largest = WITHOUT_WEIGHTS[largest]
        small, large = [[f"encoder={name}"] for name in (smallest, largest)]
    if is_free("neck") and settings.head.name != "queries":
        necks = ["fpn", _choose_other_neck(summary, machine)]
        fpn, other = [[f"neck={'unet' if name == settings.neck.name else name}"] for name in necks]
    if is_free("data.crop_size"):
        size = choose_neighbour(settings.data.crop_size, summary.measures, network, machine)
        crop = [f"data.crop_size={quote_value(size)}"] if size else []
    if choices.get("loss") in ("dice_ce", "dice_focal"):
        loss = ["loss=dice_focal" if choices["loss"] == "dice_ce" else "loss=dice_ce"]
    distance, watershed, components = _list_targets(settings, is_free)
    found = [
        [],
        *(large, fpn, distance, crop, small, loss, watershed),
        *(large and fpn and [*large, *fpn], other),
        *(large and crop and [*large, *crop], large and distance and [*large, *distance]),
        *(components, small and fpn and [*small, *fpn]),
    ]
    return [options for number, options in enumerate(found) if options or number == 0]


def _choose_other_neck(summary: DataSummary, machine: Machine) -> str:
    """A third neck: for small objects one that decodes to full size, else one that looks around."""
    diameter = summary.measures.object_diameter
    if diameter is None or diameter > SMALL_OBJECTS:
        return "deeplabv3plus"
    return "unetplusplus" if machine.has_gpu else "linknet"


def _list_targets(
    settings: TrainConfig, is_free: Callable[[str], bool]
) -> tuple[Options, Options, Options]:
    """Other ways to tell objects apart: by distances, by watershed, by gaps."""
    if settings.monitor not in OF_OBJECTS:  # other scores do not compare targets
        return [], [], []
    if is_free("target") and is_free("head") and is_free("instances"):
        watershed = ["target=foreground", "instances=watershed"]
        return ["target=distance"], watershed, ["target=foreground"]
    if settings.target.name == "foreground" and is_free("instances"):
        return [], ["instances=watershed"], []
    return [], [], []


def choose_neighbour(
    crop: tuple[int, int], measures: Measures, network: Network, machine: Machine
) -> tuple[int, int] | None:
    """A crop size next to this one: larger if images and memory allow it, else smaller."""
    if network.largest:
        return None

    def fit(factor: float) -> tuple[int, int]:
        sides = [
            min(round(factor * side / network.multiple) * network.multiple, max(longest, side))
            for side, longest in zip(crop, measures.median, strict=True)
        ]
        return sides[0], sides[1]

    larger, smaller = fit(STEP), fit(1 / STEP)
    needed = network.fixed_bytes + 2 * network.kept_bytes(larger)
    if min(larger) > min(crop) and needed < rules.USED * machine.memory:
        return larger
    return smaller if min(smaller) >= SMALLEST_CROP and smaller != crop else None


def find_weights(encoder: str) -> bool:
    """Whether the pretrained weights of an encoder can be had; they are downloaded now."""
    import timm

    from segkit.models.encoders.weights import PretrainedWarning
    from segkit.models.encoders.weights import find_weights as find

    config: Any = timm.get_pretrained_cfg(encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PretrainedWarning)
        return config is not None and find(config.to_dict(), encoder, required=False) is not None


def read_candidates(path: Path) -> list[Options]:
    """The candidates of a file: a YAML list of lists of options, or of texts that hold them.

    Raises:
        SegkitError: It cannot be read, or holds something else.
    """
    import yaml

    stored: Any = yaml.safe_load(read_yaml_text(path))
    found = [each if isinstance(each, list) else [each] for each in stored or []]
    words = [[word for text in each for word in shlex.split(str(text))] for each in found]
    if not isinstance(stored, list) or not all("=" in word for each in words for word in each):
        raise SegkitError(
            f"candidates: {path} must be a list of candidates, each a list of options of a"
            " training, such as [encoder=resnet34, neck=fpn]."
        )
    return words


def require_different(candidates: Sequence[Options]) -> None:
    """Refuse a comparison of one thing.

    Raises:
        SegkitError: There are fewer than two different candidates.
    """
    if len({tuple(sorted(each, key=name_key)) for each in candidates}) < 2:
        raise SegkitError(
            "there is only one candidate, so there is nothing to compare: give several values, as"
            " in encoder=resnet18,resnet34, or set less. python -m segkit.train trains one."
        )
