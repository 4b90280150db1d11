"""Runs that train together: their stores, splits, features and model, from configuration to trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from prompttune.base.machine import training_device
from prompttune.config.runs import Run, group_runs, trains, trains_by_gradient
from prompttune.config.train_config import TrainConfig
from prompttune.cost.memory import runs_that_fit
from prompttune.data.features import FeatureSource, FeatureTable, mean_of_views, read_features
from prompttune.data.frames import TokenReader, TrainingVideos, VideoReader, make_sampler, token_reader
from prompttune.data.protocols import Sources, make_split, other_test_sets, split_table
from prompttune.errors import PromptFileError, SplitError, explain
from prompttune.evaluation.evaluate import Classifiers, Predictions, TestVideos, predict, predict_own
from prompttune.losses.of_runs import loss_terms
from prompttune.model.anchor_videos import AnchorVideos
from prompttune.model.fitted_adapters import attach_adapter
from prompttune.model.prompt_model import PromptModel
from prompttune.parts.heads import frame_reduction
from prompttune.prompts.file import PromptFile, read_hard_prompt
from prompttune.splits.split import Split, TestSet, VideoTable
from prompttune.training.trainer import Trainer, TrainingInputs


def plan_groups(runs: Sequence[Run], sources: Sources) -> list[list[Run]]:
    """Groups of runs that train together: equal in all that shapes the computation, as many as fit the memory.

    Raises:
        ConfigError: a run that does not fit the memory alone.
    """
    groups = []
    for members in group_runs(runs):
        size = _runs_at_once(members, sources)
        groups += [members[start : start + size] for start in range(0, len(members), size)]
    return groups


def _runs_at_once(runs: Sequence[Run], sources: Sources) -> int:
    config = runs[0].config
    if not trains_by_gradient(config) or len(runs) == 1:
        return len(runs)
    model, split = planned(runs[:1], sources)
    counts = sources.train.reader.n_frames_per_video
    return runs_that_fit(runs, model, split.classes, n_frames=int(counts.max()))


def planned(runs: Sequence[Run], sources: Sources) -> tuple[PromptModel, Split]:
    """The model of these runs and the first one's videos, with no feature read: what planning looks at."""
    config = runs[0].config
    split = make_split(config.protocol, _split_table(config, sources), seed=runs[0].seed, trains=trains(config))
    return _make_model(runs, sources, split.classes, _hard_prompts(config, sources)), split


def _split_table(config: TrainConfig, sources: Sources) -> VideoTable:
    """The training store's videos with a train and a test side.

    Raises:
        SplitError: a store without splits, a protocol that needs them, and no fraction to draw them by.
    """
    table = split_table(config.protocol, sources.train.table)
    if config.protocol.name != "zero-shot" and not any(table.splits):
        raise SplitError(
            explain(
                f"the store has no splits, which the protocol {config.protocol.name} needs",
                where=sources.train.path,
                expected="videos whose split is 'train', and videos whose split is 'test'",
                got=f"{len(table.ids)} videos without a split",
                fix="--set protocol.test_fraction=0.5 draws splits; or extract from a manifest with a split column",
            )
        )
    return table


def _hard_prompts(config: TrainConfig, sources: Sources) -> list[PromptFile]:
    pack = sources.train.pack
    named = config.coupling.hard_prompts if config.coupling is not None else ()
    return [read_hard_prompt(path, pack_hash=pack.hash, width=pack.config.open_text.width) for path in named]


def _make_model(
    runs: Sequence[Run], sources: Sources, classes: Sequence[str], hard_prompts: Sequence[PromptFile]
) -> PromptModel:
    config = runs[0].config
    model = PromptModel(
        config,
        sources.train.pack,
        seeds=[run.seed for run in runs],
        classes=classes,
        hard_prompts=[_hard_rows(config, prompt) for prompt in hard_prompts],
        device=training_device(config.device),
    )
    for prompt in _started_from(config, sources):
        assert model.context is not None
        assert prompt.ctx is not None
        model.context.start_from(prompt.ctx)
    return model


