"""The rules of the planner: each returns a value and the reason for it.

A name is that of a preset in ``conf/``.
"""

from __future__ import annotations

import math

import numpy as np

from segkit.core.machine import Machine
from segkit.core.memory import GB
from segkit.data.checks.summary import DataSummary, Measures
from segkit.planning.network import Network

Size = tuple[int, int]

OBJECTS_ACROSS = 4
"""Width of a crop in typical objects: the network sees whole objects and their surroundings."""
SMALLEST_CROP = 256
LARGEST_CROP = {True: 1024, False: 256}
"""With a GPU and without."""
CROPS_AND_PIXELS = {True: (16, 2**21), False: (8, 2**19)}
"""Largest batch, in crops and in pixels, with a GPU and without."""
FEWEST_CROPS = 4
MEASURED = 32, 2**22
"""Largest batch with a GPU whose steps are measured, in crops and in pixels."""
LARGEST_FIXED_SHARE = 0.25
"""Share of a measured step that does not depend on the batch, at most."""
USED = 0.5
"""Share of the memory to plan with; the rest is a reserve."""
RARE, SCARCE = 0.01, 0.1
"""Shares of the pixels below which a class needs help."""
FEW_IMAGES, MANY_IMAGES = 200, 2000
FEW_PASSES = 5, 20
"""A training that sees the images less often cannot overfit and has no time to learn harder images:
below the first number the lightest augmentation is best, below the second not the strongest."""


def has_an_up(summary: DataSummary) -> tuple[bool, str]:
    """Whether the images have an up and a down, and the evidence for it."""
    upright, sides = summary.measures.upright, summary.measures.sides
    if "above" in sides:
        return True, sides["above"]
    if upright:
        return True, "the upper halves of the images differ from the lower ones"
    if summary.coding.foreground:
        return False, "objects, without an up and a down"
    if upright is None:
        colours = summary.in_channels == 3
        return colours, f"too few to see an up and a down, {'' if colours else 'not '}in colours"
    return False, "the images show no up and down"


def choose_augmentation(summary: DataSummary, passes: float) -> tuple[str, str]:
    """Choose a preset, stronger for fewer images and more passes over each part of them."""
    images = len(summary.splits["train"])
    upright, why = has_an_up(summary)
    side = summary.measures.sides.get("left of")
    if side is not None:  # in a mirror it would be right of it
        why = f"{side}, so nothing is mirrored"
    seen = "" if math.isinf(passes) else f", seen {format_count(passes, 'time')}"
    why = f"{format_count(images, 'image')}{seen}; {why}"
    if side is not None:
        return "oriented", why
    if passes < FEW_PASSES[0]:
        return "light", why
    if upright:
        few = images < FEW_IMAGES and passes >= FEW_PASSES[1]
        return ("strong" if few else "medium"), why
    many = images > MANY_IMAGES or passes < FEW_PASSES[1]
    return ("turns" if many else "microscopy"), why


def choose_crop_size(
    measures: Measures, network: Network, machine: Machine, turned: bool
) -> tuple[Size, str]:
    """Choose a crop of several typical objects, or the whole image if that is small.

    It should be square if it is ``turned``: if augmentation swaps height and width.
    """
    largest = LARGEST_CROP[machine.has_gpu]
    diameter = measures.object_diameter
    across = OBJECTS_ACROSS * diameter if diameter else 0
    wanted = min(max(across, SMALLEST_CROP), largest)
    sides = [float(side) if side <= 1.125 * wanted else wanted for side in measures.median]
    why = f"{OBJECTS_ACROSS} typical objects of {diameter:.0f} px" if diameter else "no objects"
    if across < SMALLEST_CROP:
        why += f", but at least {SMALLEST_CROP}"
        if min(measures.median) < SMALLEST_CROP:
            why += " where the images allow it"
    elif across > largest:
        why += f", but at most {largest}" + ("" if machine.has_gpu else " without a GPU")
    if turned and sides[0] != sides[1]:
        # else turning would bring in pixels from outside the crop
        sides = [max(min(sides), math.sqrt(math.prod(sides) / 2))] * 2
        why += "; square, to be turned"
    if network.largest:
        sides = [min(side, network.largest) for side in sides]
        why += "; encoder.img_size"
    size = _fit_side(sides[0], network.multiple), _fit_side(sides[1], network.multiple)
    if size[0] >= 0.9 * measures.median[0] and size[1] >= 0.9 * measures.median[1]:
        why = f"the whole image, of {measures.median[0]} x {measures.median[1]}"
    smallest = max(64, network.multiple)
    while 2 * network.kept_bytes(size) > _free_bytes(network, machine) and max(size) > smallest:
        size = _shrink(size[0], network.multiple), _shrink(size[1], network.multiple)
        why = f"two larger crops do not fit in half of {machine.memory / GB:.1f} GB"
    return size, why


