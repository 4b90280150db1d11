"""Is the mission's problem visible in this world? Zero-shot and plain CoOp on the target, against stated conditions."""

import json
import platform
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

import torch

from benchmarks.world.clip_weights import WEIGHTS_PATH, load_clip
from benchmarks.world.coop import ContextTextEncoder, CoopOptions, accuracy, train_context
from benchmarks.world.datasets import make_dataset
from benchmarks.world.features import extract_features
from benchmarks.world.plans import STYLE_SHIFT, TARGET_ACTIONS, TARGET_THINGS

RESULT_PATH = Path(__file__).parent / "calibration.json"
ZERO_SHOT_RANGE = (35.0, 75.0)
LEAST_LOSS_ON_NEW = 5.0
SEEDS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class BaseNew:
    """Top-1 accuracies in percent, each among its own half of the classes."""

    base: float
    new: float


@dataclass(frozen=True)
class Calibration:
    """What one world gives. `coop` has one entry per training seed."""

    world_seed: int
    zero_shot: BaseNew
    coop: tuple[BaseNew, ...]

    @property
    def coop_mean(self) -> BaseNew:
        return BaseNew(mean(run.base for run in self.coop), mean(run.new for run in self.coop))

    def conditions(self) -> dict[str, bool]:
        """Each condition of the world's specification, and whether it holds."""
        low, high = ZERO_SHOT_RANGE
        zero_shot, coop = self.zero_shot, self.coop_mean
        return {
            f"zero-shot between {low:g} and {high:g} % on base": low <= zero_shot.base <= high,
            f"zero-shot between {low:g} and {high:g} % on new": low <= zero_shot.new <= high,
            "CoOp gains on base": coop.base > zero_shot.base,
            f"CoOp loses at least {LEAST_LOSS_ON_NEW:g} points on new": zero_shot.new - coop.new >= LEAST_LOSS_ON_NEW,
        }


def calibrate(
    world_seed: int = 0, *, options: CoopOptions | None = None, weights_path: Path = WEIGHTS_PATH
) -> Calibration:
    """Draw the target of world `world_seed` into a temporary folder and measure zero-shot and CoOp on it."""
    options = options or CoopOptions()
    model = load_clip(weights_path)
    with tempfile.TemporaryDirectory() as folder:
        files = make_dataset("target", Path(folder), seed=world_seed)
        data = extract_features(files, model)
    n_base, n_new = len(files.base_classes), len(files.new_classes)
    base, new = range(n_base), range(n_base, n_base + n_new)

    def score(context: torch.Tensor | None) -> BaseNew:
        n_ctx = 0 if context is None else options.n_ctx
        accuracies = []
        with torch.inference_mode():
            for names, ids in ((files.base_classes, base), (files.new_classes, new)):
                accuracies.append(accuracy(ContextTextEncoder(model, names, n_ctx)(context), data, ids))
        return BaseNew(*accuracies)

    runs = tuple(score(train_context(model, files.base_classes, data, options, seed)) for seed in SEEDS)
    return Calibration(world_seed, zero_shot=score(None), coop=runs)


def as_record(calibrations: list[Calibration], options: CoopOptions) -> dict[str, object]:
    """The content of `calibration.json`."""
    worlds = []
    for c in calibrations:
        worlds.append(
            {
                "world_seed": c.world_seed,
                "zero_shot": asdict(c.zero_shot),
                "coop_mean": asdict(c.coop_mean),
                "coop_std": asdict(BaseNew(stdev(r.base for r in c.coop), stdev(r.new for r in c.coop))),
                "coop_runs": [asdict(run) for run in c.coop],
                "conditions": c.conditions(),
            }
        )
    return {
        "command": "python -m benchmarks.world calibrate --seed "
        + " --seed ".join(str(c.world_seed) for c in calibrations),
        "units": "top-1 accuracy in percent, among the 20 base or the 20 new classes",
        "target": {"style_shift": STYLE_SHIFT, "n_things": TARGET_THINGS, "n_actions": TARGET_ACTIONS},
        "coop": {**asdict(options), "seeds": SEEDS},
        "torch": torch.__version__,
        "machine": platform.machine(),
        "worlds": worlds,
    }


def write_record(path: Path, calibrations: list[Calibration], options: CoopOptions) -> None:
    """Write `calibration.json`."""
    path.write_text(json.dumps(as_record(calibrations, options), indent=1) + "\n")
