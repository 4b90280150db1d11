"""What a store holds, said before anything is extracted: its taps, its videos, where its numbers came from.

TapSpec       one recorded tensor per frame          "pooled" [E], "tokens/06" [S D]
Fingerprint   everything that changes the numbers    refused when two of them differ
StoreSpec     taps x frames x views + fingerprint    what `StoreWriter.create` is given
VideoRow      the facts about one video              what a commit is given, what `StoreReader.videos()` gives back
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from vidfeat.errors import FAILURE_REASONS, FingerprintMismatchError, StoreCorruptError, StoreError, explain
from vidfeat.store.records import canonical_json

FORMAT_VERSION = 1
# Of plan and commit records, which those alone read who write or verify a store. 2: source columns, change files.
PLAN_VERSIONS = (1, 2)
NEWER_FIX = "update prompttune, which brings vidfeat: pip install -U prompttune"
DTYPES = ("float16", "float32", "int8")
COMPRESSORS = (None, "zstd")
OK, FAILED = "ok", "failed"
# Top-level names of a store that are no taps.
RESERVED_NAMES = ("index", "commits", "plan", "pack", "scales", "manifest.json", "zarr.json")
_TAP_NAME = re.compile(r"[a-z][a-z0-9_-]*(/[a-z0-9_-]+)*")


class VideoKey(Protocol):
    """A video as the manifest names it; `vidfeat.video.manifest.VideoItem` is one."""

    @property
    def id(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def group(self) -> str: ...


@dataclass(frozen=True)
class TapSpec:
    """One tensor recorded for every frame: a name, the shape of one frame's row, and the dtype it is kept in.

    `int8` rows are quantised per frame and channel (last axis), with their scales beside them; they are read back as
    floats.
    """

    name: str
    row_shape: tuple[int, ...]
    dtype: str = "float16"

    def __post_init__(self) -> None:
        object.__setattr__(self, "row_shape", tuple(int(size) for size in self.row_shape))
        problems = []
        if not _TAP_NAME.fullmatch(self.name) or self.name.split("/")[0] in RESERVED_NAMES:
            problems.append(f"name {self.name!r} (lower-case words joined by '/', none of {', '.join(RESERVED_NAMES)})")
        if not self.row_shape or min(self.row_shape) < 1:
            problems.append(f"row_shape {self.row_shape} (at least one axis, every size >= 1)")
        if self.dtype not in DTYPES:
            problems.append(f"dtype {self.dtype!r} (one of {', '.join(DTYPES)})")
        if self.dtype == "int8" and len(self.row_shape) < 2:
            problems.append("dtype 'int8' for rows of one axis (a scale per channel needs several values per channel)")
        if problems:
            raise ValueError(explain("this tap cannot be stored", got="; ".join(problems)))

    @property
    def row_bytes(self) -> int:
        """Bytes of one frame's row as stored, scales not counted."""
        return math.prod(self.row_shape) * np.dtype(self.dtype).itemsize

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "row_shape": list(self.row_shape), "dtype": self.dtype}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TapSpec:
        return cls(document["name"], tuple(document["row_shape"]), document["dtype"])


def require_version(found: object, known: tuple[int, ...], where: object) -> None:
    """Returns when a store's format version is one of the known ones.

    Raises:
        StoreCorruptError: another one; whether it is a later one, or none.
    """
    if found in known:
        return
    later = isinstance(found, int) and found > max(known)
    raise StoreCorruptError(
        explain(
            "this store has a later format version" if later else "this store has no format version that is known",
            where=where,
            expected=" or ".join(map(str, known)),
            got=found,
            fix=NEWER_FIX if later else "copy the store again, or extract it again",
        )
    )


@dataclass(frozen=True)
class FieldDifference:
    """One field in which two fingerprints differ; a dotted name reaches into nested fields."""

    name: str
    left: Any
    right: Any

    def __str__(self) -> str:
        return f"{self.name}: {self.left!r} != {self.right!r}"


_ABSENT = "(absent)"


