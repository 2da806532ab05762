"""What an evaluation counts, against the same computed by hand."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from rich.console import Console

import segkit
from segkit.checkpoint.values import LabelCoding
from segkit.core.errors import SegkitError
from segkit.data import file_reading
from segkit.data.loading import WholeDataset
from segkit.data.sources.cells import CellsSource, draw
from segkit.data.sources.folder import FolderSource
from segkit.evaluate.evaluation import (
    count_samples,
    evaluate,
    make_metrics,
    read_pixel_size,
    require_pixel_sizes,
    summarize,
)
from segkit.evaluate.summary import print_scores, write_results
from segkit.metrics.base import build_metrics
from segkit.metrics.boundary import count_boundaries, score_boundaries
from segkit.metrics.instances import count_objects, score_objects
from segkit.report.table import read_csv
from segkit.targets.base import Labels


@pytest.fixture(scope="module")
def predictor(binary_run):
    loaded = segkit.load(binary_run.checkpoint, device="cpu", instances="components", min_size=9)
    # so little training decides for nothing anywhere: a lower threshold gives objects to score
    probabilities = loaded(draw(1, (64, 48)).image, probabilities=True).probabilities
    loaded.threshold = float(np.quantile(probabilities, 0.3))
    return loaded


@pytest.fixture(scope="module")
def dataset(predictor):
    source = CellsSource("binary", train=1, val=5, size=(64, 48), seed=3)
    norm = predictor.card.normalization
    samples = source.splits()["val"]
    return WholeDataset(source, samples, LabelCoding({}), norm, Labels(), objects=True)


@pytest.fixture(scope="module")
def result(predictor, dataset):
    return evaluate(
        predictor, dataset, range(5), make_metrics(["boundary", "membranes"], predictor)
    )


def test_pixels_and_objects_of_all_images_are_added_up(predictor, dataset, result):
    shared = whole = 0
    counts, edges = [], []
    for index in range(5):
        prediction = predictor(dataset.source.read_image(dataset.samples[index]))
        item, labels = dataset.truth(index), prediction.labels
        truth = item["target"].numpy()
        shared += int(((labels == 1) & (truth == 1)).sum())
        whole += int(((labels == 1) | (truth == 1)).sum())
        counts.append(count_objects(item["ids"].numpy(), prediction.instances, None, 255))
        edges.append(count_boundaries(labels, truth, "binary", 2))
    assert result.means["iou"] == pytest.approx(shared / whole)
    assert shared > 0
    assert result.means["objects"] == score_objects(sum(counts))["objects"] > 0
    seg = float(score_objects(sum(counts))["seg"])
    assert result.means["seg"] == pytest.approx(seg, nan_ok=True)
    f1 = float(score_boundaries(sum(edges))["f1"][0])
    assert result.means["boundary_f1"] == pytest.approx(f1)
    assert 0 < result.means["v_rand"] <= 1


def test_every_score_has_an_interval_around_it(result):
    for row in result.rows():
        if "low" in row and np.isfinite([row["value"], row["low"], row["high"]]).all():
            # those of maxima over thresholds are biased upwards in resamples
            assert row["low"] <= row["value"] + 0.02
            assert row["value"] <= row["high"] + 1e-9
    assert {"iou/cell", "seg", "v_info", "boundary_f1"} <= set(result.intervals)


def test_images_come_with_the_worst_first_and_all_their_scores(result):
    scores = [image.scores["seg"] for image in result.images]
    assert scores == sorted(scores)
    assert len(set(scores)) > 1
    assert sorted(image.index for image in result.images) == list(range(5))
    assert {"iou", "dice", "seg", "ap50", "boundary_f1", "v_rand"} <= set(result.images[0].scores)


def test_the_sweep_over_thresholds_covers_all_pixels(result):
    assert len(result.thresholds.rows()) == 19
    assert torch.equal(result.confusion.sum(), torch.tensor(5 * 64 * 48))


def test_large_images_are_scored_block_by_block_with_the_same_result(
    binary_run, predictor, tmp_path, monkeypatch
):
    rng = np.random.default_rng(0)
    for number in range(3):
        image = np.maximum(draw(number, (150, 130)).image[..., 0], 8)
        image[20:50, 30:60] = 7
        mask = np.kron(rng.integers(0, 2, (15, 13)), np.ones((10, 10))).astype(np.uint8)
        for where, array in (("images", image), ("masks", mask)):
            (tmp_path / where).mkdir(exist_ok=True)
            tags = [(42113, "s", 0, "7", True)] if where == "images" else []
            tifffile.imwrite(
                tmp_path / where / f"{number}.tif",
                array,
                **{"photometric": "minisblack", "tile": (32, 32), "extratags": tags},
            )
    plain = segkit.load(binary_run.checkpoint, device="cpu", instances=None, tile=64)
    plain.threshold = predictor.threshold

    def run(order=range(3)):
        source = FolderSource("binary", tmp_path)
        samples = [sample for part in source.splits().values() for sample in part]
        norm, empty = plain.card.normalization, frozenset(s.name for s in samples)
        dataset = WholeDataset(source, samples, LabelCoding({}), norm, Labels(), with_empty=empty)
        return evaluate(plain, dataset, order), dataset

    wanted, _ = run()
    assert wanted.confusion.sum() == 3 * (150 * 130 - 30 * 30)
    monkeypatch.setattr(file_reading, "LARGE", 0)
    monkeypatch.setattr(file_reading.ImageReader, "read", None)
    found, dataset = run()
    assert torch.equal(found.confusion, wanted.confusion)
    assert found.images == wanted.images
    # some are NaN
    np.testing.assert_equal(found.thresholds.rows(), wanted.thresholds.rows())
    np.testing.assert_equal(found.intervals, wanted.intervals)
    write_results(tmp_path / "out", "title", plain, dataset, found)  # shows parts of the images
    monkeypatch.undo()
    measure = FolderSource.measure_large
    monkeypatch.setattr(file_reading, "LARGE", 0)
    monkeypatch.setattr(  # between others that are predicted whole
        FolderSource, "measure_large", lambda *args: measure(*args) if "1" in args[1].name else None
    )
    found, _ = run()
    assert torch.equal(found.confusion, wanted.confusion)
    assert found.images == wanted.images


def test_membranes_need_two_classes(multiclass_run):
    predictor = segkit.load(multiclass_run.checkpoint, device="cpu")
    with pytest.raises(SegkitError, match="two classes, not 3 of mode multiclass"):
        make_metrics(["membranes"], predictor)


def test_one_image_has_no_intervals_and_the_table_says_so(result):
    for images, title in (
        (result.images, "all images together, with 95 % intervals"),
        (result.images[:1], "one image, which tells no intervals"),
    ):
        console = Console(file=io.StringIO(), width=100)
        print_scores(console, "validation", replace(result, images=images))
        assert title in console.file.getvalue()


def test_metrics_of_classes_are_columns_and_calibration_is_drawn(multiclass_run, tmp_path):
    predictor = segkit.load(multiclass_run.checkpoint, device="cpu")
    source = CellsSource("multiclass", train=1, val=4, size=(64, 48), seed=3, channels=3)
    samples, norm = source.splits()["val"], predictor.card.normalization
    dataset = WholeDataset(source, samples, LabelCoding({}), norm, Labels())
    wanted = [{"name": "surface_dice", "tolerance": 3}, "calibration"]
    found = evaluate(predictor, dataset, range(4), make_metrics(wanted, predictor))
    rows = found.class_rows()
    assert [row["class"] for row in rows] == [*predictor.card.class_names, "mean"]
    values = np.array([row["surface_dice"] for row in rows])
    assert values[-1] == found.means["surface_dice"] == pytest.approx(np.nanmean(values[:-1]))
    assert {"surface_dice", "surface_dice/background", "ece"} <= found.intervals.keys()
    assert 0 < found.means["ece"] < 1
    assert found.sums["calibration"][:, 0].sum() == 4 * 64 * 48

    metrics = make_metrics(wanted, predictor)  # in two processes, each with its own images
    parts = [count_samples(predictor, dataset, order, metrics) for order in ([0, 2], [1, 3])]
    together = summarize(predictor, metrics, parts)
    assert together.means == pytest.approx(found.means, nan_ok=True)
    np.testing.assert_allclose(together.sums["calibration"], found.sums["calibration"], rtol=1e-6)
    assert together.intervals["ece"].high == pytest.approx(found.intervals["ece"].high)

    write_results(tmp_path, "title", predictor, dataset, found)
    table = read_csv(tmp_path / "classes.csv")
    np.testing.assert_allclose([row["surface_dice"] for row in table], values)
    bins = read_csv(tmp_path / "calibration.csv")
    error = sum(
        row["pixels"] * abs(row["accuracy"] - row["confidence"]) for row in bins if row["pixels"]
    )
    assert error / (4 * 64 * 48) == pytest.approx(found.means["ece"])
    page = (tmp_path / "report.html").read_text()
    assert '<section id="calibration">' in page
    assert "Surface Dice" in page
    for width, has_all in ((200, True), (80, False)):
        console = Console(file=io.StringIO(), width=width)
        print_scores(console, "validation", found)
        shown = console.file.getvalue()
        assert "Surface" in shown
        assert "round cell" in shown  # a narrow terminal gets fewer columns, not broken names
        assert ("Specificity" in shown.partition("all images")[0]) == has_all


def test_sizes_of_pixels_come_from_the_files(tmp_path):
    for number, resolution in enumerate([(20, 40), None]):
        for where in ("images", "masks"):
            (tmp_path / where).mkdir(exist_ok=True)
            stated = {} if resolution is None else {"resolution": resolution}
            tags = {"resolutionunit": "CENTIMETER"} if stated else {}
            pixels = np.full((8, 9), number, np.uint8)
            tifffile.imwrite(tmp_path / where / f"{number}.tif", pixels, **stated, **tags)
    parts = FolderSource("binary", tmp_path).splits().values()
    samples = sorted((s for part in parts for s in part), key=lambda s: s.name)
    assert read_pixel_size(samples[0]) == pytest.approx((250, 500))
    assert read_pixel_size(samples[1]) is None
    in_pixels, in_mm = (
        build_metrics([{"name": "surface_dice", "unit": unit}], "binary", 2)
        for unit in ("px", "mm")
    )
    require_pixel_sizes(in_pixels, samples)
    require_pixel_sizes(in_mm, samples[:1])
    with pytest.raises(SegkitError, match=r"which 1 of 2 images do not tell: .*1"):
        require_pixel_sizes(in_mm, samples)
