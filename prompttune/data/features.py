"""Store rows to training batches: frame features in memory as float32, read once for all runs.

What is read is the pooled tap: projected frame features before normalisation. Where the head has nothing to train
across frames they are averaged while they are read, so that memory grows with the videos and not with their frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from prompttune.data.extract_command import extract_command
from prompttune.data.local_pack import local_pack
from prompttune.errors import FeatureError, explain
from prompttune.splits.split import VideoTable
from vidfeat.backbone import BackboneConfig, BackbonePack
from vidfeat.store import POOLED, StoreReader, open_store, rows_without_direction

_READ_CHUNK = 512  # videos per read: bounds the memory beside the features that are kept

FrameReduction = Literal["none", "mean", "mean-of-normalised"]


@dataclass(frozen=True)
class FeatureSource:
    """An open store and the backbone pack its features came from.

    Attributes:
        path: as it was given, for messages and results.
        table: what splits are made of.
        failed: ids of the videos whose extraction failed; they are in no split.
        n_listed: how many videos the split file that `table` is cut down to lists; None without one.
    """

    path: str
    reader: StoreReader = field(repr=False)
    pack: BackbonePack = field(repr=False)
    table: VideoTable = field(repr=False)
    failed: tuple[str, ...] = ()
    n_listed: int | None = None

    @property
    def fingerprint(self) -> str:
        """sha256 of everything that changed the stored numbers."""
        return self.reader.fingerprint.sha256


def open_source(
    path: str | Path, *, pack_hash: str | None = None, needed_by: str = "", model: BackboneConfig | None = None
) -> FeatureSource:
    """The store at `path` with its pack, checked to be one another's.

    Args:
        pack_hash: the pack that its features must come from; None for any.
        needed_by: what asks for that pack, for the message.
        model: the backbone in that pack, for the message.

    Raises:
        FeatureError: no pooled features, or features of another pack.
        vidfeat.errors.StoreError, vidfeat.errors.PackError: a store or pack that cannot be used.
    """
    reader = open_store(path)
    if POOLED not in reader.taps:
        raise _no_pooled(path, reader)
    if pack_hash is not None and reader.pack_hash != pack_hash:
        raise _another_model(path, reader, pack_hash=pack_hash, needed_by=needed_by, model=model)
    if not reader.pack_hash:
        raise _no_backbone(path)
    pack = BackbonePack.load(local_pack(reader), expected_hash=reader.pack_hash)
    n_channels = tuple(reader.taps[POOLED].row_shape)
    if n_channels != (pack.config.embed_dim,):
        raise FeatureError(
            explain("store and pack disagree", where=path, expected=f"[{pack.config.embed_dim}]", got=list(n_channels))
        )
    ok = np.asarray(reader.ok, dtype=bool)
    ids, labels = tuple(map(str, reader.ids)), tuple(map(str, reader.labels))
    table = VideoTable(
        ids=ids,
        labels=labels,
        splits=tuple(map(str, reader.splits)),
        groups=tuple(map(str, reader.groups)),
        classes=tuple(reader.classes) or tuple(sorted(set(labels))),
        usable=ok,
    )
    return FeatureSource(str(path), reader, pack, table, tuple(ids[row] for row in np.flatnonzero(~ok)))


def _no_pooled(path: str | Path, reader: StoreReader) -> FeatureError:
    return FeatureError(
        explain(
            "the store has no pooled features",
            where=path,
            expected=f"the tap {POOLED!r}",
            got=", ".join(reader.taps),
            fix=extract_command(path, reader, taps=[*reader.taps, POOLED]),
        )
    )


def _no_backbone(path: str | Path) -> FeatureError:
    return FeatureError(
        explain(
            "the store names no backbone: its features were imported without one",
            where=path,
            expected="features of a model that is known",
            fix="vidfeat import FEATURES NEW.zarr --pack PACK (or --model NAME --pretrained TAG); vidfeat export "
            f"{path} FEATURES.h5 gives the features where they are gone",
        )
    )


def _another_model(
    path: str | Path, reader: StoreReader, *, pack_hash: str, needed_by: str, model: BackboneConfig | None
) -> FeatureError:
    return FeatureError(
        explain(
            f"the store's features come from another model than {needed_by or 'the one asked for'}",
            where=path,
            expected=f"pack {pack_hash}",
            got=f"pack {reader.pack_hash}",
            fix="extract these videos again with that model"
            if model is None
            else extract_command("ANOTHER.zarr", reader, taps=list(reader.taps), model=model),
        )
    )


@dataclass(frozen=True)
class FeatureTable:
    """Features of some of a store's videos, in memory.

    Attributes:
        rows: the videos' rows in the store, sorted, int64 [n].
        values: float32 [n E], averaged over frames, or [n F E]; not normalised afterwards.
    """

    rows: np.ndarray
    values: Tensor

    def positions(self, rows: np.ndarray) -> Tensor:
        """Where the store's `rows` are in `values`, int64 [len(rows)].

        Raises:
            KeyError: a row that was not read.
        """
        positions = np.searchsorted(self.rows, rows)
        inside = positions < len(self.rows)
        if not inside.all() or not np.array_equal(self.rows[positions], rows):
            raise KeyError("features of these rows were not read")
        return torch.from_numpy(positions.astype(np.int64))

    def to(self, device: torch.device | str) -> FeatureTable:
        """The same table with its values on `device`."""
        return FeatureTable(self.rows, self.values.to(device))


def read_features(
    source: FeatureSource, rows: Sequence[int] | np.ndarray, *, reduce: FrameReduction, view: int = 0
) -> FeatureTable:
    """The pooled features of `rows` (any order, repeats allowed), read once.

    Args:
        reduce: "mean" averages frames as they are, "mean-of-normalised" after giving each unit length, "none" keeps
            them, which needs videos of equally many frames.
        view: of the store's views.

    Raises:
        FeatureError: features that are not finite, or unequal frame counts where frames are kept.
    """
    unique = np.unique(np.asarray(rows, dtype=np.int64))
    parts = []
    for start in range(0, len(unique), _READ_CHUNK):
        chunk = unique[start : start + _READ_CHUNK]
        read = source.reader.rows(POOLED, chunk, view=view)
        values, offsets = np.asarray(read.values, dtype=np.float32), np.asarray(read.offsets)
        _check_finite(source, chunk, values, offsets)
        parts.append(_reduced(source, chunk, values, offsets, reduce=reduce))
    if not parts:
        return FeatureTable(unique, torch.zeros(0, source.pack.config.embed_dim))
    widths = {part.shape[1:] for part in parts}
    if len(widths) > 1:
        raise unequal_frames(source, sorted({shape[0] for shape in widths}))
    return FeatureTable(unique, torch.from_numpy(np.concatenate(parts)))


def mean_of_views(source: FeatureSource, rows: np.ndarray, *, reduce: FrameReduction) -> FeatureTable:
    """The same averaged over the store's augmented views, all but the first, which is the centre crop."""
    tables = [read_features(source, rows, reduce=reduce, view=view) for view in range(1, source.reader.n_views)]
    return FeatureTable(tables[0].rows, torch.stack([table.values for table in tables]).mean(dim=0))


