"""What one `prompttune train` does: frozen, strict, and printable as the TOML file that would do it again.

A configuration is a method's defaults, then the TOML file, then `--set` overrides. Unknown keys are refused with the
nearest valid one; every problem is reported in one message. A comma in an override (`optim.lr=0.002,0.01`) opens a run
axis: the product of all axes and the seeds gives the runs (`prompttune.config.runs`).
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from prompttune.config.method import DEFAULT_RECIPE, merge
from prompttune.config.methods import LOSS_TERMS, METHODS
from prompttune.config.record import is_whole
from prompttune.config.sections import (
    NONE,
    AggregationConfig,
    AnchorsConfig,
    ClassesConfig,
    ContextConfig,
    CouplingConfig,
    Device,
    FramesConfig,
    HeadConfig,
    LogConfig,
    NonNegative,
    OptimConfig,
    ProtocolConfig,
    Section,
    TargetsConfig,
    TemplatesConfig,
    VisualConfig,
    Weight,
    none_word,
)
from prompttune.errors import ConfigError, explain


class TrainConfig(Section):
    """Everything one command does."""

    method: str
    recipe: str = DEFAULT_RECIPE
    store: str
    seeds: Annotated[tuple[NonNegative, ...], Field(min_length=1)] = (1, 2, 3)
    out: str = "runs/{method}-{store}"
    device: Device = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    graph: Literal["auto", "off"] = "auto"
    compile: bool = False
    selection: Literal["last", "val"] = "last"
    runs_at_once: NonNegative = 0
    class_chunk: NonNegative = 0
    recompute: bool = False
    protocol: ProtocolConfig = ProtocolConfig()
    context: ContextConfig = ContextConfig()
    visual: Annotated[VisualConfig | None, BeforeValidator(none_word)] = None
    frames: FramesConfig = FramesConfig()
    coupling: Annotated[CouplingConfig | None, BeforeValidator(none_word)] = None
    anchors: Annotated[AnchorsConfig | None, BeforeValidator(none_word)] = None
    head: HeadConfig = HeadConfig()
    losses: dict[str, Weight] = Field(default_factory=lambda: {"cross-entropy": 1.0})
    loss_options: dict[str, dict[str, float | bool | str]] = Field(default_factory=dict)
    targets: TargetsConfig = TargetsConfig()
    classes: ClassesConfig = ClassesConfig()
    aggregation: Annotated[AggregationConfig | None, BeforeValidator(none_word)] = None
    optim: OptimConfig = OptimConfig()
    templates: TemplatesConfig = TemplatesConfig()
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        problems = [*self._split_problems(), *self._part_problems()]
        if problems:
            raise ValueError("\n    ".join(problems))
        return self

    def _split_problems(self) -> Iterable[str]:
        if len(set(self.seeds)) != len(self.seeds):
            yield f"seeds holds a seed twice: {list(self.seeds)}"
        if self.selection == "val" and self.protocol.val_shots == 0:
            yield 'selection = "val" needs protocol.val_shots (--val N): nothing is ever selected on test videos'

    def _part_problems(self) -> Iterable[str]:
        for name in sorted(set(self.losses) - set(LOSS_TERMS)):
            yield f"losses.{name}: unknown term; {nearest(name, LOSS_TERMS) or 'known: ' + ', '.join(LOSS_TERMS)}"
        for name in sorted(name for name in self.loss_options if not self.losses.get(name)):
            yield f"loss_options.{name}: options of a term without weight in losses"
        if "cross-entropy" in self.loss_options:
            yield "loss_options.cross-entropy: its one option is targets.label_smoothing"
        if self.optim.gradient == "prograd" and not self.losses.get("zero-shot-consistency"):
            yield 'optim.gradient = "prograd" projects on the term losses.zero-shot-consistency, which has no weight'
        if self.context.position != "end" and (self.context.prompt_depth > 1 or self.context.class_tokens_block):
            yield f'deep prompts and class tokens need context.position = "end", not {self.context.position!r}'
        block = self.context.class_tokens_block
        if block is not None and block < self.context.prompt_depth:
            yield f"context.class_tokens_block = {block} is among the blocks of context.prompt_depth"
        if self.aggregation is not None and self.optim.epochs == 0 and METHODS[self.method].fit == "gradient":
            yield "aggregation is a mean over epochs, and optim.epochs = 0 has none: set aggregation = none"
        elif self.aggregation is not None:
            yield from self._aggregation_problems(self.aggregation)
        if self.coupling is not None:
            yield from self._coupling_problems(self.coupling)
        yield from self._head_problems()
        if self.visual is not None:
            yield from self._visual_problems(self.visual)
        if self.classes.sample != "all":
            yield from self._class_sampling_problems()
        if self.compile:
            yield from self._compile_problems()
        anchors = self.anchors
        if anchors is not None and anchors.weighting == "balanced" and self.optim.gradient != "sum":
            yield f'anchors.weighting = "balanced" does not go with optim.gradient = {self.optim.gradient!r}'
        puts_context_before = anchors is None or (anchors.prompted_negatives and self.context.kind == "shared")
        if anchors is not None and "text-anchor" in anchors.weights and not puts_context_before:
            yield "the anchor loss text-anchor needs anchors.prompted_negatives = true, and context.kind = 'shared'"

    def _aggregation_problems(self, aggregation: AggregationConfig) -> Iterable[str]:
        """Of what `prompttune.training.aggregation.gaussian_weights` refuses: beyond 38 deviations float64 has 0."""
        epochs, mean, std = self.optim.epochs, aggregation.mean, aggregation.std
        nearest_epoch = min(max(round(mean), 1), max(epochs, 1))
        if abs(nearest_epoch - mean) > 38 * std:
            yield (
                f"aggregation.mean = {mean:g} with aggregation.std = {std:g} leaves none of {epochs} epochs any weight:"
                " set aggregation.mean to about three quarters of optim.epochs, or aggregation = none"
            )

    def _compile_problems(self) -> Iterable[str]:
        """Of what one line of operations, noted once, cannot do."""
        if METHODS[self.method].fit != "gradient":
            yield f"compile makes kernels of training steps, of which {self.method} has none"
        if self.classes.sample != "all":
            yield "compile does not go with classes.sample: every step takes other classes"
        if self.precision == "fp16":
            yield 'compile does not go with precision = "fp16", whose loss scale changes on the way ("bf16" has none)'
        if self.visual is not None and self.visual.compile:
            yield "compile includes what visual.compile does: one of them"
        if self.recompute or (self.visual is not None and (self.visual.recompute or self.visual.frames_per_chunk)):
            yield "compile keeps what recompute, visual.recompute and visual.frames_per_chunk would compute again"

    def _class_sampling_problems(self) -> Iterable[str]:
        given = f"classes.sample = {self.classes.sample!r}"
        if self.context.kind == "none":
            yield f"{given} needs a learned context: {self.method} encodes no text in training (context.kind)"
        if self.head.adapter in ("tip-adapter", "linear-probe"):
            yield f"{given}: head.adapter = {self.head.adapter!r} has logits of all training classes or none"
        anchors = self.anchors
        if anchors is not None and "additive" in anchors.weights and anchors.negatives != "released":
            yield f'{given}: the anchor loss "additive" pairs negatives with all classes unless negatives = "released"'

    def _head_problems(self) -> Iterable[str]:
        head = self.head
        if head.adapter in ("tip-adapter", "linear-probe") and head.temporal not in ("mean", "mean-of-normalised"):
            yield f"head.adapter = {head.adapter!r} is made of features before training: head.temporal must be a mean"
        if head.adapter == "linear-probe" and self.protocol.name in ("base-to-new", "zero-shot"):
            yield f"a linear probe has no logits for classes it is not fitted on, which {self.protocol.name} tests"
        if head.adapter == "linear-probe" and self.protocol.val_shots == 0:
            yield "a linear probe chooses its strength on validation videos: protocol.val_shots (--val 4)"
        if head.train_keys and head.adapter != "tip-adapter":
            yield f"head.train_keys belongs to head.adapter = 'tip-adapter', not to {head.adapter!r}"

    def _visual_problems(self, visual: VisualConfig) -> Iterable[str]:
        given = f"visual.source = {visual.source!r}"
        if visual.compile and (visual.recompute or visual.frames_per_chunk):
            # Torch may recompute a block by another kernel than it first ran, and then says that shapes differ.
            yield "visual.compile does not go with visual.recompute or visual.frames_per_chunk"
        context = self.context
        if METHODS[self.method].fit != "gradient":
            yield f"visual prompts are trained, and {self.method} trains nothing by gradient (visual = none)"
        if self.head.adapter in ("tip-adapter", "linear-probe"):
            yield f"head.adapter = {self.head.adapter!r} is made of frozen features, which visual prompts change"
        if visual.source == "own":
            return
        if context.kind != "shared":
            yield f'{given} maps text prompts shared by all classes: context.kind = "shared", not {context.kind!r}'
        if context.n_ctx != visual.n_prompts:
            yield f"{given} pairs prompts: visual.n_prompts = {visual.n_prompts}, context.n_ctx = {context.n_ctx}"
        deep_enough = visual.depth <= context.prompt_depth if visual.source == "from-text" else False
        if not deep_enough and visual.depth != context.prompt_depth:
            yield f"{given}: visual.depth = {visual.depth}, but context.prompt_depth = {context.prompt_depth}"
        if visual.source == "to-text" and context.init != "random":
            yield f"{given} makes the context of visual prompts: context.init = {context.init!r} cannot start it"

    def _coupling_problems(self, coupling: CouplingConfig) -> Iterable[str]:
        depth, prompt_depth = coupling.depth or 1, self.context.prompt_depth
        if depth > prompt_depth:
            yield f"coupling.depth = {depth} is deeper than context.prompt_depth = {prompt_depth}"
        if coupling.variant == "token" and depth < prompt_depth:
            yield 'coupling.variant = "token" lengthens the context: coupling.depth must equal context.prompt_depth'
        if self.context.kind == "none":
            yield f"coupling needs a soft context, and {self.method} has none (context.kind)"
        if not coupling.hard_prompts:
            yield "coupling.hard_prompts names no prompt file; train one on another data set, or set coupling = none"
        if self.context.kind == "class":
            yield 'coupling mixes a context shared by the classes; context.kind = "class" has one per class'

    def to_toml(self) -> str:
        """The TOML file that would do exactly this again."""
        import tomli_w

        return tomli_w.dumps(_toml(self.model_dump(mode="json")))


def _toml(value: Any) -> Any:
    """TOML has no null: "none" stands for it."""
    if isinstance(value, dict):
        return {key: _toml(item) for key, item in value.items()}
    return [_toml(item) for item in value] if isinstance(value, list) else NONE if value is None else value


def resolve(given: Mapping[str, Any]) -> TrainConfig:
    """The configuration of one run: the method's defaults under what is given.

    Args:
        given: nested tables as a TOML file has them; of a whole resolved configuration what it lacks is newer than it
            and has the value that changes nothing (`prompttune.config.record`).

    Raises:
        ConfigError: naming every unknown key with its nearest valid one, and every value that is not allowed; a method
            or recipe that is not there.
    """
    name = given.get("method")
    if name is None:
        raise ConfigError(explain("no method given", expected=f"one of {', '.join(METHODS)}", fix="--method NAME"))
    if name not in METHODS:
        raise ConfigError(
            explain(f"unknown method {name!r}", expected=f"one of {', '.join(METHODS)}", fix=nearest(name, METHODS))
        )
    defaults = {} if is_whole(given) else METHODS[name].settings(given.get("recipe", DEFAULT_RECIPE))
    try:
        return TrainConfig.model_validate(merge(defaults, given))
    except ValidationError as error:
        problems = [_problem(item) for item in error.errors()]
        n = "".join(problems).count("\n")  # each has its line
        what = f"{n} problem{'' if n == 1 else 's'} in the configuration of {name}"
        raise ConfigError(explain(what, got="".join(problems))) from None


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigError: when the file is missing or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(explain("no such configuration file", where=path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise ConfigError(explain("this is not a TOML file", where=path, got=error)) from None


def nearest(word: str, known: Iterable[str]) -> str | None:
    """A hint "did you mean ...?" when a known word is near, else None."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean {matches[0]!r}?" if matches else None


