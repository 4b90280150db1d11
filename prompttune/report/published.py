"""Numbers others have published, each with the protocol it was reached under: prompttune/report/published.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prompttune.errors import ConfigError, explain

PUBLISHED = Path(__file__).with_name("published.toml")
METRICS = ("base", "new", "harmonic_mean", "top1")


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Dataset(_Table):
    """A data set and the names its stores go by."""

    title: str
    names: tuple[str, ...]


class Published(_Table):
    """One published line on one data set; what its source does not say is None.

    Accuracies in per cent, as printed. `spread` is the published one over test splits or seeds.
    """

    method: str
    dataset: str
    protocol: str
    source: str
    backbone: str | None = None
    shots: int | None = None
    frames: int | None = None
    seeds: int | None = None
    selection: str | None = None
    initialisation: str | None = None
    remark: str | None = None
    second_hand: bool = Field(default=False, description="read in a third party's note, not in the authors' own words")
    base: float | None = None
    new: float | None = None
    harmonic_mean: float | None = None
    top1: float | None = None
    spread: float | None = None

    @property
    def circumstances(self) -> str:
        """How the number was reached, in words; what the source does not say is called that."""
        seeds = "seeds not stated" if self.seeds is None else f"{self.seeds} seed{'s' if self.seeds > 1 else ''}"
        facts = [
            self.backbone or "backbone not stated",
            self.initialisation or "initialisation not stated",
            seeds,
            f"selection: {self.selection or 'not stated'}",
            f"{self.frames} frames" if self.frames else None,
            self.remark,
        ]
        return "; ".join(fact for fact in facts if fact)


class _Series(_Table):
    """A method's lines as the file holds them: what they share, then by data set `[base, new, HM]` or by shots."""

    method: str
    protocol: str
    source: str
    backbone: str | None = None
    frames: int | None = None
    seeds: int | None = None
    selection: str | None = None
    initialisation: str | None = None
    remark: str | None = None
    second_hand: bool = False
    shots: int | None = None
    initialisation_by_dataset: dict[str, str] = {}
    results: dict[str, dict[str, float]] = {}
    by_shots: dict[str, dict[str, float]] = {}


class _File(_Table):
    datasets: dict[str, Dataset]
    published: tuple[_Series, ...]


def read_published(path: str | Path = PUBLISHED) -> tuple[dict[str, Dataset], list[Published]]:
    """Data sets by key, and every published line.

    Raises:
        ConfigError: a file that is no TOML or holds something else; all problems in one message.
    """
    try:
        found = _File.model_validate(tomllib.loads(Path(path).read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, OSError, ValidationError) as error:
        raise ConfigError(explain("these published numbers cannot be read", where=path, got=error)) from None
    lines = [line for series in found.published for line in _unfold(series)]
    unknown = sorted({line.dataset for line in lines} - set(found.datasets))
    if unknown:
        raise ConfigError(explain("published numbers of unknown data sets", where=path, got=", ".join(unknown)))
    return found.datasets, lines


def _unfold(series: _Series) -> list[Published]:
    shared = series.model_dump(exclude={"results", "by_shots", "initialisation_by_dataset"})
    lines = []
    for dataset, numbers in series.results.items():
        facts = shared | {"dataset": dataset} | numbers
        facts["initialisation"] = series.initialisation_by_dataset.get(dataset, series.initialisation)
        lines.append(Published(**facts))
    for dataset, accuracies in series.by_shots.items():
        lines += [
            Published(**(shared | {"dataset": dataset, "shots": int(k), "top1": value}))
            for k, value in accuracies.items()
        ]
    return lines


def matching(store: str, protocol: str, shots: int, path: str | Path = PUBLISHED) -> list[Published]:
    """The published lines on the data set that a store is named after; none where its name says no data set.

    Args:
        store: the store's name; case and punctuation do not matter, and a word in front of the ending may follow.
        protocol: as results name it; cross-dataset numbers are listed under "zero-shot".
        shots: looked at for few-shot alone.
    """
    datasets, lines = read_published(path)
    words = _bare(store).split()
    wanted = {"".join(words), "".join(words[:1]), "".join(words[:2])}
    keys = {key for key, dataset in datasets.items() if wanted & {_bare(name) for name in dataset.names}}
    return [
        line
        for line in lines
        if line.dataset in keys and line.protocol == protocol and (protocol != "few-shot" or line.shots == shots)
    ]


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip()