def _started_from(config: TrainConfig, sources: Sources) -> list[PromptFile]:
    """The prompt file whose context training starts from, `context.init = "@FILE"`; none for words and random values.

    Raises:
        PromptFileError: no such file, one of another backbone, or one of another number of tokens.
    """
    if config.context.kind == "none" or not config.context.init.startswith("@"):
        return []
    path, pack = config.context.init[1:], sources.train.pack
    prompt = read_hard_prompt(path, pack_hash=pack.hash, width=pack.config.open_text.width)
    if prompt.n_ctx != config.context.n_ctx:
        raise PromptFileError(
            explain(
                "the context cannot start from this prompt",
                where=path,
                expected=f"context.n_ctx = {config.context.n_ctx} tokens",
                got=f"{prompt.n_ctx} tokens",
                fix=f"--set context.n_ctx={prompt.n_ctx}",
            )
        )
    return [prompt]


def _hard_rows(config: TrainConfig, prompt: PromptFile) -> Tensor:
    """What is coupled of a hard prompt: its text input's context [M W], or every block's [J M W].

    Raises:
        PromptFileError: `coupling.deep_hard`, and a prompt of fewer blocks.
    """
    coupling = config.coupling
    depth = (coupling.depth or 1) if coupling is not None and coupling.deep_hard else 1
    rows = prompt.hard_prompt(depth=depth)
    n_blocks = 1 if rows.dim() == 2 else len(rows)
    if n_blocks < depth:
        raise PromptFileError(
            explain(
                "the hard prompt has not as many blocks as are coupled",
                expected=f"{depth} blocks, coupling.depth with coupling.deep_hard",
                got=f"{n_blocks} in a prompt of {prompt.method}, seed {prompt.seed}",
                fix=f"train it with context.prompt_depth = {depth}, or set coupling.deep_hard = false",
            )
        )
    return rows


@dataclass(frozen=True)
class RunGroup:
    """Runs that train together, with their videos and their model.

    Attributes:
        runs: equal in all that shapes the computation.
        splits: one per run.
        others: test sets of further stores, by name.
        hard_prompts: the prompt files that are coupled.
        started_from: the prompt file whose context the runs start from, if any.
        features: by store, "" for the training store's.
        model: of all runs.
    """

    runs: Sequence[Run]
    sources: Sources
    splits: Sequence[Split]
    others: Mapping[str, TestSet]
    hard_prompts: Sequence[PromptFile]
    features: Mapping[str, FeatureTable] = field(repr=False)
    model: PromptModel = field(repr=False)
    started_from: Sequence[PromptFile] = ()

    @property
    def config(self) -> TrainConfig:
        return self.runs[0].config

    def test_videos(self, run: int) -> dict[str, TestVideos]:
        """The run's test sets with their features."""
        split = self.splits[run]
        own = {test.name: self.videos(test, split.table) for test in split.tests}
        return own | {
            name: TestVideos(
                test, self.sources.tests[name].table, self.features[name], self.tokens(self.sources.tests[name])
            )
            for name, test in self.others.items()
        }

    def videos(self, test: TestSet, table: VideoTable) -> TestVideos:
        """Videos of the training store with what evaluation needs of them."""
        return TestVideos(test, table, self.features[""], self.tokens(self.sources.train))

    def tokens(self, source: FeatureSource) -> TokenReader | None:
        """Reads what enters the first prompted block; None without visual prompts."""
        return token_reader(self.config.visual, source)


def prepare(runs: Sequence[Run], sources: Sources, *, splits: Sequence[Split] | None = None) -> RunGroup:
    """The group of these runs: splits made, features read, model built.

    Args:
        splits: one per run, made elsewhere; None for those of the configuration's protocol.

    Raises:
        PrompttuneError: a split, prompt file, class name or part of the model that cannot be.
    """
    config = runs[0].config
    if splits is None:
        table = _split_table(config, sources)
        splits = [make_split(config.protocol, table, seed=run.seed, trains=trains(config)) for run in runs]
    others = other_test_sets(sources.tests)
    hard = _hard_prompts(config, sources)
    model = _make_model(runs, sources, splits[0].classes, hard)
    rows = np.concatenate([part for s in splits for part in (s.train, s.val, *(test.videos for test in s.tests))])
    reduce = frame_reduction(config.head)
    features = {"": read_features(sources.train, rows, reduce=reduce).to(model.device)}
    for name, test in others.items():
        features[name] = read_features(sources.tests[name], test.videos, reduce=reduce).to(model.device)
    keys = None
    if config.head.tip_keys == "views" and config.head.adapter == "tip-adapter":
        trained = np.concatenate([split.train for split in splits])
        keys = mean_of_views(sources.train, trained, reduce=reduce).to(model.device)
    attach_adapter(model, splits=splits, features=features[""], keys=keys)
    return RunGroup(runs, sources, splits, others, hard, features, model, _started_from(config, sources))


