"""Learning from images without masks, and from pixels without labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from conftest import train_quick
from PIL import Image

from segkit.checkpoint.values import LabelCoding, Normalization
from segkit.core.errors import SegkitError
from segkit.core.labels import IGNORE_INDEX
from segkit.data.augment import TrainTransform
from segkit.data.draws import DrawSampler, EvenOrder, UnlabeledOrder, count_unlabeled
from segkit.data.loading import TrainDataset
from segkit.data.unlabeled import UnlabeledImages
from segkit.losses.base import Loss
from segkit.models.heads import Head
from segkit.report.table import read_csv
from segkit.targets.base import Foreground, Labels
from segkit.training.pseudo_labels import PseudoLabels, draw_rectangle, find_labels
from tests.data.test_loading import EIGHT, make_cells

UNLABELED = ["data.unlabeled={}", "trainer.ema=0.9", "data.batch_size=4"]


class Fixed(torch.nn.Module):
    """A network whose logits are its image."""

    def __init__(self, mode: str, channels: int) -> None:
        super().__init__()
        options = {} if mode == "binary" else {"num_classes": channels}
        self.head = Head.build(mode, in_channels=1, **options)

    def forward(self, image: Any) -> Any:
        return image


def put_images(root: Any, count: int, channels: int = 1) -> Any:
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        image = rng.integers(0, 255, (70, 60, channels), np.uint8)
        Image.fromarray(image if channels == 3 else image[..., 0]).save(root / f"{number}.png")
    return root


def test_labels_are_found_where_the_network_is_sure():
    logits = torch.tensor([[[-4.0, -1.0, 1.0, 4.0]]])[None]  # p = .018 .27 .73 .98
    labels, is_sure = find_labels(Fixed("binary", 1), logits, 0.95)  # type: ignore[arg-type]
    assert labels.tolist() == [[[0, 0, 1, 1]]]
    assert is_sure.tolist() == [[[True, False, False, True]]]
    classes = torch.tensor([[0.0, 5.0], [0.0, 0.0], [0.5, 0.0]]).reshape(1, 3, 1, 2)
    labels, is_sure = find_labels(Fixed("multiclass", 3), classes, 0.9)  # type: ignore[arg-type]
    assert labels.tolist() == [[[2, 0]]]
    assert is_sure.tolist() == [[[False, True]]]
    layers = torch.tensor([-4.0, 4.0]).reshape(1, 2, 1, 1)
    labels, is_sure = find_labels(Fixed("multilabel", 2), layers, 0.9)  # type: ignore[arg-type]
    assert labels.flatten().tolist() == [0, 1]
    assert is_sure.all()


def test_the_loss_is_that_of_sure_pixels_without_labels_and_of_mixed_crops(monkeypatch):
    torch.manual_seed(0)
    image = 4 * torch.randn(3, 1, 6, 8)
    guess = torch.rand(3, 6, 8) > 0.3
    where = torch.zeros(6, 8, dtype=torch.bool)
    where[2:5, 1:4] = True
    monkeypatch.setattr("segkit.training.pseudo_labels.draw_rectangle", lambda *_: where)
    network: Any = Fixed("binary", 1)
    loss = Loss.build("cross_entropy", mode="binary")
    pseudo = PseudoLabels(threshold=0.9, weight=2.0)
    found = pseudo.compute_loss(network, network, loss, image, guess, progress=1.0)
    p = image.sigmoid()[:, 0]
    sure = (torch.maximum(p, 1 - p) >= 0.9) & guess
    target = torch.where(sure, (p > 0.5).long(), IGNORE_INDEX)
    mixed, labels = image.clone(), target.clone()
    mixed[:, :, 2:5, 1:4], labels[:, 2:5, 1:4] = (
        image.roll(1, 0)[:, :, 2:5, 1:4],
        target.roll(1, 0)[:, 2:5, 1:4],
    )
    share = sure.sum() / guess.sum()
    torch.testing.assert_close(found["pseudo_share"], share)
    torch.testing.assert_close(found["pseudo_loss"], 2 * share * loss(mixed, labels))
    early = pseudo.compute_loss(network, network, loss, image, guess, progress=0.0)
    ratio = (early["pseudo_loss"] / found["pseudo_loss"]).item()
    assert ratio == pytest.approx(np.exp(-5), rel=1e-4)


def test_rectangles_are_half_of_the_map_on_average():
    torch.manual_seed(1)
    shares = [
        draw_rectangle(torch.Size((40, 60)), torch.device("cpu")).float().mean().item()
        for _ in range(500)
    ]
    assert 0.45 < np.mean(shares) < 0.55
    assert min(shares) > 0
    assert draw_rectangle(torch.Size((1, 1)), torch.device("cpu")).all()


def test_batches_end_with_images_without_labels():
    assert [count_unlabeled(b, 0.5) for b in (2, 3, 8)] == [1, 2, 4]
    assert count_unlabeled(4, 0.99) == 3
    order = UnlabeledOrder(EvenOrder(5, 1), (5, 3), (3, 2), seed=1, processes=2)
    parts = [DrawSampler(order, 40, 1, rank, 2) for rank in range(2)]
    drawn = []
    for epoch in range(3):
        for sampler in parts:
            sampler.set_epoch(epoch)
            indices = [index for index, _ in sampler]
            assert [i >= 5 for i in indices] == [False, False, False, True, True] * 4
            drawn += indices
    counts = np.bincount(drawn, minlength=8)
    assert np.ptp(counts[:5]) <= 1
    assert np.ptp(counts[5:]) <= 1


@pytest.mark.parametrize("target", [Labels(), Foreground()])
def test_only_pixels_of_the_image_are_guessed(tmp_path, target):
    """Neither the pixels around small images, nor those that are labelled."""
    folder = put_images(tmp_path / "more", 2)
    unlabeled = UnlabeledImages(folder, EIGHT, upright=True)
    source = make_cells()
    samples = source.splits()["train"]
    transform = TrainTransform((96, 96), [{"name": "D4", "p": 1.0}])
    coding = LabelCoding({1: 255}) if target.name == "labels" else LabelCoding({}, True)
    given = source, samples, coding, EIGHT, transform, target
    dataset = TrainDataset(*given, unlabeled=unlabeled)
    crop = dataset[len(samples) + 1, 5]
    assert crop["guess"].sum() == 70 * 60
    assert (crop["labels"] == IGNORE_INDEX).all()
    labelled = dataset[0, 5]
    assert not labelled["guess"].any()
    transform.guesses = True
    partly = TrainDataset(*given)[0, 5]
    assert torch.equal(partly["labels"], labelled["labels"])
    assert torch.equal(partly["unit"], labelled["unit"])
    inside = torch.zeros(96, 96, dtype=torch.bool)
    inside[24:72, 28:68] = True  # 48 x 40 in the middle of 96 x 96, turned by D4
    unknown = (labelled["labels"] == IGNORE_INDEX) & (inside | inside.T)
    assert (partly["guess"] & ~unknown).sum() == 0
    if target.name == "labels":
        assert partly["guess"].any()


def test_images_are_read_as_a_trained_network_takes_them(tmp_path):
    put_images(tmp_path / "rgb", 1, channels=3)
    deep = np.full((2, 20, 30), 257 * 7, np.uint16)
    tifffile.imwrite(tmp_path / "rgb" / "stack.tif", deep)
    images = UnlabeledImages(tmp_path / "rgb", EIGHT, upright=True)
    assert [sample.name for sample in images.samples] == [
        "0.png",
        "stack.tif, page 0",
        "stack.tif, page 1",
    ]
    found = images.read(images.samples[2])
    assert found.dtype == np.uint8
    assert found.shape == (20, 30, 1)
    assert (found == 7).all()
    five = Normalization("uint8", 0, 255, (0.5,) * 5, (0.2,) * 5)
    with pytest.raises(SegkitError, match=r"0.png.*5") as caught:
        UnlabeledImages(tmp_path / "rgb", five, upright=True)
    assert "stack.tif" in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SegkitError, match="contains no images"):
        UnlabeledImages(tmp_path / "empty", EIGHT, upright=True)
    with pytest.raises(SegkitError, match="there is no folder"):
        UnlabeledImages(tmp_path / "none", EIGHT, upright=True)


@pytest.mark.slow
def test_a_training_with_images_without_masks(tmp_path):
    folder = put_images(tmp_path / "more", 5)
    options = [o.format(folder) for o in UNLABELED]
    options += ["pseudo_threshold=0.6", "trainer.max_epochs=3", "data.sampling=hard"]
    train_quick(tmp_path / "run", *options)
    rows = read_csv(tmp_path / "run/metrics.csv")
    assert all(0 <= float(str(row["train/pseudo_share"])) <= 1 for row in rows)
    assert float(str(rows[-1]["train/pseudo_share"])) > 0
    assert float(str(rows[-1]["train/pseudo_loss"])) > 0


def test_what_cannot_be_learned_from_is_said(tmp_path):
    cases = {
        "pseudo=true": "pseudo=true learns from the average of the weights: add trainer.ema=0.99",
        "pseudo_weight=2": "pseudo_weight without data.unlabeled or pseudo=true",
        "data.unlabeled_share=0.2": "data.unlabeled_share without data.unlabeled",
    }
    for option, message in cases.items():
        with pytest.raises(SegkitError, match=message):
            train_quick(tmp_path / "run", option)
    options = [f"data.unlabeled={tmp_path}", "data.batch_size=1", "trainer.ema=0.9"]
    with pytest.raises(SegkitError, match=r"data.unlabeled with data.batch_size=1"):
        train_quick(tmp_path / "run", *options)
