"""From one command to its runs: overrides, the axes they open, and which runs can go through the tower together."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin

from prompttune.config.methods import METHODS
from prompttune.config.train_config import TrainConfig, key_hint, merge, resolve, section_of, sections, valid_keys
from prompttune.errors import ConfigError, explain

# Tables whose keys are names of loss terms or of their options.
FREE_TABLES = ("losses.", "loss_options.", "anchors.also.", "anchors.options.")
# What may differ between runs that are trained together: it touches no shape, no batch and no schedule's length.
PER_RUN_KEYS = ("optim.lr", "optim.weight_decay", "optim.momentum", "optim.warmup_lr", "anchors.weight")


@dataclass(frozen=True)
class Run:
    """One training with one result.

    Attributes:
        seed: draws shots, initial values, data order, dropout masks and anchors.
        config: resolved; its `seeds` hold this run's seed alone.
        overrides: dotted key -> value on this run's place of the run axes.
    """

    seed: int
    config: TrainConfig
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cell(self) -> str:
        """The overrides in words; runs of one cell differ in their seed only. Empty without axes."""
        return ",".join(f"{key}={value}" for key, value in self.overrides.items())

    @property
    def name(self) -> str:
        """A folder name: the overrides and the seed."""
        return "-".join(filter(None, (self.cell.replace("/", "_"), f"seed{self.seed}")))


def expand_runs(given: Mapping[str, Any], axes: Mapping[str, Sequence[Any]]) -> list[Run]:
    """Every run of the product of axes and seeds, seeds fastest.

    Args:
        given: nested tables, the TOML file with plain overrides merged in.
        axes: dotted key -> the values it takes.

    Raises:
        ConfigError: as `resolve`; the problems of the first cell that has any.
    """
    runs = []
    for values in itertools.product(*axes.values()):
        overrides = dict(zip(axes, values, strict=True))
        tables = dict(given)
        for key, value in overrides.items():
            tables = merge(tables, nested(key, value))
        config = resolve(tables)
        # A method that trains nothing has nothing to repeat: its one result does not depend on the seed.
        seeds = config.seeds if trains(config) else config.seeds[:1]
        runs += [Run(seed, config.model_copy(update={"seeds": (seed,)}), overrides) for seed in seeds]
    return runs


def trains(config: TrainConfig) -> bool:
    """Whether training videos are looked at."""
    return config.protocol.name != "zero-shot" and METHODS[config.method].fit != "none"


def trains_by_gradient(config: TrainConfig) -> bool:
    """Whether there is a training loop; a linear probe and Tip-Adapter look at training videos without one."""
    return trains(config) and METHODS[config.method].fit == "gradient"


def group_runs(runs: Iterable[Run]) -> list[list[Run]]:
    """The runs in groups that are trained together: equal in all but seed, folder, PER_RUN_KEYS and loss weights."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        tables = run.config.model_dump(mode="json", exclude={"seeds", "out"})
        tables["losses"] = sorted(name for name, weight in run.config.losses.items() if weight > 0)
        if run.config.anchors is not None:
            tables["anchors"]["also"] = sorted(run.config.anchors.weights)
        for key in PER_RUN_KEYS:
            section, name = key.split(".")
            if tables[section] is not None:
                tables[section].pop(name)
        groups.setdefault(repr(tables), []).append(run)
    return list(groups.values())


def parse_overrides(texts: Iterable[str]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Plain overrides as nested tables, and the axes: `optim.lr=0.01` is plain, `optim.lr=0.002,0.01` an axis.

    The last part of a key stands for the whole where no other key ends in it: `lr` for `optim.lr`. A value is TOML
    where it parses as TOML, a string where it does not. For a key that holds a list
    (`coupling.hard_prompts=a.safetensors,b.safetensors`) a comma separates the list's items; in a template it separates
    two where every part holds a `{}`.

    Raises:
        ConfigError: naming every override that is not `key=value`, every unknown key with its nearest valid one, and
            every short key with the keys it may stand for, where these are several.
    """
    tables: dict[str, Any] = {}
    axes: dict[str, list[Any]] = {}
    problems = []
    for text in texts:
        key, equals, value = text.partition("=")
        key = _whole_key(key.strip())
        if not equals:
            problems.append(f"\n    {text}: expected KEY=VALUE")
        elif (problem := _key_problem(key)) is not None:
            problems.append(f"\n    {problem}")
        else:
            values = _values(value)
            if key.split(".")[-1] in ("template", "zero_shot") and not all("{}" in str(part) for part in values):
                values = [value.strip()]  # a comma of the sentence itself, not one between templates
            if holds_list(key):
                values = [values[0] if len(values) == 1 and isinstance(values[0], list) else values]
            if len(values) == 1:
                tables = merge(tables, nested(key, values[0]))
            else:
                axes[key] = values
    if problems:
        raise ConfigError(explain("overrides that cannot be used", got="".join(problems)))
    return tables, axes


def set_keys(texts: Iterable[str]) -> list[str]:
    """The whole dotted keys of overrides that `parse_overrides` takes."""
    return [_whole_key(text.partition("=")[0].strip()) for text in texts]


def nested(key: str, value: Any) -> dict[str, Any]:
    """`{"a": {"b": value}}` of the dotted key "a.b"."""
    head, _, rest = key.partition(".")
    return {head: nested(rest, value) if rest else value}


def flat(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a.b": value}` of the tables `{"a": {"b": value}}`."""
    found: dict[str, Any] = {}
    for key, value in tables.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def _values(text: str) -> list[Any]:
    """One value when the text is TOML (a quoted string keeps its commas), else what its commas separate."""
    try:
        return [tomllib.loads(f"value = {text.strip()}")["value"]]
    except tomllib.TOMLDecodeError:
        return [_value(part) for part in text.split(",")]


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def _whole_key(key: str) -> str:
    """The dotted key that a short one stands for; itself where it is whole, unknown or ambiguous."""
    ending = _keys_ending_in(key)
    return ending[0] if len(ending) == 1 and _is_unknown(key) else key


def _keys_ending_in(short: str) -> list[str]:
    # Zero-shot's template goes by another name; `template` alone must not land in the anchors' without a word.
    also = ["templates.zero_shot"] if short == "template" else []
    return [key for key in valid_keys() if key.endswith(f".{short}")] + also


def _is_unknown(key: str) -> bool:
    keys = valid_keys()
    return not (key in keys or key in sections(keys) or key.startswith(FREE_TABLES))


def _key_problem(key: str) -> str | None:
    if not _is_unknown(key):
        return None
    if ending := _keys_ending_in(key):
        return f"{key}: may be {', '.join(ending[:-1])} or {ending[-1]}; write the one you mean"
    return f"{key}: unknown key; {key_hint(key)}"


def holds_list(key: str) -> bool:
    """Whether the value of a dotted key is a list, so that several values of it are one."""
    annotation: Any = TrainConfig
    for name in key.split("."):
        section = section_of(annotation)
        if section is None or name not in section.model_fields:
            return False
        annotation = section.model_fields[name].annotation
    return any(get_origin(part) is tuple for part in (annotation, *get_args(annotation)))