# Words of other code bases, last part of a key -> ours.
_ALSO_CALLED = {
    **dict.fromkeys(("learning_rate", "base_lr", "lrate"), "lr"),
    **dict.fromkeys(("max_epoch", "num_epochs", "n_epochs"), "epochs"),
    **dict.fromkeys(("num_shots", "n_shots", "k"), "shots"),
    **dict.fromkeys(("bs", "batchsize"), "batch_size"),
    **dict.fromkeys(("wd", "decay"), "weight_decay"),
    **dict.fromkeys(("ctx_init", "init_text"), "init"),
    **dict.fromkeys(("num_frames", "n_frames"), "used"),
    "prec": "precision",
    "optimizer": "name",
}


def key_hint(word: str) -> str:
    """What an unknown key may have meant: the nearest valid one by its last part first, else the keys of its table."""
    keys = valid_keys()
    table, _, last = word.rpartition(".")
    last = _ALSO_CALLED.get(last.lower(), last.lower().replace("-", "_"))

    def likeness(key: str) -> tuple[float, float]:
        own_table, _, own = key.rpartition(".")
        return _alike(last, own), _alike(table, own_table) if table else 0.0

    best = max([*keys, *sections(keys)], key=lambda key: sum(likeness(key)))
    if likeness(best)[0] >= 0.6:
        return f"did you mean {best!r}?"
    within = [key for key in keys if key.startswith(f"{table}.")]
    return f"valid keys: {', '.join(within or keys)}"


