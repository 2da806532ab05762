"""The boundary loss: its distances against a search over all pixels, and missing boundaries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from segkit.losses import Loss
from segkit.losses.boundary import boundary_distance


def searched(truth: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Half a pixel less than the distance to the nearest pixel of the other side."""
    distances = np.zeros(truth.shape)
    for y, x in np.argwhere(valid):
        others = np.argwhere(valid & (truth != truth[y, x]))
        distances[y, x] = np.hypot(*(others - (y, x)).T).min() - 0.5
    return distances


def planes(truth: np.ndarray, valid: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(truth)[None, None], torch.from_numpy(valid)[None, None]


@pytest.mark.parametrize("size", [(1, 9), (7, 1), (12, 17)])
@pytest.mark.parametrize("ignored", [0.0, 0.4])
def test_distances_are_those_of_a_search(size, ignored):
    rng = np.random.default_rng(0)
    for share in (0.05, 0.5, 0.9):
        truth, valid = rng.random(size) < share, rng.random(size) >= ignored
        truth.flat[0], valid.flat[0], truth.flat[-1], valid.flat[-1] = True, True, False, True
        value = boundary_distance(*planes(truth & valid, valid))[0, 0]
        np.testing.assert_allclose(value, searched(truth, valid), rtol=1e-6)


def test_distances_are_exact_in_large_images():
    truth = np.zeros((700, 1100), bool)
    truth[3:5, 7:9] = truth[350:420, 600] = True
    value = boundary_distance(*planes(truth, np.ones_like(truth)))[0, 0].numpy()
    expected = np.where(
        truth, ndimage.distance_transform_edt(truth), ndimage.distance_transform_edt(~truth)
    )
    np.testing.assert_allclose(value, expected - 0.5, rtol=1e-6)


@pytest.mark.parametrize("fill", [False, True])
def test_without_a_boundary_the_distance_is_the_diagonal_of_what_counts(fill):
    truth, valid = np.full((8, 9), fill), np.zeros((8, 9), bool)
    valid[2:5, 3:7] = True  # 3 x 4 pixels
    value = boundary_distance(*planes(truth & valid, valid))[0, 0]
    np.testing.assert_allclose(value, np.where(valid, 5.0, 0.0))


def test_by_hand():
    # Truth in the left two of four columns: distances 1.5, 0.5, 0.5, 1.5.
    target = torch.tensor([[[1, 1, 0, 0]]])
    logits = torch.tensor([0.9, 0.6, 0.3, 0.2]).logit().view(1, 1, 1, 4)
    value = Loss.build("boundary", mode="binary")(logits, target)
    expected = (1.5 * 0.1 + 0.5 * 0.4 + 0.5 * 0.3 + 1.5 * 0.2) / 4
    assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_is_the_signed_sum_of_the_paper_up_to_a_constant(mode):
    """mean phi p, with phi below 0 inside: the same gradient, and the same differences."""
    generator = torch.Generator().manual_seed(0)
    channels = 1 if mode == "binary" else 3
    logits = torch.randn(2, 2, channels, 6, 7, generator=generator)
    labels = torch.randint(max(2, channels), (2, 6, 7), generator=generator)
    labels[1, 3:, :2] = 255
    valid = (labels != 255).unsqueeze(1).expand(2, channels, 6, 7)
    truth = torch.stack([labels == (c or channels == 1) for c in range(channels)], 1)
    distance = torch.stack(
        [
            torch.from_numpy(searched(t.numpy(), v.numpy()))
            for t, v in zip(truth.flatten(0, 1), valid.flatten(0, 1), strict=True)
        ]
    ).view(2, channels, 6, 7)
    phi = torch.where(truth, -distance, distance)

    def signed(x):
        p = x.double().softmax(1) if mode == "multiclass" else x.double().sigmoid()
        return (phi * p)[valid].mean()

    loss = Loss.build("boundary", mode=mode)
    first, second = logits[0].requires_grad_(), logits[1]
    torch.testing.assert_close(
        (loss(first, labels) - loss(second, labels)).double(), signed(first) - signed(second)
    )
    torch.testing.assert_close(
        *(torch.autograd.grad(value, first)[0] for value in (loss(first, labels), signed(first)))
    )


@pytest.mark.slow
def test_compiles_with_shapes_and_strides_traced():
    torch.compiler.reset()
    loss = Loss.build("boundary", mode="multiclass")
    logits = torch.randn(2, 3, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    target = torch.randint(3, (2, 16, 16))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, target), loss(logits, target))
