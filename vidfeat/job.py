"""One extraction made ready: its videos, its model, its store opened or created, and the units still to do."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidfeat.errors import FAILURE_REASONS, PlanError, explain
from vidfeat.extract_options import ExtractOptions, OptionsError, tap_layers
from vidfeat.manifest import Manifest, load_manifest
from vidfeat.preprocess import Preprocess
from vidfeat.recipe import Recipe
from vidfeat.store import Fingerprint, StoreSpec, StoreWriter, TapSpec, Unit, VideoRow, require_same_fingerprint
from vidfeat.store.files import files_at
from vidfeat.store.plan import Plan, read_plan
from vidfeat.store.spec import FORMAT_VERSION
from vidfeat.unit_runner import token_tap

if TYPE_CHECKING:
    from vidfeat.backbone import BackboneConfig, BackbonePack
    from vidfeat.openclip import LoadedClip

# What may lie in a folder that is to become a store: an earlier attempt's own files.
OWN_NAMES = {"pack", "plan", "commits", "zarr.json", "index", "source.json"}
PACK = "pack"


@dataclass(frozen=True)
class Job:
    """An extraction ready to run.

    Attributes:
        out: the store.
        paths: file of every video id of the source.
        precision: of the encoder, as the fingerprint has it.
    """

    out: str
    writer: StoreWriter
    recipe: Recipe
    pack: BackbonePack
    paths: Mapping[str, str]
    precision: Any

    def share(self, units: tuple[int, int] | None) -> tuple[Unit, ...]:
        """The pending units, or share i of n of them: those whose index leaves i - 1 when divided by n."""
        pending = self.writer.pending_units()
        if units is not None:
            pending = tuple(unit for unit in pending if unit.index % units[1] == units[0] - 1)
        self._require_sources(pending)
        return pending

    def _require_sources(self, units: Sequence[Unit]) -> None:
        videos = self.writer.plan.videos
        missing = sorted({videos[index].id for unit in units for index in unit.video_indices} - self.paths.keys())
        if missing:
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise OptionsError(
                explain(
                    "the store has videos still to extract that this source does not name",
                    where=self.out,
                    got=shown,
                    fix="give the source (and --limit) that the extraction was started with",
                )
            )

    def known_facts(self, units: Sequence[Unit]) -> dict[int, VideoRow]:
        """What earlier commits found about the videos of `units`, by video index; failures are left out."""
        wanted = {index for unit in units for index in unit.video_indices}
        known = {}
        for unit in self.writer.committed_units():
            if wanted.isdisjoint(unit.video_indices):
                continue
            record = self.writer.record(unit)
            assert record is not None
            known.update({video.index: video.facts for video in record.videos if video.facts.ok})
        return known

    def expected_rows(self, units: Sequence[Unit]) -> int | None:
        """Rows that the units take if no video fails; None when videos differ in length."""
        n_frames = self.writer.plan.spec.n_frames
        return n_frames and sum(n_frames * unit.n_views * len(unit.video_indices) for unit in units)


def open_job(options: ExtractOptions) -> Job:
    """The job the options describe; its store exists afterwards, with a plan that covers it.

    Raises:
        VidfeatError: a source, model, store or option that cannot be used.
    """
    manifest = limited(load_manifest(options.source, root=options.root, classes=options.classes), options.limit)
    clip = load_clip(options)
    return open_store_of(options, manifest, clip)


def limited(manifest: Manifest, limit: int | None) -> Manifest:
    """The manifest with its first `limit` videos; all its classes stay."""
    return manifest if limit is None else replace(manifest, items=manifest.items[:limit])


def load_clip(options: ExtractOptions) -> LoadedClip:
    """The model of the options, in memory."""
    from vidfeat.openclip import load_open_clip

    choice = options.model
    return load_open_clip(
        model=choice.model, pretrained=choice.pretrained, model_config=choice.model_config, weights=choice.weights
    )


def recipe_of(options: ExtractOptions, config: BackboneConfig) -> Recipe:
    """How videos become pixels for that backbone."""
    preprocess = Preprocess(
        config.vision.image_size,
        mean=config.image_mean,
        std=config.image_std,
        interpolation=config.interpolation,
        resize_mode=config.resize_mode,
    )
    return Recipe(preprocess, options.sampling, views=options.views, seed=options.seed)


def taps_of(options: ExtractOptions, config: BackboneConfig) -> tuple[TapSpec, ...]:
    """The taps of the options as the store lays them out; `pooled` is never quantised.

    Raises:
        OptionsError: a layer the tower does not have.
    """
    n_layers = config.vision.layers
    outside = [layer for layer in tap_layers(options.taps) if layer > n_layers]
    if outside:
        raise OptionsError(
            explain(
                f"{config.name} has no such block",
                expected=f"tokens@0 (after ln_pre) to tokens@{n_layers} (after the last of {n_layers} blocks)",
                got=", ".join(f"tokens@{layer}" for layer in outside),
            )
        )
    taps = []
    if "pooled" in options.taps:
        taps.append(TapSpec("pooled", (config.embed_dim,), "float16" if options.dtype == "int8" else options.dtype))
    shape = (config.vision.n_tokens, config.vision.width)
    taps += [TapSpec(token_tap(layer), shape, options.dtype) for layer in tap_layers(options.taps)]
    return tuple(taps)


def fingerprint_of(options: ExtractOptions, config: BackboneConfig, recipe: Recipe, precision: str) -> Fingerprint:
    """Everything that changes the numbers; what can be added later (videos, taps, views) is not in it."""
    return Fingerprint(
        {
            "format_version": FORMAT_VERSION,
            "model": {
                "name": config.name,
                "pretrained": config.pretrained,
                "weights_sha256": config.weights_sha256,
                "embed_dim": config.embed_dim,
                "vision": _plain(config.vision),
            },
            **recipe.to_json(),
            "decoder_versions": decoder_versions(recipe.decoder),
            "precision": precision,
            "dtype": options.dtype,
        }
    )


def _plain(config: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(config)


def decoder_versions(policy: str) -> list[str]:
    """The decoders that the policy may use on this machine, with their versions."""
    from vidfeat.decode import available_decoders

    names = ("pyav", "decord") if policy == "auto" else (policy,)
    return [status.version for status in available_decoders() if status.name in names and status.works]


def open_store_of(options: ExtractOptions, manifest: Manifest, clip: LoadedClip) -> Job:
    """The job over the store at `options.out`: created, resumed, or extended by what is missing."""
    from vidfeat.encode import choose_device, choose_precision

    try:
        device = choose_device(options.machine.device)
        precision = choose_precision(options.machine.precision, device)  # type: ignore[arg-type]
    except (ValueError, RuntimeError) as error:
        raise OptionsError(explain("this machine cannot do that", got=error, fix="try --device auto")) from error
    recipe = recipe_of(options, clip.config)
    spec = StoreSpec(
        taps=taps_of(options, clip.config),
        n_frames=options.sampling.n_sampled,
        n_views=options.views.n_views,
        classes=manifest.classes,
        fingerprint=fingerprint_of(options, clip.config, recipe, precision),
        max_frames=None if options.sampling.n_sampled else options.max_frames,
        shard_bytes=options.shard_bytes,
    )
    out = os.fspath(options.out)
    files = files_at(out)
    _require_store_or_nothing(out)
    with files.lock():
        standing = read_plan(files)
        if standing is not None:
            _require_same(standing, spec, out)
        pack = _pack_at(out, clip, standing)
        writer = _writer(options, replace(spec, pack_hash=pack.hash), manifest, standing)
    n_views = writer.plan.n_views
    return Job(
        out=out,
        writer=writer,
        recipe=replace(recipe, views=replace(recipe.views, n_views=n_views)),
        pack=pack,
        paths={item.id: item.path for item in manifest.items},
        precision=precision,
    )


def _require_store_or_nothing(out: str) -> None:
    if "://" in out or not os.path.exists(out):
        return
    strangers = sorted(set(os.listdir(out)) - OWN_NAMES) if os.path.isdir(out) else [out]
    strangers = [name for name in strangers if not name.startswith(".")]
    if strangers and read_plan(files_at(out)) is None:
        raise OptionsError(
            explain(
                "the output exists and is no store",
                where=out,
                got=", ".join(strangers[:5]),
                fix="give the path of a new store, such as --out features.zarr",
            )
        )


def _require_same(standing: Plan, spec: StoreSpec, out: str) -> None:
    require_same_fingerprint(
        standing.spec.fingerprint,
        spec.fingerprint,
        left_name=f"the store {out}",
        right_name="this extraction",
        fix="give the store's own settings, or write to a new store",
    )


def _pack_at(out: str, clip: LoadedClip, standing: Plan | None) -> BackbonePack:
    """The store's own pack; written when there is none yet."""
    from vidfeat.backbone import BackbonePack

    if "://" in out:
        return _remote_pack(out, clip)
    directory = Path(out, PACK)
    if standing is not None and directory.exists():
        # The fingerprints agree, so it is this model's; no need to serialise the weights to compare them.
        return BackbonePack.load(directory, expected_hash=standing.spec.pack_hash or None)
    return clip.write_pack(directory)


