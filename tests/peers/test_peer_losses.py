"""The losses next to those of segmentation_models.pytorch (SMP) and MONAI.

First what is the same, then what is not. Each difference asserts both sides, so that this list ends
where a peer changes its mind. Install them with ``pip install -e '.[dev,peers]'`` and run
``pytest -m peers``.
"""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.nn.functional as F

from segkit.losses import Loss
from segkit.metrics.confusion import ConfusionMatrix, score_matrix

pytestmark = pytest.mark.peers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # their own, at import
    smp = pytest.importorskip(
        "segmentation_models_pytorch", reason="the extra peers is not installed"
    )
    monai = pytest.importorskip("monai.losses", reason="the extra peers is not installed")

MODES = ["binary", "multiclass", "multilabel"]
CHANNELS = {"binary": 1, "multiclass": 3, "multilabel": 3}


def batch(mode, ignored=False):
    """Logits (2, C, 9, 8) and a target with every class in every image."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, CHANNELS[mode], 9, 8, generator=generator)
    shape = (2, 3, 9, 8) if mode == "multilabel" else (2, 9, 8)
    target = torch.randint(3 if mode == "multiclass" else 2, shape, generator=generator)
    if ignored:
        target[0, ..., 2:6, 3:] = 255
        target[1, ..., 7:, :] = 255
    return logits, target


def one_hot(target, classes):
    return torch.stack([target == c for c in range(classes)], 1).float()


def test_all_of_the_same_name_are_here():
    """What a user of these peers' losses for label maps would look for."""
    assert set(Loss.names()) >= {"bce", "cross_entropy", "dice", "jaccard", "tversky"}
    assert set(Loss.names()) >= {"focal", "lovasz", "boundary", "cldice"}


# The same


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0]])
@pytest.mark.parametrize(
    ("name", "peer", "options", "smooth"),
    [
        # the smooth of SMP's Dice counts twice: it is the one of a Tversky index
        ("dice", "DiceLoss", {}, 2.0),
        ("jaccard", "JaccardLoss", {}, 1.0),
        ("tversky", "TverskyLoss", {"alpha": 0.2, "beta": 0.9}, 1.0),
    ],
)
def test_regions_equal_smp(mode, ignored, weights, name, peer, options, smooth):
    if mode == "binary":
        weights = None
    logits, target = batch(mode, ignored)
    theirs = getattr(smp.losses, peer)(
        mode, smooth=1.0, ignore_index=255, class_weights=weights, **options
    )
    ours = Loss.build(name, mode=mode, smooth=smooth, class_weights=weights, **options)
    torch.testing.assert_close(ours(logits, target), theirs(logits, target))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize(
    ("name", "peer", "options", "smooth"),
    [
        ("dice", "DiceLoss", {}, 0.7),
        ("jaccard", "DiceLoss", {"jaccard": True}, 0.35),
        ("tversky", "TverskyLoss", {"alpha": 0.2, "beta": 0.9}, 0.7),
    ],
)
def test_regions_equal_monai(mode, per_image, name, peer, options, smooth):
    logits, target = batch(mode)
    theirs = getattr(monai, peer)(
        sigmoid=mode != "multiclass",
        softmax=mode == "multiclass",
        batch=not per_image,
        smooth_nr=0.7,
        smooth_dr=0.7,
        **options,
    )
    truth = {"binary": target.unsqueeze(1), "multiclass": one_hot(target, 3)}.get(mode, target)
    expected = theirs(logits, truth.float())
    own = {} if name != "tversky" else options
    ours = Loss.build(name, mode=mode, smooth=smooth, per_image=per_image, **own)
    torch.testing.assert_close(ours(logits, target), expected)


