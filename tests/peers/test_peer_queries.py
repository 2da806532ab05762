"""The parts of networks of queries next to those of transformers (Mask2Former).

With their weights, the layers give the same. What differs elsewhere, and why:

- Points are drawn once for an image instead of once for each mask, so that pixels are interpolated
  at them once, for all masks and layers.
- Queries without an object count with the share of their mask that is not on ignored pixels.
- Losses are divided by the number of objects in the batch of a process, not of all processes.
- Pixels of stride 16 and more attend to each other; their deformable attention is not exported.
"""

from __future__ import annotations

import pytest
import torch

from segkit.losses.base import Loss
from segkit.losses.queries import Segments
from segkit.models.queries import EncoderLayer, QueryLayer, make_positions

pytestmark = pytest.mark.peers
transformers = pytest.importorskip("transformers", reason="the extra peers is not installed")
mask2former = pytest.importorskip(
    "transformers.models.mask2former.modeling_mask2former",
    reason="the extra peers is not installed",
)
WIDTH, HEADS = 32, 4


def give_attention(own, query, key, value, out) -> None:
    """Copy the weights of four projections, each a pair of weight and bias."""
    for layer, (weight, bias) in zip(
        (own.query, own.key, own.value, own.project), (query, key, value, out), strict=True
    ):
        layer.weight.data.copy_(weight)
        layer.bias.data.copy_(bias)


def test_a_layer_of_queries():
    torch.manual_seed(0)
    config = transformers.Mask2FormerConfig(
        hidden_dim=WIDTH, num_attention_heads=HEADS, dim_feedforward=8 * WIDTH, dropout=0.0
    )
    theirs = mask2former.Mask2FormerMaskedAttentionDecoderLayer(config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    mine, across, among = QueryLayer(WIDTH, HEADS), theirs.cross_attn, theirs.self_attn
    weights, biases = across.in_proj_weight.chunk(3), across.in_proj_bias.chunk(3)
    out = across.out_proj.weight, across.out_proj.bias
    give_attention(mine.across, *zip(weights, biases, strict=True), out)
    parts = among.q_proj, among.k_proj, among.v_proj, among.out_proj
    give_attention(mine.among, *((part.weight, part.bias) for part in parts))
    mine.mlp[0].load_state_dict(theirs.fc1.state_dict())
    mine.mlp[2].load_state_dict(theirs.fc2.state_dict())
    norms = theirs.cross_attn_layer_norm, theirs.self_attn_layer_norm, theirs.final_layer_norm
    for own, other in zip(mine.norms, norms, strict=True):
        own.load_state_dict(other.state_dict())

    x, place = torch.randn(2, 5, WIDTH), torch.randn(5, WIDTH)
    values, where = torch.randn(2, 12, WIDTH), torch.randn(12, WIDTH)
    seen = torch.rand(2, 5, 12) > 0.5
    seen[..., 0] = True
    with torch.no_grad():
        given = mine(x, place, values + where, values, seen)
        (expected, *_) = theirs(
            x.transpose(0, 1),
            level_index=0,
            position_embeddings=[where.unsqueeze(1)],
            query_position_embeddings=place.unsqueeze(1).expand(-1, 2, -1),
            encoder_hidden_states=[values.transpose(0, 1)],
            encoder_attention_mask=~seen.repeat_interleave(HEADS, 0),
        )
    torch.testing.assert_close(given, expected.transpose(0, 1), rtol=1e-4, atol=1e-5)


def test_a_layer_of_pixels_is_that_of_torch():
    torch.manual_seed(0)
    mine = EncoderLayer(WIDTH, HEADS)
    theirs = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, batch_first=True)
    attention = theirs.self_attn
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    out = attention.out_proj.weight, attention.out_proj.bias
    give_attention(mine.among, *zip(weights, biases, strict=True), out)
    mine.mlp[0].load_state_dict(theirs.linear1.state_dict())
    mine.mlp[2].load_state_dict(theirs.linear2.state_dict())
    x = torch.randn(2, 7, WIDTH)
    torch.testing.assert_close(mine(x, torch.zeros(7, WIDTH)), theirs(x), rtol=1e-4, atol=1e-5)


def test_positions():
    """Theirs alternate sines and cosines."""
    maps = torch.zeros(1, WIDTH, 5, 9)
    theirs = mask2former.Mask2FormerSinePositionEmbedding(WIDTH // 2, normalize=True)
    expected = theirs(maps.shape, maps.device, maps.dtype)[0].flatten(1).T  # (h w, C)
    rows, columns = expected.chunk(2, 1)
    order = [side[:, first::2] for side in (rows, columns) for first in (0, 1)]
    torch.testing.assert_close(make_positions(maps), torch.cat(order, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_queries_are_matched_alike(seed):
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randn(9, 4, generator=generator)
    drawn = 3 * torch.randn(9, 200, generator=generator)
    inside = (torch.rand(5, 200, generator=generator) > 0.7).float()
    labels = torch.randint(3, (5,), generator=generator)
    loss = Loss.build("queries", mode="multiclass")
    queries, rows = loss.match(classes, drawn, Segments(labels, inside), torch.ones(200))
    cost = 5 * mask2former.pair_wise_sigmoid_cross_entropy_loss(drawn, inside)
    cost = cost + 5 * mask2former.pair_wise_dice_loss(drawn, inside)
    cost = cost - 2 * classes.softmax(-1)[:, labels]
    expected = mask2former.linear_sum_assignment(cost)
    assert queries.tolist() == expected[0].tolist()
    assert rows.tolist() == expected[1].tolist()
