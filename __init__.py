"""SimSiam pretraining: the public names, each imported when it is first used.

The parts:      `SimSiam`, `resnet`, `negative_cosine`, `augment_views`
The pipeline:   `open_source`, `open_crops`
The encoder:    `load_encoder`
Evaluation:     `extract_features`, `CenterCrop`, `knn_accuracy`
The errors:     `UsageError` (a wrong value, a ValueError), `RunError` (a failure, a RuntimeError), and of the latter
                `ImageError` (an image that can't be decoded)

Importing this package imports neither torch nor any other library.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simsiam.kernels.augment import augment_views
    from simsiam.kernels.negative_cosine import negative_cosine
    from simsiam.model.resnet import resnet
    from simsiam.model.simsiam import SimSiam
    from simsiam.pipeline.errors import ImageError, RunError, UsageError
    from simsiam.pipeline.open_crops import open_crops
    from simsiam.pipeline.sources.open_source import open_source
    from simsiam.train.evaluation.center_crop import CenterCrop
    from simsiam.train.evaluation.features import extract_features
    from simsiam.train.evaluation.knn import knn_accuracy
    from simsiam.train.load_encoder import load_encoder

    __version__: str

_MODULES = {
    "SimSiam": "model.simsiam",
    "resnet": "model.resnet",
    "negative_cosine": "kernels.negative_cosine",
    "augment_views": "kernels.augment",
    "open_source": "pipeline.sources.open_source",
    "open_crops": "pipeline.open_crops",
    "load_encoder": "train.load_encoder",
    "CenterCrop": "train.evaluation.center_crop",
    "extract_features": "train.evaluation.features",
    "knn_accuracy": "train.evaluation.knn",
    "UsageError": "pipeline.errors",
    "RunError": "pipeline.errors",
    "ImageError": "pipeline.errors",
}
"""Where each public name is defined."""

__all__ = [
    "CenterCrop",
    "ImageError",
    "RunError",
    "SimSiam",
    "UsageError",
    "__version__",
    "augment_views",
    "extract_features",
    "knn_accuracy",
    "load_encoder",
    "negative_cosine",
    "open_crops",
    "open_source",
    "resnet",
]


def __getattr__(name: str) -> Any:
    """Import a public name on its first use (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("simsiam")
    elif name in _MODULES:
        value = getattr(importlib.import_module(f"simsiam.{_MODULES[name]}"), name)
    else:
        raise AttributeError(f"module 'simsiam' has no attribute {name!r}; its names are {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
