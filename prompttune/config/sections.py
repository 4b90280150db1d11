"""The tables of a configuration: frozen, strict, each with its own checks. What holds across tables is `config`'s."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from prompttune.config.template_presets import TEMPLATE_PRESETS

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
NONE = "none"
UP_TO = "up-to-"


def none_word(value: Any) -> Any:
    """TOML has no null: the word "none" stands for it, so that a resolved configuration can be read back."""
    return None if value == NONE else value


def _template(text: str) -> str:
    if text.count("{}") != 1:
        raise ValueError(f"a template holds {{}} once, where the class name goes; got {text!r}")
    return text


Template = Annotated[str, AfterValidator(_template)]


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise ValueError(f"{name!r} is no device; auto, cpu, cuda, cuda:1 or mps")
    return name


Device = Annotated[str, AfterValidator(_device)]  # whether this machine has it, is known where torch is


def _with_files(templates: Any) -> Any:
    """`@NAME` and `@FILE` replaced by their templates, so that a resolved configuration holds the words themselves."""
    if isinstance(templates, str):
        templates = [templates]
    if not isinstance(templates, list | tuple):
        return templates
    found: list[Any] = []
    for one in templates:
        if not (isinstance(one, str) and one.startswith("@")):
            found.append(one)
            continue
        if one[1:] in TEMPLATE_PRESETS:
            found += TEMPLATE_PRESETS[one[1:]]
            continue
        try:
            lines = [line.strip() for line in Path(one[1:]).read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            names = ", ".join(f"@{name}" for name in TEMPLATE_PRESETS)
            raise ValueError(
                f"no file of templates can be read at {one[1:]} ({error}); known by name: {names}"
            ) from None
        found += [line for line in lines if line and not line.startswith("#")]
    return found


class Section(BaseModel):
    """A frozen table of the configuration that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class ProtocolConfig(Section):
    """Which videos train, which test, and among which classes."""

    name: Literal["base-to-new", "few-shot", "fully-supervised", "zero-shot"] = "base-to-new"
    shots: Annotated[Positive | None, BeforeValidator(none_word)] = 16
    up_to: bool = False
    val_shots: NonNegative = 0
    base_classes: Annotated[tuple[str, ...] | None, BeforeValidator(none_word)] = None
    test_fraction: Annotated[float | None, Field(gt=0, lt=1), BeforeValidator(none_word)] = None
    split_seed: NonNegative = 0
    test_stores: tuple[str, ...] = ()
    split_file: Annotated[str | None, BeforeValidator(none_word)] = None
    test_split_files: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _read_up_to(cls, given: Any) -> Any:
        """`shots = "up-to-16"` as `shots = 16` and `up_to = true`."""
        shots = given.get("shots") if isinstance(given, dict) else None
        if not isinstance(shots, str) or shots.isdecimal() or none_word(shots) is None:
            return given
        if not (shots.startswith(UP_TO) and shots.removeprefix(UP_TO).isdecimal()):
            raise ValueError(f"shots is a number, up-to-K where a class may have fewer than K, or none; got {shots!r}")
        return given | {"shots": int(shots.removeprefix(UP_TO)), "up_to": True}

    @model_validator(mode="after")
    def _check(self) -> ProtocolConfig:
        if self.up_to and self.shots is None:
            raise ValueError("up_to says that a class may have fewer than shots, and shots is none")
        if self.shots is not None and self.val_shots >= self.shots:
            raise ValueError(f"val_shots = {self.val_shots} leaves nothing of shots = {self.shots} to train on")
        if self.base_classes is not None and self.name != "base-to-new":
            raise ValueError(f"base_classes belongs to the protocol base-to-new, not to {self.name}")
        if self.split_file is not None and (self.base_classes, self.test_fraction) != (None, None):
            raise ValueError("base_classes and test_fraction do not act beside split_file, which says who is where")
        if self.test_split_files and len(self.test_split_files) != len(self.test_stores):
            raise ValueError('test_split_files takes one file for each of test_stores, "none" for a store without')
        return self


