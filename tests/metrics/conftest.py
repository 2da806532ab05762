"""Random labels and probabilities, as a head and a data set give them."""

from __future__ import annotations

import torch

CLASSES = {"binary": 2, "multiclass": 4, "multilabel": 3}


def random_labels(mode: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and targets of four images, a tenth of the targets ignored."""
    generator = torch.Generator().manual_seed(seed)
    shape = (4, 3, 5, 7) if mode == "multilabel" else (4, 5, 7)
    classes = 2 if mode == "multilabel" else CLASSES[mode]
    labels, target = torch.randint(classes, (2, *shape), generator=generator)
    return labels, target.masked_fill(torch.rand(shape, generator=generator) < 0.1, 255)


def random_probabilities(mode: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities, a fifth of them on multiples of 0.05, and the targets of `random_labels`."""
    labels, target = random_labels(mode, seed)
    generator = torch.Generator().manual_seed(seed)
    shape = labels.shape if mode == "multilabel" else (4, 1, 5, 7)
    probabilities = torch.rand(shape, generator=generator)
    on = torch.rand(shape, generator=generator) < 0.2
    return torch.where(on, (probabilities * 20).round() / 20, probabilities), target
