"""Exported files as networks: without torch, and those that are broken or somebody else's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch

from segkit import load
from segkit.core.errors import SegkitError
from segkit.inference.runtimes.exported import (
    KEY,
    choose_openvino_device,
    choose_providers,
)

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("openvino", reason="the extra openvino is not installed")
pytestmark = pytest.mark.slow  # three exports

NOT_NEEDED = ("torch", "torchvision", "timm", "lightning", "hydra", "omegaconf", "albumentations")
WITHOUT = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {NOT_NEEDED}:
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocked())
import numpy as np
import segkit

result = segkit.load(sys.argv[1], instances="components", min_size=3)(
    sys.argv[2], probabilities=True)
np.savez(sys.argv[3], labels=result.labels, maps=result.probabilities, ids=result.instances)
"""


@pytest.mark.parametrize("ending", [".onnx", ".xml"])
def test_neither_torch_nor_timm_is_needed(ending, files, tmp_path):
    image = np.random.default_rng(0).integers(0, 60_000, (70, 91), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", image)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, files[ending], tmp_path / "a.tif", tmp_path / "a.npz"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "a.npz")
    expected = load(files[".ckpt"], device="cpu", instances="components", min_size=3)(
        image, probabilities=True
    )
    np.testing.assert_allclose(found["maps"], expected.probabilities, atol=1e-5)
    assert (found["labels"] != expected.labels).mean() < 1e-3
    assert found["ids"].dtype == np.int32


def test_files_are_averaged_with_each_other(files):
    image = np.random.default_rng(1).integers(0, 255, (40, 30), np.uint8)
    one = load(files[".onnx"], device="cpu")(image, probabilities=True)
    both = load([files[".onnx"], files[".xml"]], device="cpu")(image, probabilities=True)
    np.testing.assert_allclose(both.probabilities, one.probabilities, atol=1e-5)


@pytest.mark.parametrize("ending", [".onnx", ".xml", ".pt2"])
def test_tiles_and_batches_are_as_asked(ending, files):
    predictor = load(files[ending], device="cpu", tile=24, batch_size=3)
    assert predictor.windows.largest == 24
    assert predictor.networks[0].batch_size == 3
    assert predictor.networks[0].device == "cpu"
    image = np.random.default_rng(2).integers(0, 255, (61, 83), np.uint8)
    expected = load(files[".ckpt"], device="cpu", tile=24, batch_size=3)(image, probabilities=True)
    np.testing.assert_allclose(
        predictor(image, probabilities=True).probabilities, expected.probabilities, atol=1e-5
    )


@pytest.mark.parametrize("ending", [".onnx", ".xml", ".pt2"])
def test_broken_files(ending, files, tmp_path):
    copy = tmp_path / f"a{ending}"
    with pytest.raises(SegkitError, match=r"there is no file .*a\."):
        load(copy)
    content = files[ending].read_bytes()
    if ending == ".xml":
        copy.write_bytes(content)
        with pytest.raises(SegkitError, match=r"a\.bin must be beside it"):
            load(copy)
        copy.with_suffix(".bin").write_bytes(files[ending].with_suffix(".bin").read_bytes()[:100])
        with pytest.raises(SegkitError, match=r"a\.xml cannot be read as an OpenVINO model"):
            load(copy, device="cpu")
    for wrong in (content[: len(content) // 2], b"", b"no model at all"):
        copy.write_bytes(wrong)
        with pytest.raises(
            SegkitError, match=rf"a\{ending} (cannot be read as|is) .*segkit.export"
        ):
            load(copy, device="cpu")


def test_models_of_others(files, tmp_path):
    import onnx
    import openvino

    proto = onnx.load(files[".onnx"])
    stored = json.loads(proto.metadata_props[0].value)

    def saved(text: str | None):
        del proto.metadata_props[:]
        if text is not None:
            entry = proto.metadata_props.add()
            entry.key, entry.value = KEY, text
        onnx.save(proto, tmp_path / "a.onnx")
        return tmp_path / "a.onnx"

    with pytest.raises(
        SegkitError, match=r"an ONNX model, but not a model of segkit: .*segkit\.export"
    ):
        load(saved(None), device="cpu")
    for broken in ("{", "[]", "{}", json.dumps(stored | {"windows": {}})):
        with pytest.raises(SegkitError, match=r"metadata of .*a\.onnx are broken"):
            load(saved(broken), device="cpu")
    newer = {**stored, "format": 99, "versions": {"segkit": "9.0"}}
    with pytest.raises(SegkitError, match=r"exported by a newer segkit .*9\.0.*Upgrade"):
        load(saved(json.dumps(newer)), device="cpu")

    model = openvino.Core().read_model(saved(None))
    openvino.save_model(model, tmp_path / "a.xml")
    with pytest.raises(SegkitError, match="an OpenVINO model, but not a model of segkit"):
        load(tmp_path / "a.xml", device="cpu")
    program = torch.export.export(torch.nn.ReLU(), (torch.rand(2),))
    torch.export.save(program, tmp_path / "a.pt2")
    with pytest.raises(SegkitError, match=r"a \.pt2 file, but not a model of segkit"):
        load(tmp_path / "a.pt2", device="cpu")


@pytest.mark.parametrize("ending", [".onnx", ".xml", ".bin"])
def test_a_damaged_byte_is_seen(ending, files, tmp_path):
    """Most would give other numbers in silence."""
    name = files[".onnx" if ending == ".onnx" else ".xml"]
    for file in name.parent.glob("model.*"):
        shutil.copy(file, tmp_path)
    damaged = tmp_path / f"model{ending}"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(SegkitError, match=rf"model{name.suffix} cannot be read .* SHA-256"):
        load(tmp_path / name.name, device="cpu")


def test_devices():
    cpu = ["CPUExecutionProvider"]
    cuda = ["CUDAExecutionProvider", *cpu]
    assert choose_providers("auto", cpu) == (cpu, "cpu")
    assert choose_providers("cpu", cuda) == (cpu, "cpu")
    assert choose_providers("auto", cuda)[1] == "cuda"
    assert choose_providers("cuda:1", cuda)[0][0] == ("CUDAExecutionProvider", {"device_id": 1})
    for wrong, available in (("cuda", cpu), ("tpu", cuda), ("cuda:x", cuda)):
        with pytest.raises(SegkitError, match=f"device '{wrong}' cannot be used with an ONNX file"):
            choose_providers(wrong, available)
    assert choose_openvino_device("auto", ["CPU"]) == "CPU"
    assert choose_openvino_device("auto", ["CPU", "GPU.0", "GPU.1"]) == "GPU.0"
    assert choose_openvino_device("gpu", ["CPU", "GPU.0"]) == "GPU"
    with pytest.raises(SegkitError, match=r"device 'cuda' cannot be used .* use auto, cpu"):
        choose_openvino_device("cuda", ["CPU"])


def test_wrong_images_and_batches_are_said(files):
    for ending in (".onnx", ".xml"):
        predictor = load(files[ending], device="cpu")
        with pytest.raises(SegkitError, match="5 channels"):
            predictor(np.zeros((9, 9, 5), np.uint8))
        with pytest.raises(SegkitError, match="infinite"):
            predictor(np.full((9, 9), np.inf, np.float32))
        with pytest.raises(
            SegkitError, match=r"cannot be run on a batch of the shape \(1, 7, 8, 8\)"
        ):
            predictor.networks[0].predict_batch(np.zeros((1, 7, 8, 8), np.float32))


@pytest.mark.parametrize("mode", ["binary", "multiclass"])
def test_logits_are_activated_as_the_heads_do_it(mode, files):
    network = load(files[".onnx"], device="cpu").networks[0]
    network.card = replace(network.card, mode=mode)
    logits = np.array([[-200, -3, 0.5], [200, 1, 0.5], [0, 0, 0.7]], np.float32)[None, :, :, None]
    expected = torch.from_numpy(logits)
    expected = expected.softmax(1) if mode == "multiclass" else expected.sigmoid()
    with np.errstate(all="raise", under="ignore"):
        actual = network._activate(logits)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert actual.dtype == np.float32
