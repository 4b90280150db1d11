"""What the command lines do, as calls: configuration keys are arguments, "__" for the dot, lists open run axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prompttune.api.apply_prompts import apply_prompts
from prompttune.api.classify import Classified, ClassifyOptions, classify
from prompttune.api.step_bar import StepBar
from prompttune.api.video_store import VideoStore
from prompttune.config.runs import expand_runs, holds_list, nested
from prompttune.config.train_config import NONE, merge
from prompttune.evaluation.results import Result
from prompttune.training.fit import FitOptions, FitResult, fit
from prompttune.training.run_folder import run_folder_name
from prompttune.training.run_log import OnLog


def run_training(
    store: VideoStore | str | Path,
    method: str = "coop",
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
    on_log: OnLog | None = None,
    **config: Any,
) -> FitResult:
    """What `prompttune train` does: every seed and every value of the run axes, trained, evaluated, in a run folder.

    Args:
        store: to train and test on.
        out: the run folder; None for runs/METHOD-STORE. Cut off, the same call goes on where it was.
        overwrite: starts anew in a folder that holds another run.
        on_log: called with a run's name and each line of its log, for W&B, MLflow and their like.
        config: keys of the configuration, `optim__lr=0.01`; a list for a key of one value is a run axis.

    Raises:
        PrompttuneError, vidfeat.errors.VidfeatError: anything wrong with configuration, stores or training.
    """
    given: dict[str, Any] = {"method": method, "store": _path(store)} | ({} if out is None else {"out": str(out)})
    axes: dict[str, list[Any]] = {}
    for name, value in config.items():
        key = name.replace("__", ".")
        if isinstance(value, list | tuple) and not holds_list(key):
            axes[key] = list(value)
        else:
            given = merge(given, nested(key, NONE if value is None else value))
    runs = expand_runs(given, axes)
    with StepBar(progress) as bar:
        options = FitOptions(overwrite=overwrite, on_step=bar.on_step, on_log=on_log)
        return fit(runs, run_folder_name(runs[0].config), axes=axes, options=options)


def evaluate_prompts(
    store: VideoStore | str | Path,
    prompts: Sequence[str | Path] | str | Path = (),
    *,
    base_to_new: bool = False,
    split_file: str | Path | None = None,
    device: str = "auto",
    out: str | Path | None = None,
) -> Result:
    """What `prompttune eval` does: prompt files, or zero-shot CLIP, on a store's test videos, kept in `out`."""
    given: dict[str, Any] = {"store": _path(store), "device": device}
    if split_file is not None:
        given["protocol"] = {"split_file": str(split_file)}
    paths = [prompts] if isinstance(prompts, str | Path) else list(prompts)
    return apply_prompts(paths, given=given, base_to_new=base_to_new, out=out)


def classify_videos(source: VideoStore | str | Path, **options: Any) -> list[Classified]:
    """What `prompttune classify` does; `options` are those of `classify.ClassifyOptions`."""
    return classify(_path(source), ClassifyOptions(**options))


def _path(store: VideoStore | str | Path) -> str:
    return store.path if isinstance(store, VideoStore) else str(store)
