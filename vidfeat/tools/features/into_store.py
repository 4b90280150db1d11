"""Features of other programs into a store: read, checked against the backbone, written unit by unit."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidfeat.errors import StoreError, explain
from vidfeat.store import (
    POOLED,
    Fingerprint,
    StoreSpec,
    StoreWriter,
    Tap,
    TapSpec,
    VideoRow,
    feature_problem,
    open_store,
)
from vidfeat.tools.features.found import Found, FoundVideo
from vidfeat.tools.features.in_tars import TARS
from vidfeat.tools.features.labelled import labelled
from vidfeat.tools.hdf5 import import_hdf5
from vidfeat.tools.hdf5_file import FORMAT, opened
from vidfeat.video.source.rows import some

if TYPE_CHECKING:
    from vidfeat.backbone import BackbonePack

_SHOWN = 10


@dataclass(frozen=True)
class ImportOptions:
    """How features become a store.

    Attributes:
        pack: the backbone whose features they are; None leaves a store that nothing trains on.
        tap: what the rows are: `pooled`, or `tokens/06` (`tokens@6`).
        key: which array holds the features, where several belong to one video.
        labels, classes, label_from, strict: see `labelled`.
    """

    pack: BackbonePack | None = None
    tap: str = POOLED
    key: str | None = None
    labels: tuple[Path, ...] = ()
    classes: Path | None = None
    label_from: str | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        tap = Tap.of(self.tap)
        if tap is None:
            expected = f"{Tap().flag}, or {Tap(6).flag}: the tokens that enter block 6"
            raise StoreError(explain("there is no such tap", got=self.tap, expected=expected, fix="another --tap"))
        object.__setattr__(self, "tap", tap.name)


@dataclass
class Imported:
    """What an import did.

    Attributes:
        out: the store.
        layout: what wrote the features, in words.
        failures: failed videos by reason.
        notes: what a person should know.
    """

    out: str
    layout: str
    n_videos: int = 0
    n_classes: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    @property
    def n_failed(self) -> int:
        return self.failures.total()


def import_features(source: str | os.PathLike[str], store: str | os.PathLike[str], options: ImportOptions) -> Imported:
    """The store that now holds the features of `source`: an HDF5 file, a folder or tar of .npy files, a folder of tars.

    A file that `vidfeat export` wrote comes back exactly. Run again after an interruption it carries on.

    Raises:
        StoreError: no features there, or features that are not one width, or not the backbone's; or `store` holds
            something else.
        ManifestError: lists and classes that cannot be used.
    """
    if not _is_files(Path(source)):
        with opened(source) as h5:
            exported = h5.attrs.get("format") == FORMAT
        if exported:
            return _exported(source, store, options)
    with _found(Path(source), options.key) as found:
        if not found.videos:
            raise _no_features(source, found)
        if options.strict and found.notes:
            raise StoreError(
                explain("something would be left out (--strict)", where=source, got="; ".join(found.notes))
            )
        videos, classes, notes = labelled(
            found.videos,
            lists=options.labels,
            classes=options.classes,
            label_from=options.label_from,
            strict=options.strict,
        )
        row_shape, dtype = _require_one_kind(videos, source, options)
        return _write(found, videos, store, options, row_shape, dtype, classes=classes, notes=[*found.notes, *notes])


def _is_files(source: Path) -> bool:
    return source.is_dir() or source.name.endswith((*TARS, ".npy", ".npz"))


def _exported(source: str | os.PathLike[str], store: str | os.PathLike[str], options: ImportOptions) -> Imported:
    if options.labels or options.classes or options.label_from or options.key:
        fix = f"vidfeat relabel {store} --labels LIST, when it is imported"
        raise StoreError(explain("an exported store has its own labels and arrays", where=source, fix=fix))
    import_hdf5(source, store, pack=options.pack)
    return _summary(store, "a store that vidfeat exported", notes=[])


@contextmanager
def _found(source: Path, key: str | None) -> Iterator[Found]:
    if _is_files(source):
        from vidfeat.tools.features.in_files import find_in_files

        yield find_in_files(source, key=key)
        return
    from vidfeat.tools.features.in_hdf5 import find_in_hdf5

    with opened(source) as h5:
        yield find_in_hdf5(h5, source, key=key)


def _no_features(source: str | os.PathLike[str], found: Found) -> StoreError:
    return StoreError(
        explain(
            "there are no features here",
            where=source,
            expected="floats [F E] per video: a dataset each in HDF5, or a .npy file each (video_features, "
            "clip-video-encode, tars of these); docs/how-to/own-features.md",
            got="; ".join(found.notes) or "nothing",
            fix="name the array, if it is there under another name: --key NAME",
        )
    )


def _require_one_kind(
    videos: Sequence[FoundVideo], source: str | os.PathLike[str], options: ImportOptions
) -> tuple[tuple[int, ...], str]:
    """Shape of a row, the same for all and the backbone's; and the dtype that holds them all."""
    good = [video for video in videos if video.ok]
    if not good:
        shown = "; ".join(f"{video.id}: {video.reason}, {video.detail}" for video in videos[:_SHOWN])
        raise StoreError(explain("not one video's features can be used", where=source, got=shown))
    first = {video.row_shape: video.id for video in reversed(good)}
    counts = Counter(video.row_shape for video in good)
    if len(counts) > 1:
        got = "; ".join(f"{count} x {list(shape)} ({first[shape]}, ...)" for shape, count in counts.most_common(_SHOWN))
        fix = "features of several models do not mix; move the others away, or name the array: --key NAME"
        raise StoreError(explain("the features have rows of several shapes", where=source, got=got, fix=fix))
    (shape,) = counts
    if options.tap == POOLED and len(shape) != 1:
        fix = "rows of two axes are tokens: --tap tokens@L, L the block they enter"
        raise StoreError(explain("pooled features are one vector a frame", where=source, got=list(shape), fix=fix))
    expected = _expected_shape(options)
    if expected is not None and shape != expected:
        assert options.pack is not None
        raise StoreError(
            explain(
                f"these are no features of {options.pack.config.name} ({options.pack.config.pretrained})",
                where=source,
                expected=f"rows of {list(expected)} for the tap {options.tap}",
                got=f"rows of {list(shape)}",
                fix=_shape_fix(shape, options),
            )
        )
    dtype = "float16" if all(video.dtype == "float16" for video in good) else "float32"
    return shape, dtype