def make_trainer(group: RunGroup) -> Trainer:
    """The trainer of a group, at its first step."""
    config, model = group.config, group.model
    seeds = [run.seed for run in group.runs]
    vocabulary = model.vocabulary(group.splits[0].classes)
    anchors = None
    if group.sources.anchors is not None:
        anchors = AnchorVideos(
            group.sources.anchors,
            model,
            vocabulary=vocabulary,
            reduce=frame_reduction(config.head),
            seeds=seeds,
            task_hashes=_content_hashes(group),
        )
    videos = TrainingVideos(group.features[""], group.splits, _training_reader(group))
    validate = partial(subset_accuracy, group, "val") if config.selection == "val" else None
    return Trainer(model, TrainingInputs(group.runs, vocabulary, videos, loss_terms(group.runs), anchors, validate))


def _training_reader(group: RunGroup) -> VideoReader | None:
    """What a step sees of the training store, where that is more than features of all frames of the first view."""
    source, config = group.sources.train, group.config
    tokens = group.tokens(source)
    sampler = make_sampler(config.frames, source, seeds=[run.seed for run in group.runs], purpose="frames")
    if tokens is None and sampler is None:
        return None
    still = group.features[""]
    if sampler is not None:
        # Every view and frame is kept in memory, so of the training videos alone.
        rows = np.unique(np.concatenate([split.train for split in group.splits]))
        still = FeatureTable(rows, still.values[still.positions(rows).to(still.values.device)])
    return VideoReader(source, still, reduce=frame_reduction(config.head), sampler=sampler, tokens=tokens)


def _content_hashes(group: RunGroup) -> frozenset[str]:
    """Content hashes of the task's videos, the empty one (unknown) left out."""
    used = {int(row) for split in group.splits for part in (split.train, split.val) for row in part}
    used |= {int(row) for split in group.splits for test in split.tests for row in test.videos}
    videos = group.sources.train.reader.videos()
    return frozenset(videos[row].content_sha256 for row in used) - {""}


def predictions_of(group: RunGroup, *, classifiers: Classifiers | None = None) -> list[dict[str, Predictions]]:
    """Each run's predictions by test set; runs that share a test set see its videos once."""
    classifiers = classifiers or Classifiers(group.model)
    found: list[dict[str, Predictions]] = [{} for _ in group.runs]
    by_run = [group.test_videos(run) for run in range(len(group.runs))]
    for name in by_run[0]:
        for run, predictions in enumerate(_predict_each(classifiers, [videos[name] for videos in by_run])):
            found[run][name] = predictions
    return found


def _predict_each(classifiers: Classifiers, videos: Sequence[TestVideos]) -> list[Predictions]:
    """Run r's predictions on `videos[r]`."""
    first = videos[0].test
    if all(np.array_equal(own.test.videos, first.videos) for own in videos):
        return predict(classifiers, videos[0])
    return predict_own(classifiers, videos)


def subset_accuracy(group: RunGroup, part: str, *, classifiers: Classifiers | None = None) -> Tensor:
    """Accuracy of each run on its own training or validation videos, among the training classes [R]."""
    tests = [TestSet(part, getattr(split, part), split.classes) for split in group.splits]
    videos = [group.videos(test, split.table) for test, split in zip(tests, group.splits, strict=True)]
    return torch.tensor([found.top(1) for found in _predict_each(classifiers or Classifiers(group.model), videos)])
