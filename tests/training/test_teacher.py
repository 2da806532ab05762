"""Distillation: a network follows a trained one, and what cannot be compared is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import train_quick

from segkit.checkpoint.reading import read
from segkit.checkpoint.values import Normalization
from segkit.core.errors import SegkitError
from segkit.report.table import read_csv
from segkit.training.module import SegmentationModule
from segkit.training.teacher import Teacher, _renormalize, compare_attention, compare_logits


def test_the_divergence_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    own, given = (torch.from_numpy(rng.normal(0, 3, (2, 3, 4, 5))) for _ in range(2))
    t = 2.5
    p, q = (torch.softmax(x / t, 1).numpy() for x in (given, own))
    expected = t**2 * (p * np.log(p / q)).sum(1).mean()
    assert compare_logits(own, given, "multiclass", t).item() == pytest.approx(expected, rel=1e-4)
    p, q = (torch.sigmoid(x / t).numpy() for x in (given, own))
    both = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    expected = t**2 * both.sum(1).mean()
    assert compare_logits(own, given, "multilabel", t).item() == pytest.approx(expected, rel=1e-4)
    for mode in ("binary", "multiclass", "multilabel"):
        assert compare_logits(own, own, mode, t).item() == pytest.approx(0, abs=1e-6)  # type: ignore[arg-type]
    far = torch.full((1, 1, 2, 2), 1000.0)
    assert math.isfinite(compare_logits(-far, far, "binary", 1.0).item())


def test_attention_is_compared_at_the_smaller_size_and_without_scale():
    own = [torch.rand(2, 3, 8, 8), torch.rand(2, 5, 4, 4)]
    assert compare_attention(own, [3 * own[0], -own[1]]).item() == pytest.approx(0, abs=1e-6)
    other = [torch.rand(2, 7, 4, 4)]
    a = own[0].square().mean(1).reshape(2, 4, 2, 4, 2).mean((2, 4)).flatten(1)
    b, c = (m[0].square().mean(1).flatten(1) for m in (other, own[1:]))
    a, b, c = (x / x.norm(dim=1, keepdim=True) for x in (a, b, c))
    pairs = [(x - b).square().sum(1).mean() for x in (a, c)]
    assert compare_attention(own, other).item() == pytest.approx(sum(pairs).item() / 2, rel=1e-5)  # type: ignore[union-attr]


def test_the_teacher_gets_its_own_intensities():
    one = Normalization("uint16", 100.0, 1100.0, (0.5, 0.2), (0.25, 0.1))
    two = Normalization("uint16", (0.0, 50.0), (2000.0, 950.0), (0.4, 0.3), (0.2, 0.3))
    image = np.random.default_rng(1).integers(100, 950, (6, 7, 2)).astype(np.uint16)
    given, wanted = (torch.from_numpy(n(image)).permute(2, 0, 1)[None] for n in (one, two))
    torch.testing.assert_close(_renormalize(given, one, two), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_small_network_follows_a_larger_one(tmp_path, binary_run, monkeypatch):
    """With labels that say nothing it learns from the teacher alone; the run's files say so."""
    path = binary_run.folder / "checkpoints/best.ckpt"
    none = SegmentationModule._sum_losses
    monkeypatch.setattr(SegmentationModule, "_sum_losses", lambda *given: 0 * none(*given))
    options = ["encoder.width=4", "trainer.max_epochs=6", "optimizer.lr=0.01", f"teacher={path}"]
    run = train_quick(tmp_path / "run", *options, "teacher_features=1", "trainer.ema=0.5")
    rows = read_csv(tmp_path / "run/metrics.csv")
    losses = [float(str(row["train/teacher_loss"])) for row in rows]
    assert losses[-1] < 0.7 * losses[0]
    assert losses == pytest.approx([float(str(row["train/loss"])) for row in rows], rel=1e-5)
    stored = torch.load(run.folder / "checkpoints/last.ckpt", weights_only=True)
    assert all(key.startswith("model.") for key in stored["state_dict"])
    small, card = read(run.folder / "checkpoints/best.ckpt")
    large, _ = read(path)
    counts = [sum(p.numel() for p in network.parameters()) for network in (small, large)]
    assert counts[0] < counts[1] / 2
    assert card.config["teacher"] == str(path)


def test_what_cannot_teach_is_refused_with_all_reasons(binary_run):
    path = binary_run.folder / "checkpoints/best.ckpt"
    _, card = read(path)
    given: dict[str, Any] = {
        "in_channels": 3,
        "class_names": ("background", "nerve"),
        "normalization": replace(card.normalization, dtype="uint16"),
        "encoder": {**card.encoder, "padding": "valid"},
    }
    with pytest.raises(SegkitError) as caught:
        Teacher(path, replace(card, **given), (64, 64))
    text = str(caught.value)
    for expected in ("background, nerve", "channels, these 3", "uint16", "padding=valid"):
        assert expected in text
    with pytest.raises(SegkitError, match="use head=binary"):
        Teacher(path, replace(card, mode="multiclass"), (64, 64))


def test_keys_of_a_teacher_without_one_are_refused(tmp_path):
    with pytest.raises(SegkitError) as caught:
        train_quick(tmp_path / "a", "teacher_weight=2", "teacher_features=1")
    assert "teacher_weight without a teacher: give teacher=CHECKPOINT" in str(caught.value)
    assert "teacher_features without a teacher" in str(caught.value)
    options = ["teacher=no.ckpt", "teacher_features=1", "trainer.recompute=true"]
    with pytest.raises(SegkitError) as caught:
        train_quick(tmp_path / "b", *options, "data.sampling=hard", "trainer.compile=true")
    text = str(caught.value)
    assert "teacher='no.ckpt': there is no such file" in text
    assert "trainer.recompute=true" in text
    assert "data.sampling=hard with trainer.compile=true" in text
