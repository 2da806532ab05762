"""Scores of objects: by hand, by brute force, and properties for any pair of maps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.metrics import adapted_rand_error
from torchmetrics.functional.detection import panoptic_quality

from segkit.core.errors import SegkitError
from segkit.metrics.bootstrap import estimate_intervals
from segkit.metrics.instances import count_objects, score_objects

NAN = math.nan
SYMMETRIC = ("ap", "ap50", "ap75", "pq", "sq", "rq")
maps = hnp.arrays(np.uint8, st.just((5, 6)), elements=st.sampled_from([0, 0, 1, 2, 3, 4]))
ignoring_maps = hnp.arrays(np.uint8, st.just((5, 6)), elements=st.sampled_from([0, 1, 2, 3, 255]))


def scores(truth, predicted, **options) -> dict[str, float]:
    found = score_objects(count_objects(truth, predicted, **{"ignore_index": 255, **options}))
    return {name: float(value) for name, value in found.items()}


def row(ids: str) -> np.ndarray:
    """A map of one row; x is ignored."""
    return np.array([[255 if c == "x" else int(c) for c in ids]])


def same(found: dict[str, float], expected: dict[str, float]) -> None:
    assert {name: found[name] for name in expected} == pytest.approx(expected, nan_ok=True)


def brute(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """All scores straight from their definitions, with sets of pixels; nothing is ignored."""
    reference = [set(np.flatnonzero(truth == i)) for i in np.unique(truth) if i]
    objects = [set(np.flatnonzero(predicted == i)) for i in np.unique(predicted) if i]
    objects.sort(key=min)
    seg, splits, missed, matched = 0.0, 0, 0, []
    for r in reference:
        covering = [k for k, s in enumerate(objects) if len(r & s) / len(r) > 0.5]
        seg += sum(len(r & objects[k]) / len(r | objects[k]) for k in covering)
        missed += not covering
        splits += bool(covering and covering[0] in matched)
        matched += covering
    spurious = len(objects) - len(set(matched))
    ious = np.array([[len(r & s) / len(r | s) for s in objects] for r in reference])
    ious = ious.reshape(len(reference), len(objects))
    ap = []
    for t in [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]:
        tp = int((ious > t).sum())
        ap.append(divide(tp, len(objects) + len(reference) - tp))
    good = ious[ious > 0.5]
    shared = union = 0
    taken = set()
    for i, r in enumerate(reference):
        best = max(
            range(len(objects)), key=lambda k: (ious[i, k], len(r & objects[k]), -k), default=None
        )
        if best is None or ious[i, best] == 0:
            union += len(r)
        else:
            taken.add(best)
            shared += len(r & objects[best])
            union += len(r | objects[best])
    union += sum(len(s) for k, s in enumerate(objects) if k not in taken)
    n = len(reference)
    return {
        "seg": divide(seg, n),
        "det": 1 - divide(min(5 * splits + 10 * missed + spurious, 10 * n), 10 * n),
        "ap": float(np.mean(ap)),
        "ap50": ap[0],
        "ap75": ap[5],
        "pq": divide(good.sum(), (n + len(objects)) / 2),
        "sq": divide(good.sum(), good.size),
        "rq": divide(good.size, (n + len(objects)) / 2),
        "aji": divide(shared, union),
        "objects": n,
        "predicted_objects": len(objects),
    }


def divide(part: float, whole: float) -> float:
    return float(part / whole) if whole else NAN


ZERO = dict.fromkeys(("seg", "det", "ap", "ap50", "ap75", "pq", "rq"), 0.0)
BY_HAND = {
    "predictions without objects": (
        *("0000", "1022"),
        {"seg": NAN, "det": NAN, "ap": 0, "ap50": 0, "pq": 0, "rq": 0, "sq": NAN, "aji": 0}
        | {"arand": NAN, "predicted_objects": 2},
    ),
    # the predicted background holds all 10 pairs, 3 + 1 of them of one reference object
    "nothing predicted": (
        *("11122", "00000"),
        ZERO | {"sq": NAN, "aji": 0, "arand": 1 - 2 * 4 / (4 + 10)},
    ),
    "split unevenly": (
        *("11111111", "11111122"),
        {
            "seg": 6 / 8,
            "det": 1 - 1 / 10,  # the small piece is spurious
            "ap": 0.25,  # 1 / 2 at 0.50 ... 0.70; an IoU of exactly 0.75 is not above 0.75
            "ap50": 1 / 2,
            "ap75": 0.0,
            "pq": 0.75 * 2 / 3,
            "sq": 0.75,
            "rq": 2 / 3,
            "aji": 6 / (8 + 2),
            "arand": 1 - 2 * 32 / (56 + 32),
        },
    ),
    "merged": (
        *("1111112222", "3333333333"),
        {
            "seg": (6 / 10 + 4 / 10) / 2,
            "det": 1 - 5 / 20,  # one split corrects it
            "ap": 0.1,  # 1 / 2 at 0.50 and 0.55
            "ap50": 1 / 2,
            "pq": 0.6 * 2 / 3,
            "sq": 0.6,
            "rq": 2 / 3,
            "aji": (6 + 4) / (10 + 10),  # it takes the same object twice
            "arand": 1 - 2 * 42 / (42 + 90),
        },
    ),
    "exactly half is no match": ("111100", "220000", ZERO | {"sq": NAN, "aji": 2 / 4}),
    # AJI, IoU 1 / 3 twice: 2 of 6 pixels, and 4 of 12; the larger overlap
    "larger overlap": ("111111000000", "224444444444", {"aji": 4 / (12 + 2)}),
    # AJI: both share 2 of 5 pixels with the middle object; the first in the image
    "first of equals": ("011112", "333444", {"aji": (2 + 1) / (5 + 3)}),
    "first, other ids": ("011112", "444333", {"aji": (2 + 1) / (5 + 3)}),
    "first, the other side": ("211110", "333444", {"aji": (2 + 1) / (5 + 3 + 3)}),
}


@pytest.mark.parametrize(("truth", "predicted", "expected"), BY_HAND.values(), ids=BY_HAND)
def test_by_hand(truth, predicted, expected):
    same(scores(row(truth), row(predicted)), expected)


@pytest.mark.parametrize(("truth", "predicted"), [("0000", "0000"), ("xxx", "112")])
def test_without_objects_nothing_has_a_value(truth, predicted):
    found = scores(row(truth), row(predicted))
    assert found.pop("objects") == found.pop("predicted_objects") == 0
    assert all(math.isnan(value) for value in found.values())


def test_markers_are_for_det_alone():
    truth, predicted = row("1111000"), row("2222033")
    same(scores(truth, predicted), {"seg": 1.0, "det": 1 - 1 / 10})
    markers = row("0100040")
    same(scores(truth, predicted, markers=markers), {"seg": 1.0, "det": 1.0, "ap50": 1 / 2})
    same(scores(truth, predicted, markers=row("4500060")), {"det": 1 - 5 / 30})
    same(scores(truth, predicted, markers=row("0000000")), {"seg": 1.0, "det": NAN})


def test_with_markers_seg_and_det_are_the_challenges_own():
    """One outlined cell, two that are only marked, and a prediction over all of them."""
    truth, markers = row("11xxxxxx"), row("10020003")
    one = scores(truth, row("44444444"), markers=markers)
    same(one, {"seg": 2 / 8, "det": 1 - 10 / 30})  # two splits of 5, of 3 markers of 10
    same(scores(truth, row("44000000"), markers=markers), {"seg": 1.0, "det": 1 - 20 / 30})
    # where nothing is labelled and nothing is marked, an object is not spurious
    same(scores(row("11xxxxxx"), row("44000550"), markers=row("10000000")), {"det": 1.0})
    same(scores(row("11000000"), row("44000550"), markers=row("10000000")), {"det": 0.9})
    # 255 is a marker like any other
    same(scores(row("1100"), row("2200"), markers=row("10x0")), {"det": 1 - 10 / 20})


def test_ignored_pixels_do_not_count():
    counted = scores(row("110220"), row("110330"))
    assert scores(row("110220xxx"), row("110330330")) == counted
    assert scores(row("110220xxx"), row("110330444")) == counted  # wholly ignored: no false one
    with_half = scores(row("1100xx"), row("110222"))  # 2 of 3 pixels ignored
    same(with_half, {"ap50": 1.0, "pq": 1.0, "det": 1.0, "aji": 1.0, "predicted_objects": 1})
    with_third = scores(row("11000x"), row("110222"))
    same(with_third, {"ap50": 1 / 2, "pq": 2 / 3, "det": 0.9, "aji": 2 / 4})
    mostly = scores(row("11xxx"), row("22222"))  # it can match
    same(mostly, {"seg": 1.0, "det": 1.0, "ap": 1.0, "pq": 1.0, "aji": 1.0, "arand": 0.0})


@settings(max_examples=100)
@given(maps, maps)
def test_equals_brute_force(truth, predicted):
    same(scores(truth, predicted), brute(truth, predicted))


@settings(max_examples=100)
@given(maps, maps)
def test_arand_equals_skimage(truth, predicted):
    with np.errstate(invalid="ignore"):
        expected = adapted_rand_error(truth, predicted)[0]
    assert scores(truth, predicted)["arand"] == pytest.approx(expected, nan_ok=True)


@settings(max_examples=50)
@given(ignoring_maps, maps)
def test_pq_equals_torchmetrics(truth, predicted):
    """Category 1 are the objects, 0 is the background and 9, which is not known, the void."""
    category = np.where(truth == 255, 9, truth > 0)
    target = torch.from_numpy(np.stack([category, truth], -1)).long()[None]
    preds = torch.from_numpy(np.stack([predicted > 0, predicted], -1)).long()[None]
    preds[..., 1] *= preds[..., 0]
    per_class = panoptic_quality(
        preds, target, {1}, {0}, return_sq_and_rq=True, return_per_class=True
    )
    pq, sq, rq = per_class.double().reshape(2, 3)[0].tolist()
    found = scores(truth, predicted)
    # It gives 0 for what has no value.
    assert [np.nan_to_num(found[name]) for name in ("pq", "sq", "rq")] == pytest.approx(
        [pq, sq, rq]
    )


@settings(max_examples=50)
@given(ignoring_maps)
def test_the_truth_itself_is_perfect(truth):
    found = scores(truth, np.where(truth == 255, 0, truth))
    has_objects = bool(found["objects"])
    assert not (found["arand"] > 0)
    expected = dict.fromkeys(("seg", "det", "aji", *SYMMETRIC), 1.0 if has_objects else NAN)
    same(found, expected)


def test_many_sums_are_scored_at_once():
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 5, (6, 2, 7, 8))
    counts = np.stack([count_objects(truth, predicted) for truth, predicted in pairs])  # (6, K)
    table = score_objects(counts.reshape(2, 3, -1))
    for i, (truth, predicted) in enumerate(pairs):
        same({name: table[name][i // 3, i % 3] for name in table}, scores(truth, predicted))
    found = estimate_intervals(counts, score_objects, samples=50)
    total = score_objects(counts.sum(axis=0))
    assert set(found) == set(total)
    for name in ("seg", "aji", "arand"):
        assert found[name].low <= total[name] <= found[name].high


def test_invalid_markers_are_refused():
    truth = row("110")
    with pytest.raises(SegkitError, match=r"markers has the shape \(1, 2\)"):
        count_objects(truth, truth, markers=row("11"))
    with pytest.raises(SegkitError, match="the map of markers is float64"):
        count_objects(truth, truth, markers=row("110").astype(float))
