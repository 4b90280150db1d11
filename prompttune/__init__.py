"""prompttune: train coupled prompts for CLIP on cached video features, in seconds.

    store = prompttune.open_store("target.zarr")
    split = store.split("base-to-new", shots=16)
    prompttune.PromptClassifier(store, method="coop").fit(split).evaluate(split)

Names are loaded when they are used: importing the package loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from prompttune.estimator import PromptClassifier
    from prompttune.notebook import classify_videos, evaluate_prompts, run_training
    from prompttune.results import load as load_results
    from prompttune.split_file import read_split_file
    from prompttune.video_store import VideoStore as open_store

# Public name -> where it is. The modules' own names are for those who extend the package.
_PUBLIC = {
    "open_store": ("prompttune.video_store", "VideoStore"),
    "PromptClassifier": ("prompttune.estimator", "PromptClassifier"),
    "run_training": ("prompttune.notebook", "run_training"),
    "evaluate_prompts": ("prompttune.notebook", "evaluate_prompts"),
    "classify_videos": ("prompttune.notebook", "classify_videos"),
    "load_results": ("prompttune.results", "load"),
    "read_split_file": ("prompttune.split_file", "read_split_file"),
}

__all__ = [
    "PromptClassifier",
    "__version__",
    "classify_videos",
    "evaluate_prompts",
    "load_results",
    "open_store",
    "read_split_file",
    "run_training",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
