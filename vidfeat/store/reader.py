"""Reading a finished store: facts about its videos, and `reader.rows(tap, video_indices)`, which moves the numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vidfeat.errors import (
    MissingTapError,
    StoreCorruptError,
    StoreError,
    StoreIncompleteError,
    StoreNotFoundError,
    explain,
)
from vidfeat.store.files import Files, LocalFiles
from vidfeat.store.gather import FEW_VIDEOS, RowSource, Segments
from vidfeat.store.index import read_index
from vidfeat.store.location import files_at
from vidfeat.store.quantize import dequantize
from vidfeat.store.sealing import MANIFEST_PATH, PACK_PREFIX, Manifest, half_copied
from vidfeat.store.shards import scales_layout, tap_layout
from vidfeat.store.spec import FORMAT_VERSION, Fingerprint, TapSpec, VideoRow, require_version
from vidfeat.store.tap import Tap, tap_flags
from vidfeat.store.unit_plan import SPEC_PATH, PlannedTap

Check = Literal["first-touch", "always", "never"]


@dataclass(frozen=True)
class Rows:
    """The rows of some videos, one after the other.

    Attributes:
        values: [sum_n *row_shape]; video i of the request owns `[offsets[i], offsets[i + 1])`.
        offsets: int64 [B+1].
    """

    values: np.ndarray
    offsets: np.ndarray

    def __post_init__(self) -> None:
        if len(self.offsets) < 1 or self.offsets.item(0) != 0 or self.offsets.item(-1) != len(self.values):
            raise ValueError(f"offsets {self.offsets} do not partition {len(self.values)} rows")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, position: int) -> np.ndarray:
        """Rows [n *row_shape] of one video of the request."""
        position = range(len(self))[position]
        return self.values[self.offsets[position] : self.offsets[position + 1]]

    def stacked(self) -> np.ndarray:
        """The same values as [B F *row_shape], without a copy.

        Raises:
            StoreError: the videos have different numbers of frames.
        """
        lengths = np.diff(self.offsets)
        if len(lengths) and (lengths != lengths[0]).any():
            raise StoreError(
                explain(
                    "videos of different lengths cannot be stacked",
                    expected="the same number of frames for every video",
                    got=f"{lengths.min()} to {lengths.max()} frames",
                    fix="use Rows.values with Rows.offsets, or extract with a fixed number of frames",
                )
            )
        n_frames = int(lengths[0]) if len(lengths) else 0
        return self.values.reshape(len(lengths), n_frames, *self.values.shape[1:])


@dataclass(frozen=True)
class StoredRows:
    """Rows as stored: `values` in the tap's dtype, `scales` float32 [n 2 D] for int8 else None, `offsets` [B+1]."""

    values: np.ndarray
    scales: np.ndarray | None
    offsets: np.ndarray


def open_store(path: str | os.PathLike[str], *, check: Check = "first-touch") -> StoreReader:
    """A finished store, ready to be read.

    check: when payload checksums are tested: "first-touch" (each video's rows once per process), "always", or "never".

    Raises:
        StoreNotFoundError: nothing there that is a store.
        StoreIncompleteError: its extraction has not finished.
        StoreCorruptError: its metadata or index is damaged.
    """
    return StoreReader(path, check=check)


