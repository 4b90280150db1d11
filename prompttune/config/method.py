"""What a method is: data, and where the data come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from prompttune.errors import ConfigError, explain

DEFAULT_RECIPE = "default"


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `under`, table by table; what is no table on either side is replaced whole."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: what `--method` takes.
        summary: one line of plain words.
        source: paper, and the values of the release that the defaults follow.
        release: repository@commit and files of the release; empty where there is none.
        differs: what is not as in the release by default, each with the setting that makes it so where there is one.
        defaults: tables of the configuration; what is not named has the configuration's own default.
        recipes: the release's further settings by protocol or data set: tables on top of the defaults.
        requires: tables of what has no default and must be given, each key with a word that stands for it on the pages.
        fit: "gradient" for the training loop; "closed-form" for what is computed from the training videos at once;
            "none" for what looks at no training video.
        text: which path of the text engine its training takes, and why.
    """

    name: str
    summary: str
    source: str
    release: str = ""
    differs: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    requires: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fit: Literal["gradient", "closed-form", "none"] = "gradient"
    text: str = "shared prefix: one context before every class name"

    @property
    def required_keys(self) -> list[str]:
        """The dotted keys of `requires`."""
        return [f"{table}.{key}" for table, values in self.requires.items() for key in values]

    def settings(self, recipe: str = DEFAULT_RECIPE) -> dict[str, Any]:
        """The defaults with those of a recipe on top.

        Raises:
            ConfigError: a recipe that the method does not have.
        """
        if recipe != DEFAULT_RECIPE and recipe not in self.recipes:
            raise ConfigError(
                explain(
                    f"{self.name} has no recipe {recipe!r}",
                    expected=", ".join((DEFAULT_RECIPE, *self.recipes)),
                    fix=f"prompttune methods {self.name}",
                )
            )
        return merge(self.defaults, self.recipes.get(recipe, {}))


# What holds of whole lines of releases; each method names those that hold for it.
IMAGES = (
    "made for images; here a video's feature is the mean over its frames, and 'a photo of a' is 'a video of a' "
    "(context.init)"
)
NO_AUGMENTATION = (
    "training videos as the store has them, the centre crop; theirs random crops and flips (frames.views = 'random' "
    "draws the store's augmented views)"
)
HALF = "float32; theirs float16 (precision = 'fp16' or 'bf16' on a GPU)"

DASSL_OPTIM: Mapping[str, Any] = {
    "name": "sgd",
    "lr": 2e-3,
    "epochs": 50,
    "batch_size": 32,
    "weight_decay": 5e-4,
    "momentum": 0.9,
    "schedule": "dassl",
    "warmup_epochs": 1.0,
    "warmup_lr": 1e-5,
    "drop_last": True,
}
IVLP_OPTIM: Mapping[str, Any] = {**DASSL_OPTIM, "lr": 2.5e-3, "epochs": 20, "batch_size": 4}
GA2_OPTIM: Mapping[str, Any] = {
    "name": "adamw",
    "lr": 4e-3,
    "epochs": 12,
    "batch_size": 64,
    "weight_decay": 1e-3,
    "warmup_epochs": 2.0,
    "warmup_lr": 0.0,
    "drop_last": True,
}
GA2_DIFFERS = (
    "starts from the CLIP of the store; theirs from a CLIP tuned on all of Kinetics-400 for HMDB-51, UCF-101 and SSv2 "
    "(vidfeat extract --pretrained k400-vitb.pt), which has seen 13 of UCF-101's 50 new classes by name",
    "SSv2: the release's yaml (rate 4e-2, 4 videos a GPU) and its log (4e-3, 8) disagree; the default follows the log, "
    "recipe = 'ssv2-yaml' the yaml",
    "the rate moves at every step; theirs at step 0 and every tenth, which leaves a first epoch of fewer steps at "
    "rate 0",
    "one dropout mask per step; theirs one per class (coupling.dropout_mask = 'per-class')",
    "no anchor; theirs has no gradient ([anchors] loss = 'additive', negatives = 'released', n_anchors = 1, "
    "allow_inert = true)",
    "the prompts of the last epoch; theirs of the epoch that is best on the test set",
    "all stored frames at test, and in training unless frames.used says fewer; theirs 32, one from each segment",
    "float32; theirs mixed float16 in training (precision = 'fp16')",
)
GA2_RECIPES: Mapping[str, Mapping[str, Any]] = {
    "ucf101": {"optim": {"lr": 4e-2}},
    "k400": {"optim": {"lr": 4e-2}},
    "ssv2-yaml": {"optim": {"lr": 4e-2, "batch_size": 32}},
    "few-shot": {"optim": {"lr": 8e-3, "epochs": 30, "warmup_epochs": 5.0}},
}
