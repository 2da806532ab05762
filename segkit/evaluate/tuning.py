"""Choosing what is done with probabilities, on images that the network has not seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from segkit.checkpoint.card import ModelCard
from segkit.checkpoint.reading import KEY, read_raw
from segkit.config.settings import EvaluateSettings
from segkit.core.errors import SegkitError
from segkit.core.files import written_whole
from segkit.core.labels import IGNORE_INDEX, OBJECT_SCORES, decide
from segkit.core.postprocessing import Postprocessing
from segkit.core.published import is_on_hub, spell_path
from segkit.data.loading import WholeDataset
from segkit.evaluate.evaluation import predict_samples
from segkit.inference.objects.instances import decode
from segkit.inference.predictor import Predictor
from segkit.metrics.instances import InstanceScores, count_objects
from segkit.metrics.thresholds import ThresholdSweep
from segkit.report.table import Row

SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Sizes that are tried as ``min_size``, as shares of the median area of the true objects."""
Members = Sequence[tuple[Predictor, Sequence[int]]]
"""Networks, and the numbers of the images that each predicts."""


@dataclass(frozen=True)
class Candidate:
    """What was tried for objects, and its score.

    Attributes:
        min_size: Objects of fewer pixels are dropped.
        fill_holes: Whether enclosed background joins an object.
        score: The score over all images; NaN if undefined.
    """

    min_size: int
    fill_holes: bool
    score: float


@dataclass(frozen=True)
class Tuned:
    """What was chosen, and the lines and rows that say why."""

    chosen: Postprocessing
    lines: list[str]
    rows: list[Row]


def tune(members: Members, dataset: WholeDataset, sweep: ThresholdSweep | None) -> Tuned:
    """Choose thresholds by the IoU of each class, then sizes and holes by the score of objects.

    That score is the monitored one of the training if it is one of objects, else panoptic quality,
    which counts what is missed and what is invented. Nothing changes that makes no score better.

    Args:
        members: The networks.
        dataset: The images, with ids if objects are told apart.
        sweep: The scores at each threshold, if the head has one.

    Raises:
        SegkitError: There is nothing to choose: neither thresholds nor objects.
    """
    predictor = members[0][0]
    if predictor.target.class_names is not None:  # levels of a distance: what they are is fixed
        sweep = None
    if sweep is None and predictor.instances is None:
        raise SegkitError(
            "tune=true: this model takes the most probable class and tells no objects apart, so"
            " there is nothing to choose. Leave tune out."
        )
    chosen, lines, rows = Postprocessing(), list[str](), list[Row]()
    if sweep is not None:
        thresholds, rows = _choose_thresholds(sweep, predictor)
        chosen = replace(chosen, thresholds=thresholds)
        lines = [
            f"threshold of {row['class']}: {row['threshold']:g}, IoU {row['before']:.4f} ->"
            f" {row['after']:.4f}"
            for row in rows
        ]
    if predictor.instances is not None:
        name = _name_score(predictor.card)
        tried = try_sizes(members, dataset, chosen, name)
        best = choose_candidate(tried)
        chosen = replace(chosen, min_size=best.min_size, fill_holes=best.fill_holes)
        lines.append(
            f"objects: min_size {best.min_size}, fill_holes {str(best.fill_holes).lower()},"
            f" {name} {tried[0].score:.4f} -> {best.score:.4f}"
        )
        rows += [
            {"min_size": one.min_size, "fill_holes": one.fill_holes, name: one.score}
            for one in tried
        ]
    return Tuned(chosen, lines, rows)


def _choose_thresholds(
    sweep: ThresholdSweep, predictor: Predictor
) -> tuple[tuple[float, ...], list[Row]]:
    """The threshold of each class with the highest IoU; the present one if none is better."""
    present = predictor.threshold or predictor.card.threshold
    owns = [present] * len(sweep.class_names) if isinstance(present, float) else present
    thresholds, rows = list[float](), list[Row]()
    for scores, (name, best), own in zip(
        sweep.scores["iou"], sweep.best.items(), owns, strict=True
    ):
        at = int(np.argmin(np.abs(np.subtract(sweep.thresholds, own))))
        after = np.nanmax(scores) if np.isfinite(scores).any() else np.nan
        is_better = after > scores[at]
        thresholds.append(best if is_better else own)
        rows.append(
            {
                "class": name,
                "threshold": thresholds[-1],
                "before": float(scores[at]),
                "after": float(after if is_better else scores[at]),
            }
        )
    return tuple(thresholds), rows