@pytest.mark.parametrize("mode", ["binary", "multiclass"])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("per_image", [False, True])
def test_lovasz_equals_smp(mode, ignored, per_image):
    logits, target = batch(mode, ignored)
    theirs = smp.losses.LovaszLoss(mode, per_image=per_image, ignore_index=255)
    ours = Loss.build("lovasz", mode=mode, per_image=per_image)
    torch.testing.assert_close(ours(logits, target), theirs(logits, target))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropies_equal_smp_where_nothing_is_ignored(smoothing):
    logits, target = batch("multiclass")
    theirs = smp.losses.SoftCrossEntropyLoss(smooth_factor=smoothing)
    ours = Loss.build("cross_entropy", mode="multiclass", label_smoothing=smoothing)
    torch.testing.assert_close(ours(logits, target), theirs(logits, target))

    logits, stack = batch("multilabel")
    theirs = smp.losses.SoftBCEWithLogitsLoss(smooth_factor=smoothing / 2)
    for name in ("cross_entropy", "bce"):
        ours = Loss.build(name, mode="multilabel", label_smoothing=smoothing)
        torch.testing.assert_close(ours(logits, stack), theirs(logits, stack.float()))


@pytest.mark.parametrize("mode", ["binary", "multilabel"])
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_focal_equals_both_of_them_for_sigmoids(mode, alpha):
    logits, target = batch(mode)
    ours = Loss.build("focal", mode=mode, gamma=1.5, alpha=alpha)(logits, target)
    theirs = smp.losses.FocalLoss(mode, gamma=1.5, alpha=alpha)(logits, target)
    torch.testing.assert_close(ours, theirs)
    truth = target.unsqueeze(1) if mode == "binary" else target
    theirs = monai.FocalLoss(gamma=1.5, alpha=alpha)(logits, truth.float())
    torch.testing.assert_close(ours, theirs)


def test_focal_equals_monai_for_the_softmax():
    """MONAI's mean runs over the classes too, all but one of which are 0 at each pixel."""
    logits, target = batch("multiclass")
    theirs = monai.FocalLoss(gamma=1.5, use_softmax=True)(logits, one_hot(target, 3))
    ours = Loss.build("focal", mode="multiclass", gamma=1.5)(logits, target)
    torch.testing.assert_close(ours, 3 * theirs)


def test_a_sum_equals_monai():
    logits, target = batch("multiclass")
    theirs = monai.DiceCELoss(
        softmax=True, batch=True, smooth_nr=1.0, smooth_dr=1.0, lambda_dice=0.3, lambda_ce=2.0
    )(logits, one_hot(target, 3))
    terms = {"dice": {"weight": 0.3}, "cross_entropy": {"weight": 2.0}}
    ours = Loss.build("sum", mode="multiclass", terms=terms)(logits, target)
    torch.testing.assert_close(ours, theirs)


def lines():
    """Sure logits and a target of crossing lines of 3 and 5 pixels' width, of (1, 30, 30)."""
    target = torch.zeros(1, 30, 30, dtype=torch.int64)
    target[0, 5:8] = target[0, :, 20:25] = 1
    decided = torch.zeros_like(target)
    decided[0, 6:9, :18] = decided[0, 4:, 21:24] = 1
    return torch.where(decided == 1, 100.0, -100.0).unsqueeze(1), target


def test_cldice_equals_monai_where_nothing_is_too_thick_for_the_iterations():
    logits, target = lines()
    theirs = monai.SoftclDiceLoss(iter_=6, sigmoid=True, smooth=1e-12)
    ours = Loss.build("cldice", mode="binary", iterations=6)
    expected = theirs(logits, target.unsqueeze(1).float())
    assert expected > 0.05
    torch.testing.assert_close(ours(logits, target), expected)


def test_boundary_has_the_gradient_of_monai_but_for_half_a_pixel():
    """Its boundary goes through the outermost pixels of an object, ours along their outer edge."""
    logits, target = batch("multilabel")
    logits.requires_grad_()
    theirs = monai.BoundaryLoss(sigmoid=True)(logits, target.float())
    shift = 0.5 * logits.sigmoid().mean()
    ours = Loss.build("boundary", mode="multilabel")(logits, target)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, logits)[0] for value in (ours, theirs - shift))
    )


# Not the same


