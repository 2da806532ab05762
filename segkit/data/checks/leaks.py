"""Leaks: images that are in several splits, pixel for pixel, so that scores are too good."""

from __future__ import annotations

from segkit.data.checks.facts import Facts

CONSTANT = 0.002
"""Deviation in an image, as a share of the range of the set, up to which it shows nothing."""
SHOWN = 3
"""Groups of equal images, and names of each, that a note names."""


def find_constant(facts: list[Facts]) -> list[str]:
    """Names of images that show nothing: nearly the same value everywhere."""
    known = [(f.sample.name, f.intensities) for f in facts if f.intensities is not None]
    if not known:
        return []
    span = max(each.high for _, each in known) - min(each.low for _, each in known)
    return [name for name, each in known if each.spread <= CONSTANT * span]


def find_leaks(facts: list[Facts]) -> list[list[str]]:
    """Names of samples in several splits with the same image, by image.

    Images that show nothing, or have no data, are all alike and teach nothing: they do not count.
    """
    constant = set(find_constant(facts))
    same: dict[tuple[object, ...], list[Facts]] = {}
    for f in facts:
        if f.digest and f.intensities is not None and f.sample.name not in constant:
            same.setdefault((f.shape, f.dtype, f.digest), []).append(f)
    return [
        [f.sample.name for f in group]
        for group in same.values()
        if len({f.split for f in group}) > 1
    ]


def describe_leaks(facts: list[Facts]) -> list[str]:
    """One line that names the leaks, if there are any."""
    leaks = find_leaks(facts)
    if not leaks:
        return []
    groups = [" = ".join(names[:SHOWN]) + " ..." * (len(names) > SHOWN) for names in leaks]
    named = "; ".join(groups[:SHOWN]) + "; ..." * (len(groups) > SHOWN)
    verb = "image is" if len(leaks) == 1 else "images are"
    return [
        f"{len(leaks)} {verb} in several splits, pixel for pixel, so the scores will be too good:"
        f" {named}. Remove the copies"
    ]