def _remote_pack(out: str, clip: LoadedClip) -> BackbonePack:
    """The pack in a temporary folder, and its files in the store that has none yet."""
    # The folder lives as long as the process: the tower is read from it when the encoder is made.
    folder = Path(tempfile.mkdtemp(prefix="vidfeat-pack-"), PACK)
    pack = clip.write_pack(folder)
    files = files_at(out)
    present = files.listing(PACK)
    for path in sorted(folder.iterdir()):
        name = f"{PACK}/{path.name}"
        if present.get(name) != path.stat().st_size:
            files.write(name, path.read_bytes(), step="pack")
    return pack


def _writer(options: ExtractOptions, spec: StoreSpec, manifest: Manifest, standing: Plan | None) -> StoreWriter:
    out = os.fspath(options.out)
    if standing is None:
        bounds = frame_bounds(options, [item.path for item in manifest.items])
        return StoreWriter.create(out, spec, manifest.items, frame_bounds=bounds)
    # Other jobs of an array may be writing now: only a lone one may sweep what a killed one left behind.
    writer = StoreWriter.open(out) if options.units is None else StoreWriter.attach(out)
    spec = replace(spec, classes=tuple(dict.fromkeys((*standing.classes, *manifest.classes))))
    known = {video.id for video in standing.videos}
    bounds = frame_bounds(options, ["" if item.id in known else item.path for item in manifest.items])
    writer.extend(spec, manifest.items, frame_bounds=bounds)
    if options.retry is not None:
        _plan_retry(writer, options.retry)
    return writer


