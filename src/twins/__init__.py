"""Twins vision transformers (arXiv 2104.13840): the backbones, and what they are used for.

The public names are resolved on first use, so that importing the package imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twins.backbone.config import list_models
    from twins.drawing import DrawConfig
    from twins.engine.config import EvalConfig, TrainConfig
    from twins.errors import TwinsError
    from twins.evaluation import EvalResult, evaluate
    from twins.exporter import ExportResult, export
    from twins.exporting.config import ExportConfig
    from twins.factory import create_backbone, create_model
    from twins.predictions import Prediction
    from twins.predictor import Predictor, load
    from twins.preprocess import Preprocess
    from twins.tasks.inference import InferenceConfig, SelectionConfig
    from twins.training import RunResult, train
    from twins.weights.loading import LoadReport, load_weights, save_weights

__version__ = "0.1.0"

_HOMES = {
    "DrawConfig": "twins.drawing",
    "EvalConfig": "twins.engine.config",
    "EvalResult": "twins.evaluation",
    "ExportConfig": "twins.exporting.config",
    "ExportResult": "twins.exporter",
    "InferenceConfig": "twins.tasks.inference",
    "LoadReport": "twins.weights.loading",
    "Prediction": "twins.predictions",
    "Predictor": "twins.predictor",
    "Preprocess": "twins.preprocess",
    "RunResult": "twins.training",
    "SelectionConfig": "twins.tasks.inference",
    "TrainConfig": "twins.engine.config",
    "TwinsError": "twins.errors",
    "create_backbone": "twins.factory",
    "create_model": "twins.factory",
    "evaluate": "twins.evaluation",
    "export": "twins.exporter",
    "list_models": "twins.backbone.config",
    "load": "twins.predictor",
    "load_weights": "twins.weights.loading",
    "save_weights": "twins.weights.loading",
    "train": "twins.training",
}

__all__ = [
    "DrawConfig",
    "EvalConfig",
    "EvalResult",
    "ExportConfig",
    "ExportResult",
    "InferenceConfig",
    "LoadReport",
    "Prediction",
    "Predictor",
    "Preprocess",
    "RunResult",
    "SelectionConfig",
    "TrainConfig",
    "TwinsError",
    "create_backbone",
    "create_model",
    "evaluate",
    "export",
    "list_models",
    "load",
    "load_weights",
    "save_weights",
    "train",
]


if not TYPE_CHECKING:  # or a type checker would take any name for one of ours

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
