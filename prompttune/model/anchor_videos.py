"""Irrelevant videos from a store of their own, drawn a batch per step and run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from prompttune.base.run_axis import RunGenerators
from prompttune.config.train_config import AnchorsConfig, TrainConfig
from prompttune.data.features import AnchorBatch, FeatureSource, FrameReduction, read_features
from prompttune.data.frames import VideoReader, make_sampler, token_reader
from prompttune.errors import FeatureError, explain
from prompttune.losses.anchors import ANCHOR_LOSSES, NEGATIVE_PROMPT_LISTS, NegativePrompts

if TYPE_CHECKING:
    from prompttune.model.prompt_model import PromptModel, Vocabulary


def negative_prompts(config: AnchorsConfig) -> NegativePrompts:
    """The negative prompts a configuration asks for: a list by name, or words of its own with its template."""
    if isinstance(config.negatives, str):
        return NEGATIVE_PROMPT_LISTS[config.negatives]
    return NegativePrompts(words=config.negatives, template=config.template)


def prompted_words(config: TrainConfig) -> tuple[str, ...]:
    """The negatives' words that go through the text tower behind the learned context, as further classes.

    It goes in front of them only where it is one for all classes and videos.
    """
    anchors = config.anchors
    if anchors is None or config.context.kind != "shared" or not anchors.prompted_negatives:
        return ()
    take_part = any(ANCHOR_LOSSES[loss].prompts_negatives for loss in anchors.weights)
    return negative_prompts(anchors).words if take_part else ()


class AnchorVideos:
    """Draws each run's anchors of a step from that run's own generator, with replacement between steps only.

    Args:
        source: the anchors' store; all its usable videos are anchors.
        reduce: as for the training videos; so are views, frames and tokens.
        model: encodes the negatives as written, once.
        vocabulary: the training classes.
        seeds: one per run.
        overlap: ids of the task's videos; an anchor store that holds one of them is refused.

    Raises:
        FeatureError: fewer videos than anchors per step, or videos of the task among them.
    """

    def __init__(
        self,
        source: FeatureSource,
        model: PromptModel,
        *,
        vocabulary: Vocabulary,
        reduce: FrameReduction,
        seeds: Sequence[int],
        task_hashes: frozenset[str] = frozenset(),
    ) -> None:
        config = model.config.anchors
        assert config is not None
        rows = np.flatnonzero(source.table.usable).astype(np.int64)
        _check(source, rows, n_anchors=config.n_anchors, task_hashes=task_hashes)
        self.n_anchors = config.n_anchors
        still = read_features(source, rows, reduce=reduce).to(model.device)
        self.values: Tensor = still.values
        self.reader = VideoReader(
            source,
            still,
            reduce=reduce,
            sampler=make_sampler(model.config.frames, source, seeds=seeds, purpose="anchors"),
            tokens=token_reader(model.config.visual, source),
        )
        negatives = negative_prompts(config)
        self.frozen_negatives = model.frozen_text(negatives.words, (negatives.template,))
        words = prompted_words(model.config)
        self.joint = model.vocabulary([*vocabulary.names, *words]) if words else None
        self.generators = RunGenerators(seeds, "anchors")

    def __len__(self) -> int:
        """How many anchors there are to draw from."""
        return len(self.values)

    def draw(self) -> AnchorBatch:
        """The anchors of the next step of every run; those of one step differ."""
        inputs = self.reader.take(self.generators.permutation(len(self))[:, : self.n_anchors])
        return AnchorBatch(inputs.features, self.frozen_negatives, self.joint, inputs.tokens)

    def state(self) -> dict[str, Tensor]:
        """Every tensor a later draw depends on: what a checkpoint keeps."""
        return {"order": self.generators.state(), **self.reader.state()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continues where `state` was taken."""
        self.generators.load_state(state["order"])
        self.reader.load_state(state)


def _check(source: FeatureSource, rows: np.ndarray, *, n_anchors: int, task_hashes: frozenset[str]) -> None:
    if len(rows) < n_anchors:
        raise FeatureError(
            explain(
                "too few irrelevant videos",
                where=source.path,
                expected=f"at least anchors.n_anchors = {n_anchors}",
                got=f"{len(rows)} usable videos",
                fix="more videos, or a smaller anchors.n_anchors",
            )
        )
    if not task_hashes:
        return
    videos = source.reader.videos()
    shared = [videos[row].id for row in rows if videos[row].content_sha256 in task_hashes]
    if shared:
        raise FeatureError(
            explain(
                "anchors hold videos of the task itself",
                where=source.path,
                got=f"{len(shared)}, the first {shared[0]}",
                fix="take them out of the anchors' store: irrelevant videos must not be in training or test",
            )
        )
