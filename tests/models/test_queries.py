"""Networks with queries: heads, the blocks of transformers that carry them, and their objects."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor

from segkit.core.errors import SegkitError
from segkit.models.encoders import Encoder
from segkit.models.encoders.carrying import find_share
from segkit.models.heads import Head
from segkit.models.necks import Neck
from segkit.models.queries import Masks, find_seen
from segkit.models.segmenter import create_model

VIT = {"name": "test_vit", "pretrained": False, "blocks": "plain", "query_blocks": 1}


def build(encoder="test_resnet", neck="mask2former", num_classes=3, **head):
    options = {"name": encoder, "pretrained": False} if isinstance(encoder, str) else encoder
    torch.manual_seed(0)
    head = {"name": "queries", "queries": 7, "width": 32, "layers": 2, **head}
    return create_model(options, neck, head, num_classes=num_classes).eval()


@pytest.mark.parametrize("objects", [False, True])
@pytest.mark.parametrize("neck", Neck.names())
@torch.no_grad()
def test_they_look_at_every_neck(neck, objects):
    model = build(neck=neck, objects=objects)
    for size in ((1, 1), (37, 61), (64, 96)):
        logits = model(torch.rand(2, 3, *size))
        assert logits.shape == (2, 3 + objects, *size)
        probabilities = model.head.activate(logits)
        torch.testing.assert_close(probabilities[:, :3].sum(1), torch.ones(2, *size))
        labels = model.head.decide(probabilities)
        assert labels.shape == (2, *size)
        assert labels.dtype == torch.uint8
        if objects:
            numbers = probabilities[:, 3]
            assert torch.equal(numbers, numbers.round())
            assert numbers.max() <= 7


@torch.no_grad()
def test_an_image_does_not_depend_on_the_others():
    model, images = build(objects=True), torch.rand(3, 3, 64, 64)
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]), rtol=1e-4, atol=1e-4)


def test_every_layer_is_supervised_and_every_parameter_trained():
    model = build().train()
    found = model.all_logits(torch.rand(2, 3, 64, 96))
    assert len(found) == 1
    assert [m.classes.shape for m in found[0]] == [(2, 7, 4)] * 3
    assert {(m.stride, *m.size) for m in found[0]} == {(4, 64, 96)}
    sum(m.draw().sum() + m.classes.sum() for m in found[0]).backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None]
    assert idle == []


def test_recomputing_changes_nothing():
    model, images = build().train(), torch.rand(2, 3, 64, 64)
    results = []
    for recompute in (False, True):
        model.zero_grad()
        model.all_logits(images, recompute)[0][-1].draw().square().mean().backward()
        results.append([p.grad.clone() for p in model.encoder.parameters()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def find(chances: list[list[float]], masks: list[list[float]], **given) -> list[int]:
    """Objects of an image of one row, from class probabilities and masks of 0 and 1."""
    head = Head.build("queries", in_channels=4, num_classes=2, queries=len(masks), objects=True)
    logits = torch.tensor([masks]).logit(eps=1e-3).unsqueeze(2)  # (1, Q, 1, W)
    found = Masks(torch.tensor([chances]).log(), logits[..., 0], logits, 1, (1, len(masks[0])))
    numbers = torch.arange(1, len(masks) + 1)
    return head.find_objects(found, logits, numbers)[0, 0, 0].int().tolist()


def test_objects_are_the_masks_of_the_best_queries():
    ground, thing, nothing = [0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]
    rows = [1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 0]
    masks = [[float(value) for value in row] for row in rows]
    assert find([thing, thing, ground, nothing], masks) == [1, 1, 2, 2, 0]
    # what a better query covers for the most part is the same thing again
    assert find([thing, thing, ground, [0.1, 0.8, 0.1]], masks) == [1, 1, 2, 2, 0]
    # twice the same, of which neither would keep its mask
    masks[3] = [1.0, 0.9, 0.9, 0.0, 0.0]
    assert find([thing, nothing, ground, [0.06, 0.89, 0.05]], masks) == [1, 1, 0, 0, 0]
    # nobody's mask, and the background
    assert find([thing], [[0.4, 0.6]]) == [0, 1]
    assert find([ground], [[1.0, 1.0]]) == [0, 0]


@torch.no_grad()
def test_scores_of_classes_are_their_sum():
    head = Head.build("queries", in_channels=4, num_classes=2, queries=3).eval()
    found = head.find_masks([torch.rand(1, 4, 5, 6)], 1, (5, 6))[-1]
    chances, shares = found.classes[0].softmax(-1), found.draw()[0].sigmoid()
    expected = sum(chances[q, :2, None, None] * shares[q] for q in range(3))
    torch.testing.assert_close(head.score_classes(found)[0].exp(), expected)


@torch.no_grad()
def test_queries_that_have_found_nothing_need_not_be_drawn():
    model, image = build(objects=True), torch.rand(1, 3, 64, 64)
    found = model.find_masks(image)[-1]
    classes = found.classes.clone()
    classes[:, ::2, -1] = 9
    found = found._replace(classes=classes)
    fewer, numbers = model.head.drop_idle(found)
    assert 0 < len(numbers) == fewer.classes.shape[1] == fewer.masks.shape[1] <= 3
    whole = model.head.find_objects(found, found.draw(), torch.arange(1, 8))
    assert torch.equal(whole, model.head.find_objects(fewer, fewer.draw(), numbers))
    classes[..., -1] = 9
    assert not model.draw(found._replace(classes=classes))[:, -1].any()


def test_a_query_looks_at_its_mask_or_at_all():
    masks = torch.tensor([[[[1.0, -1.0]], [[-1.0, -1.0]], [[0.0, 2.0]]]])
    assert find_seen(masks).tolist() == [[[True, False], [True, True], [True, True]]]


# --- blocks of a transformer that carry them -----------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_vit", "vit_tiny_patch16_224", "vit_small_patch16_dinov3"])
def test_queries_go_through_the_last_blocks(name):
    """As timm computes it: of rotations, the queries are among the tokens that get none."""
    encoder = {"name": name, "pretrained": False, "blocks": "plain", "query_blocks": 1}
    model = build(encoder, "upscale")
    image = torch.rand(2, 3, 64, 96)
    taken: list[Tensor] = []

    def predict(maps, queries):
        taken.extend((maps[0], queries))
        return model.head.predict(queries, model.head.embed_pixels(model.neck(maps)), 4, (64, 96))

    queries = model.head.start.weight
    model.encoder.find_masks(image, queries, predict)
    plain = timm.create_model(name, dynamic_img_size=True, num_classes=0).eval()
    plain.load_state_dict(model.encoder.backbone.model.state_dict(), strict=False)
    tokens, given = plain._pos_embed(plain.patch_embed(image)), {}
    if isinstance(tokens, tuple):
        tokens, rope = tokens
        given = {"rope": rope}
    tokens = plain.norm_pre(tokens)
    for block in plain.blocks[:-1]:
        tokens = block(tokens, **given)
    last, prefix = plain.blocks[-1], plain.num_prefix_tokens
    if given:
        last.attn.num_prefix_tokens += len(queries)
    tokens = last(torch.cat([queries.expand(2, -1, -1), tokens], 1), **given)
    torch.testing.assert_close(taken[1], tokens[:, : len(queries)], rtol=1e-4, atol=1e-4)
    pixels = tokens[:, len(queries) + prefix :].transpose(1, 2).reshape(taken[0].shape)
    torch.testing.assert_close(taken[0], pixels, rtol=1e-4, atol=1e-4)


def test_masks_fade_block_by_block():
    shares = [[find_share(block, 3, step / 10) for block in range(3)] for step in range(11)]
    assert shares[0] == [1, 1, 1]
    assert shares[10] == [0, 0, 0]
    for block in range(3):
        column = [row[block] for row in shares]
        assert column == sorted(column, reverse=True)
        assert find_share(block, 3, (block + 1.5) / 5) == pytest.approx(0.5**0.9)
    assert find_share(2, 3, 0.8) == pytest.approx(0, abs=1e-9)  # before the end


def test_masks_are_of_the_training_alone():
    """At the end of it, and in eval mode, the network computes the same with and without."""
    model, image = build(VIT, "upscale"), torch.rand(1, 3, 64, 64)
    model.encoder.set_progress(1.0)
    with torch.no_grad():
        evaluated = model.find_masks(image)
        trained = model.train().find_masks(image)
    assert len(evaluated) == 1
    assert len(trained) == 2
    torch.testing.assert_close(evaluated[-1].draw(), trained[-1].draw())
    model.encoder.set_progress(0.0)
    with torch.no_grad():
        masked = model.find_masks(image)
    assert not torch.allclose(masked[-1].masks, trained[-1].masks)
    torch.testing.assert_close(masked[0].masks, trained[0].masks)  # before the first such block


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (lambda: build(width=36), "give a multiple of head.attention"),
        (lambda: build({**VIT, "blocks": "several"}, "upscale"), "give encoder.blocks=plain"),
        (lambda: build({**VIT, "query_blocks": 99}, "upscale"), "has . blocks: give 1 to"),
        (lambda: build({**VIT, "name": "resnet18"}, "unet"), "blocks of a plain transformer"),
        (lambda: create_model(VIT, "upscale", "binary"), "which has no queries: use head=queries"),
        (
            lambda: create_model(
                {"name": "unet", "padding": "valid"}, "unet", "queries", num_classes=2
            ),
            "use encoder.padding=same|Use encoder.padding=same",
        ),
        (
            lambda: create_model(
                {"name": "resnet18", "pretrained": False},
                "unet",
                "queries",
                num_classes=2,
                auxiliary=1,
            ),
            "Leave auxiliary out",
        ),
    ],
)
def test_parts_that_do_not_fit(parts, message):
    with pytest.raises(SegkitError, match=message):
        parts()


def test_other_encoders_carry_none():
    encoder = Encoder.build("test_resnet", pretrained=False)
    assert encoder.query_channels == 0
    with pytest.raises(NotImplementedError):
        Encoder.find_masks(encoder, torch.rand(1, 3, 64, 64), torch.rand(2, 4), print)