def _expected_shape(options: ImportOptions) -> tuple[int, ...] | None:
    if options.pack is None:
        return None
    config = options.pack.config
    return (config.embed_dim,) if options.tap == POOLED else (config.vit.n_tokens, config.vit.width)


def _shape_fix(shape: tuple[int, ...], options: ImportOptions) -> str:
    assert options.pack is not None
    vision = options.pack.config.vision
    width = getattr(vision, "width", None)
    if options.tap == POOLED and shape == (width,):
        return (
            f"{width} is the width before the projection into the joint space, which text does not share; extract with "
            "the model's encode_image (projected features)"
        )
    return "the model that extracted them: --model NAME --pretrained TAG, or --pack"


def _write(
    found: Found,
    videos: Sequence[FoundVideo],
    store: str | os.PathLike[str],
    options: ImportOptions,
    row_shape: tuple[int, ...],
    dtype: str,
    *,
    classes: tuple[str, ...],
    notes: list[str],
) -> Imported:
    lengths = {video.n_frames for video in videos if video.ok}
    fixed = next(iter(lengths)) if len(lengths) == 1 else None
    spec = StoreSpec(
        taps=(TapSpec(options.tap, row_shape, dtype),),
        n_frames=fixed,
        max_frames=None if fixed else max(lengths),
        classes=classes,
        fingerprint=_fingerprint(found, options),
        pack_hash=options.pack.hash if options.pack is not None else "",
    )
    bounds = [video.n_frames if video.ok else 1 for video in videos]
    writer = StoreWriter.open_or_create(store, spec, videos, frame_bounds=bounds)
    for name, content in options.pack.files() if options.pack is not None else ():
        writer.write_pack_file(name, content)
    by_id = {video.id: video for video in videos}
    numbers = _Numbers(dtype, options.tap)
    for unit in writer.pending_units():
        facts, rows = [], []
        for index in unit.video_indices:
            row, values = numbers.read(by_id[writer.plan.videos[index].id])
            facts.append(row)
            rows += [values] if row.ok else []
        writer.commit(unit, {options.tap: rows}, facts)
    writer.finalize()
    return _summary(store, found.layout, notes=[*notes, *numbers.notes()])