class StoreReader:
    """A finished store. Picklable, and safe in forked and spawned workers: each process opens its own files.

    Attributes:
        path: where it is (a directory, or a URL).
        taps: every tap by name.
        n_views, n_frames: views per video; frames per video, None when videos differ.
        classes: labels in class order.
        fingerprint, pack_hash: where the numbers come from.
    """

    def __init__(self, path: str | os.PathLike[str], *, check: Check = "first-touch") -> None:
        if check not in ("first-touch", "always", "never"):
            raise ValueError(f"check {check!r} is none of 'first-touch', 'always', 'never'")
        self.path: Path | str = os.fspath(path) if "://" in os.fspath(path) else Path(path)
        self.check: Check = check
        self._files = files_at(path)
        manifest = _read_manifest(self._files)
        try:
            about = _read_attributes(self._files, manifest)
        except FileNotFoundError as error:
            raise half_copied(self._files) or error from None
        self.n_frames: int | None = about["n_frames"]
        self.n_views: int = about["n_views"]
        self.classes: tuple[str, ...] = tuple(about["classes"])
        self.pack_hash: str = about["pack_hash"]
        self.fingerprint = Fingerprint(about["fingerprint"])
        self._planned = {tap["name"]: PlannedTap.from_json(tap) for tap in about["taps"]}
        self.taps: dict[str, TapSpec] = {name: tap.spec for name, tap in self._planned.items()}
        try:
            self._index = read_index(
                self._files.read_many, n_videos=about["n_videos"], n_views=self.n_views, n_taps=len(self.taps)
            )
        except StoreCorruptError as error:
            raise half_copied(self._files) or error from None
        self.ok: np.ndarray = self._index["ok"].astype(bool)
        self.n_frames_per_video: np.ndarray = self._index["n_frames"]
        self._sources = self._open_sources(manifest, about["compressor"])

    def _open_sources(self, manifest: Manifest, compressor: str | None) -> dict[str, RowSource]:
        sources = {}
        for name, tap in self._planned.items():
            layout = tap_layout(tap.spec, n_frames=self.n_frames, shard_rows=tap.shard_rows, compressor=compressor)
            sources[name] = RowSource.open(self._files, layout, manifest, check=self.check)
            if tap.spec.dtype == "int8":
                scales = scales_layout(tap.spec, n_frames=self.n_frames, shard_rows=tap.shard_rows)
                sources[scales.path] = RowSource.open(self._files, scales, manifest, check=self.check)
        return sources

    def __repr__(self) -> str:
        taps = ", ".join(f"{tap.name} {list(tap.row_shape)} {tap.dtype}" for tap in self.taps.values())
        frames = f"{self.n_frames} frames" if self.n_frames else "any number of frames"
        return (
            f"StoreReader({str(self.path)!r}: {len(self)} videos ({len(self) - int(self.ok.sum())} failed), "
            f"{self.n_views} views, {frames}; {taps}; fingerprint {self.fingerprint.sha256[:12]})"
        )

    def __len__(self) -> int:
        return len(self.ok)

    # --- facts

    @cached_property
    def ids(self) -> np.ndarray:
        """Ids [N], str."""
        return np.array(self._index.text("id"), dtype=np.str_)

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels [N], str."""
        return np.array(self._index.text("label"), dtype=np.str_)

    @cached_property
    def splits(self) -> np.ndarray:
        """Split names [N], str; "" where the manifest had none."""
        return np.array(self._index.text("split"), dtype=np.str_)

    @cached_property
    def groups(self) -> np.ndarray:
        """Group names [N], str; "" where the manifest had none."""
        return np.array(self._index.text("group"), dtype=np.str_)

    @cached_property
    def statuses(self) -> np.ndarray:
        """ "ok" or "failed" [N], str."""
        return np.where(self.ok, "ok", "failed")

    @property
    def pack_path(self) -> Path | str:
        """Directory of the backbone pack inside the store."""
        return self.path / "pack" if isinstance(self.path, Path) else f"{self.path.rstrip('/')}/pack"

    def videos(self) -> list[VideoRow]:
        """The facts of every video, in store order."""
        return self._index.rows()

    def index_column(self, name: str) -> np.ndarray:
        """One column of the index as it is stored (see docs/store-format.md): "crc32c", "int8_min_cosine", ..."""
        return self._index[name]

    @property
    def index_names(self) -> tuple[str, ...]:
        """The columns of the index."""
        return tuple(self._index.columns)

    def pack_files(self) -> Iterator[tuple[str, bytes]]:
        """(name, content) of every file of the backbone pack, sorted by name."""
        for path in sorted(self._files.listing(PACK_PREFIX)):
            yield path.removeprefix(f"{PACK_PREFIX}/"), self._files.read(path)

    # --- numbers

    def rows(
        self,
        tap: str,
        video_indices: Sequence[int] | np.ndarray,
        *,
        view: int | Sequence[int] | np.ndarray = 0,
        dtype: str | None = None,
    ) -> Rows:
        """The rows of some videos in one view, in the order asked for.

        tap: in either spelling, as stores have it (`tokens/06`) or as command lines do (`tokens@6`).
        video_indices: positions in the store [B], each of a video that is ok; any order, repeats allowed.
        view: one view for all, or one per video [B].
        dtype: of the result; by default the tap's own, float32 for int8 taps.

        Raises:
            MissingTapError: the store has no such tap.
            IndexError: a video or view outside the store.
            StoreError: a video among them has failed and has no rows.
            StoreCorruptError: a shard is missing, truncated or damaged.
        """
        stored = self.stored_rows(tap, video_indices, view=view)
        if stored.scales is not None:
            return Rows(dequantize(stored.values, stored.scales, dtype=dtype or "float32"), stored.offsets)
        return Rows(stored.values if dtype is None else stored.values.astype(dtype, copy=False), stored.offsets)

    def stored_rows(
        self, tap: str, video_indices: Sequence[int] | np.ndarray, *, view: int | Sequence[int] | np.ndarray = 0
    ) -> StoredRows:
        """The rows of some videos as they are stored: like `rows`, but int8 stays int8, with its scales beside."""
        asked = Tap.of(tap)
        tap = tap if asked is None else asked.name
        spec = self._tap(tap)
        segments = self._segments(tap, video_indices, view)
        values = self._sources[tap].read(segments)
        scales = self._sources[f"scales/{tap}"].read(segments) if spec.dtype == "int8" else None
        return StoredRows(values, scales, segments.offsets)

    def _tap(self, name: str) -> TapSpec:
        if name in self.taps:
            return self.taps[name]
        raise MissingTapError(
            explain(
                f"the store has no tap {name!r}",
                where=self.path,
                expected=f"one of {', '.join(self.taps)}",
                got=name,
                fix=f"add it: vidfeat extract SOURCE --out {self.path} --taps {tap_flags([*self.taps, name])}",
            )
        )

    def _segments(self, tap: str, video_indices: Any, view: Any) -> Segments:
        few = self._few_starts(tap, video_indices, view)
        if few is not None and self.n_frames is not None:
            return Segments.of_length(few, self.n_frames)
        videos = np.asarray(video_indices, np.int64).reshape(-1)
        views = np.asarray(view, np.int64)
        if views.ndim and views.shape != videos.shape:
            raise ValueError(f"{len(views)} views for {len(videos)} videos")
        self._require_inside("video index", videos, len(self))
        self._require_inside("view", views.reshape(-1), self.n_views)
        starts = self._row_starts[tap][videos, views]
        if len(starts) and int(starts.min()) < 0:
            raise self._no_rows(sorted(set(videos[starts < 0].tolist())))
        if self.n_frames is not None:
            return Segments.of_length(starts, self.n_frames)
        return Segments.of_lengths(starts, self.n_frames_per_video[videos].astype(np.int64))

    def _few_starts(self, tap: str, video_indices: Any, view: Any) -> list[int] | None:
        """First rows of a few videos without numpy's calls; None when there are many, or something is wrong."""
        if not isinstance(view, int) or not 0 <= view < self.n_views or not 0 < len(video_indices) <= FEW_VIDEOS:
            return None
        if isinstance(video_indices, np.ndarray):
            if video_indices.ndim != 1 or video_indices.dtype.kind not in "iu":
                return None
            video_indices = video_indices.tolist()
        first_row = self._row_starts[tap].item
        try:
            starts = [first_row(index, view) for index in video_indices]
        except (IndexError, TypeError):
            return None
        return starts if min(video_indices) >= 0 and min(starts) >= 0 else None

    @cached_property
    def _row_starts(self) -> dict[str, np.ndarray]:
        """First rows int64 [N V] of each tap; -1 for none."""
        return {name: np.ascontiguousarray(self._index["row_start"][:, :, t]) for t, name in enumerate(self.taps)}

    def _require_inside(self, what: str, given: np.ndarray, size: int) -> None:
        # As unsigned numbers the negative ones are the largest: one pass finds both kinds of bad ones.
        if len(given) and int(given.view(np.uint64).max()) >= size:
            bad = given[(given < 0) | (given >= size)][:5].tolist()
            raise IndexError(explain(f"no such {what}", where=self.path, expected=f"[0, {size})", got=bad))

    def _no_rows(self, failed: list[int]) -> StoreError:
        reasons = self._index.text("reason")
        named = "; ".join(f"{self.ids[index]} ({reasons[index]})" for index in failed[:5])
        return StoreError(
            explain(
                f"{len(failed)} of the videos asked for failed to be extracted and have no rows",
                where=self.path,
                got=named,
                fix="ask for videos with reader.ok only; `vidfeat failures` lists the others",
            )
        )


