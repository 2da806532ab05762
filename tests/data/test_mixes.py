"""Crops put together from several: pixels and labels stay together, objects keep their own ids."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

import segkit
from segkit.checkpoint.values import LabelCoding
from segkit.config.validation import validate
from segkit.core.errors import SegkitError
from segkit.data.augment import TrainTransform
from segkit.data.loading import MIXING, TrainDataset
from segkit.data.mixing.mixes import Mix, build_mixes, cover, find_objects
from segkit.data.sources.base import Sample
from segkit.losses.base import Loss
from segkit.models.segmenter import create_model
from segkit.targets.base import BorderCore, Labels
from segkit.training.module import SegmentationModule
from tests.data.test_loading import EIGHT

SIDE = 40


class Stripes:
    """Images of one value, the number of the sample, and masks of one object or of none."""

    instances, channel_files = True, ()

    def read_image(self, sample: Sample) -> Any:
        return np.full((SIDE, SIDE, 1), int(sample.name), np.uint8)

    def read_mask(self, sample: Sample) -> Any:
        mask = np.zeros((SIDE, SIDE), np.uint16)
        mask[5:15, 5:15], mask[20:30, 8:35] = 1, 300
        return mask

    def measure_large(self, sample: Sample) -> None:
        return None


def make_dataset(target: Any, wanted: list[Any], context: int = 0) -> TrainDataset:
    transform = TrainTransform((SIDE, SIDE), [], context)
    samples = [Sample(str(n), None, None) for n in range(10, 15)]
    source: Any = Stripes()
    coding, mixes = LabelCoding({}, foreground=True), build_mixes(wanted)
    return TrainDataset(source, samples, coding, EIGHT, transform, target, mixes=mixes)


def test_the_mixes():
    assert Mix.names() == ["copy_paste", "cutmix", "mosaic"]
    rng = np.random.default_rng(0)
    nothing = [np.zeros((30, 50), np.uint16)] * 3
    shares = [build_mixes(["cutmix"])[0].choose(nothing[:1], rng)[0].mean() for _ in range(400)]
    assert 0.2 < np.mean(shares) < 0.5  # half, but for what lies outside the image
    assert min(shares) < 0.05
    assert max(shares) > 0.8
    for _ in range(20):
        quarters = build_mixes(["mosaic"])[0].choose(nothing, rng)
        assert (np.sum(quarters, axis=0) <= 1).all()
        assert not np.sum(quarters, axis=0)[:7, :12].any()  # the upper left is the crop's own
        assert all(0.05 < part.mean() < 0.6 for part in quarters)


def test_copied_objects_are_whole_and_about_half():
    ids = np.arange(1, 101, dtype=np.uint16).reshape(10, 10).repeat(3, 0).repeat(3, 1)
    ids[ids == 7] = 255
    ids[ids == 9] = 0
    rng, shares = np.random.default_rng(1), []
    mix = build_mixes([{"name": "copy_paste", "share": 0.25}])[0]
    for _ in range(200):
        (where,) = mix.choose([ids], rng)
        assert not where[(ids == 0) | (ids == 255)].any()
        blocks = where.reshape(10, 3, 10, 3).any((1, 3)).sum()
        assert where.sum() == 9 * blocks
        shares.append(blocks / 98)
    assert 0.2 < np.mean(shares) < 0.3
    assert max(shares) > 0.4


def test_objects_of_classes():
    labels = np.array([[0, 0, 3], [1, 255, 3], [1, 0, 0]], np.uint8)
    with_background = find_objects(labels, from_ids=False, background=0)
    assert with_background.tolist() == [[0, 0, 2], [1, 255, 2], [1, 0, 0]]
    of_all = find_objects(labels, from_ids=False, background=None)
    assert len(np.unique(of_all)) == 1 + 4  # two regions of 0; the ignored pixel is none
    assert (of_all == 255).tolist() == (labels == 255).tolist()
    other = find_objects(labels, from_ids=False, background=3)
    assert (other == 0).tolist() == (labels == 3).tolist()
    layers = np.stack([labels == 1, labels == 3], axis=2).astype(np.uint8)
    layers[1, 1] = 255
    found = find_objects(layers, from_ids=False, background=None)
    assert (found == 255).sum() == 1
    assert len(np.unique(found)) == 4


def test_objects_of_both_crops_keep_ids_of_their_own():
    below, above = np.zeros((4, 300), np.uint16), np.zeros((4, 300), np.uint16)
    below[0], above[1:] = np.arange(1, 301), np.arange(1, 301)  # 255 is not labelled in both
    image = np.zeros((4, 300, 1), np.uint8)
    where = np.zeros((4, 300), np.bool_)
    where[2:] = True
    seen, ids = cover((image, below), (image + 9, above), where, from_ids=True)
    assert (seen[..., 0] == 9).tolist() == where.tolist()
    assert (ids[:2] == below[:2]).all()
    assert (ids[2:, 254] == 255).all()
    assert (ids == 255).sum() == 3
    new = np.delete(ids[2], 254)
    assert len(np.unique(new)) == 299
    assert not np.isin(new, below).any()


@pytest.mark.parametrize("wanted", ["cutmix", "mosaic", "copy_paste"])
@pytest.mark.parametrize("context", [0, 6])
def test_labels_come_with_their_pixels(wanted: str, context: int):
    dataset = make_dataset(Labels(), [{"name": wanted, "p": 1.0}], context)
    plain = make_dataset(Labels(), [], context)
    covered = 0
    for seed in range(12):
        crop, alone = dataset[0, seed], plain[0, seed]
        inner = crop["unit"][context : SIDE + context, context : SIDE + context, 0]
        others = inner != inner.new_tensor(10)
        covered += int(others.any())
        assert crop["unit"].shape == alone["unit"].shape
        assert set(np.unique(inner)) <= {10, 11, 12, 13, 14}
        assert (crop["labels"][~others] == alone["labels"][~others]).all()
        if wanted == "copy_paste":
            assert (crop["labels"][others] == 1).all()
    assert covered >= 4  # 12 less those from the same image, or of no object
    assert dataset.times.stages.count(MIXING) == 1
    assert torch.equal(dataset[0, 3]["unit"], dataset[0, 3]["unit"])


def test_borders_are_drawn_around_what_is_seen():
    square = np.zeros((SIDE, SIDE), np.uint16)
    square[5:15, 5:15] = 1
    image, left = np.zeros((SIDE, SIDE, 1), np.uint8), np.zeros((SIDE, SIDE), np.bool_)
    left[:, :10] = True
    _, ids = cover((image, np.zeros_like(square)), (image, square), left, from_ids=True)
    labels, _ = BorderCore(border=1).encode(ids)
    assert (labels[6:14, 6:9] == 1).all()
    assert (labels[5:15, 9] == 2).all()  # where the square is cut
    _, ids = cover((image, square), (image, square), left, from_ids=True)
    labels, _ = BorderCore(border=1).encode(ids)
    assert (labels[5:15, 9:11] == 2).all()  # two objects touch


def test_a_plugin_may_mix(tmp_path):
    class Left(Mix, name="left_half"):
        def choose(self, objects, rng):
            where = np.zeros(objects[0].shape, np.bool_)
            where[:, : where.shape[1] // 2] = True
            return [where]

    try:
        dataset = make_dataset(Labels(), [{"name": "left_half", "p": 1.0}])
        unit = dataset[0, 1]["unit"][..., 0]
        assert (unit[:, SIDE // 2 :] == 10).all()
        assert len(unit[:, : SIDE // 2].unique()) == 1
    finally:
        del Mix._members["left_half"]


def test_what_is_wrong_with_mixes_is_said():
    with pytest.raises(SegkitError, match=r"mix 'cutmixx' is not known\. Did you mean 'cutmix'"):
        build_mixes(["cutmixx"])
    with pytest.raises(SegkitError, match="no name"):
        build_mixes([{"p": 0.3}])
    wrong = [
        "augment.mixes=[{name: mosaic, p: 2}, {name: cutmix, beta: 1}, mossaic]",
        "augment.mixup=0.4",
        "data.batch_size=1",
    ]
    with pytest.raises(SegkitError) as caught:
        validate(segkit.compose(wrong))
    text = str(caught.value)
    assert "augment.mixes: mix 'mosaic'" in text
    assert "beta" in text
    assert "'mossaic' is not known. Did you mean 'mosaic'" in text
    assert "augment.mixup with data.batch_size=1" in text


def test_mixup_is_the_loss_of_blended_crops():
    torch.manual_seed(0)
    module: Any = SegmentationModule.__new__(SegmentationModule)  # it needs no optimizer
    L.LightningModule.__init__(module)
    module.recompute, module.auxiliary, module.teacher = False, [0.5], None
    module.keeps_crop_losses = True
    module.model = create_model(
        {"name": "unet", "width": 4, "depth": 3, "in_channels": 1},
        {"name": "unet"},
        {"name": "multiclass", "num_classes": 2},
        auxiliary=1,
    )
    module.model.eval()  # without dropout
    module.loss = Loss.build("cross_entropy", mode="multiclass")
    image, share = torch.rand(3, 1, 16, 16), torch.tensor(0.3)
    target, weight = torch.randint(0, 2, (3, 16, 16)), torch.rand(3, 16, 16)
    fine, coarse = module.model.all_logits(0.3 * image + 0.7 * image.roll(1, 0))

    def both(*truth: Any) -> Any:
        return module.loss(fine, *truth) + 0.5 * module.loss(coarse, *truth)

    expected = 0.3 * both(target, weight) + 0.7 * both(target.roll(1, 0), weight.roll(1, 0))
    mixed = module.compute_loss(image, target, weight, share=share)
    torch.testing.assert_close(mixed, expected)
    alone = [module.loss(*(x[i : i + 1] for x in (fine, target, weight))) for i in range(3)]
    torch.testing.assert_close(module.crop_losses, torch.stack(alone))  # by which crops are hard
