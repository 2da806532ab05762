"""Class colours: distinct, the same in every run, colour-blind-safe where classes are few."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

import numpy as np

Color = tuple[int, int, int]
"""Red, green, blue, each 0 ... 255."""

# Okabe and Ito, "Color Universal Design" (2008), without black. The order keeps neighbours far
# apart and gives class 1, often the only foreground, the orange that stands out on grey images.
_OKABE_ITO: tuple[Color, ...] = (
    (0, 114, 178),  # blue
    (230, 159, 0),  # orange
    (0, 158, 115),  # bluish green
    (213, 94, 0),  # vermilion
    (86, 180, 233),  # sky blue
    (204, 121, 167),  # reddish purple
    (240, 228, 66),  # yellow
)


def choose_colors(n: int) -> list[Color]:
    """Choose the colours of ``n`` classes; a longer list begins with the shorter one.

    The first seven are Okabe and Ito's colour-blind-safe set, those after them the Glasbey colours
    that are not dark and differ from those seven. Colours repeat after more than 200.

    Example:
        >>> choose_colors(2)
        [(0, 114, 178), (230, 159, 0)]
    """
    if n <= len(_OKABE_ITO):
        return list(_OKABE_ITO[:n])
    import colorcet  # imports matplotlib

    light = np.array([list(bytes.fromhex(text[1:])) for text in colorcet.glasbey_light])
    distance = np.linalg.norm(light[:, None] - np.array(_OKABE_ITO), axis=2).min(axis=1)
    further: list[Color] = [(r, g, b) for r, g, b in light[distance > 50].tolist()]
    return list(islice(cycle([*_OKABE_ITO, *further]), n))


def format_color(color: Sequence[int]) -> str:
    """Format a colour in the notation of the web.

    Example:
        >>> format_color((230, 159, 0))
        '#e69f00'
    """
    return "#" + bytes(color).hex()
