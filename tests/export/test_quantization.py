"""int8: what it gains, what it costs, and what is kept."""

from __future__ import annotations

import dataclasses

import pytest

from segkit import load
from segkit.checkpoint import reading as checkpoint
from segkit.config.compose import compose
from segkit.data.sources.cells import draw
from segkit.export import command
from segkit.export.command import export
from segkit.export.images import find_real_images
from segkit.export.quantization import Quantized, measure

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")


def run_export(run, output, *overrides: str):
    return export(
        compose([f"checkpoint='{run.checkpoint}'", f"output='{output}'", *overrides], "export")
    )


@pytest.mark.nightly
@pytest.mark.parametrize("ending", [".onnx", ".xml"])
def test_int8_is_smaller_and_much_the_same(ending, small_run, tmp_path, capsys):
    file = run_export(small_run, tmp_path / f"int8{ending}", "quantize=int8_always")
    said = capsys.readouterr().out
    assert "times the speed of float32 on this machine; IoU" in said
    assert "against the masks, a loss of" in said
    one, other = load(small_run.checkpoint, device="cpu"), load(file, device="cpu")
    weights = 4 * sum(p.numel() for p in checkpoint.read(small_run.checkpoint)[0].parameters())
    assert file.with_suffix(".bin" if ending == ".xml" else ".onnx").stat().st_size < 0.4 * weights
    assert other.networks[0].contents.precision == "int8"
    image = draw(5, (90, 70)).image
    difference = abs(
        one(image, probabilities=True).probabilities
        - other(image, probabilities=True).probabilities
    ).max()
    assert 0 < difference < 0.1


@pytest.mark.parametrize(
    ("asked", "ratio", "after", "kept", "said"),
    [
        pytest.param(
            *("int8", 2.0, 0.8, "int8", "int8: 2.00 times the speed"), marks=pytest.mark.nightly
        ),
        pytest.param(
            *("int8", 0.9, 0.8, "float32", "int8 is not faster than float32 on this machine"),
            marks=pytest.mark.nightly,
        ),
        ("int8", 2.0, 0.5, "float32", "loses more IoU than max_iou_loss=0.02: the file stays"),
        pytest.param(
            *("int8_always", 0.9, 0.5, "int8", "the file is int8 anyway, as requested"),
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_what_is_kept(asked, ratio, after, kept, said, tiny_run, tmp_path, capsys, monkeypatch):
    measured = Quantized(ratio, 0.8, after, "the masks")
    monkeypatch.setattr(command, "measure", lambda *_: measured)
    file = run_export(tiny_run, tmp_path / "m.onnx", f"quantize={asked}")
    assert said in capsys.readouterr().out
    assert load(file, device="cpu").networks[0].contents.precision == kept
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_iou_is_taken_against_masks_or_against_float32(tiny_run):
    predictor = load(tiny_run.checkpoint, device="cpu")
    network = predictor.networks[0]
    real = find_real_images(network.card, None)
    assert real.truths is not None
    with_masks = measure(network, network, real, real.images[:1])
    assert with_masks.before == with_masks.after
    assert with_masks.before == pytest.approx(tiny_run.evaluation.means["iou"], abs=1e-6)
    without = measure(network, network, dataclasses.replace(real, truths=None), real.images[:1])
    assert without.before == 1.0
    assert without.against == "the labels of float32"
    assert 0.3 < without.ratio < 3