def _alike(word: str, other: str) -> float:
    return difflib.SequenceMatcher(None, word, other).ratio()


def valid_keys(model: type[BaseModel] = TrainConfig, prefix: str = "") -> list[str]:
    """Every dotted key of the configuration, for hints and for the reference page."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        keys += [f"{prefix}{name}"] if section is None else valid_keys(section, f"{prefix}{name}.")
    return keys


def sections(keys: Iterable[str]) -> list[str]:
    """The tables that dotted keys are in."""
    return sorted({key.rsplit(".", 1)[0] for key in keys if "." in key})


def section_of(annotation: Any) -> type[Section] | None:
    """The table behind a field's annotation (also behind `Table | None`), or None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return next((found for part in get_args(annotation) if (found := section_of(part))), None)
    return None


_GIVEN_BY = {
    "store": "--store X.zarr, which `vidfeat extract` writes",
    "anchors.store": "--set anchors.store=IRRELEVANT.zarr, a store of videos of no class (`vidfeat anchors`)",
}


def _problem(item: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"\n    {key}: unknown key; {key_hint(key)}"
    if item["type"] == "missing":
        return f"\n    {key}: not given; {_GIVEN_BY.get(key, f'--set {key}=VALUE')}"
    message = item["msg"].removeprefix("Value error, ")
    given = "" if item["type"] == "value_error" else f" (got {item['input']!r})"
    return f"\n    {key + ': ' if key else ''}{message}{given}"
