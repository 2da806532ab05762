"""What the heads mean: probabilities, labels and thresholds."""

from __future__ import annotations

import pytest
import torch

from segkit.core.errors import SegkitError
from segkit.models.heads import Head


@pytest.mark.parametrize(
    ("name", "options", "activate", "decide"),
    [
        ("binary", {"threshold": 0.7}, torch.sigmoid, lambda p: (p[:, 0] > 0.7).to(torch.uint8)),
        (
            "multiclass",
            {"num_classes": 3},
            lambda x: x.softmax(1),
            lambda p: p.argmax(1).to(torch.uint8),
        ),
        (
            "multilabel",
            {"num_classes": 3, "threshold": 0.25},
            torch.sigmoid,
            lambda p: (p > 0.25).to(torch.uint8),
        ),
    ],
)
def test_probabilities_and_labels(name, options, activate, decide):
    head = Head.build(name, in_channels=4, **options)
    logits = torch.randn(2, head.num_logits, 5, 6)
    probabilities = head.activate(logits)
    torch.testing.assert_close(probabilities, activate(logits))
    assert torch.equal(head.decide(probabilities), decide(probabilities))
    numbers = (2, 1) if name == "binary" else (3, 3)
    assert (head.mode, head.num_classes, head.num_logits) == (name, *numbers)


@pytest.mark.parametrize("name", ["binary", "multiclass", "multilabel"])
def test_labels_are_integers_and_dropout_is_of_training_alone(name):
    head = Head.build(name, in_channels=4, num_classes=2, dropout=0.5)
    x = torch.ones(1, 4, 3, 3)
    assert torch.equal(head.eval()(x), head(x))
    labels = head.decide(head.activate(head(x)))
    assert labels.dtype == torch.uint8
    torch.manual_seed(0)
    head.train()
    assert len({float(head(x).detach().sum()) for _ in range(20)}) > 1


@pytest.mark.parametrize(
    ("name", "num_classes", "message"),
    [
        ("binary", 0, "use head=multiclass"),
        ("binary", 3, "use head=multiclass"),
        *(("multiclass", wrong, "num_classes") for wrong in (0, 256, True, "many")),
        ("multilabel", 0, "num_classes"),
    ],
)
def test_wrong_numbers_of_classes(name, num_classes, message):
    with pytest.raises(SegkitError, match=message):
        Head.build(name, in_channels=4, num_classes=num_classes)


@pytest.mark.parametrize("name", ["binary", "multiclass", "multilabel"])
def test_weights_begin_as_those_of_the_neck(name):
    """Normal, of deviation sqrt(2 / N) for N inputs (He et al. 2015); biases of 0."""
    torch.manual_seed(0)
    options = {} if name == "binary" else {"num_classes": 64}
    head = Head.build(name, in_channels=4096, **options)
    assert head.conv.weight.std().item() == pytest.approx((2 / 4096) ** 0.5, rel=0.05)
    assert not head.conv.bias.any()
