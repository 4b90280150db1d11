"""What a learned prompt makes of the classes: class features before and after, and what irrelevant videos resemble.

Everything here is computed anew from a run's prompt file and the store's backbone pack, which takes one pass of the
class names through the text tower. What is missing on this machine is said, not guessed: `Unavailable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prompttune.config.train_config import TrainConfig
from prompttune.errors import PrompttuneError
from prompttune.report.entries import Entry
from vidfeat.errors import VidfeatError

if TYPE_CHECKING:
    from prompttune.data.features import FeatureSource
    from prompttune.model.prompt_model import PromptModel
    from prompttune.prompts.file import PromptFile

PROMPT = "prompt.safetensors"
MAX_ANCHORS = 400


class Unavailable(Exception):
    """A part of the page that cannot be made here; the message is the reason, as the page shows it."""


@dataclass(frozen=True)
class ClassMovement:
    """Class features of the hand-written prompts and of a learned one; unit rows, float32 [C E].

    Attributes:
        label: whose prompts.
        seed: of the run that was looked at.
        names: of the classes, C.
        is_new: bool [C]: not among the classes the prompt was trained on, whatever the protocol calls them.
    """

    label: str
    seed: int
    names: tuple[str, ...]
    is_new: NDArray[np.bool_]
    before: NDArray[np.float32]
    after: NDArray[np.float32]

    def spacing(self) -> tuple[float, float]:
        """Mean cosine of two different classes, before and after: the higher, the less they are told apart."""
        return _mean_cosine(self.before), _mean_cosine(self.after)


def _mean_cosine(rows: NDArray[np.float32]) -> float:
    cosines = rows @ rows.T
    n = len(rows)
    return float((cosines.sum() - np.trace(cosines)) / (n * (n - 1)))


def class_movement(entry: Entry, models: LearnedModels) -> ClassMovement:
    """Class features of the entry's first run, before and after training.

    Raises:
        Unavailable: no prompt file, store or pack here, or a method without class features of its own.
    """
    import torch

    model, _ = models.of(entry)
    names = tuple(dict.fromkeys(name for classes in entry.result.classes.values() for name in classes))
    trained = set(models.classes(entry))
    with torch.no_grad():
        vocabulary = model.vocabulary(names)
        after = model.class_features(vocabulary)[0]
    return ClassMovement(
        label=entry.label,
        seed=entry.runs[0].seed,
        names=names,
        is_new=np.array([name not in trained for name in names]),
        before=vocabulary.frozen.numpy().astype(np.float32),
        after=after.numpy().astype(np.float32),
    )


class LearnedModels:
    """Models of runs on the CPU, made of their prompt files; stores, and the backbones in them, are opened once."""

    def __init__(self) -> None:
        self._sources: dict[str, FeatureSource] = {}

    def source(self, path: str, *, pack_hash: str) -> FeatureSource:
        """The store, checked to be of that backbone.

        Raises:
            Unavailable: no such store here.
        """
        from prompttune.data.features import open_source

        if path not in self._sources:
            if not Path(path).exists():
                raise Unavailable(f"the store {path} is not on this machine")
            self._sources[path] = open_source(path, pack_hash=pack_hash)
        return self._sources[path]

    def classes(self, entry: Entry) -> tuple[str, ...]:
        """What the prompts of the entry's first run were trained on.

        Raises:
            Unavailable: no prompt file, or none that can be read.
        """
        return self._prompt(entry).classes

    def _prompt(self, entry: Entry) -> PromptFile:
        from prompttune.prompts.file import read_prompt_file

        path = entry.folder / entry.runs[0].name / PROMPT
        if not path.is_file():
            raise Unavailable(f"{entry.label} left no prompt file")
        try:
            return read_prompt_file(path)
        except PrompttuneError as error:
            raise Unavailable(f"{entry.label}: {error}") from None

    def of(self, entry: Entry) -> tuple[PromptModel, FeatureSource]:
        """The model of the entry's first run, and its training store.

        Raises:
            Unavailable: as `class_movement`.
        """
        from prompttune.model.prompt_model import PromptModel

        prompt = self._prompt(entry)
        try:
            config = TrainConfig.model_validate(prompt.config).model_copy(update={"device": "cpu"})
            if config.context.kind in ("none", "image"):
                raise Unavailable(f"{entry.label} has no class features that are the same for every video")
            source = self.source(entry.result.store.path, pack_hash=prompt.pack_hash)
            # The coupled hard prompts are in the prompt file itself; their own files need not be there any more.
            names = sorted(name for name in prompt.learned if name.startswith("context.coupling.hard_"))
            hard = [prompt.learned[name] for name in names]
            model = PromptModel(config, source.pack, seeds=[prompt.seed], classes=prompt.classes, hard_prompts=hard)
            model.load_run_tensors(0, prompt.learned)
        except (PrompttuneError, VidfeatError) as error:
            raise Unavailable(f"{entry.label}: {error}") from None
        return model.eval(), source


@dataclass(frozen=True)
class AnchorSimilarity:
    """How close irrelevant videos are to the nearest training class: cosines [A] in [-1, 1].

    Attributes:
        before: to the nearest class of the hand-written prompts, by label: lines may have templates of their own.
        after: to the nearest class of the learned prompts, by label.
        n_videos: anchor videos there are; A of them, evenly drawn, were looked at.
    """

    before: dict[str, NDArray[np.float32]]
    after: dict[str, NDArray[np.float32]]
    n_videos: int

    def references(self) -> dict[str, NDArray[np.float32]]:
        """The hand-written prompts' rows in words: one where all lines have the same, else one for each line."""
        first = next(iter(self.before.values()))
        if all(np.allclose(one, first, atol=1e-5) for one in self.before.values()):
            return {"hand-written prompts": first}
        return {f"hand-written prompts of {label}": values for label, values in self.before.items()}