def test_smp_cross_entropy_counts_ignored_pixels_in_its_mean():
    logits, target = batch("multiclass", ignored=True)
    right = F.cross_entropy(logits, target, ignore_index=255)
    theirs = smp.losses.SoftCrossEntropyLoss(smooth_factor=0.0, ignore_index=255)
    share = (target != 255).float().mean()
    assert share < 0.8
    torch.testing.assert_close(theirs(logits, target), right * share)
    torch.testing.assert_close(
        Loss.build("cross_entropy", mode="multiclass")(logits, target), right
    )


def test_smp_bce_counts_ignored_pixels_in_its_mean():
    logits, target = batch("multilabel", ignored=True)
    kept = target != 255
    right = F.binary_cross_entropy_with_logits(logits[kept], target[kept].float())
    theirs = smp.losses.SoftBCEWithLogitsLoss(ignore_index=255)
    torch.testing.assert_close(theirs(logits, target.float()), right * kept.float().mean())
    torch.testing.assert_close(Loss.build("bce", mode="multilabel")(logits, target), right)


def test_smp_cross_entropy_crashes_by_default():
    logits, target = batch("multiclass")
    with pytest.raises(TypeError, match="NoneType"):
        smp.losses.SoftCrossEntropyLoss()(logits, target)
    Loss.build("cross_entropy", mode="multiclass")(logits, target)


def test_smp_dice_is_nan_in_float16():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 512, 512, generator=generator).half()
    target = torch.randint(2, (1, 512, 512), generator=generator)
    assert smp.losses.DiceLoss("binary")(logits, target).isnan()
    ours = Loss.build("dice", mode="binary")
    torch.testing.assert_close(ours(logits, target), ours(logits.double(), target))


@pytest.mark.parametrize(
    ("name", "peer"), [("dice", "DiceLoss"), ("jaccard", "JaccardLoss"), ("tversky", "TverskyLoss")]
)
def test_false_positives_on_an_empty_mask_cost_nothing_in_smp(name, peer):
    logits, target = torch.full((1, 1, 9, 8), 50.0), torch.zeros(1, 9, 8, dtype=torch.int64)
    assert getattr(smp.losses, peer)("binary", smooth=1.0)(logits, target) == 0
    assert Loss.build(name, mode="binary")(logits, target) > 0.9


def test_false_positives_of_an_absent_class_cost_nothing_of_their_own_in_smp():
    target = torch.zeros(1, 9, 8, dtype=torch.int64)
    logits = torch.stack([-torch.ones(1, 9, 8), -torch.ones(1, 9, 8), torch.ones(1, 9, 8)], 1) * 50
    theirs = smp.losses.DiceLoss("multiclass", smooth=1.0)(logits, target)
    assert theirs.item() == pytest.approx(1 / 3 * (1 - 1 / 37), rel=1e-5)  # of class 0, missed
    ours = Loss.build("dice", mode="multiclass")(logits, target)
    assert ours.item() == pytest.approx(2 / 3 * (1 - 1 / 73), rel=1e-5)


def test_smp_focal_of_multilabel_cannot_ignore():
    logits, target = batch("multilabel", ignored=True)
    with pytest.raises(IndexError):
        smp.losses.FocalLoss("multilabel", ignore_index=255)(logits, target)
    kept = target != 255
    expected = smp.losses.FocalLoss("binary")(logits[kept], target[kept])
    torch.testing.assert_close(Loss.build("focal", mode="multilabel")(logits, target), expected)


def test_smp_focal_of_multiclass_is_not_that_of_the_softmax():
    """It has a sigmoid for each class, and another value from probabilities than from logits."""
    logits, target = batch("multiclass")
    theirs = smp.losses.FocalLoss("multiclass")(logits, target)
    stack = one_hot(target, 3).long()
    torch.testing.assert_close(Loss.build("focal", mode="multilabel")(logits, stack), theirs)
    from_p = smp.losses.FocalLoss("multiclass", from_logits=False)(logits.softmax(1), target)
    assert not torch.isclose(from_p, theirs, rtol=0.05)

    log_p = logits.log_softmax(1).gather(1, target.unsqueeze(1))
    right = (-((1 - log_p.exp()) ** 2) * log_p).mean()
    assert not torch.isclose(theirs, right, rtol=0.05)
    torch.testing.assert_close(Loss.build("focal", mode="multiclass")(logits, target), right)