def _name_score(card: ModelCard) -> str:
    monitored = str(card.config.get("monitor", "")).removeprefix("val/")
    return monitored if monitored in OBJECT_SCORES else "pq"


def try_sizes(
    members: Members, dataset: WholeDataset, chosen: Postprocessing, score: str
) -> list[Candidate]:
    """Score the objects of all images with each ``min_size`` and ``fill_holes``.

    The first one is what the predictor would do without a choice.
    """
    predictor = members[0][0]
    indices = [index for _, numbers in members for index in numbers]
    sizes = list_sizes(dataset.truth(index)["ids"].numpy() for index in indices)
    now = predictor.min_size, predictor.fill_holes
    others = [(size, fill) for fill in (False, True) for size in sizes]
    settings = list(dict.fromkeys([now, *others]))
    scores = [InstanceScores() for _ in settings]
    for one, numbers in members:
        for index, prediction in predict_samples(one, dataset, numbers, has_maps=True):
            probabilities = prediction.probabilities
            ids = prediction.instances if one.instances == "queries" else None
            truth = dataset.truth(index)
            markers = truth["markers"].numpy() if "markers" in truth else None
            mode, target = one.card.mode, one.target
            labels = decide(probabilities[None], mode, chosen.thresholds or one.card.threshold)[0]
            for counter, (min_size, fill_holes) in zip(scores, settings, strict=True):
                found = decode(
                    one.instances or "components",
                    probabilities,
                    labels.astype(np.uint8),
                    mode,
                    ids=ids,
                    gap=target.gap,
                    min_size=min_size,
                    waist=one.waist,
                    fill_holes=fill_holes,
                )
                counted = count_objects(truth["ids"].numpy(), found, markers, IGNORE_INDEX)
                counter.update(counted)
    return [
        Candidate(*setting, counter.compute()[score])
        for setting, counter in zip(settings, scores, strict=True)
    ]


def list_sizes(maps: Iterable[NDArray[np.int32]]) -> list[int]:
    """The sizes to try, in pixels, from the ids (H, W) of the true objects of all images."""
    areas = list[int]()
    for ids in maps:
        values, pixels = np.unique(ids, return_counts=True)
        areas += pixels[(values > 0) & (values != IGNORE_INDEX)].tolist()
    typical = float(np.median(areas)) if areas else 0.0
    return sorted({0, *(round(share * typical) for share in SHARES)})


def choose_candidate(tried: Sequence[Candidate]) -> Candidate:
    """The best one; the first if none is better, and among equals the one that changes least."""
    known = [one for one in tried if np.isfinite(one.score)]
    if not known:
        return tried[0]
    best = max(one.score for one in known)
    if not best > (tried[0].score if np.isfinite(tried[0].score) else -np.inf):
        return tried[0]
    return min(
        (one for one in known if one.score == best), key=lambda one: (one.fill_holes, one.min_size)
    )


def record(paths: Sequence[Path], chosen: Postprocessing) -> None:
    """Keep a choice in the cards of checkpoints; each file is replaced whole, or not at all."""
    for path in paths:
        stored = read_raw(path)
        card = replace(ModelCard.from_dict(stored[KEY]), postprocessing=chosen)
        with written_whole(path) as file:
            torch.save({**stored, KEY: card.to_dict()}, file)


def require_checkpoints(paths: Sequence[Path], settings: EvaluateSettings) -> None:
    """Check that a choice can be made and kept.

    Raises:
        SegkitError: The images belong to a test or were learned from, a file is no checkpoint, or
            what is to be chosen is given.
    """
    split = settings.split
    given = [k for k in ("threshold", "min_size", "fill_holes") if getattr(settings, k) is not None]
    if given:
        raise SegkitError(
            f"tune=true with {given[0]}={getattr(settings, given[0])}, which it chooses: leave one"
            " of them out."
        )
    if split not in ("val", "folds"):
        raise SegkitError(
            f"tune=true with split={split}: what is chosen on images that were trained on, or that"
            " are to test the result, is not what it seems. Use split=val or split=folds."
        )
    if split == "val" and len(paths) > 1:
        raise SegkitError(
            "tune=true of several checkpoints needs images that none of them has seen: use"
            " split=folds with the ensemble.yaml of a cross-validation."
        )
    others = [each for each in paths if is_on_hub(each) or each.suffix != ".ckpt"]
    if others:
        raise SegkitError(
            f"tune=true keeps its choice in a checkpoint, and {spell_path(others[0])} is none: tune"
            " the best.ckpt of a run, and export or push it then."
        )
