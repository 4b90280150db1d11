"""What a step is shown of its videos: which view and frames, their pooled features, and their tokens from the store.

    positions [R B] -> FrameSampler (view, T of F frames; each run's own draw) -> pooled features [R B (T) E]  in memory
                                                                              -> tokens [R B T S D]   from the store

Tokens of a real data set fit no memory (UCF-101's 16 shots at ViT-B/16 and 32 frames are 8 GB a view), so a step's are
read when it comes, from the memory-mapped store, in the dtype they are stored in. Pooled features are what frozen CLIP
says of the very same view and frames: the teacher needs no second pass through an encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prompttune.base.devices import send
from prompttune.base.run_axis import RunGenerators
from prompttune.config.sections import FramesConfig, VisualConfig
from prompttune.data.features import (
    Batch,
    FeatureSource,
    FeatureTable,
    FrameReduction,
    labels_of,
    read_features,
    unequal_frames,
)
from prompttune.splits.split import Split
from vidfeat.store import Tap


@dataclass(frozen=True)
class FrameDraw:
    """One step's views and frames.

    Attributes:
        views: int64 [R B].
        frames: int64 [R B T], ascending.
    """

    views: Tensor
    frames: Tensor


class FrameSampler:
    """Draws views and frames of every step, each run from its own generators; resumable through `state`.

    Of F stored frames T are used: one, evenly drawn, of each of T segments as equal as whole frames allow (TSN's
    sampling, on what is stored). T = F takes all, and draws nothing.

    Args:
        config: T and which views.
        n_views, n_frames: V and F of the store.
        seeds: one per run.
        purpose: names the streams.

    Source: Wang et al. 2016 (TSN); GA2-CLIP and ViFi-CLIP train on a random frame of each segment.
    """

    def __init__(
        self, config: FramesConfig, *, n_views: int, n_frames: int, seeds: Sequence[int], purpose: str = "frames"
    ) -> None:
        self.n_frames, self.n_used = n_frames, config.used or n_frames
        self.n_views = n_views if config.views == "random" else 1
        self.n_runs = len(seeds)
        bounds = (torch.arange(self.n_used + 1) * n_frames).div(self.n_used, rounding_mode="floor")
        self._first, self._sizes = bounds[:-1], bounds.diff()
        self._views = RunGenerators(seeds, f"{purpose}.views")
        self._frames = RunGenerators(seeds, f"{purpose}.frames")

    def draw(self, n_videos: int) -> FrameDraw:
        """Of the next step's `n_videos` videos of every run."""
        views = torch.zeros(self.n_runs, n_videos, dtype=torch.int64)
        if self.n_views > 1:
            views = self._views.integers(self.n_views, n_videos)
        frames = self._first.expand(self.n_runs, n_videos, -1)
        if self.n_used < self.n_frames:
            frames = frames + (self._frames.uniform(n_videos, self.n_used) * self._sizes).long()
        return FrameDraw(views, frames)

    def state(self) -> dict[str, Tensor]:
        """The generators' states: what a checkpoint keeps."""
        return {"views": self._views.state(), "frames": self._frames.state()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continues where `state` was taken."""
        self._views.load_state(state["views"])
        self._frames.load_state(state["frames"])


class TokenReader:
    """Tokens entering one block, read from a store as they are asked for.

    Args:
        source: has the tap of that block.
        block: `first_block` of the visual prompts.
    """

    def __init__(self, source: FeatureSource, block: int) -> None:
        self.source, self.tap = source, Tap(block).name

    def read(self, rows: np.ndarray, *, views: np.ndarray | None = None, frames: np.ndarray | None = None) -> Tensor:
        """Tokens [*rows.shape T S D] in the stored dtype (float32 where that is int8).

        Args:
            rows: videos of the store, any shape, repeats are read once.
            views: of each; None for the first.
            frames: of each, [*rows.shape T] in [0, F); None for all F.

        Raises:
            FeatureError: videos of unequally many frames.
        """
        flat = np.asarray(rows, dtype=np.int64).reshape(-1)
        shown = np.zeros_like(flat) if views is None else np.asarray(views, dtype=np.int64).reshape(-1)
        pairs, places = np.unique(np.stack([flat, shown]), axis=1, return_inverse=True)
        reader = self.source.reader
        counts = np.unique(reader.n_frames_per_video[pairs[0]])
        if len(counts) > 1:
            raise unequal_frames(self.source, counts.tolist())
        values = torch.from_numpy(reader.rows(self.tap, pairs[0], view=pairs[1]).stacked())
        place = torch.from_numpy(places.reshape(rows.shape))
        if frames is None:
            return values[place]
        return values[place.unsqueeze(-1), torch.from_numpy(frames)]


def token_reader(visual: VisualConfig | None, source: FeatureSource) -> TokenReader | None:
    """Reads what enters the first prompted block; None without visual prompts."""
    return None if visual is None else TokenReader(source, visual.first_block)


@dataclass(frozen=True)
class VideoInputs:
    """What a step sees of videos.

    Attributes:
        features: float32 [R B E], or [R B T E] where frames are kept; frozen CLIP's, not normalised.
        tokens: [R B T S D] of the same view and frames, or None where no visual prompt asks for them.
    """

    features: Tensor
    tokens: Tensor | None = None


class VideoReader:
    """The videos of one store for the steps of R runs, with views and frames drawn anew at every step.

    Args:
        source: the store.
        still: features of the videos that may be asked for, first view and all frames; taken as they are where nothing
            is drawn.
        sampler: None where nothing is drawn.
        reduce: what happens to frames where all of them are used.
        tokens: None where no visual prompt asks for them.
    """

    def __init__(
        self,
        source: FeatureSource,
        still: FeatureTable,
        *,
        reduce: FrameReduction,
        sampler: FrameSampler | None = None,
        tokens: TokenReader | None = None,
    ) -> None:
        self.still, self.rows, self.sampler, self.tokens = still, still.rows, sampler, tokens
        self.device = still.values.device
        self.values = still.values
        self._draws_frames = sampler is not None and sampler.n_used < sampler.n_frames
        if sampler is not None:
            kept: FrameReduction = "none" if self._draws_frames else reduce
            views = [read_features(source, self.rows, reduce=kept, view=view).values for view in range(sampler.n_views)]
            self.values = torch.stack(views, dim=1).to(self.device)

    def take(self, positions: Tensor) -> VideoInputs:
        """The videos at `positions` of `rows`, int64 [R B] on the host; sent to the device."""
        rows, places = self.rows[positions.numpy()], send(positions, self.device)
        if self.sampler is None:
            tokens = None if self.tokens is None else send(self.tokens.read(rows), self.device)
            return VideoInputs(self.values[places], tokens)
        draw = self.sampler.draw(positions.shape[1])
        features = self.values[places, send(draw.views, self.device)]
        if self._draws_frames:
            shown = send(draw.frames, self.device).unsqueeze(-1)
            features = features.gather(2, shown.expand(-1, -1, -1, features.shape[-1]))
        if self.tokens is None:
            return VideoInputs(features)
        frames = draw.frames.numpy() if self._draws_frames else None
        tokens = self.tokens.read(rows, views=draw.views.numpy(), frames=frames)
        return VideoInputs(features, send(tokens, self.device))

    def state(self) -> dict[str, Tensor]:
        """Of what is drawn; empty where nothing is."""
        return {} if self.sampler is None else self.sampler.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continues where `state` was taken."""
        if self.sampler is not None:
            self.sampler.load_state(state)


def make_sampler(
    config: FramesConfig, source: FeatureSource, *, seeds: Sequence[int], purpose: str
) -> FrameSampler | None:
    """The sampler a configuration asks for, None where a step sees the first view and all of its frames."""
    n_frames = source.reader.n_frames
    few = config.used is not None and config.used != n_frames
    several = config.views == "random" and source.reader.n_views > 1
    if not (few or several):
        return None
    if n_frames is None:
        raise unequal_frames(source, np.unique(source.reader.n_frames_per_video[source.reader.ok]).tolist())
    return FrameSampler(config, n_views=source.reader.n_views, n_frames=n_frames, seeds=seeds, purpose=purpose)


class TrainingVideos:
    """The training videos of R runs: one copy of the features, R lists of which of them each run trains on.

    Args:
        table: features of the union of the runs' videos, of the first view and all frames.
        splits: one split per run, of equally many training videos and the same classes.
        reader: what a step sees of the training videos; by default their features as they are.
    """

    def __init__(self, table: FeatureTable, splits: Sequence[Split], reader: VideoReader | None = None) -> None:
        lengths = {len(split.train) for split in splits}
        if len(lengths) != 1:
            raise ValueError(f"runs of {sorted(lengths)} training videos cannot be trained together")
        device = table.values.device
        self.values, self.reader = table.values, reader
        known = table if reader is None else reader.still
        self.device = device
        self.positions = torch.stack([known.positions(split.train) for split in splits])
        self.labels = torch.stack([labels_of(split.table, split.train, split.classes) for split in splits])
        self.set_order(torch.arange(self.positions.shape[1]).expand(len(splits), -1))

    def __len__(self) -> int:
        """Training videos per run."""
        return self.positions.shape[1]

    def set_order(self, order: Tensor) -> None:
        """The order of an epoch, int64 [R n_videos], a permutation for each run; sent to the device here, once."""
        self._ordered = self.positions.gather(1, order)
        self._labels = self.labels.gather(1, order)
        self._on_device = send(self._ordered, self.device), send(self._labels, self.device)

    def labels_at(self, first: int, stop: int) -> Tensor:
        """Labels of the epoch's videos [first, stop), int64 [R B], on the host."""
        return self._labels[:, first:stop]

    def in_order(self, first: int, stop: int) -> Batch:
        """The epoch's videos [first, stop) of every run; views and frames are drawn anew at every call."""
        positions, labels = (values[:, first:stop] for values in self._on_device)
        return self._batch(self._ordered[:, first:stop], positions, labels)

    def batch(self, picks: Tensor) -> Batch:
        """The videos at `picks`, int64 [R B] on the host, whatever the order; drawn anew as `in_order`."""
        positions, labels = self.positions.gather(1, picks), self.labels.gather(1, picks)
        return self._batch(positions, send(positions, self.device), send(labels, self.device))

    def _batch(self, on_host: Tensor, positions: Tensor, labels: Tensor) -> Batch:
        if self.reader is None:
            return Batch(self.values[positions], labels)
        inputs = self.reader.take(on_host)
        return Batch(inputs.features, labels, inputs.tokens)

    def state(self) -> dict[str, Tensor]:
        """Of the views and frames that are drawn; empty where none are."""
        return {} if self.reader is None else self.reader.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continues where `state` was taken."""
        if self.reader is not None:
            self.reader.load_state(state)