def test_smp_focal_tversky_takes_the_power_of_the_mean():
    """The paper sums the powers of the classes: a hard class weighs by its own loss."""
    logits, target = batch("multilabel")
    options = {"alpha": 0.3, "beta": 0.7, "smooth": 1.0}
    theirs = smp.losses.TverskyLoss("multilabel", gamma=3.0, **options)
    plain = Loss.build("tversky", mode="multilabel", **options)
    torch.testing.assert_close(theirs(logits, target), plain(logits, target) ** 3)
    each = [plain(logits[:, c : c + 1], target[:, c : c + 1]) ** 3 for c in range(3)]
    ours = Loss.build("tversky", mode="multilabel", gamma=3.0, **options)
    torch.testing.assert_close(ours(logits, target), torch.stack(each).mean())


def test_smp_lovasz_of_multilabel_ranks_all_classes_together():
    """Its Jaccard index is that of one region, of all classes; a rare class is lost in it."""
    logits, target = batch("multilabel")
    theirs = smp.losses.LovaszLoss("multilabel")(logits, target)
    binary = Loss.build("lovasz", mode="binary")
    torch.testing.assert_close(binary(logits.view(2, 1, 27, 8), target.view(2, 27, 8)), theirs)
    each = [binary(logits[:, c : c + 1], target[:, c]) for c in range(3)]
    ours = Loss.build("lovasz", mode="multilabel")(logits, target)
    torch.testing.assert_close(ours, torch.stack(each).mean())
    assert not torch.isclose(ours, theirs, rtol=1e-4)


def test_smp_scores_a_perfect_prediction_with_class_weights_as_a_fraction():
    _, target = batch("multiclass")
    stats = smp.metrics.get_stats(target, target, mode="multiclass", num_classes=3)
    theirs = smp.metrics.iou_score(*stats, reduction="macro", class_weights=[1.0, 1.0, 1.0])
    assert theirs.item() == pytest.approx(1 / 3)
    ours = Loss.build("jaccard", mode="multiclass", class_weights=[1.0, 1.0, 1.0])
    assert ours((one_hot(target, 3) - 0.5) * 100, target) < 1e-6


def test_smp_iou_of_a_batch_of_empty_masks_is_nan():
    """So is ours of such a batch alone, but ours counts the images of an epoch together."""
    empty = torch.zeros(2, 9, 8, dtype=torch.int64)
    stats = smp.metrics.get_stats(empty, empty, mode="binary")
    assert smp.metrics.iou_score(*stats, reduction="micro").isnan()
    matrix = ConfusionMatrix("binary", 2)
    ious = []
    for labels in (empty, torch.ones_like(empty)):
        matrix.update(labels, labels)
        ious.append(score_matrix(matrix.compute(), "binary", ["background", "cell"]).mean["iou"])
    assert math.isnan(ious[0])
    assert ious[1] == 1


def test_monai_boundary_of_an_empty_mask_is_free():
    logits, target = torch.full((1, 1, 9, 8), 50.0), torch.zeros(1, 9, 8, dtype=torch.int64)
    theirs = monai.BoundaryLoss(sigmoid=True)(logits, target.unsqueeze(1).float())
    assert theirs == 0
    assert Loss.build("boundary", mode="binary")(logits, target) > 1


def test_monai_cldice_of_a_prediction_that_is_all_positive_is_free():
    logits, target = lines()
    all_positive = torch.full_like(logits, 100.0)
    theirs = monai.SoftclDiceLoss(iter_=3, sigmoid=True, smooth=1e-12)
    for truth in (target, torch.zeros_like(target)):
        assert theirs(all_positive, truth.unsqueeze(1).float()) < 1e-6
        assert Loss.build("cldice", mode="binary")(all_positive, truth) > 0.4
