"""Video features and class features in the joint space, and how near a video is to its nearest class."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidfeat.errors import explain
from vidfeat.store import POOLED, StoreReader
from vidfeat.tools.anchors.task import AnchorError

TEMPLATES = ("a video of {}.",)
_BLOCK_BYTES = 64 * 2**20
_TEXTS_AT_ONCE = 64


@dataclass(frozen=True)
class Frames:
    """Frame features of some videos, each of length 1 (a zero row stays zero).

    Attributes:
        positions: int64 [B], which of the videos asked for.
        values: float32 [sum F, E]; video i owns `[offsets[i], offsets[i + 1])`.
        offsets: int64 [B+1].
    """

    positions: np.ndarray
    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each video, int64 [B]."""
        return np.diff(self.offsets)

    def part(self, start: int, stop: int) -> Frames:
        """The videos `[start, stop)`, without a copy."""
        offsets = self.offsets[start : stop + 1]
        return Frames(self.positions[start:stop], self.values[offsets[0] : offsets[-1]], offsets - offsets[0])


@dataclass(frozen=True)
class ClassSimilarity:
    """How near videos are to the classes.

    Attributes:
        highest: float32 [B], cosine of the video feature and the nearest class feature.
        class_index: int64 [B], which class that is.
    """

    highest: np.ndarray
    class_index: np.ndarray


def unit_length(rows: np.ndarray) -> np.ndarray:
    """Rows [... E] of length 1; a zero row stays zero."""
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def _blocks(reader: StoreReader, videos: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(positions in `videos`, rows float32, offsets) of about 64 MiB each."""
    row_bytes = 4 * reader.taps[POOLED].row_shape[0]
    n_bytes = np.cumsum(reader.n_frames_per_video[videos].astype(np.int64) * row_bytes)
    cuts = np.flatnonzero(np.diff(n_bytes // _BLOCK_BYTES)) + 1
    for positions in np.split(np.arange(len(videos)), cuts):
        if len(positions):
            rows = reader.rows(POOLED, videos[positions], dtype="float32")
            yield positions, rows.values, rows.offsets


def frame_blocks(reader: StoreReader, videos: np.ndarray) -> Iterator[Frames]:
    """The frame features of `videos` (positions in the store, int64 [B]), streamed in blocks of whole videos."""
    for positions, rows, offsets in _blocks(reader, videos):
        yield Frames(positions, unit_length(rows), offsets)


def video_features(reader: StoreReader, videos: np.ndarray) -> np.ndarray:
    """Video features float32 [B E] of length 1: the mean of the pooled rows of view 0, then normalised.

    Averaged before they are normalised, as the training does. `videos`: positions in the store, int64 [B].
    """
    features = np.empty((len(videos), reader.taps[POOLED].row_shape[0]), np.float32)
    for positions, rows, offsets in _blocks(reader, videos):
        sums = np.add.reduceat(rows, offsets[:-1], axis=0)
        features[positions] = unit_length(sums / np.diff(offsets)[:, None])
    return features


def class_features(reader: StoreReader, class_names: Sequence[str], *, templates: Sequence[str]) -> np.ndarray:
    """Class features float32 [C E] of length 1, by the text tower of the store's own pack.

    templates: texts with one `{}` for the class name; the features of several are normalised, averaged, normalised.

    Raises:
        AnchorError: a template without exactly one `{}`, or a text that does not fit the tower.
        PackError: the store's pack is missing or damaged.
    """
    bad = [template for template in templates if template.count("{}") != 1]
    if bad or not templates:
        raise AnchorError(explain("a template needs the place of the class name", expected="one {} in each", got=bad))
    import torch

    from vidfeat.backbone import BackbonePack

    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        pack = BackbonePack.load(_local_pack(reader, Path(folder)), expected_hash=reader.pack_hash)
        tokenizer, tower = pack.tokenizer(), pack.frozen_text()
        total = np.zeros((len(class_names), tower.embed_dim), np.float32)
        for template in templates:
            texts = [template.replace("{}", name) for name in class_names]
            try:
                token_ids = tokenizer.tokenize(texts)
            except ValueError as error:
                raise AnchorError(str(error)) from error
            features = torch.cat([tower(part) for part in token_ids.split(_TEXTS_AT_ONCE)])
            total += unit_length(features.numpy())
    return unit_length(total)


def _local_pack(reader: StoreReader, folder: Path) -> Path:
    if isinstance(reader.pack_path, Path):
        return reader.pack_path
    for name, content in reader.pack_files():
        (folder / name).write_bytes(content)
    return folder


def class_similarity(features: np.ndarray, classes: np.ndarray) -> ClassSimilarity:
    """The nearest class of every video: features float32 [B E], classes float32 [C E], all of length 1."""
    highest = np.empty(len(features), np.float32)
    nearest = np.empty(len(features), np.int64)
    step = max(1, _BLOCK_BYTES // (4 * len(classes)))
    for start in range(0, len(features), step):
        cosines = features[start : start + step] @ classes.T
        nearest[start : start + step] = cosines.argmax(axis=1)
        highest[start : start + step] = cosines.max(axis=1)
    return ClassSimilarity(highest, nearest)
