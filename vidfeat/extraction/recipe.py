"""From a video to pixels, as plain data: sampling, decoding, preprocessing, views, and their fingerprint fields."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vidfeat.extraction.worker import FrameParts, LoadedVideo, Piece, VideoFacts, VideoTask
from vidfeat.video.preprocess import Preprocess, ViewSpec
from vidfeat.video.sampling import SamplingPolicy, video_seed

# Rows that cross from a decoding process at once: enough to make a message cheap, few enough to keep the ring small.
SLOT_ROWS = 8
# Pictures cross as bytes and are normalised where they are encoded: a quarter of the memory and of the copying.
ROW_DTYPE = "uint8"
HASH_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Recipe:
    """How a file becomes pixel rows; a `VideoLoader`, small enough to be sent to every worker.

    Attributes:
        seed: of `segments-random` sampling; the seed of the views is their own.
        decoder: "auto", or one decoder's name.
        frame_bytes: not None: parts of frames are handed on as they were decoded, so many bytes at a time, for a device
            to make pictures of; frames larger than that are pictures all the same.
    """

    preprocess: Preprocess
    sampling: SamplingPolicy
    views: ViewSpec = field(default_factory=ViewSpec)
    seed: int = 0
    decoder: str = "auto"
    frame_bytes: int | None = None

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """(3, H, W) of one row."""
        return (3, *self.preprocess.image_hw)

    def load(self, task: VideoTask) -> LoadedVideo:
        """The video's facts and its pictures, uint8 rows by view, then frame; the encoder normalises them.

        Raises:
            DecodeError: the file cannot be used; its `.reason` says why.
        """
        from vidfeat.video.decode import decode

        source = stat_facts(task.path)
        digest = file_sha256(task.path)
        seed = video_seed(self.seed, task.video_id)
        frames = decode(task.path, policy=self.sampling, seed=seed, decoder=self.decoder)
        facts = VideoFacts(
            n_frames=len(frames.pixels),
            n_source_frames=frames.n_source_frames,
            fps=frames.fps,
            pts_seconds=tuple(float(pts) for pts in frames.pts_seconds),
            content_sha256=digest,
            decoder=frames.decoder,
            **source,
        )
        return LoadedVideo(facts=facts, pieces=self._pieces(frames.pixels, task))

    def _pieces(self, pixels: np.ndarray, task: VideoTask) -> Iterator[Piece]:
        for view in range(*task.views):
            if self.frame_bytes is not None:
                framing = self.preprocess.framing(
                    *pixels.shape[1:3], views=self.views, video_id=task.video_id, view=view
                )
                parts = framing.part(pixels)
                if n_parts := self.frame_bytes // parts[0].nbytes:
                    for start in range(0, len(parts), n_parts):
                        yield FrameParts(parts[start : start + n_parts], framing)
                    continue
            for start in range(0, len(pixels), SLOT_ROWS):
                yield self.preprocess.pictures(
                    pixels[start : start + SLOT_ROWS],
                    views=self.views,
                    video_id=task.video_id,
                    view_range=range(view, view + 1),
                )[0]

    def to_json(self) -> dict[str, Any]:
        """The recipe as fingerprint fields. The number of views is left out: views can be added to a store."""
        views = self.views.to_json()
        del views["n_views"]
        return {
            "preprocess": self.preprocess.to_json(),
            "sampling": {**self.sampling.to_json(), **({"seed": self.seed} if self.sampling.is_random else {})},
            "views": views,
            "decoder": self.decoder,
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any], *, n_views: int) -> Recipe:
        """The recipe that `to_json` wrote, for n_views views."""
        sampling = dict(fields["sampling"])
        seed = sampling.pop("seed", 0)
        return cls(
            preprocess=Preprocess.from_json(dict(fields["preprocess"])),
            sampling=SamplingPolicy.from_json(sampling),
            views=ViewSpec.from_json({**fields["views"], "n_views": n_views}),
            seed=seed,
            decoder=fields["decoder"],
        )


def stat_facts(path: str) -> dict[str, int]:
    """The file's size and time of change, as stores keep them; nothing where there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return {}
    return {"n_source_bytes": status.st_size, "source_mtime_ns": status.st_mtime_ns}


def file_sha256(path: str) -> str:
    """Hex digest of a file's bytes.

    Raises:
        DecodeError: the file cannot be read.
    """
    from vidfeat.video.decode.failures import translate

    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(HASH_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise translate(error, path=path) from error
    return digest.hexdigest()