def choose_batch_size(size: Size, network: Network, machine: Machine) -> tuple[int, str]:
    """Choose as many crops as help and fit in half of the memory."""
    most, pixels = CROPS_AND_PIXELS[machine.has_gpu]
    wanted = max(FEWEST_CROPS, min(most, pixels // math.prod(size)))
    if network.seconds_per_pixel is not None:  # so many that the fixed time is small beside them
        crop = network.seconds_per_pixel * math.prod(size)
        useful = network.step_seconds * (1 / LARGEST_FIXED_SHARE - 1) / crop
        wanted = int(max(wanted, min(useful, count_useful_crops(size))))
    fitting = int(_free_bytes(network, machine) / network.kept_bytes(size))
    chosen = max(2, min(wanted, fitting) // 2 * 2)
    needed = (network.fixed_bytes + chosen * network.kept_bytes(size)) / GB
    why = f"about {needed:.1f} of {machine.memory / GB:.0f} GB"
    if fitting < 2:
        return chosen, f"{why}: it may not fit; a smaller encoder does"
    if fitting < wanted:
        return chosen, f"{why}, half of which is planned with"
    return chosen, why


def count_useful_crops(size: Size) -> int:
    """Crops in the largest batch that is measured: more would make fewer and larger steps."""
    most, pixels = MEASURED
    return min(most, pixels // math.prod(size))


def choose_val_batch_size(
    measures: Measures, network: Network, machine: Machine
) -> tuple[int, str]:
    """Choose as many whole images as fit, up to eight; they keep no activations."""
    image = network.kept_bytes(measures.largest) / 3
    fitting = int(_free_bytes(network, machine) / image)
    height, width = measures.largest
    return max(1, min(8, fitting)), f"whole images, the largest of {height} x {width}"


def choose_normalization(summary: DataSummary, weights: bool) -> tuple[str, str]:
    """Choose the data set's mean and deviation, or the encoder's if it may have ``weights``."""
    kind = summary.normalization.dtype
    if kind != "uint8":
        low, high = np.min(summary.normalization.low), np.max(summary.normalization.high)
        return "dataset", f"{kind} from {low:g} to {high:g}, which no pretrained encoder knows"
    if not weights:
        return "dataset", "the encoder starts from scratch"
    return "auto", "8 bits: the encoder's if it has pretrained weights, else the data set's"


def choose_loss(summary: DataSummary, head: str) -> tuple[str, str]:
    """Choose Dice with a pixel loss that suits the rarest class; queries have their own loss."""
    if head == "queries":
        return "queries", "that of head=queries"
    name, share = _find_rarest(summary)
    if share < RARE:
        return (
            "dice_focal",
            f"'{name}' has {share:.2%} of the pixels: easy ones must not dominate",
        )
    return "dice_ce", f"no class has less than {RARE:.0%} of the pixels ('{name}' {share:.1%})"


def choose_foreground_share(summary: DataSummary, size: Size) -> tuple[float, str]:
    """Choose the share of crops placed on foreground, so that no class is missed."""
    name, share = _find_rarest(summary, background=False)
    height, width = summary.measures.largest
    if size[0] >= 0.9 * height and size[1] >= 0.9 * width:
        return 0.0, "a crop is a whole image"
    if share < RARE:
        return 0.5, f"'{name}' has {share:.2%} of the pixels"
    if share < SCARCE:
        return 0.33, f"'{name}' has {share:.1%} of the pixels"
    return 0.0, f"random crops have enough of each class ('{name}' {share:.1%})"


def choose_learning_rate(optimizer: str, batch: int, network: Network) -> tuple[float, str]:
    """Scale the rate with the batch for SGD (Goyal et al. 2017), its root for Adam (Malladi 2022).

    The batch is that of a step, over all devices.
    """
    if optimizer == "sgd":
        rate, why = 0.01 * batch / 8, f"0.01 x {batch} / 8"
    else:
        rate, why = 0.001 * math.sqrt(batch / 8), f"0.001 x sqrt({batch} / 8)"
    why += f", for {batch} crops a step"
    if network.layer_norm:
        rate, why = 0.3 * rate, f"{why}, x 0.3 because the encoder has layer norm"
    return float(f"{rate:.1e}"), why


def choose_schedule(steps: float) -> tuple[str, str]:
    """Choose the learning rate schedule; steps are infinite for a training without an end."""
    if math.isinf(steps):
        return "constant", "the end of the training is not known"
    if steps <= 10_000:
        return (
            "one_cycle",
            f"{format_count(steps, 'step')}, few: up and down once makes fast progress",
        )
    return "cosine", f"{format_count(steps, 'step')}: a short rise, a long way down"


def choose_averaging(steps: float, strategy: str = "auto") -> tuple[float | None, str]:
    """Choose the decay of the averaged weights by the number of steps."""
    if strategy == "fsdp":
        return None, "weights in shards are not averaged"
    if steps < 300:
        return None, "too few steps to average"
    if steps < 5000:
        return 0.99, "weights averaged over about 100 steps"
    return 0.999, "weights averaged over about 1000 steps"


def format_count(number: float, noun: str) -> str:
    """Write a number with its noun, such as "24 images"."""
    return f"{number:.0f} {noun}{'s' if number != 1 else ''}"


def _find_rarest(summary: DataSummary, background: bool = True) -> tuple[str, float]:
    """The class with the fewest pixels among those that occur, and its share of the pixels."""
    shares = [
        (share, name, label)
        for label, (name, share) in enumerate(
            zip(summary.class_names, summary.class_share, strict=False)
        )
        if share > 0
    ]
    objects = [entry for entry in shares if entry[2] != summary.background]
    share, name, _ = min(objects or shares if not background else shares)
    return name, share


def _free_bytes(network: Network, machine: Machine) -> float:
    """Bytes left for the crops of a batch."""
    return max(0.0, USED * machine.memory - network.fixed_bytes)


def _shrink(side: int, multiple: int) -> int:
    """About three quarters of a side, rounded down to the multiple."""
    return max(min(side, multiple), int(0.75 * side) // multiple * multiple)


def _fit_side(side: float, multiple: int) -> int:
    """A side that needs no padding: the next smaller multiple, unless that is far away."""
    down = int(side) // multiple * multiple
    return down if down >= 0.9 * side else math.ceil(side)
