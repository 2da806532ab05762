"""Files that name several checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import segkit
from segkit.checkpoint.reading import read
from segkit.config.settings import PredictSettings
from segkit.core.ensembles import list_checkpoints, write_ensemble
from segkit.core.errors import SegkitError


def test_its_networks_are_averaged_wherever_it_lies(binary_run, tmp_path):
    for name in ("0", "1"):
        (tmp_path / "a" / name).mkdir(parents=True)
        shutil.copy(binary_run.checkpoint, tmp_path / "a" / name / "best.ckpt")
    members = [tmp_path / "a/0/best.ckpt", tmp_path / "a/1/best.ckpt"]
    write_ensemble(tmp_path / "a/ensemble.yaml", members)
    (tmp_path / "a").rename(tmp_path / "b c")
    file = tmp_path / "b c/ensemble.yaml"
    image = np.random.default_rng(0).integers(0, 255, (40, 50), np.uint8)
    both = segkit.load(file, device="cpu")
    assert len(both.networks) == 2
    expected = segkit.load(binary_run.checkpoint, device="cpu")(image, probabilities=True)
    np.testing.assert_allclose(
        both(image, probabilities=True).probabilities, expected.probabilities, atol=1e-6
    )
    settings = PredictSettings.model_validate({"checkpoint": [str(file)], "input": ["x"]})
    assert settings.checkpoint == [tmp_path / "b c/0/best.ckpt", tmp_path / "b c/1/best.ckpt"]


def test_one_network_is_one_of_its(tmp_path):
    write_ensemble(tmp_path / "ensemble.yaml", [tmp_path / "0/best.ckpt", tmp_path / "1/best.ckpt"])
    with pytest.raises(SegkitError, match=r"takes one network: give one of its 2, .*0/best\.ckpt"):
        read(tmp_path / "ensemble.yaml")


def test_other_files_are_left_as_they_are():
    paths = [Path("a.ckpt"), Path("b.onnx")]
    assert list_checkpoints(paths) == paths


@pytest.mark.parametrize(
    "content", ["", "checkpoints: []", "checkpoints: a.ckpt", "- a.ckpt", "checkpoints: [3]", "{"]
)
def test_files_that_are_no_ensemble(content, tmp_path):
    (tmp_path / "e.yaml").write_text(content)
    with pytest.raises(SegkitError, match=r"e\.yaml is no"):
        list_checkpoints([tmp_path / "e.yaml"])
    with pytest.raises(SegkitError, match="there is no file"):
        list_checkpoints([tmp_path / "gone.yaml"])