def _fingerprint(found: Found, options: ImportOptions) -> Fingerprint:
    digest = hashlib.sha256()
    for name, path in sorted(found.files.items()):
        digest.update(f"{name}\0{_sha256(path)}\n".encode("utf-8", "surrogatepass"))
    fields: dict[str, Any] = {"imported": {"layout": found.layout, "sha256": digest.hexdigest()}}
    if options.pack is not None:
        config = options.pack.config
        fields["model"] = {
            "name": config.name,
            "pretrained": config.pretrained,
            "weights_sha256": config.weights_sha256,
            "embed_dim": config.embed_dim,
        }
    return Fingerprint(fields)


def _sha256(path: str) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class _Numbers:
    """Reads videos as rows of one dtype, and keeps what was peculiar about them."""

    def __init__(self, dtype: str, tap: str) -> None:
        self._tap = tap
        self._dtype = np.dtype(dtype)
        self._single: list[str] = []
        self._rounded: list[str] = []
        self._worst = 0.0
        self._unit = self._read = 0

    def read(self, video: FoundVideo) -> tuple[VideoRow, np.ndarray]:
        """The facts of one video and its rows [F ...], which are none for a failed one."""
        if not video.ok:
            return VideoRow.failed(video, reason=video.reason, detail=video.detail), np.empty(0)
        try:
            given = np.asarray(video.read())
        except (OSError, ValueError, EOFError) as error:  # a damaged chunk, a filter that is not installed
            return VideoRow.failed(video, reason="unreadable", detail=str(error)), np.empty(0)
        if given.ndim == 1:
            given = given[None]
            self._single.append(video.id)
        with np.errstate(over="ignore"):
            values = given.astype(self._dtype, copy=False)
        problem = feature_problem(values, TapSpec(self._tap, values.shape[1:], self._dtype.name))
        if problem is not None:
            return VideoRow.failed(video, reason="non_finite", detail=problem), np.empty(0)
        self._look(video, given, values)
        times, fps = video.times()
        pts = times if len(times) == len(values) and np.isfinite(times).all() else ()
        row = VideoRow(video.id, video.label, video.split, video.group, n_frames=len(values), fps=fps, pts_seconds=pts)
        return row, values

    def _look(self, video: FoundVideo, given: np.ndarray, values: np.ndarray) -> None:
        if given.dtype == np.float64 and not np.array_equal(values, given):
            self._rounded.append(video.id)
            scale = float(np.abs(given).max()) or 1.0
            self._worst = max(self._worst, float(np.abs(values - given).max()) / scale)
        self._read += 1
        norms = np.linalg.norm(values.astype(np.float32), axis=-1)
        self._unit += bool(np.allclose(norms, 1.0, atol=2e-3))

    def notes(self) -> list[str]:
        """What was seen, in words."""
        found = []
        if self._rounded:
            found.append(
                f"{len(self._rounded)} videos in float64 rounded to float32, by at most {self._worst:.1e} of their "
                f"largest value: {some(self._rounded)}"
            )
        if self._single:
            found.append(f"{len(self._single)} videos are one vector, taken as one frame: {some(self._single)}")
        if self._read and self._unit == self._read:
            found.append("every frame has unit length: the extractor normalised them, so means weigh frames equally")
        return found


def _summary(store: str | os.PathLike[str], layout: str, *, notes: list[str]) -> Imported:
    reader = open_store(store)
    failures = Counter(row.reason for row in reader.videos() if not row.ok)
    if not reader.pack_hash:
        notes.append(
            "no backbone (--pack PACK, or --model NAME --pretrained TAG): nothing trains on this store; import again "
            "into a new one with it"
        )
    return Imported(str(reader.path), layout, len(reader.ids), len(reader.classes), failures, notes)
