"""clDice against scipy's morphology in float64, and on broken and thick lines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from segkit.losses import Loss

CROSS = ndimage.generate_binary_structure(2, 1)


def thinned(image: np.ndarray, iterations: int) -> np.ndarray:
    """The soft skeleton with scipy; outside of the image is neither thin nor thick."""
    skeleton = np.zeros_like(image)
    for _ in range(iterations):
        eroded = ndimage.grey_erosion(image, footprint=CROSS, mode="constant", cval=np.inf)
        opened = ndimage.grey_dilation(eroded, size=(3, 3), mode="constant", cval=-np.inf)
        skeleton = 1 - (1 - skeleton) * (1 - np.maximum(image - opened, 0))
        image = eroded
    return 1 - (1 - skeleton) * (1 - image)


def compute_plainly(p: np.ndarray, t: np.ndarray, iterations: int, smooth: float) -> float:
    """One class over a batch, (B, H, W)."""
    line_p, line_t = (np.stack([thinned(x, iterations) for x in batch]) for batch in (p, t))
    precision = ((line_p * t).sum() + smooth) / (line_p.sum() + smooth)
    sensitivity = ((line_t * p).sum() + smooth) / (line_t.sum() + smooth)
    return 1 - 2 * precision * sensitivity / (precision + sensitivity)


def logits_of(mask: torch.Tensor, scale: float = 50.0) -> torch.Tensor:
    return torch.where(mask.bool(), scale, -scale).unsqueeze(-3)


@pytest.fixture
def line():
    """A horizontal line of 3 pixels' width through an image of 21 x 40, (1, 21, 40)."""
    mask = torch.zeros(1, 21, 40, dtype=torch.int64)
    mask[:, 9:12] = 1
    return mask


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize(("iterations", "smooth"), [(1, 1.0), (3, 0.2)])
def test_follows_the_formula(mode, per_image, iterations, smooth):
    generator = torch.Generator().manual_seed(0)
    channels = 1 if mode == "binary" else 3
    logits = 2 * torch.randn(2, channels, 12, 15, generator=generator)
    labels = torch.randint(max(2, channels), (2, 12, 15), generator=generator)
    labels[:, 3:9, 4:] = 1
    p = (logits.double().softmax(1) if mode == "multiclass" else logits.double().sigmoid()).numpy()
    first = 0 if mode == "multilabel" else 1  # without the background
    groups = [slice(0, 1), slice(1, 2)] if per_image else [slice(None)]
    expected = np.mean(
        [
            compute_plainly(
                p[group, 0 if mode == "binary" else c],
                (labels[group] == c).double().numpy(),
                iterations,
                smooth,
            )
            for group in groups
            for c in range(first, max(2, channels))
        ]
    )
    options = {"iterations": iterations, "smooth": smooth, "per_image": per_image}
    value = Loss.build("cldice", mode=mode, **options)(logits, labels)
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_ignored_pixels_neither_thin_a_line_nor_carry_one_on(line):
    """A line along an ignored strip, and one that crosses it."""
    loss = Loss.build("cldice", mode="binary", smooth=1e-3)
    target = line.clone()
    target[:, :, 20:24] = 255
    target[:, 12:14] = 255
    assert loss(logits_of(line), target) == 0
    broken = line.clone()
    broken[:, :, 15:28] = 0  # 13 pixels of the centre line, 4 of them ignored
    value = loss(logits_of(broken), target)
    assert value.item() == pytest.approx(1 - 2 * 27 / 36 / (1 + 27 / 36), rel=1e-3)


def test_a_gap_costs_by_its_length_and_the_width_next_to_nothing(line):
    loss = Loss.build("cldice", mode="binary", smooth=1e-3)
    broken, wide, thin = line.clone(), line.clone(), line.clone()
    broken[:, :, 16:24] = 0  # 32 of the 40 pixels of the centre line are left
    wide[:, 8:13] = 1
    thin[:, [9, 11]] = 0
    assert loss(logits_of(broken), line).item() == pytest.approx(1 - 2 * 0.8 / 1.8, rel=1e-3)
    assert loss(logits_of(wide), line) < 1e-6
    assert loss(logits_of(thin), line) < 1e-6


def test_the_background_counts_where_the_weights_say_so():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 10, 10, generator=generator)
    target = torch.randint(3, (1, 10, 10), generator=generator)
    plain, background, all_ = (
        Loss.build("cldice", mode="multiclass", class_weights=weights)(logits, target)
        for weights in (None, [1.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    )
    torch.testing.assert_close(all_, (2 * plain + background) / 3)
