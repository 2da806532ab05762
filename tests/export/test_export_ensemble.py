"""Several checkpoints in one exported file, which averages their probabilities."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from segkit import load
from segkit.checkpoint import reading as checkpoint
from segkit.checkpoint.reading import KEY, PREFIX
from segkit.config.compose import compose
from segkit.config.schema import Data
from segkit.core.ensembles import write_ensemble
from segkit.core.errors import SegkitError
from segkit.core.postprocessing import Postprocessing
from segkit.data.sources.cells import draw
from segkit.evaluate.command import require_unseen
from segkit.export.averaging import combine
from segkit.export.command import describe_model, export
from segkit.export.formats import ENDINGS
from segkit.export.graph import AverageGraph, ExportGraph, crop_by_slicing
from segkit.export.quantization import find_ends
from segkit.inference.tiles.tiling import Windows
from segkit.models.cost import peak_bytes
from segkit.models.segmenter import create_model


def write_other(path, card, depth):
    """A checkpoint of another encoder, another neck and another normalization."""
    torch.manual_seed(depth)
    encoder = {"name": "unet", "width": 6, "depth": depth, "norm": "batch"}
    neck = {"name": "fpn", "width": 8, "merge_width": 8}
    model = create_model(encoder, neck, card.head, in_channels=card.in_channels).eval()
    other = replace(
        card,
        encoder=encoder,
        neck=neck,
        layout=model.encoder.layout(),
        normalization=replace(card.normalization, mean=(0.6,), std=(0.1,)),
    )
    weights = {PREFIX + name: weight for name, weight in model.state_dict().items()}
    path.parent.mkdir(parents=True)
    torch.save({KEY: other.to_dict(), "state_dict": weights}, path)
    return path


@pytest.fixture
def make_ensemble(tiny_run, tmp_path):
    """Write an ensemble of a trained network and another one."""

    def make(depth: int):
        first = tmp_path / "0/best.ckpt"
        first.parent.mkdir()
        shutil.copy(tiny_run.checkpoint, first)
        second = write_other(tmp_path / "1/best.ckpt", checkpoint.read(first)[1], depth)
        write_ensemble(tmp_path / "ensemble.yaml", [first, second])
        return tmp_path / "ensemble.yaml"

    return make


@pytest.fixture(scope="module")
def trained(tiny_run):
    return checkpoint.read(tiny_run.checkpoint)


def run_export(file, *overrides: str):
    return export(compose([f"checkpoint='{file}'", *overrides], "export"))


def test_the_graph_is_the_mean_of_the_networks(make_ensemble):
    """Before it is traced, which takes half a minute and is for the night."""
    ensemble = make_ensemble(2)
    read = [checkpoint.read(ensemble.parent / f"{i}/best.ckpt") for i in (0, 1)]
    members = [
        ExportGraph(model, card.normalization, True, crop_by_slicing).eval() for model, card in read
    ]
    predictor = load(ensemble, device="cpu")
    for height, width in ((8, 8), (32, 48), (64, 60)):  # no size that the predictor pads itself
        image = draw(1, (160, 160)).image[:height, :width]
        with torch.inference_mode():
            given = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
            found = AverageGraph(members)(given)[0].numpy()
        wanted = predictor(image, probabilities=True).probabilities
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("kind", "depth"),  # of the other network: 3 for the same multiple
    [
        ("onnx", 2),
        ("onnx", 3),
        ("openvino", 2),
        ("openvino", 3),
        ("torch_export", 2),
        ("torch_export", 3),
    ],
)
def test_a_file_predicts_as_the_ensemble_does(kind, depth, make_ensemble, capsys):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    ensemble = make_ensemble(depth)
    file = run_export(ensemble, f"format={kind}")
    assert file == ensemble.with_suffix(ENDINGS[kind])
    assert "to probabilities, the mean of 2 networks, " in capsys.readouterr().out
    expected, actual = (load(each, device="cpu", tile=64, tta="flips") for each in (ensemble, file))
    step = 4  # of the trained network, and a multiple of that of the other one
    assert actual.windows == expected.windows == Windows(64, step, 2 * step)
    for height, width in ((1, 1), (5, 9), (97, 131)):
        image = draw(1, (160, 160)).image[:height, :width]
        wanted, found = (each(image, probabilities=True) for each in (expected, actual))
        np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-5)
    assert (found.labels != wanted.labels).mean() < 1e-3
    alone = expected.take_apart()[0](image, probabilities=True)
    assert abs(alone.probabilities - found.probabilities).max() > 0.05

    members = [checkpoint.read(ensemble.parent / f"{i}/best.ckpt") for i in (0, 1)]
    contents = actual.networks[0].contents
    assert [card.encoder["depth"] for card in contents.cards] == [3, depth]
    assert [card.normalization for card in contents.cards] == [c.normalization for _, c in members]
    assert contents.windows.side == 1024
    largest = max(peak_bytes(model, 1) for model, _ in members)
    assert contents.bytes_per_pixel == pytest.approx(1.6 * largest + 4)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_int8_of_several(kind, make_ensemble, capsys):
    ensemble = make_ensemble(3)
    file = run_export(ensemble, f"format={kind}", "quantize=int8_always")
    assert "times the speed of float32 on this machine; IoU" in capsys.readouterr().out
    image = draw(5, (90, 70)).image
    one, other = (load(each, device="cpu") for each in (ensemble, file))
    assert other.networks[0].contents.precision == "int8"
    assert len(other.networks[0].contents.cards) == 2
    difference = one(image, probabilities=True).probabilities
    difference = abs(difference - other(image, probabilities=True).probabilities)
    assert 0 < difference.mean() < 0.02


def test_the_ends_of_each_network_are_found():
    helper = pytest.importorskip("onnx").helper

    def node(kind, name, takes, gives):
        return helper.make_node(kind, takes, [gives], name)

    nodes = [
        node("Sub", "normalize", ["image", "mean"], "a"),
        node("Conv", "first of 1", ["a", "", "w"], "b"),
        node("Conv", "middle of 1", ["b", "w"], "c"),
        node("Add", "skip", ["b", "c"], "d"),
        node("Conv", "last of 1", ["d", "w"], "e"),
        node("Conv", "first of 2", ["image", "", "w"], "f"),
        node("Conv", "last of 2", ["f", "w"], "g"),
        node("Add", "mean", ["e", "g"], "out"),
    ]
    proto = helper.make_model(helper.make_graph(nodes, "two", [], []))
    assert find_ends(proto) == ["first of 1", "last of 1", "first of 2", "last of 2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ("none", "cell")}, r"number 2 .*class_names is \('none', 'cell'\)"),
        ({"mode": "multilabel"}, "its mode is multilabel, that of the first binary"),
        ({"threshold": 0.3}, r"number 2 .* threshold=0\.3, the first 0\.5.* threshold=VALUE"),
        ({"postprocessing": Postprocessing(min_size=7)}, "tuned apart.*tune=true"),
        ({"head": {"name": "queries", "objects": True}}, "number 2 .* has queries that tell"),
        ("uint16", "number 2 .* trained on uint16 images, the first on uint8"),
    ],
)
def test_networks_that_differ_are_refused(change, message, trained):
    model, card = trained
    if change == "uint16":
        change = {"normalization": replace(card.normalization, dtype=change, high=4095.0)}
    contents = describe_model(model, card, True, True)
    with pytest.raises(SegkitError, match=message):
        combine([contents, replace(contents, card=replace(card, **change))])


def test_windows_that_differ_are_refused(trained):
    contents = describe_model(*trained, True, True)
    with pytest.raises(SegkitError, match="tiles of different forms"):
        combine([contents, replace(contents, windows=Windows(64, 4, 4, context=20))])


@pytest.mark.parametrize(
    ("names", "unseen"),
    [([["a", "b"], ["b", "c"]], ["b"]), ([["a"], ["b"]], []), ([["a"], None], ["a"])],
)
def test_images_that_a_network_was_trained_on_do_not_validate_all(names, unseen, trained):
    model, card = trained
    contents = [
        describe_model(
            model,
            replace(card, config={**card.config, "data": {"name": "cells", "val_names": each}}),
            True,
            True,
        )
        for each in names
    ]
    combined = combine(contents)
    assert combined.card.config["data"] == {"name": "cells", "val_names": unseen}
    assert combine(contents[:1]) is contents[0]
    data = Data.model_validate(combined.card.config["data"])
    with nullcontext() if unseen else pytest.raises(SegkitError, match="trained on by one"):
        require_unseen(data, "val")


def test_what_cannot_be_of_several_is_said_before_any_work(tmp_path):
    members = [tmp_path / "a.ckpt", tmp_path / "b.ckpt"]
    write_ensemble(tmp_path / "ensemble.yaml", members)
    said = r"normalize=false with 2 networks.*own numbers(.|\n)*activate=false with 2 networks"
    with pytest.raises(SegkitError, match=said):
        run_export(tmp_path / "ensemble.yaml", "normalize=false", "activate=false")
    several = f"checkpoint=[{','.join(map(str, members))}]"
    with pytest.raises(SegkitError, match=r"2 checkpoints, such as output=ensemble\.pt2"):
        export(compose([several, "format=torch_export"], "export"))
    with pytest.raises(SegkitError, match=r"there is no file .*a\.ckpt"):
        run_export(tmp_path / "ensemble.yaml")
    assert [file.name for file in tmp_path.iterdir()] == ["ensemble.yaml"]
