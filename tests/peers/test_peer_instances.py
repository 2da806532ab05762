"""The scores of objects against other people's: StarDist's, and one of the tracking challenge's."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from segkit.metrics.instances import count_objects, score_objects

pytestmark = pytest.mark.peers


def frames(count: int = 4) -> list[tuple[np.ndarray, np.ndarray]]:
    """Truth and prediction of some frames: cells moved, merged, split, lost and invented."""
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(count):
        seeds = np.zeros((90, 110), np.int32)
        seeds[rng.integers(0, 90, 40), rng.integers(0, 110, 40)] = np.arange(1, 41)
        distance, nearest = ndimage.distance_transform_edt(seeds == 0, return_indices=True)
        cells = np.where(distance < 7, seeds[tuple(nearest)], 0)
        truth = np.where(np.isin(cells, [1, 2, 3]), 0, cells)
        table = np.arange(80)
        table[[10, 11, 12]] = 10  # merged
        table[[20, 21]] = 0  # lost
        predicted = np.roll(table[cells], rng.integers(0, 3, 2), axis=(0, 1))
        predicted[:, :55] += 40 * np.isin(predicted[:, :55], [5, 6, 7])  # split
        pairs.append((truth.astype(np.uint16), predicted.astype(np.uint16)))
    return pairs


def pooled(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    counts = sum(count_objects(truth, predicted) for truth, predicted in pairs)
    return {name: float(value) for name, value in score_objects(counts).items()}


def test_ap_and_pq_equal_stardist():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stardist = pytest.importorskip(
            "stardist.matching", reason="the extra peers is not installed"
        )
    thresholds = [round(0.5 + 0.05 * k, 2) for k in range(10)]
    above = np.array(thresholds) + 1e-6  # it also takes an IoU that equals the threshold
    truths, predictions = zip(*frames(), strict=True)
    stats = stardist.matching_dataset(truths, predictions, above, show_progress=False)
    found = pooled(frames())
    assert 0.1 < found["ap"] < 0.9
    assert found["ap"] == pytest.approx(np.mean([stat.accuracy for stat in stats]))
    assert found["ap50"] == pytest.approx(stats[0].accuracy)
    assert found["ap75"] == pytest.approx(stats[5].accuracy)
    assert found["pq"] == pytest.approx(stats[0].panoptic_quality)
    assert found["sq"] == pytest.approx(stats[0].mean_matched_score)
    assert found["rq"] == pytest.approx(stats[0].f1)


def test_seg_and_det_equal_ctcmetrics(tmp_path):
    """Through files, as the package takes them, and without tracks."""
    ctc = pytest.importorskip(
        "ctc_metrics.scripts.evaluate", reason="the extra peers is not installed"
    )
    folders = {name: tmp_path / name for name in ("GT/SEG", "GT/TRA", "RES")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    counts = []
    for i, (truth, predicted) in enumerate(frames()):
        # The markers are the cores of the cells, and of three cells that are not outlined.
        markers = np.where(ndimage.minimum_filter(truth, 5) > 0, truth, 0).astype(np.uint16)
        markers[3 * i : 3 * i + 2, 5:8] = 77
        counts.append(count_objects(truth, predicted, markers))
        tifffile.imwrite(folders["GT/SEG"] / f"man_seg{i:03d}.tif", truth)
        tifffile.imwrite(folders["GT/TRA"] / f"man_track{i:03d}.tif", markers)
        tifffile.imwrite(folders["RES"] / f"mask{i:03d}.tif", predicted)
    matched = {
        name: ctc.match_computed_to_reference_masks(
            sorted(map(str, folders[name].iterdir())),
            sorted(map(str, folders["RES"].iterdir())),
            threads=1,
        )
        for name in ("GT/SEG", "GT/TRA")
    }
    seg = ctc.seg(matched["GT/SEG"]["labels_ref"], matched["GT/SEG"]["ious"])
    tracks = matched["GT/TRA"]
    tracks.pop("ious")
    no_tracks = np.zeros((0, 4), int)
    graph = ctc.count_acyclic_graph_correction_operations(no_tracks, no_tracks, **tracks)
    found = {k: float(v) for k, v in score_objects(sum(counts)).items()}
    assert 0.3 < found["seg"] < 0.95
    assert 0.3 < found["det"] < 0.95
    assert found["seg"] == pytest.approx(seg)
    assert found["det"] == pytest.approx(ctc.det(**graph))
