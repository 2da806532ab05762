"""python -m segkit.export on quick runs: what is in the files, and what is said of them."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from segkit import load
from segkit.checkpoint import reading as checkpoint
from segkit.config.compose import compose
from segkit.core.errors import SegkitError
from segkit.data.sources.cells import draw
from segkit.export import checking, command, formats
from segkit.export.checking import check
from segkit.export.command import export
from segkit.export.formats import ENDINGS, make_onnx
from segkit.export.images import RealImages
from segkit.images.writing import write_image
from segkit.inference.runtimes.exported import KEY
from segkit.inference.runtimes.torch_network import TorchNetwork

FORMATS = sorted(ENDINGS)


def run_export(run, output, *overrides: str):
    return export(
        compose([f"checkpoint='{run.checkpoint}'", f"output='{output}'", *overrides], "export")
    )


@pytest.fixture(scope="module", params=ENDINGS.values())
def exported(request, files):
    """A file of each format, of three classes on colour images."""
    return files[request.param]


def test_a_file_predicts_as_the_checkpoint_does(exported, files):
    expected = load(files[".ckpt"], device="cpu", tta="flips", tile=64)
    actual = load(exported, device="cpu", tta="flips", tile=64)
    assert actual.windows == expected.windows
    for size, channels in (((97, 131), 3), ((5, 9), 3), ((64, 64), 1)):  # grey becomes colour
        image = draw(1, (160, 160), channels).image[: size[0], : size[1]]
        one, other = (each(image, probabilities=True) for each in (expected, actual))
        np.testing.assert_allclose(other.probabilities, one.probabilities, atol=1e-5)
        assert (other.labels != one.labels).mean() < 1e-3
        assert other.labels.dtype == np.uint8


def test_a_file_holds_the_whole_card_and_is_alone(exported, files):
    _, card = checkpoint.read(files[".ckpt"])
    network = load(exported, device="cpu").networks[0]
    assert network.card.layout == json.loads(json.dumps(card.layout))  # lists for tuples
    assert replace(network.card, layout=card.layout) == card
    assert network.contents.versions["torch"] == torch.__version__
    names = {"model.xml", "model.bin"} if exported.suffix == ".xml" else {exported.name}
    assert {file.name for file in exported.parent.iterdir()} == names


def test_an_onnx_file_says_what_it_takes_and_the_command_what_it_checked(
    tiny_run, tmp_path, capsys
):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    images = tmp_path / "images"
    for i in range(2):
        write_image(images / f"{i}.png", draw(i, (40, 50)).image)
    file = run_export(tiny_run, tmp_path / "model.onnx", f"input='{images}'")
    said = capsys.readouterr().out
    assert "checked on random images of 1 x 1, 8 x 8, 5 x 11, 12 x 8, 9 x 15, 8 x 28, " in said
    assert "checked on 2 of the given images: largest difference of probabilities " in said
    assert said.count("other labels in 0.") == 2
    assert said.rstrip().endswith(" MB")
    session = onnxruntime.InferenceSession(os.fspath(file))
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape) == ("image", ["batch", 1, "height", "width"])
    assert (result.name, result.shape) == ("probabilities", ["batch", 1, "height", "width"])
    stored = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
    assert stored["card"]["class_names"] == ["background", "cell"]
    assert stored["card"]["normalization"]["dtype"] == "uint8"
    assert stored["normalizes"] is True
    content = file.read_bytes()
    for path in (os.fspath(tmp_path), os.path.dirname(torch.__file__)):  # noqa: PTH120 - as text
        assert path.encode() not in content


@pytest.mark.nightly
@pytest.mark.parametrize("kind", FORMATS)
def test_normalisation_and_activation_may_stay_outside(kind, tiny_multilabel_run, tmp_path):
    file = tmp_path / f"m{ENDINGS[kind]}"
    run_export(tiny_multilabel_run, file, "normalize=false", "activate=false")
    network = load(file, device="cpu").networks[0]
    assert network.contents.output == "logits"
    image = draw(3, (70, 90)).image
    prepared = network.prepare(image)
    normalized = network.card.normalization(image).transpose(2, 0, 1)
    np.testing.assert_allclose(prepared, normalized, atol=1e-6)
    model, _ = checkpoint.read(tiny_multilabel_run.checkpoint)
    with torch.no_grad():
        expected = torch.sigmoid(model(torch.from_numpy(prepared)[None]))
    actual = network.to_numpy(network.predict_batch(network.load_batch([prepared])))
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", FORMATS)
def test_an_unpadded_network_keeps_its_sizes(kind, unpadded_run, tmp_path):
    expected = load(unpadded_run.checkpoint, device="cpu")
    image = draw(2, (75, 98)).image
    actual = load(run_export(unpadded_run, tmp_path / f"m{ENDINGS[kind]}"), device="cpu")
    assert actual.windows.context == 20
    np.testing.assert_allclose(
        actual(image, probabilities=True).probabilities,
        expected(image, probabilities=True).probabilities,
        atol=1e-5,
    )


@pytest.mark.nightly
def test_without_the_data_of_the_training_drawn_images_stand_in(tiny_run, tmp_path, capsys):
    stored = torch.load(tiny_run.checkpoint, weights_only=True)
    stored["segkit"]["config"]["data"] = {"name": "folder", "root": str(tmp_path / "gone")}
    torch.save(stored, tmp_path / "best.ckpt")
    export(compose([f"checkpoint='{tmp_path / 'best.ckpt'}'"], "export"))
    said = capsys.readouterr().out
    assert "the validation images of the training cannot be read" in said
    assert "checked on 4 drawn images" in said
    assert (tmp_path / "model.onnx").is_file()  # beside the checkpoint, without output=


@pytest.mark.parametrize(
    "kind",
    ["torch_export", *(pytest.param(k, marks=pytest.mark.nightly) for k in ("onnx", "openvino"))],
)
def test_a_failed_check_leaves_no_file(kind, tiny_run, tmp_path, monkeypatch):
    file = tmp_path / f"model{ENDINGS[kind]}"
    file.write_text("what was there before")
    monkeypatch.setattr(checking, "DIFFERENCE", -1.0)
    with pytest.raises(
        SegkitError, match=r"was not written. .* does not compute the same .* largest difference"
    ):
        run_export(tiny_run, file)
    assert [p.name for p in tmp_path.iterdir()] == [file.name]
    assert file.read_text() == "what was there before"


def test_other_weights_fail_the_check(tiny_run):
    card = checkpoint.read(tiny_run.checkpoint)[1]
    models = [checkpoint.read(tiny_run.checkpoint)[0] for _ in range(2)]
    contents = command.describe_model(models[0], card, True, True)
    models[1].head.conv.bias.data += 0.1
    one, other = (TorchNetwork(model, card, "cpu", 64, batch_size=1) for model in models)
    with pytest.raises(SegkitError, match="does not compute the same as the network"):
        check(one, other, contents, RealImages("an image", [draw(1, (64, 64)).image]))


def test_the_second_file_takes_the_first_back(tmp_path):
    """OpenVINO's two files appear together or not at all."""
    draft = tmp_path / "draft"
    draft.mkdir()
    (draft / "m.bin").write_text("new")
    (tmp_path / "m.bin").write_text("old")
    (draft / "m.xml").write_text("new")
    (tmp_path / "m.xml").mkdir()  # cannot be replaced by a file
    (tmp_path / "m.xml" / "x").write_text("")
    with pytest.raises(SegkitError, match="cannot write"):
        command._publish("openvino", draft / "m.xml", tmp_path / "m.xml")
    assert (tmp_path / "m.bin").read_text() == "old"
    for name in ("n.bin", "n.xml"):
        (draft / name).write_text("new")
        (tmp_path / name).write_text("old")
    command._publish("openvino", draft / "n.xml", tmp_path / "n.xml")
    assert (tmp_path / "n.bin").read_text() == (tmp_path / "n.xml").read_text() == "new"


