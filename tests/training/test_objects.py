"""Trainings on objects: targets drawn from ids, scores of objects, and their use afterwards."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import train_quick

import segkit
from segkit.checkpoint.reading import read
from segkit.config.compose import compose
from segkit.config.validation import validate
from segkit.core.errors import SegkitError
from segkit.data.sources.cells import CellsSource
from segkit.evaluate.command import evaluate
from segkit.images.reading import read_mask
from segkit.images.writing import write_image
from segkit.inference.objects.object_classes import classify_objects, list_object_classes
from segkit.predict.command import predict
from segkit.report.table import read_csv


def test_validation_monitors_what_the_end_reports(border_core_run):
    (row,) = read_csv(border_core_run.folder / "metrics.csv")
    means = border_core_run.evaluation.means
    for name in ("seg", "det", "ap50", "pq", "iou"):
        assert row[f"val/{name}"] == pytest.approx(means[name], abs=1e-6, nan_ok=True), name
    result = json.loads((border_core_run.folder / "result.json").read_text())
    assert result["val/seg"] == pytest.approx(means["seg"])
    assert result["gflops"] > 0
    assert result["seconds_per_step"] > 0
    assert "boundary_f1" in means
    assert len(read_csv(border_core_run.folder / "images.csv")) == 4


def test_the_checkpoint_knows_the_target(border_core_run):
    _, card = read(border_core_run.checkpoint)
    assert card.target == {"name": "border_core", "border": 2, "weight_map": None}
    assert card.class_names == ("background", "core", "border")
    assert card.mask_values == (0, 1, 2)


def test_evaluating_and_predicting_need_the_checkpoint_alone(border_core_run, tmp_path):
    out = tmp_path / "evaluation"
    given = [f"checkpoint='{border_core_run.checkpoint}'", "instances=border_core", "device=cpu"]
    result = evaluate(compose([*given, f"output='{out}'"], command="evaluate"))
    means = border_core_run.evaluation.means
    assert result.means["seg"] == pytest.approx(means["seg"], nan_ok=True)
    assert {"seg", "ap50", "pq"} <= set(read_csv(out / "images.csv")[0])
    assert "AP50" in (out / "report.html").read_text()

    source = CellsSource("binary", train=1, val=2, size=(64, 64), instances=True)
    for sample in source.splits()["val"]:
        write_image(tmp_path / "in" / f"{sample.name}.png", source.read_image(sample))
    options = [f"input='{tmp_path / 'in'}'", f"output='{tmp_path / 'out'}'"]
    predict(compose([*given, *options], command="predict"))
    predictor = segkit.load(border_core_run.checkpoint, instances="border_core", device="cpu")
    for path in sorted((tmp_path / "in").iterdir()):
        written = read_mask(tmp_path / "out" / "instances" / path.name)
        np.testing.assert_array_equal(written, predictor(path).instances)
    with pytest.raises(SegkitError, match="head=multiclass: use border_core"):
        segkit.load(border_core_run.checkpoint, instances="watershed")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["foreground", "distance"])
def test_every_target_trains_with_a_weight_map(target, tmp_path):
    options = [f"target={target}", "data.instances=true", "monitor=val/ap50"]
    run = train_quick(tmp_path, *options, "target.weight_map={w0: 10, sigma: 5, balance: true}")
    assert run.evaluation.means["objects"] > 0


@pytest.mark.slow
def test_a_set_without_ids_takes_its_regions_for_objects(tmp_path):
    run = train_quick(tmp_path, "instances=components", "monitor=val/seg", "metrics=[membranes]")
    assert run.evaluation.means["objects"] > 0
    assert 0 <= run.evaluation.means["v_rand"] <= 1


QUERIES = (
    *("target=objects", "encoder.depth=4", "neck=unet"),
    *("head.width=32", "head.queries=12", "head.layers=2", "monitor=val/seg"),
)


@pytest.fixture(scope="module")
def query_run(tmp_path_factory):
    """A finished training of queries."""
    return train_quick(tmp_path_factory.mktemp("queries"), *QUERIES)


def test_queries_are_validated_as_they_are_evaluated(query_run):
    (row,) = read_csv(query_run.folder / "metrics.csv")
    for name in ("seg", "det", "pq", "iou", "accuracy"):
        expected = query_run.evaluation.means[name]
        assert row[f"val/{name}"] == pytest.approx(expected, abs=1e-6, nan_ok=True), name
    _, card = read(query_run.checkpoint)
    assert card.tells_objects
    assert card.num_logits == 2
    assert card.config["loss"]["name"] == card.config["instances"] == "queries"
    out = query_run.folder / "evaluation"
    given = [f"checkpoint='{query_run.checkpoint}'", f"output='{out}'", "device=cpu"]
    result = evaluate(compose(given, command="evaluate"))
    assert result.means["seg"] == pytest.approx(query_run.evaluation.means["seg"], nan_ok=True)


@pytest.mark.nightly
def test_queries_are_exported_with_their_objects(query_run, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    from segkit.export.command import export

    file = tmp_path / "model.onnx"
    export(compose([f"checkpoint='{query_run.checkpoint}'", f"output='{file}'"], command="export"))
    image = np.random.default_rng(0).integers(0, 255, (90, 140), np.uint8)
    own, other = (segkit.load(p, device="cpu")(image) for p in (query_run.checkpoint, file))
    np.testing.assert_array_equal(own.instances, other.instances)
    np.testing.assert_array_equal(own.labels, other.labels)


def test_queries_predict_in_tiles(query_run):
    image = np.random.default_rng(0).integers(0, 255, (90, 140), np.uint8)
    whole = segkit.load(query_run.checkpoint, device="cpu")(image, probabilities=True)
    assert whole.probabilities.shape == (2, 90, 140)
    assert whole.instances.shape == (90, 140)
    tiled = segkit.load(query_run.checkpoint, device="cpu", tile=64, tta="flips")(image)
    assert tiled.instances.shape == (90, 140)
    alone = segkit.load(query_run.checkpoint, device="cpu", instances=None)(image)
    assert alone.instances is None
    np.testing.assert_array_equal(alone.labels, whole.labels)
    for options in ({"tta": "d4"}, {"instances": "watershed"}):
        with pytest.raises(SegkitError, match="instances="):
            segkit.load(query_run.checkpoint, device="cpu", **options)
    with pytest.raises(SegkitError, match="a list of checkpoints"):
        segkit.load([query_run.checkpoint] * 2, device="cpu")


def test_queries_learn_classes_without_objects(tmp_path):
    """Of masks with labels; objects are their connected regions then, as for any other head."""
    options = [o for o in QUERIES if not o.startswith(("target", "monitor"))]
    run = train_quick(tmp_path, *options, "head=queries", "instances=components")
    predictor = segkit.load(run.checkpoint, device="cpu")
    assert not predictor.card.tells_objects
    found = predictor(np.random.default_rng(0).integers(0, 255, (50, 60), np.uint8))
    np.testing.assert_array_equal(found.instances > 0, found.labels > 0)


def test_queries_learn_objects_of_classes(tmp_path):
    """Of masks with labels: each connected region is an object, and objects have classes."""
    y, x = np.mgrid[:64, :64]
    rng = np.random.default_rng(0)
    for number in range(6):
        image = rng.integers(0, 60, (64, 64, 3), np.uint8)
        mask = np.zeros((64, 64), np.uint8)
        for place, label in (((16, 16), 1), ((46, 20), 2), ((30, 46), 1 + number % 2)):
            disc = np.hypot(y - place[0], x - place[1]) < 9
            mask[disc], image[disc, label] = label, 220
        write_image(tmp_path / f"images/{number}.png", image)
        write_image(tmp_path / f"masks/{number}.png", mask)
    data = ["data=folder", f"data.root='{tmp_path}'", "data.val_fraction=0.34"]
    data += ["data.class_names=[ground,round,square]", "data.crop_size=64", "data.batch_size=4"]
    options = [*QUERIES, "target.regions=true", "optimizer.lr=0.003", "trainer.max_epochs=40"]
    run = train_quick(tmp_path / "run", *data, *options)
    assert run.evaluation.means["seg"] > 0.3
    assert run.evaluation.means["det"] > 0.5
    predictor = segkit.load(run.checkpoint, device="cpu")
    assert [c.name for c in list_object_classes(predictor.card)] == ["round", "square"]
    found = predictor(tmp_path / "images/0.png")
    classes = classify_objects(found.instances, found.labels, predictor.card)
    assert len(classes) > 1
    assert {int(c) for c in classes[1:]} <= {0, 1}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("target=objects", "head=multiclass"), "use head=queries"),
        (("head=queries", "loss=dice_ce"), "use loss=queries"),
        (("loss=queries", "head=multiclass"), "use head=queries, or another loss"),
        (("head=queries", "head.objects=true"), "head.objects=true with target=labels"),
        (("head=queries", "auxiliary=[0.5]"), "leave it out"),
        (("head=queries", "trainer.compile=true"), "whose loss matches on the CPU"),
        (("head=queries", "encoder.padding=valid"), "use encoder.padding=same"),
        (("experiment=eomt", "head=multiclass"), "encoder.query_blocks=0"),
        (("experiment=eomt", "trainer.recompute=true"), "are not computed again"),
        (
            ("experiment=eomt", "head.layers=2"),
            "head.layers with encoder.query_blocks, whose queries go through blocks of the encoder",
        ),
        (("target=objects", "instances=watershed"), "instances=queries"),
    ],
)
def test_parts_of_queries_that_do_not_fit(overrides, message):
    given = [o for o in overrides if o.startswith("experiment")] or ["encoder=unet"]
    rest = [o for o in overrides if not o.startswith("experiment")]
    with pytest.raises(SegkitError, match=message):
        validate(compose([*given, *rest]))
