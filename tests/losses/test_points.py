"""Losses on points of an image: what points are taken, what is taken at them, and what it costs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segkit.core.errors import SegkitError
from segkit.losses import Loss
from segkit.losses.labels import split_target
from segkit.losses.points import choose_points, draw_points, select_points, take_points

CHANNELS = {"binary": 1, "multiclass": 4, "multilabel": 3}
LOSSES = {
    "focal": {},
    "dice": {},
    "sum": {"terms": {"dice": {}, "focal": {"weight": 2.0}, "cross_entropy": {}}},
}
every_mode = pytest.mark.parametrize("mode", CHANNELS)
every_loss = pytest.mark.parametrize("name", LOSSES)


def batch(mode, size=(12, 20), ignored=True):
    """Smooth logits (2, C, H, W) and labels, whose upper left corner is ignored."""
    generator = torch.Generator().manual_seed(0)
    C = CHANNELS[mode]
    coarse = torch.randn(2, C, 4, 5, generator=generator)
    logits = 4 * F.interpolate(coarse, size, mode="bicubic", align_corners=False)
    target = torch.randint(max(2, C), (2, *size), generator=generator)
    if ignored:
        target[:, :5, :7] = 255
    return logits, target


def split(mode, target):
    return split_target(target, mode, CHANNELS[mode], 255, check_values=True)


def list_centres(height, width):
    """The centres of all pixels, (2, HW, 2)."""
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    return torch.stack([x, y], -1).reshape(1, -1, 2).repeat(2, 1, 1)


@every_mode
@every_loss
def test_at_the_centres_of_all_pixels_it_is_the_plain_loss(name, mode):
    logits, target = batch(mode)
    weight = torch.rand(target.shape, generator=torch.Generator().manual_seed(1))
    truth, valid = split(mode, target)
    weight = weight if valid.ndim == 3 else weight.unsqueeze(1)
    loss = Loss.build(name, mode=mode, **LOSSES[name])
    given = None if name == "dice" else weight
    *taken, picked = take_points(logits, truth, valid, given, list_centres(12, 20))
    assert taken[0].shape == (2, CHANNELS[mode], 1, 240)
    expected = loss.compute(logits, truth, valid, given)
    torch.testing.assert_close(loss.compute(*taken, picked), expected)


@every_mode
@every_loss
def test_evenly_drawn_points_give_the_plain_loss_on_average(name, mode):
    """Within a hundredth, of smooth logits, which interpolation hardly changes."""
    logits, target = batch(mode, (96, 160))
    truth, valid = split(mode, target)
    loss = Loss.build(name, mode=mode, **LOSSES[name])
    points = choose_points(logits, valid, mode, 100_000, oversample=1, importance=0)
    value = loss.compute(*take_points(logits, truth, valid, None, points))
    torch.testing.assert_close(value, loss(logits, target), rtol=0.01, atol=0)


@every_mode
def test_three_quarters_are_the_least_certain_candidates(mode):
    logits, target = batch(mode)
    truth, valid = split(mode, target)
    points = choose_points(logits, valid, mode, 40)
    assert points.shape == (2, 40, 2)
    assert points.amin() >= 0
    assert points.amax() < 1
    drawn = draw_points(logits, 10 + 120)
    torch.testing.assert_close(points[:, 30:], drawn[:, :10])
    values, _, counts, _ = take_points(logits, truth, valid, None, drawn[:, 10:])
    if mode == "multiclass":
        best = values.sort(1, descending=True).values
        margins = (best[:, 0] - best[:, 1]).masked_fill(~counts, 1e9).squeeze(1)
    else:
        margins = values.abs().masked_fill(~counts, 1e9).amin(1).squeeze(1)
    for image in range(2):
        order = margins[image].argsort()[:30]
        chosen = {tuple(p) for p in drawn[image, 10:][order].tolist()}
        assert {tuple(p) for p in points[image, :30].tolist()} == chosen


@every_mode
def test_uncertain_points_are_never_in_ignored_pixels(mode):
    logits, target = batch(mode)
    logits[..., :5, :7] = 0  # the least certain of all
    _, valid = split(mode, target)
    x, y = choose_points(logits, valid, mode, 40)[:, :30].unbind(-1)
    assert not ((x < 7 / 20) & (y < 5 / 12)).any()


@every_mode
@every_loss
def test_ignored_pixels_get_no_gradient_and_change_nothing(name, mode):
    loss = Loss.build(name, mode=mode, points=400, **LOSSES[name])
    logits, target = batch(mode)
    moved = logits.clone()
    moved[..., :5, :7] = float("nan") if mode != "multiclass" else 1e4
    values = []
    for given in (logits, moved):
        given.requires_grad_()
        values.append(loss(given, target))
        values[-1].backward()
        assert (given.grad[..., :5, :7] == 0).all()
        assert given.grad.isfinite().all()
        assert (given.grad != 0).any()
    torch.testing.assert_close(*values)
    nothing = loss(logits, torch.full_like(target, 255))
    assert nothing == 0


@every_mode
def test_points_beside_ignored_pixels_do_not_see_them(mode):
    """A constant map stays constant, up to the borders of the image and of what is ignored."""
    logits, target = batch(mode)
    logits = torch.where((target == 255).unsqueeze(1), 1e3, torch.full_like(logits, 3.0))
    truth, valid = split(mode, target)
    drawn = draw_points(logits, 3000)
    values, _, counts, _ = take_points(logits, truth, valid, None, drawn)
    kept = values[
        counts.expand_as(values) if counts.ndim == 4 else counts.unsqueeze(1).expand_as(values)
    ]
    torch.testing.assert_close(kept, torch.full_like(kept, 3.0))


def test_points_follow_from_the_state_of_the_models_random_numbers_and_leave_it():
    logits, target = batch("multiclass")
    loss = Loss.build("focal", mode="multiclass", points=50)
    with torch.random.fork_rng():
        values = []
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            values.append(loss(logits, target))
            assert torch.equal(torch.get_rng_state(), before)
        torch.rand(1)
        values.append(loss(logits, target))
    assert values[0] == values[1]
    assert len({value.item() for value in values}) == 3
    assert not torch.equal(*draw_points(logits, 5))  # each image has its own


@every_loss
def test_a_validation_counts_all_pixels(name):
    logits, target = batch("multiclass")
    loss = Loss.build(name, mode="multiclass", points=10, **LOSSES[name])
    plain = Loss.build(name, mode="multiclass", **LOSSES[name])
    assert loss(logits, target) != plain(logits, target)
    assert loss.eval()(logits, target) == plain(logits, target)


def test_all_terms_of_a_sum_see_the_same_points():
    logits, target = batch("multilabel")
    loss = Loss.build("sum", mode="multilabel", points=30, terms={"dice": {}, "focal": {}})
    parts = [Loss.build(n, mode="multilabel", points=30)(logits, target) for n in ("dice", "focal")]
    torch.testing.assert_close(loss(logits, target), sum(parts))


@every_mode
def test_half_precision_and_empty_batches_have_a_loss(mode):
    logits, target = batch(mode)
    loss = Loss.build("dice", mode=mode, points=64)
    value = loss(logits.bfloat16(), target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(logits.bfloat16().float(), target))
    assert loss(logits[:0], target[:0]) == 0
    for size in ((1, 1), (1, 9)):
        assert loss(*batch(mode, size, ignored=False)).isfinite()


def test_gradients_are_right_at_fixed_points():
    logits, target = batch("multiclass", (6, 7))
    truth, valid = split("multiclass", target)
    points = draw_points(logits, 12)
    loss = Loss.build("focal", mode="multiclass")

    def compute(x):
        return loss.compute(*take_points(x, truth, valid, None, points))

    assert torch.autograd.gradcheck(compute, logits.double().requires_grad_())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("focal", {"points": 0}, "points.*greater than or equal to 1"),
        (
            "sum",
            {"points": 9, "terms": {"dice": {}, "boundary": {"weight": 0.1}, "cldice": {}}},
            "'boundary' needs whole images.*\n.*'cldice' needs whole images",
        ),
        ("sum", {"points": 9, "terms": {"dice": {"points": 5}}}, "share the points of the sum"),
    ],
)
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(SegkitError, match=message):
        Loss.build(name, mode="multiclass", **options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_deterministic_gradients_are_refused_on_a_gpu():
    logits, target = (x.cuda() for x in batch("multiclass"))
    loss = Loss.build("focal", mode="multiclass", points=9).cuda()
    try:
        torch.use_deterministic_algorithms(True)
        with pytest.raises(SegkitError, match="no deterministic gradient on a GPU"):
            loss(logits, target)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.slow
@every_loss
def test_a_compiled_loss_takes_the_same_points(name):
    torch.compiler.reset()
    logits, target = batch("multiclass")
    loss = Loss.build(name, mode="multiclass", points=30, **LOSSES[name])
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    with torch.random.fork_rng():
        for seed in (1, 2):
            torch.manual_seed(seed)
            torch.testing.assert_close(compiled(logits, target), loss(logits, target))


def test_inputs_are_reduced_to_one_row():
    logits, target = batch("multilabel")
    truth, valid = split("multilabel", target)
    weight = torch.rand(2, 1, 12, 20)
    taken = select_points(logits, truth, valid, weight, "multilabel", 17)
    assert [tuple(x.shape) for x in taken] == [(2, 3, 1, 17)] * 3 + [(2, 1, 1, 17)]
