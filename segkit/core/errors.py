"""The error for users, and how messages name things."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

NAMED = 3
"""Things of a kind that a message names, unless it says otherwise."""
NO_PATH = "a path is empty, as where a shell variable is not set; '.' is the current folder"
"""What is wrong with an empty string, which would mean the current folder."""


class SegkitError(Exception):
    """A config, a data set, a checkpoint or a file of the user is wrong.

    The message says what is wrong, where (file, key, shape) and how to fix it. The commands print
    it without a traceback and exit with status 2; ``SEGKIT_DEBUG=1`` adds the traceback.
    """


class Stop(BaseException):
    """Carries a user's error past Hydra, which would print it too, or swallow it."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the known names closest to an unknown one; an empty string if none is close.

    Example:
        >>> did_you_mean("resnt34", ["resnet34", "vgg16_bn"])
        " Did you mean 'resnet34'?"
    """
    near = get_close_matches(name, list(known), n=3, cutoff=0.6)
    if not near:
        return ""
    return " Did you mean " + " or ".join(f"'{n}'" for n in near) + "?"


def join_names(names: Sequence[str], most: int = NAMED) -> str:
    """The first of several names, and dots if there are more.

    Example:
        >>> join_names(["a.png", "b.png", "c.png"], 2)
        'a.png, b.png ...'
    """
    return ", ".join(names[:most]) + " ..." * (len(names) > most)


def all_at_once(title: str, problems: list[str]) -> SegkitError:
    """Make one error that lists all problems."""
    return SegkitError("\n".join([title, *(f"  - {problem}" for problem in problems)]))
