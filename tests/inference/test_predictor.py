from __future__ import annotations

import numpy as np
import pytest
import torch

import segkit
from segkit import checkpoint
from segkit.data.cells import draw
from segkit.data.reading import write_image
from segkit.errors import SegkitError


@pytest.fixture(scope="module")
def predictor(binary_run):
    return segkit.load(binary_run.checkpoint, device="cpu")


def test_every_size_and_every_form_of_an_image(predictor, tmp_path):
    for height, width in [(1, 1), (7, 5), (64, 64), (65, 130)]:
        image = draw(1, (max(16, height), max(16, width))).image[:height, :width]
        result = predictor(image)
        assert result.labels.shape == (height, width)
        assert result.labels.dtype == np.uint8
        assert result.probabilities.shape == (1, height, width)
        assert result.probabilities.dtype == np.float32
        assert result.instances is None
    image = draw(2, (40, 30)).image  # (H, W, 1)
    write_image(tmp_path / "a.png", image)
    as_array = predictor(image).probabilities
    for same in (
        image[..., 0],
        np.repeat(image, 3, axis=2),
        image.astype(np.uint16) * 257,
        image.astype(np.float64) / 255,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
    ):
        np.testing.assert_allclose(predictor(same).probabilities, as_array, atol=2e-3)


def test_images_that_do_not_fit_are_errors(predictor):
    with pytest.raises(SegkitError, match="an image of 5 channels cannot be made one of 1"):
        predictor(np.zeros((8, 8, 5), np.uint8))
    with pytest.raises(SegkitError, match="scale of 0 to 1, but this one reaches 200"):
        predictor(np.full((8, 8), 200.0, np.float32))
    with pytest.raises(SegkitError, match="int64"):
        predictor(np.zeros((8, 8), np.int64))
    with pytest.raises(SegkitError):
        predictor("no/such/file.png")
    for wrong in ([[1, 2]], torch.zeros(4, 4), np.zeros((0, 4)), np.zeros(4)):
        with pytest.raises(SegkitError, match="an image is a path, or a numpy array"):
            predictor(wrong)


def test_labels_are_decided_by_the_head(multiclass_run, multilabel_run):
    image = draw(3, (32, 48), 3).image
    result = segkit.load(multiclass_run.checkpoint, device="cpu")(image)
    np.testing.assert_array_equal(result.labels, result.probabilities.argmax(0))
    np.testing.assert_allclose(result.probabilities.sum(0), 1, atol=1e-5)
    result = segkit.load(multilabel_run.checkpoint, device="cpu")(image[..., :1])
    assert result.labels.shape == (3, 32, 48)
    np.testing.assert_array_equal(result.labels, result.probabilities > 0.5)


def test_augmented_prediction_is_equivariant(binary_run):
    """The mean over all eight views of a turned image is the turned mean."""
    predictor = segkit.load(binary_run.checkpoint, device="cpu", tta="d4")
    image = draw(4, (64, 64)).image
    straight = predictor(image).probabilities[0]
    np.testing.assert_allclose(
        predictor(np.rot90(image)).probabilities[0], np.rot90(straight), atol=1e-5
    )
    np.testing.assert_allclose(
        predictor(image[:, ::-1]).probabilities[0], straight[:, ::-1], atol=1e-5
    )
    flipped = segkit.load(binary_run.checkpoint, device="cpu", tta="flip")
    once = flipped(image).probabilities[0]
    np.testing.assert_allclose(flipped(image[::-1]).probabilities[0], once[::-1], atol=1e-5)


def test_options_that_do_not_exist_are_errors(binary_run, multilabel_run):
    with pytest.raises(SegkitError, match="tta is 'd8', which is not one of none, flip, d4"):
        segkit.load(binary_run.checkpoint, tta="d8")
    with pytest.raises(SegkitError, match="instances is 'magic'"):
        segkit.load(binary_run.checkpoint, instances="magic")
    with pytest.raises(SegkitError, match="head=binary: use components or watershed"):
        segkit.load(binary_run.checkpoint, instances="border_core")
    with pytest.raises(SegkitError, match="multilabel"):
        segkit.load(multilabel_run.checkpoint, instances="components")
    for options in ({"overlap": -1.0}, {"overlap": 2}, {"tile": 0}, {"tile": "a"}):
        with pytest.raises(SegkitError, match=f"{next(iter(options))} is"):
            segkit.load(binary_run.checkpoint, **options)
    with pytest.raises(SegkitError, match="device 'tpu9'"):
        segkit.load(binary_run.checkpoint, device="tpu9")


def test_instances_on_request(binary_run):
    predictor = segkit.load(binary_run.checkpoint, device="cpu", instances="components")
    result = predictor(draw(5, (32, 32)).image)
    np.testing.assert_array_equal(result.instances > 0, result.labels > 0)


def test_files_that_are_no_checkpoint(tmp_path, binary_run):
    with pytest.raises(SegkitError, match=r"That is a run folder: use .*best\.ckpt"):
        segkit.load(binary_run.folder)
    with pytest.raises(SegkitError, match="there is no file"):
        segkit.load(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(SegkitError, match="cannot be read as data"):
        segkit.load(tmp_path / "text.ckpt")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")
    with pytest.raises(SegkitError, match="is no checkpoint of segkit"):
        segkit.load(tmp_path / "other.ckpt")
    stored = torch.load(binary_run.checkpoint, weights_only=True)
    stored["segkit"]["format"] = 99
    torch.save(stored, tmp_path / "newer.ckpt")
    with pytest.raises(SegkitError, match="newer segkit"):
        segkit.load(tmp_path / "newer.ckpt")


def test_a_checkpoint_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"segkit": Evil(), "state_dict": {}}, tmp_path / "evil.ckpt")
    with pytest.raises(SegkitError, match="cannot be read as data"):
        segkit.load(tmp_path / "evil.ckpt")


def test_the_card_comes_back_as_it_was_written(binary_run):
    card = checkpoint.read(binary_run.checkpoint)[1]
    assert checkpoint.ModelCard.from_dict(card.to_dict()) == card


def test_loading_asks_no_hub(binary_run, monkeypatch, tmp_path):
    """Even where the training had pretrained weights."""
    stored = torch.load(binary_run.checkpoint, weights_only=True)
    stored["segkit"]["encoder"]["pretrained"] = True
    torch.save(stored, tmp_path / "a.ckpt")

    def fail(*args, **kwargs):
        raise AssertionError("asked for weights")

    monkeypatch.setattr("segkit.models.encoders.timm.find_weights", fail)
    segkit.load(tmp_path / "a.ckpt", device="cpu")