class ContextConfig(Section):
    """The learned tokens in the text tower: `kind = "none"` trains none.

    `init`: "random", N(0, init_std); "template", the words before the name in templates.zero_shot; "@FILE", the context
    of a prompt file; else words. n_ctx tokens, or fewer words where `init_pad` puts zeros before them (ProGrad).
    `words_behind` stand frozen between the learned tokens and the class name (MaPLe's "of a", TCP's "person doing").
    `class_tokens_hidden = "none"` is E/4.
    """

    kind: Literal["none", "shared", "class", "image"] = "none"
    n_ctx: Positive = 16
    init: str = "random"
    init_std: Annotated[float, Field(gt=0)] = 0.02
    init_pad: bool = False
    words_behind: str = ""
    position: Literal["end", "middle", "front"] = "end"
    prompt_depth: Positive = 1
    image_hidden: Annotated[Positive | None, BeforeValidator(none_word)] = None
    class_tokens_block: Annotated[Positive | None, BeforeValidator(none_word)] = None
    class_tokens_hidden: Annotated[Positive | None, BeforeValidator(none_word)] = 128

    @model_validator(mode="after")
    def _check(self) -> ContextConfig:
        if self.kind == "none" and (self.prompt_depth > 1 or self.class_tokens_block is not None):
            raise ValueError('prompt_depth and class_tokens_block need a context: kind = "none" has none')
        if self.words_behind and self.position != "end":
            raise ValueError(f'words_behind stand behind the context: position = "end", not {self.position!r}')
        return self


class VisualConfig(Section):
    """Learned rows in the vision tower from block `first_block` on; the store must have the tokens that enter it.

    `source` says whose the rows are: "own"; "from-text", a linear map of the text prompts per block (MaPLe); "to-text",
    own rows of which the text prompts are linear maps. `recompute` and `frames_per_chunk` (0: all) trade time for
    memory; `compile` has torch.compile make kernels of the blocks: minutes once, no gain on the CPU, meant for GPUs.
    """

    n_prompts: Positive = 16
    depth: Positive = 1
    first_block: NonNegative = 0
    source: Literal["own", "from-text", "to-text"] = "own"
    recompute: bool = False
    frames_per_chunk: NonNegative = 0
    compile: bool = False


class FramesConfig(Section):
    """Which of a video's stored frames and views a training step sees, drawn anew at every step.

    `used` frames, one from each of as many segments, in order ("none": all that are stored); `views` = "random" draws
    one of the store's views per video. Evaluation sees all frames of the first view, the centre crop.
    """

    used: Annotated[Positive | None, BeforeValidator(none_word)] = None
    views: Literal["first", "random"] = "first"


class CouplingConfig(Section):
    """Frozen hard prompts from other data sets, mixed with the soft context (`prompttune.parts.coupling`).

    What is "none" below `hard_prompts` is as released: dropout 0.5, the first word named, depth 1. `residual` adds
    the soft prompt to what the mapping gives. `dropout_mask`: "shared" is one mask per run and step; "per-class" one
    for each class, which is what the released code does and what forbids the shared-prefix text path in training.
    `depth`: blocks whose context is coupled, the text input included. `shared_mapping`: one mapping for all of them.
    `deep_hard`: every block is coupled with the hard prompt's own context of that block, which the file must have; else
    with its text input's at all of them.
    `init`: "torch" is Linear's default; with "soft" the mixed prompt starts as the soft prompt, so that training starts
    where the method without coupling starts. Not behind a ReLU: at the zero it would start from, that passes no
    gradient, and the mapping would never move.
    """

    variant: Literal["released", "linear", "two-layer", "residual", "token"] = "released"
    hard_prompts: tuple[str, ...] = ()
    residual: Annotated[bool | None, BeforeValidator(none_word)] = None
    dropout: Annotated[float | None, Field(ge=0, lt=1), BeforeValidator(none_word)] = None
    dropout_mask: Annotated[Literal["shared", "per-class"] | None, BeforeValidator(none_word)] = None
    depth: Annotated[Positive | None, BeforeValidator(none_word)] = None
    deep_hard: bool = False
    shared_mapping: Annotated[bool | None, BeforeValidator(none_word)] = None
    init: Annotated[Literal["torch", "soft"] | None, BeforeValidator(none_word)] = None

    @model_validator(mode="after")
    def _check(self) -> CouplingConfig:
        if self.deep_hard and (self.depth or 1) == 1:
            raise ValueError("deep_hard couples blocks behind the text input: depth = 2 or more")
        if self.init == "soft" and not (self.variant == "linear" or (self.variant == "two-layer" and self.residual)):
            raise ValueError('init = "soft" needs variant = "linear", or "two-layer" with residual = true')
        return self


AnchorLossName = Literal[
    "additive", "margin-softplus", "margin-hinge", "extra-class", "distill", "feature", "text-anchor"
]


