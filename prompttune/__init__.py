"""prompttune: train coupled prompts for CLIP on cached video features, in seconds.

    store = prompttune.open_store("target.zarr")
    split = store.split("base-to-new", shots=16)
    prompttune.PromptClassifier(store, method="coop").fit(split).evaluate(split)

Names are loaded when they are used: importing the package loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from prompttune.base.version import __version__

if TYPE_CHECKING:
    from prompttune.api.calls import classify_videos, evaluate_prompts, run_training
    from prompttune.api.estimator import PromptClassifier
    from prompttune.api.video_store import VideoStore as open_store
    from prompttune.evaluation.results import load as load_results
    from prompttune.splits.file import read_split_file

# Public name -> where it is. The modules' own names are for those who extend the package.
_PUBLIC = {
    "open_store": ("prompttune.api.video_store", "VideoStore"),
    "PromptClassifier": ("prompttune.api.estimator", "PromptClassifier"),
    "run_training": ("prompttune.api.calls", "run_training"),
    "evaluate_prompts": ("prompttune.api.calls", "evaluate_prompts"),
    "classify_videos": ("prompttune.api.calls", "classify_videos"),
    "load_results": ("prompttune.evaluation.results", "load"),
    "read_split_file": ("prompttune.splits.file", "read_split_file"),
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
