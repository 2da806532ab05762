"""segkit: image segmentation from encoders, necks and heads that are composed by name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from segkit.config.compose import compose as compose
    from segkit.core.errors import SegkitError as SegkitError
    from segkit.data.sources.base import DataSource as DataSource
    from segkit.inference.loading import load as load
    from segkit.inference.predictor import Prediction as Prediction
    from segkit.inference.predictor import Predictor as Predictor
    from segkit.losses.base import Loss as Loss
    from segkit.models.encoders.base import Encoder as Encoder
    from segkit.models.heads.base import Head as Head
    from segkit.models.necks.base import Neck as Neck
    from segkit.models.segmenter import Segmenter as Segmenter
    from segkit.models.segmenter import create_model as create_model

# Where each public name lives. Imported on first use: `import segkit` must not import torch.
_HOMES = {
    "compose": "segkit.config.compose",
    "DataSource": "segkit.data.sources.base",
    "SegkitError": "segkit.core.errors",
    "Prediction": "segkit.inference.predictor",
    "Predictor": "segkit.inference.predictor",
    "load": "segkit.inference.loading",
    "Loss": "segkit.losses.base",
    "Encoder": "segkit.models.encoders.base",
    "Head": "segkit.models.heads.base",
    "Neck": "segkit.models.necks.base",
    "Segmenter": "segkit.models.segmenter",
    "create_model": "segkit.models.segmenter",
}

__all__ = [
    "DataSource",
    "Encoder",
    "Head",
    "Loss",
    "Neck",
    "Prediction",
    "Predictor",
    "SegkitError",
    "Segmenter",
    "compose",
    "create_model",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'segkit' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
