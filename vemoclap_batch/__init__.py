"""Label the emotions of videos at scale: VEMOCLAP as a Ray-distributed batch pipeline.

The names in ``__all__`` are the Python interface (:mod:`vemoclap_batch.api`); everything else may change.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vemoclap_batch.api import (
        ConfigError,
        Output,
        RunEnded,
        build_processor,
        evaluate,
        extract,
        label,
        load_config,
        predict,
        train,
    )

__all__ = [
    "ConfigError",
    "Output",
    "RunEnded",
    "build_processor",
    "evaluate",
    "extract",
    "label",
    "load_config",
    "predict",
    "train",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the interface when one of its names is asked for: Ray's workers import this package without it."""
    if name in __all__:
        return getattr(import_module("vemoclap_batch.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