@pytest.mark.parametrize(
    ("output", "override", "message"),
    [
        ("m.onnx", "format=openvino", r"ends in \.xml\. Give output=.*m\.xml"),
        ("m.tflite", "", r"one of \.onnx \(onnx\), \.xml \(openvino\), \.pt2"),
        ("m.pt2", "quantize=int8", "quantize=int8 is for format=onnx and format=openvino"),
        ("", "", "suffix determines the format"),
        ("m.onnx", "quantize=int4", "quantize"),
        ("m.onnx", "max_iou_loss=2", "max_iou_loss"),
        ("m.onnx", "size=0", "size"),
        ("m.onnx", "size=[30,65]", r"cannot take 30 x 65 .* Give size=\[32,68\]"),
        ("m.onnx", "input=nowhere.png", r"no file or folder .*nowhere\.png"),
        ("file/m.onnx", "", r"the folder '.*file' cannot be made"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(output, override, message, tiny_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SegkitError, match=message):
        run_export(tiny_run, tmp_path / output, *filter(None, [override]))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_network_too_large_for_one_file():
    with pytest.raises(SegkitError, match="one ONNX file holds 2 GB: use format=torch_export"):
        make_onnx([torch.nn.Linear(30_000, 30_000, device="meta")], None)


def test_a_graph_of_one_size_where_it_does_not_hold_for_others(
    tiny_run, tmp_path, monkeypatch, capsys
):
    from segkit.export.graph import trace

    def stubborn(models, contents, crop):
        if contents.windows.fixed is None:
            raise SegkitError("it counts its pixels")
        return trace(models, contents, crop)

    monkeypatch.setattr(formats, "trace", stubborn)
    file = run_export(tiny_run, tmp_path / "m.onnx")
    said = capsys.readouterr().out
    assert "it cannot be exported for all sizes: it counts its pixels" in said
    assert "batch x 1 x 64 x 64" in said
    actual, expected = load(file, device="cpu"), load(tiny_run.checkpoint, device="cpu", tile=64)
    assert actual.windows.fixed == (64, 64)
    image = draw(4, (128, 128)).image[:101, :47]
    found, wanted = actual(image), expected(image[:, :47])
    assert found.labels.shape == (101, 47)
    assert (found.labels != wanted.labels).mean() < 0.1  # other surroundings at the border


def test_an_export_for_any_size_that_does_not_end_is_one_for_one_size(
    tiny_run, tmp_path, monkeypatch, capsys
):
    from segkit.export.graph import trace

    def endless(models, contents, crop):
        while contents.windows.fixed is None:
            sum(range(1000))
        return trace(models, contents, crop)

    monkeypatch.setattr(formats, "trace", endless)
    file = run_export(tiny_run, tmp_path / "m.pt2", "time_limit=0.5")
    said = capsys.readouterr().out
    assert "cannot be exported for all sizes: that takes longer than time_limit=0.5 sec" in said
    assert "trying 64 x 64 alone" in said
    assert load(file, device="cpu").windows.fixed == (64, 64)


@pytest.mark.parametrize(
    "is_wrong",
    [
        lambda batch, height, width: max(height, width) >= 40,
        lambda batch, height, width: height == width == 32,
        lambda batch, height, width: height % 28 == 0,
        lambda batch, height, width: width > 3 * height,
        lambda batch, height, width: height > 3 * width,
        lambda batch, height, width: height % 2 and height > 16,
        lambda batch, height, width: height == width == 128,
        lambda batch, height, width: batch > 3,
    ],
)
def test_the_check_sees_branches_that_only_other_sizes_take(tiny_run, is_wrong):
    model, card = checkpoint.read(tiny_run.checkpoint)

    class Branching(TorchNetwork):
        def _compute(self, batch):
            right = super()._compute(batch)
            return 1 - right if is_wrong(len(batch), *batch.shape[-2:]) else right

    contents = command.describe_model(model, card, True, True)
    reference = TorchNetwork(model, card, "cpu", 128, batch_size=1)
    with pytest.raises(SegkitError, match="does not compute the same as the network"):
        check(
            reference,
            Branching(model, card, "cpu", 128, batch_size=1),
            contents,
            RealImages("an image", [draw(1, (16, 16)).image]),
        )


def test_a_graph_of_the_size_that_was_asked_for(tiny_run, unpadded_run, tmp_path):
    file = run_export(tiny_run, tmp_path / "m.pt2", "size=[32,48]")
    predictor = load(file, device="cpu")
    assert predictor.windows.fixed == (32, 48)
    network = predictor.networks[0]
    batch = network.load_batch([np.zeros((1, 32, 32), np.float32)])
    message = r"cannot be run on a batch of the shape \(1, 1, 32, 32\)"
    with pytest.raises(SegkitError, match=message):
        network.predict_batch(batch)
    with pytest.raises(SegkitError, match="an unpadded network is exported for all of its sizes"):
        run_export(unpadded_run, tmp_path / "u.onnx", "size=64")