def _check_finite(source: FeatureSource, rows: np.ndarray, values: np.ndarray, offsets: np.ndarray) -> None:
    finite = np.isfinite(values).all(axis=1)
    lost = ~finite | rows_without_direction(values)
    if not lost.any():
        return
    frames = np.flatnonzero(lost)
    videos = np.unique(np.searchsorted(offsets, frames, side="right") - 1)
    first = int(videos[0])
    frame = int(frames[0] - offsets[first])
    kind = "not finite" if not finite[frames[0]] else "all zeros, or too large or small to be given unit length"
    others = f"; {len(videos) - 1} other videos like it" if len(videos) > 1 else ""
    raise FeatureError(
        explain(
            "the store holds features that say nothing about their video",
            where=f"{source.path}, video {source.table.ids[rows[first]]}, frame {frame}",
            got=f"values that are {kind}{others}",
            fix="leave these videos out of the source, or mend what wrote them, and make the store anew: `vidfeat "
            "extract` and `vidfeat import` record such videos as failures, by name",
        )
    )


def _reduced(
    source: FeatureSource, rows: np.ndarray, values: np.ndarray, offsets: np.ndarray, *, reduce: FrameReduction
) -> np.ndarray:
    counts = np.diff(offsets)
    if reduce == "none":
        if len(set(counts.tolist())) > 1:
            raise unequal_frames(source, sorted(set(counts.tolist())))
        return values.reshape(len(rows), int(counts[0]), -1)
    if reduce == "mean-of-normalised":
        values = values / np.linalg.norm(values, axis=1, keepdims=True)
    means = np.add.reduceat(values, offsets[:-1], axis=0) / counts[:, None].astype(np.float32)
    opposed = np.flatnonzero(rows_without_direction(means))
    if len(opposed):
        raise FeatureError(
            explain(
                "the frames of a video average to nothing",
                where=f"{source.path}, video {source.table.ids[rows[opposed[0]]]}",
                got="frames that point in opposite directions",
                fix="leave this video out of the split, or make the store anew without it",
            )
        )
    return means


def unequal_frames(source: FeatureSource, counts: Sequence[int]) -> FeatureError:
    """The error where frames are looked at one by one and videos have unequally many."""
    return FeatureError(
        explain(
            "frames are looked at one by one, which needs videos of equally many",
            where=source.path,
            got=f"videos of {', '.join(map(str, counts[:6]))} frames",
            fix="extract with a fixed --frames; pooled features averaged over frames (head.temporal = mean, no visual "
            "prompts, all frames used) need no equal number",
        )
    )


@dataclass(frozen=True)
class Batch:
    """One step's videos of R runs.

    Attributes:
        features: float32 [R B E] or [R B F E], not normalised.
        labels: positions in the training classes, int64 [R B].
        tokens: [R B F S D] of the same frames, entering the first prompted block; None without visual prompts.
    """

    features: Tensor
    labels: Tensor
    tokens: Tensor | None = None

    def __post_init__(self) -> None:
        if self.features.shape[:2] != self.labels.shape:
            raise ValueError(f"features {tuple(self.features.shape)} and labels {tuple(self.labels.shape)} disagree")


@dataclass(frozen=True)
class AnchorBatch:
    """One step's irrelevant videos of R runs, and the negative prompts.

    Attributes:
        features: float32 [R A E] or [R A F E], not normalised.
        frozen_negatives: unit features of the negative prompts as written, [Q E].
        joint: the training classes followed by the negatives' words, where the learned context goes in front of these
            too; else None.
        tokens: [R A F S D] of the same frames, entering the first prompted block; None without visual prompts.
    """

    features: Tensor
    frozen_negatives: Tensor
    joint: Any = None
    tokens: Tensor | None = None


def labels_of(table: VideoTable, rows: np.ndarray, classes: Sequence[str]) -> Tensor:
    """Each row's label as its position in `classes`, int64 [n].

    Raises:
        FeatureError: a label that is not in `classes`.
    """
    place: Mapping[str, int] = {name: index for index, name in enumerate(classes)}
    missing = sorted({table.labels[row] for row in rows} - set(place))
    if missing:
        raise FeatureError(
            explain("labels that are not in the class list", expected=", ".join(classes), got=", ".join(missing))
        )
    return torch.tensor([place[table.labels[row]] for row in rows], dtype=torch.int64)