def _read_manifest(files: Files) -> Manifest:
    try:
        return Manifest.from_bytes(files.read(MANIFEST_PATH))
    except (FileNotFoundError, NotADirectoryError):
        pass
    if files.size(SPEC_PATH) is None:
        exists = isinstance(files, LocalFiles) and files.root.exists()
        raise StoreNotFoundError(
            explain(
                "that is no feature store" if exists else "there is no store",
                where=files.url,
                expected="a directory written by `vidfeat extract`",
                got=f"no {MANIFEST_PATH}, no {SPEC_PATH}" if exists else "nothing there",
                fix="another path; of a store that was half copied, copy the rest"
                if exists
                else f"vidfeat extract SOURCE --out {files.url}",
            )
        )
    n_commits = len(files.listing("commits"))
    raise StoreIncompleteError(
        explain(
            "the extraction of this store has not finished",
            where=files.url,
            expected=f"every unit committed and {MANIFEST_PATH} written",
            got=f"{n_commits} units committed",
            fix=f"run the same command again, it carries on: vidfeat extract SOURCE --out {files.url} (of a store that "
            "was half copied, copy the rest)",
        )
    )


def _read_attributes(files: Files, manifest: Manifest) -> dict[str, Any]:
    content = files.read("zarr.json")
    listed = manifest.files.get("zarr.json")
    from vidfeat.store.commits import FileRecord

    if listed != FileRecord.of(content):
        raise StoreCorruptError(
            explain(
                "the store's root metadata is not what the manifest says",
                where=f"{files.url}/zarr.json",
                fix="run the extract command again: metadata is rebuilt from the plan",
            )
        )
    about = json.loads(content)["attributes"]["vidfeat"]
    require_version(about.get("format_version"), (FORMAT_VERSION,), files.url)
    return about