@dataclass(frozen=True)
class Fingerprint:
    """Everything that changes the stored numbers: weights, preprocessing, sampling, view recipe, decoder, dtype.

    What can be *added* to a store later (videos, taps, the number of views) does not belong in it.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        canonical_json(dict(self.fields))  # a TypeError here names what JSON cannot carry

    @property
    def sha256(self) -> str:
        """Hex digest of the canonical JSON of the fields."""
        return hashlib.sha256(canonical_json(dict(self.fields))).hexdigest()

    def diff(self, other: Fingerprint) -> list[FieldDifference]:
        """The fields that differ, sorted by name; empty when the two are the same."""
        left, right = _flatten(self.fields), _flatten(other.fields)
        return [
            FieldDifference(name, left.get(name, _ABSENT), right.get(name, _ABSENT))
            for name in sorted(left.keys() | right.keys())
            if left.get(name, _ABSENT) != right.get(name, _ABSENT)
        ]


def _flatten(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def require_same_fingerprint(
    left: Fingerprint, right: Fingerprint, *, left_name: str, right_name: str, fix: str
) -> None:
    """Returns when both say the same; the names and the fix are for the message.

    Raises:
        FingerprintMismatchError: they differ; the message lists every differing field.
    """
    differences = left.diff(right)
    if differences:
        raise FingerprintMismatchError(
            explain(
                f"{left_name} and {right_name} do not come from the same model, preprocessing and sampling",
                where="; ".join(difference.name for difference in differences),
                expected="; ".join(f"{d.name} = {d.left!r}" for d in differences) + f"  ({left_name})",
                got="; ".join(f"{d.name} = {d.right!r}" for d in differences) + f"  ({right_name})",
                fix=fix,
            )
        )


@dataclass(frozen=True)
class VideoRow:
    """The facts about one video: what the manifest said, and what its extraction found.

    `pts_seconds` has one entry per stored frame, in seconds on the stream's clock, or none when they are unknown
    (features that another program extracted). A failed video has no frames, a `reason` (one of
    `vidfeat.errors.FAILURE_REASONS`) and a `detail` for a person. `fps` is 0.0 when unknown. `n_source_bytes` and
    `source_mtime_ns` are the file's size and time of change when it was read, by which a replaced file is noticed; 0
    and 0 when unknown.
    """

    id: str
    label: str
    split: str = ""
    group: str = ""
    status: str = OK
    reason: str = ""
    detail: str = ""
    n_frames: int = 0
    n_source_frames: int = 0
    fps: float = 0.0
    pts_seconds: tuple[float, ...] = ()
    content_sha256: str = ""
    decoder: str = ""
    n_source_bytes: int = 0
    source_mtime_ns: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "pts_seconds", tuple(float(pts) for pts in self.pts_seconds))
        for name in ("n_frames", "n_source_frames", "n_source_bytes", "source_mtime_ns"):
            object.__setattr__(self, name, int(getattr(self, name)))
        object.__setattr__(self, "fps", float(self.fps))
        problems = list(self._problems())
        if problems:
            raise ValueError(
                explain(f"these facts about video {self.id!r} contradict each other", got="; ".join(problems))
            )

    def _problems(self) -> list[str]:
        problems = []
        if self.content_sha256 and not re.fullmatch("[0-9a-f]{64}", self.content_sha256):
            problems.append(f"content_sha256 {self.content_sha256!r} is no hex digest of 32 bytes")
        if not all(map(math.isfinite, (self.fps, *self.pts_seconds))):
            problems.append("fps or pts_seconds is not finite (fps is 0.0 when unknown)")
        if self.status == OK:
            if self.n_frames < 1:
                problems.append(f"status ok with n_frames {self.n_frames}")
            if len(self.pts_seconds) not in (0, self.n_frames):
                problems.append(f"{len(self.pts_seconds)} pts_seconds for {self.n_frames} frames")
            if self.reason:
                problems.append(f"status ok with the reason {self.reason!r}")
        elif self.status == FAILED:
            if self.n_frames or self.pts_seconds:
                problems.append("status failed with frames")
            if self.reason not in FAILURE_REASONS:
                problems.append(f"reason {self.reason!r} is none of {', '.join(FAILURE_REASONS)}")
        else:
            problems.append(f"status {self.status!r} is neither {OK!r} nor {FAILED!r}")
        return problems

    @property
    def ok(self) -> bool:
        return self.status == OK

    @classmethod
    def failed(cls, video: VideoKey, *, reason: str, detail: str = "", **facts: Any) -> VideoRow:
        """The row of a video that could not be used; `facts` are any other fields that are known."""
        return cls(
            video.id, video.label, video.split, video.group, status=FAILED, reason=reason, detail=detail, **facts
        )

    def to_json(self) -> dict[str, Any]:
        document = {**asdict(self), "pts_seconds": list(self.pts_seconds)}
        if not self.source_mtime_ns:  # as records were before these two were kept
            del document["n_source_bytes"], document["source_mtime_ns"]
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> VideoRow:
        """The row that `to_json` wrote. Raises: StoreError, where a later vidfeat wrote more about a video."""
        unknown = document.keys() - cls.__dataclass_fields__.keys()
        if unknown:
            raise StoreError(
                explain(
                    "a later version of vidfeat wrote to this store",
                    where=f"commit record of {document.get('id')!r}",
                    got=f"facts that this version does not know: {', '.join(sorted(unknown))}",
                    fix=NEWER_FIX,
                )
            )
        return cls(**{**document, "pts_seconds": tuple(document["pts_seconds"])})


@dataclass(frozen=True)
class StoreSpec:
    """What an extraction is to produce: taps x frames x views, and where the numbers come from.

    Attributes:
        taps: at least one; every video gets all of them.
        n_frames: frames per video when it is the same for all, else None (then `max_frames` bounds one video).
        n_views: views per video; view 0 is the deterministic one. Views can be added later.
        classes: every label in class order; later extractions may append to it. Empty: any label goes.
        fingerprint: what must agree for two stores to be used together, or for one to be added to.
        pack_hash: hash of the backbone pack inside the store, "" when there is none.
        max_frames: upper bound on one video's frames when `n_frames` is None.
        compressor: None, or "zstd" for archives: half as fast to write, many times slower to read.
        shard_bytes: aimed-at size of the largest tap's shard file.
        max_unit_videos: upper bound on the videos of one unit, so that small taps commit often too.
    """

    taps: tuple[TapSpec, ...]
    n_frames: int | None
    n_views: int = 1
    classes: tuple[str, ...] = ()
    fingerprint: Fingerprint = Fingerprint()
    pack_hash: str = ""
    max_frames: int | None = None
    compressor: str | None = None
    shard_bytes: int = 128 * 2**20
    max_unit_videos: int = 256

    def __post_init__(self) -> None:
        object.__setattr__(self, "taps", tuple(self.taps))
        object.__setattr__(self, "classes", tuple(self.classes))
        problems = []
        names = [tap.name for tap in self.taps]
        if not names or len(set(names)) != len(names):
            problems.append(f"taps {names} (at least one, no name twice)")
        nested = [(a, b) for a in names for b in names if b.startswith(a + "/")]
        problems += [f"tap {a!r} is an array and cannot also hold tap {b!r}" for a, b in nested]
        if self.n_frames is None and self.max_frames is None:
            problems.append("n_frames None needs max_frames")
        for name in ("n_frames", "max_frames", "n_views", "shard_bytes", "max_unit_videos"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(f"{name} {value} (at least 1)")
        if len(set(self.classes)) != len(self.classes):
            problems.append("classes names one class twice")
        if self.compressor not in COMPRESSORS:
            problems.append(f"compressor {self.compressor!r} (one of {COMPRESSORS})")
        if problems:
            raise ValueError(explain("this store cannot be laid out", got="; ".join(problems)))

    @property
    def frames_bound(self) -> int:
        """The most frames one video can have."""
        bound = self.n_frames if self.n_frames is not None else self.max_frames
        assert bound is not None
        return bound


def same_key(left: VideoKey, right: VideoKey) -> bool:
    """Whether two manifests say the same about a video."""
    return (left.id, left.label, left.split, left.group) == (right.id, right.label, right.split, right.group)


def label_problems(videos: Sequence[VideoKey], classes: Sequence[str]) -> list[str]:
    """What is wrong with a list of videos before any is opened: ids twice or empty, labels outside `classes`."""
    problems, seen, known = [], set(), set(classes)
    for video in videos:
        if not video.id:
            problems.append("a video has an empty id")
        if video.id in seen:
            problems.append(f"id {video.id!r} appears twice")
        seen.add(video.id)
        if known and video.label not in known:
            problems.append(f"{video.id!r} has the label {video.label!r}, which is no class of the store")
    return problems


def require_video_list(videos: Sequence[VideoKey], classes: Sequence[str]) -> None:
    """Returns when every id is usable and every label known.

    Raises:
        StoreError: naming all problems (the first 20 in full).
    """
    problems = label_problems(videos, classes)
    if problems:
        shown = "; ".join(problems[:20]) + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise StoreError(explain("this list of videos cannot be stored", got=shown, fix="correct the manifest"))