def _plan_retry(writer: StoreWriter, reason: str) -> None:
    if reason not in (*FAILURE_REASONS, "all"):
        raise OptionsError(
            explain("--retry does not know this reason", expected=", ".join((*FAILURE_REASONS, "all")), got=reason)
        )
    # A retry that was interrupted is still pending; asking again must not plan it twice.
    planned = {index for unit in writer.pending_units() for index in unit.video_indices}
    failures = writer.failures().items()
    writer.retry(index for index, facts in failures if reason in ("all", facts.reason) and index not in planned)


def frame_bounds(options: ExtractOptions, paths: Sequence[str]) -> list[int] | None:
    """Upper bounds of the frames sampled from each file, by probing; None when the policy fixes their number.

    An empty path (a video that is in the store already) and a file that cannot be probed count 1: the one takes no
    room, the other will be recorded as a failure.

    Raises:
        PlanError: videos that have more than `max_frames`.
    """
    if options.sampling.n_sampled is not None:
        return None
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max(1, options.machine.n_workers)) as threads:
        bounds = list(threads.map(partial(_frame_bound, options), paths))
    over = [(bound, path) for bound, path in zip(bounds, paths, strict=True) if bound > options.max_frames]
    if over:
        shown = ", ".join(f"{path} ({bound})" for bound, path in sorted(over, reverse=True)[:5])
        raise PlanError(
            explain(
                f"{len(over)} videos have more frames than a store's shard has room for",
                expected=f"at most {options.max_frames} sampled frames",
                got=shown,
                fix=f"--max-frames {max(over)[0]}, or sample fewer frames",
            )
        )
    return bounds


def _frame_bound(options: ExtractOptions, path: str) -> int:
    from vidfeat.decode import probe
    from vidfeat.errors import DecodeError
    from vidfeat.sampling import sample_indices

    if not path:
        return 1
    try:
        facts = probe(path)
        return len(sample_indices(options.sampling, n_source_frames=facts.n_frames_expected, fps=facts.fps))
    except (DecodeError, ValueError):
        return 1
