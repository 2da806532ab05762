"""The one error that a user sees, and the hint that goes with an unknown name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class SegkitError(Exception):
    """What the user got wrong: a config, a data set, a checkpoint or a file.

    The message says what is wrong, where (file, key, shape) and how to mend it. The commands print
    it without a traceback and exit with status 2; ``SEGKIT_DEBUG=1`` shows the traceback as well.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with the nearest of the known names, or an empty string where none is near.

    Example:
        >>> did_you_mean("resnt34", ["resnet34", "vgg16_bn"])
        " Did you mean 'resnet34'?"
    """
    near = get_close_matches(name, list(known), n=3, cutoff=0.6)
    if not near:
        return ""
    return " Did you mean " + " or ".join(f"'{n}'" for n in near) + "?"


def all_at_once(title: str, problems: list[str]) -> SegkitError:
    """One error that lists every problem, so that a user mends them in one go."""
    return SegkitError("\n".join([title, *(f"  - {problem}" for problem in problems)]))