class AnchorsConfig(Section):
    """Irrelevant videos from a store of their own, and the negative prompts that describe them.

    `weighting = "balanced"`: a loss's weight is the share of the other terms' gradient that its own is given, at every
    step (`prompttune.training.balance`), so that one setting serves all methods; "fixed" multiplies the loss.
    """

    store: str
    loss: AnchorLossName = "margin-softplus"
    weight: Weight = 1.0
    weighting: Literal["fixed", "balanced"] = "fixed"
    also: dict[AnchorLossName, Weight] = Field(default_factory=dict)
    options: dict[str, float | bool | str] = Field(default_factory=dict)
    n_anchors: Positive = 8
    negatives: Literal["generic", "released"] | tuple[str, ...] = "generic"
    template: Template = "a video of {}."
    prompted_negatives: bool = True
    allow_inert: bool = False

    @property
    def weights(self) -> dict[AnchorLossName, float]:
        """The weight of every loss: `loss` first, then those of `also` that have any."""
        return {self.loss: self.weight, **{name: weight for name, weight in self.also.items() if weight}}

    @model_validator(mode="after")
    def _check(self) -> AnchorsConfig:
        if self.loss in self.also:
            raise ValueError(f"also names {self.loss!r}, which is the loss itself: its weight is anchors.weight")
        return self


class HeadConfig(Section):
    """How frame features become one video feature, and what comes after it.

    `tip_keys = "views"` makes Tip-Adapter's keys of the mean over the store's augmented views, all but the first.
    `tip_largest_*` bound the values that are tried on validation videos.
    """

    temporal: Literal["mean", "mean-of-normalised", "transformer", "attention", "concept-spotting"] = "mean"
    temporal_layers: Positive = 1
    temporal_residual: bool = False
    max_frames: Positive = 32
    spotting_temperature: Annotated[float, Field(gt=0)] = 0.01
    adapter: Literal["none", "clip-adapter", "tip-adapter", "linear-probe"] = "none"
    adapter_ratio: Annotated[float, Field(ge=0, le=1)] = 0.2
    tip_alpha: Annotated[float, Field(ge=0)] = 1.17
    tip_beta: Annotated[float, Field(ge=0)] = 1.0
    tip_largest_alpha: Annotated[float, Field(gt=0.1)] = 3.0
    tip_largest_beta: Annotated[float, Field(gt=0.1)] = 7.0
    tip_keys: Literal["first", "views"] = "first"
    train_keys: bool = False
    logit_scale: Annotated[float | None, Field(gt=0), BeforeValidator(none_word)] = None


class TargetsConfig(Section):
    """What the cross-entropy is taken against."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    mixup_alpha: Annotated[float, Field(ge=0)] = 0.0


class ClassesConfig(Section):
    """Which training classes a step takes: all, or its batch's and some others (`prompttune.model.class_sampling`)."""

    sample: Literal["all", "random", "hard"] = "all"
    n_negatives: Positive = 64


class AggregationConfig(Section):
    """PromptSRC's Gaussian-weighted mean of the prompts over epochs."""

    mean: Annotated[float, Field(gt=0)] = 15.0
    std: Annotated[float, Field(gt=0)] = 1.0


class OptimConfig(Section):
    """The optimiser and its learning rate (`prompttune.training.schedules`).

    `schedule`: "cosine" and "constant" warm up linearly and move with every step; "dassl" is the CoOp line's, which
    holds `warmup_lr` for whole epochs and moves once an epoch; "vifi" is ViFi-CLIP's, whose cosine runs from the first
    step on. `drop_last` leaves the videos that do not fill a batch out of an epoch.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2e-3
    epochs: NonNegative = 50
    batch_size: Positive = 32
    accumulate: Positive = 1
    weight_decay: Weight = 5e-4
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    schedule: Literal["cosine", "constant", "dassl", "vifi"] = "cosine"
    drop_last: bool = False
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    warmup_lr: Annotated[float, Field(ge=0)] = 1e-5
    gradient: Literal["sum", "prograd"] = "sum"


class TemplatesConfig(Section):
    """Hand-written prompts, and how class names are cleaned before they enter any prompt.

    An item of `ensemble` that begins with `@` stands for several: `@clip-kinetics` (28), `@clip-ucf101` (48) and
    `@promptsrc` (60) for published lists, `@FILE` for those in a file, one a line, blank lines and `#` lines aside.
    `average`: of several templates the unit features (CLIP) or the features as they are (PromptSRC) are averaged.
    """

    zero_shot: Template = "a video of a person {}."
    ensemble: Annotated[tuple[Template, ...], BeforeValidator(_with_files)] = ()
    average: Literal["unit", "raw"] = "unit"
    split_camel_case: bool = False
    replace_underscores: bool = True


class LogConfig(Section):
    """How often what is written."""

    every: Positive = 10
    checkpoint_seconds: Weight = 30.0
    tensorboard: bool = False
