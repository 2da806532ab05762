"""The loss of queries against its definition, and what it promises."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.losses import queries as module
from segkit.losses.base import Loss
from segkit.losses.queries import TooFewQueriesWarning, list_segments
from segkit.models.queries import Masks
from segkit.models.segmenter import create_model

WEIGHTS = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 5.0, "no_object_weight": 0.1}


def make_found(batch=1, queries=4, classes=3, size=(8, 10), stride=1, seed=0) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    grid = [-(-side // stride) for side in size]
    return Masks(
        torch.randn(batch, queries, classes + 1, generator=generator),
        torch.randn(batch, queries, 6, generator=generator),
        torch.randn(batch, 6, *grid, generator=generator),
        stride,
        size,
    )


def draw_truth() -> tuple[Tensor, Tensor]:
    """Labels and ids (1, 8, 10): two objects of class 1, one of class 2, unlabelled pixels."""
    ids = torch.zeros(1, 8, 10, dtype=torch.int32)
    ids[0, 1:4, 1:4], ids[0, 1:4, 5:9], ids[0, 5:8, 2:6] = 1, 2, 3
    labels = torch.tensor([0, 1, 1, 2])[ids.long()]
    labels[0, :, 9] = 255
    return labels, ids


def fix_points(monkeypatch, height=8, width=10) -> Tensor:
    """All centres of pixels as points, once as candidates and once as the others."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    points = torch.stack([(x + 0.5) / width, (y + 0.5) / height], -1).reshape(1, -1, 2)
    every = torch.cat([points, points], 1)
    monkeypatch.setattr(module, "draw_points", lambda truth, count: every.expand(len(truth), -1, 2))
    monkeypatch.setattr(module, "IMPORTANCE", 0.5)
    monkeypatch.setattr(module, "OVERSAMPLE", 0.5)
    return points


def compute_plainly(found: Masks, labels: Tensor, ids: Tensor | None) -> float:
    """The definition, for one image whose points are all of its pixels."""
    logits, counts = found.draw()[0], labels[0] != 255
    regions = [(0, labels[0] == 0)]
    if ids is None:
        regions = [(int(c), labels[0] == c) for c in labels[0][counts].unique()]
    else:
        for number in ids[0].unique()[1:]:
            inside = (ids[0] == number) & counts
            regions.append((int(labels[0][inside][0]), inside))

    def compare(query: int, inside: Tensor) -> tuple[float, float]:
        x, t = logits[query][counts].repeat(2), inside[counts].float().repeat(2)
        dice = 1 - (2 * (x.sigmoid() * t).sum() + 1) / (x.sigmoid().sum() + t.sum() + 1)
        return F.binary_cross_entropy_with_logits(x, t).item(), dice.item()

    chances = found.classes[0].softmax(-1)

    def cost(chosen) -> float:
        total = 0.0
        for query, (label, inside) in zip(chosen, regions, strict=True):
            entropy, dice = compare(query, inside)
            total += 5 * entropy + 5 * dice - 2 * chances[query, label].item()
        return total

    best = min(permutations(range(len(chances)), len(regions)), key=cost)
    parts = [compare(query, inside) for query, (_, inside) in zip(best, regions, strict=True)]
    masks = sum(5 * entropy + 5 * dice for entropy, dice in parts) / len(parts)
    wanted = {query: label for query, (label, _) in zip(best, regions, strict=True)}
    total = weights = 0.0
    for query, chance in enumerate(chances):
        shares = logits[query].sigmoid()
        known = (shares[counts].sum() / shares.sum()).item()
        weight = 1.0 if query in wanted else 0.1 * known
        total -= weight * chance[wanted.get(query, -1)].log().item()
        weights += weight
    return masks + 2 * total / weights


@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_its_definition(seed, with_ids, monkeypatch):
    fix_points(monkeypatch)
    found, (labels, ids) = make_found(queries=5, seed=seed), draw_truth()
    loss = Loss.build("queries", mode="multiclass", points=160, **WEIGHTS)
    given = {"ids": ids} if with_ids else {}
    expected = compute_plainly(found, labels, given.get("ids"))
    assert loss([found], labels, **given).item() == pytest.approx(expected, rel=1e-4)
    both = loss([found, found], labels, **given).item()
    assert both == pytest.approx(2 * expected, rel=1e-4)


def test_points_are_where_they_say():
    """Of a padded map of stride 4, masks are drawn at points as they are at pixels."""
    found = make_found(size=(13, 22), stride=4)
    full = F.interpolate(found.draw(), scale_factor=4, mode="bilinear", align_corners=False)
    y, x = torch.meshgrid(torch.arange(13), torch.arange(22), indexing="ij")
    points = torch.stack([(x + 0.5) / 22, (y + 0.5) / 13], -1).reshape(1, -1, 2)
    torch.testing.assert_close(
        (found.masks @ found.sample(points)).reshape(1, 4, 13, 22),
        full[..., :13, :22],
        rtol=1e-4,
        atol=1e-5,
    )
    coarse = F.avg_pool2d(found.draw(), 2)
    torch.testing.assert_close(found.draw(2), coarse, rtol=1e-4, atol=1e-5)