def anchor_similarity(entries: Sequence[Entry], models: LearnedModels) -> AnchorSimilarity:
    """The cosine of each anchor video to its nearest training class, before and after, for every trained entry.

    Raises:
        Unavailable: no entry used anchors, or their store is not here.
    """
    paths = [e.result.other_stores["anchors"].path for e in entries if "anchors" in e.result.other_stores]
    if not paths:
        raise Unavailable("no method of this table used anchor videos")
    if not Path(paths[0]).exists():
        raise Unavailable(f"the anchors' store {paths[0]} is not on this machine")
    before: dict[str, NDArray[np.float32]] = {}
    after: dict[str, NDArray[np.float32]] = {}
    n_videos = 0
    for entry in entries:
        try:
            before[entry.label], after[entry.label], n_videos = _nearest_class(entry, paths[0], models)
        except Unavailable:
            continue
    if not before:
        raise Unavailable("no trained method here has class features of its own")
    return AnchorSimilarity(before, after, n_videos)


def _nearest_class(
    entry: Entry, anchors: str, models: LearnedModels
) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    """Cosines under the hand-written and the learned prompts, and how many anchor videos there are."""
    import torch

    from prompttune.data.features import read_features
    from prompttune.parts.heads import frame_reduction

    model, source = models.of(entry)
    try:
        store = models.source(anchors, pack_hash=source.pack.hash)
        usable = np.flatnonzero(store.table.usable)
        chosen = usable[np.linspace(0, len(usable) - 1, min(len(usable), MAX_ANCHORS)).astype(int)]
        features = read_features(store, chosen, reduce=frame_reduction(model.config.head)).values
        with torch.no_grad():
            vocabulary = model.vocabulary(models.classes(entry))
            videos = model.video_features(features[None])[0]
            if videos.dim() != 2:
                raise Unavailable(f"{entry.label} has no single feature per video")
            plain = torch.nn.functional.normalize(features if features.dim() == 2 else features.mean(dim=1), dim=-1)
            before = (plain @ vocabulary.frozen.T).max(dim=1).values
            after = (videos @ model.class_features(vocabulary)[0].T).max(dim=1).values
    except (PrompttuneError, VidfeatError) as error:
        raise Unavailable(f"{entry.label}: {error}") from None
    return before.numpy(), after.numpy(), len(usable)