def test_segments_are_objects_and_classes():
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 0])
    ids = torch.tensor([0, 0, 300, 300, 5, 0, 0])
    counts = torch.tensor([1, 1, 1, 1, 1, 1, 0]).bool()
    found = list_segments(labels, counts, ids)
    assert found.labels.tolist() == [0, 2, 1, 1]
    assert found.inside.int().tolist() == [
        [1, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0, 0, 0],
    ]
    assert list_segments(labels, counts, None).labels.tolist() == [0, 1, 2]
    assert list_segments(labels, torch.zeros(7).bool(), ids).labels.tolist() == []


def test_ignored_pixels_change_nothing():
    """Neither the value nor the gradient depends on what is found there."""
    labels, ids = draw_truth()
    labels[0, :, 5:] = 255
    found = make_found()
    values = []
    for seed in (1, 2):
        pixels = found.pixels.clone()
        pixels[..., 7:] = torch.randn(6, 8, 3, generator=torch.Generator().manual_seed(seed))
        pixels.requires_grad_()
        torch.manual_seed(0)
        loss = Loss.build("queries", mode="multiclass", class_weight=0.0)
        value = loss([found._replace(pixels=pixels)], labels, ids=ids)
        values.append(value.item())
        (gradient,) = torch.autograd.grad(value, pixels)
        assert not gradient[..., 7:].any()
        assert gradient[..., :5].any()
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_an_image_without_labels_costs_nothing():
    found = make_found(batch=2)
    classes = found.classes.requires_grad_()
    loss = Loss.build("queries", mode="multiclass")
    value = loss([found], torch.full((2, 8, 10), 255))
    assert value.item() == 0
    assert not torch.autograd.grad(value, classes)[0].any()


def test_steps_differ_and_repeat_with_the_state_of_torch():
    labels, ids = draw_truth()
    loss = Loss.build("queries", mode="multiclass", points=16)

    def compute(seed: int) -> float:
        torch.manual_seed(seed)
        return loss([make_found()], labels, ids=ids).item()

    assert compute(0) == compute(0) != compute(1)


def test_more_objects_than_queries_warn_once_and_train():
    labels, ids = draw_truth()
    loss = Loss.build("queries", mode="multiclass")
    found = make_found(queries=2)
    with pytest.warns(TooFewQueriesWarning, match="more objects and classes than the 2 queries"):
        assert loss([found], labels, ids=ids).isfinite()


def test_a_network_that_has_gone_astray_gives_nan_and_no_error():
    labels, ids = draw_truth()
    found = make_found()
    found = found._replace(masks=found.masks * torch.nan)
    assert Loss.build("queries", mode="multiclass")([found], labels, ids=ids).isnan()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, t, i: (f.draw(), t, i), "not logits: use head=queries"),
        (lambda f, t, i: ([f], t[:, :5], i), "has the shape"),
        (lambda f, t, i: ([f], t, i[:, :5]), "one id for each pixel"),
        (lambda f, t, i: ([f], t + 7, i), "8"),
    ],
)
def test_what_it_cannot_take(change, message):
    found, target, ids = change(make_found(), *draw_truth())
    with pytest.raises(SegkitError, match=message):
        Loss.build("queries", mode="multiclass")(found, target, ids=ids)


def test_it_takes_no_weights_and_no_other_mode():
    labels, _ = draw_truth()
    with pytest.raises(SegkitError, match="takes no pixel weights"):
        Loss.build("queries", mode="multiclass")([make_found()], labels, torch.ones(1, 8, 10))
    with pytest.raises(SegkitError, match="has no mode 'binary'"):
        Loss.build("queries", mode="binary")


def test_it_is_no_term_of_a_sum():
    with pytest.raises(SegkitError, match="no term of a sum"):
        Loss.build("sum", mode="multiclass", terms={"dice": {}, "queries": {}})


def test_half_precision_costs_the_same():
    labels, ids = draw_truth()
    found = make_found()
    loss = Loss.build("queries", mode="multiclass")
    values = []
    for kind in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        given = found._replace(
            classes=found.classes.to(kind), masks=found.masks.to(kind), pixels=found.pixels.to(kind)
        )
        values.append(loss([given], labels, ids=ids).item())
    assert values[0] == pytest.approx(values[1], rel=0.05)


@pytest.mark.parametrize("objects", [pytest.param(False, marks=pytest.mark.nightly), True])
def test_a_network_learns_an_image(objects):
    """Two discs: classes alone, and told apart."""
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    ids = torch.zeros(1, 64, 64, dtype=torch.int32)
    ids[0][(y - 20) ** 2 + (x - 20) ** 2 < 150] = 1
    ids[0][(y - 40) ** 2 + (x - 46) ** 2 < 150] = 2
    labels = (ids > 0).long()
    image = torch.randn(1, 3, 64, 64) * 0.1 + labels.unsqueeze(1)
    image[:, 0] += ids * 0.5
    encoder = {"name": "test_resnet", "pretrained": False}
    head = {"name": "queries", "objects": objects, "queries": 6, "width": 32, "layers": 2}
    model = create_model(encoder, {"name": "mask2former", "width": 32}, head, num_classes=2)
    loss = Loss.build("queries", mode="multiclass", points=512)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    given = {"ids": ids} if objects else {}
    for _ in range(120):
        value = loss(model.all_logits(image)[0], labels, **given)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    probabilities = model.head.activate(model(image))
    assert (model.head.decide(probabilities) == labels).float().mean() > 0.95
    if objects:
        found = probabilities[0, 2]
        one, two = (found[ids[0] == n].mode().values for n in (1, 2))
        assert one > 0
        assert two > 0
        assert one != two
