"""One extraction made ready: its videos, its model, its store opened or created, and the units still to do."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vidfeat.errors import explain
from vidfeat.extraction import identity, job_store
from vidfeat.extraction.options import ExtractOptions, OptionsError
from vidfeat.extraction.recipe import Recipe
from vidfeat.store import (
    POOLED,
    Fingerprint,
    StoreSpec,
    StoreWriter,
    Tap,
    TapSpec,
    Unit,
    VideoRow,
    token_layers,
)
from vidfeat.store.commits import FileRecord
from vidfeat.store.location import files_at
from vidfeat.store.sealing import PACK_PREFIX
from vidfeat.store.spec import FORMAT_VERSION
from vidfeat.store.unit_plan import read_plan
from vidfeat.video.manifest import Manifest, load_manifest
from vidfeat.video.preprocess import Preprocess

if TYPE_CHECKING:
    from vidfeat.backbone import BackboneConfig, BackbonePack
    from vidfeat.clip.openclip import LoadedClip


@dataclass(frozen=True)
class Job:
    """An extraction ready to run.

    Attributes:
        out: the store.
        paths: file of every video id of the source.
        pack: with an image tower; where the store had none, its `save` is still to be called.
        precision: of the encoder, as the fingerprint has it.
        notes: what a person should know about the source: what was left out of it, what changed in it.
        n_changed: files that are not those that were extracted, and stay so.
        rebuild: what follows from plan and commits (index, metadata, manifest) was found damaged.
    """

    out: str
    writer: StoreWriter
    recipe: Recipe
    pack: BackbonePack
    paths: Mapping[str, str]
    precision: Any
    notes: tuple[str, ...] = ()
    n_changed: int = 0
    rebuild: bool = False

    def share(self, units: tuple[int, int] | None) -> tuple[Unit, ...]:
        """The pending units, or share i of n of them: those whose index leaves i - 1 when divided by n."""
        pending = self.writer.pending_units()
        if units is not None:
            pending = tuple(unit for unit in pending if unit.index % units[1] == units[0] - 1)
        self._require_sources(pending)
        return pending

    def pack_records(self) -> dict[str, FileRecord]:
        """Size and hash of the store's pack files whose every byte this process has seen."""
        if "://" in self.out:
            return {}
        return {f"{PACK_PREFIX}/{name}": FileRecord(*facts) for name, facts in self.pack.files_seen.items()}

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
        known: dict[int, VideoRow] = {}
        valid_from = self.writer.plan.valid_from()
        for unit in self.writer.committed_units():
            if wanted.isdisjoint(unit.video_indices):
                continue
            record = self.writer.record(unit)
            assert record is not None
            known.update(
                {
                    video.index: video.facts
                    for video in record.videos
                    if video.facts.ok and unit.index >= valid_from.get(video.index, 0)
                }
            )
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
    manifest = manifest_of(options)
    clip = load_clip(options)
    return open_store_of(options, manifest, clip)


def manifest_of(options: ExtractOptions) -> Manifest:
    """The videos of the options, the first `limit` of them; all classes stay.

    Missing files are an error of the source, unless failures are allowed: then each is a failed video.
    """
    manifest = load_manifest(
        options.source,
        root=options.root,
        classes=options.classes,
        must_exist=options.allow_failures == 0,
        strict=options.strict,
    )
    return manifest if options.limit is None else replace(manifest, items=manifest.items[: options.limit])


def load_clip(options: ExtractOptions) -> LoadedClip:
    """The model of the options, in memory."""
    from vidfeat.clip.openclip import load_open_clip

    choice = options.model
    return load_open_clip(
        model=choice.model,
        pretrained=choice.pretrained,
        model_config=choice.model_config,
        weights=choice.weights,
        base_weights=choice.base_weights,
        tokenizer=choice.tokenizer,
    )


def recipe_of(options: ExtractOptions, config: BackboneConfig) -> Recipe:
    """How videos become pixels for that backbone."""
    preprocess = Preprocess(
        config.vision.image_size,
        mean=config.image_mean,
        std=config.image_std,
        interpolation=config.interpolation,
        resize_mode=config.resize_mode,
        fill_color=config.fill_color,
    )
    return Recipe(preprocess, options.sampling, options.views, seed=options.seed, decoder=options.decoder)


def taps_of(options: ExtractOptions, config: BackboneConfig) -> tuple[TapSpec, ...]:
    """The taps of the options as the store lays them out; `pooled` is never quantised.

    Raises:
        OptionsError: a layer the tower does not have.
    """
    layers = token_layers(options.taps)
    n_layers = config.vit.layers if layers else 0
    outside = [Tap(layer).flag for layer in layers if layer > n_layers]
    if outside:
        raise OptionsError(
            explain(
                f"{config.name} has no such block",
                expected=f"{Tap(0).flag} (after ln_pre) to {Tap(n_layers).flag} (after the last of {n_layers} blocks)",
                got=", ".join(outside),
            )
        )
    taps = []
    if POOLED in options.taps:
        taps.append(TapSpec(POOLED, (config.embed_dim,), "float16" if options.dtype == "int8" else options.dtype))
    if layers:
        shape = (config.vit.n_tokens, config.vit.width)
        taps += [TapSpec(Tap(layer).name, shape, options.dtype) for layer in layers]
    return tuple(taps)


def fingerprint_of(options: ExtractOptions, config: BackboneConfig, recipe: Recipe, precision: str) -> Fingerprint:
    """Everything that changes the numbers; what can be added later (videos, taps, views) is not in it."""
    from vidfeat.backbone.config_json import plain
    from vidfeat.video.decode import decoder_versions

    return Fingerprint(
        {
            "format_version": FORMAT_VERSION,
            "model": {
                "name": config.name,
                "pretrained": config.pretrained,
                "weights_sha256": config.weights_sha256,
                "embed_dim": config.embed_dim,
                "vision": plain(config.vision),
            },
            **recipe.to_json(),
            "decoder_versions": decoder_versions(recipe.decoder),
            "precision": precision,
            "dtype": options.dtype,
        }
    )


def spec_of(options: ExtractOptions, manifest: Manifest, config: BackboneConfig, recipe: Recipe) -> StoreSpec:
    """The store that the options ask for, its pack not yet named.

    Raises:
        OptionsError: a layer, device or precision that there is not.
    """
    from vidfeat.backbone.device import choose_device
    from vidfeat.clip.encode import choose_precision

    try:
        device = choose_device(options.machine.device)
        precision = choose_precision(options.machine.precision, device)  # type: ignore[arg-type]
    except (ValueError, RuntimeError) as error:
        raise OptionsError(str(error)) from error
    return StoreSpec(
        taps=taps_of(options, config),
        n_frames=options.sampling.n_sampled,
        n_views=options.views.n_views,
        classes=manifest.classes,
        fingerprint=fingerprint_of(options, config, recipe, precision),
        max_frames=None if options.sampling.n_sampled else options.max_frames,
        shard_bytes=options.shard_bytes,
    )


def machine_notes(options: ExtractOptions) -> tuple[str, ...]:
    """What this machine does badly of what is asked of it; the options have been looked at."""
    from vidfeat.backbone.device import choose_device, slow_half_precision

    note = slow_half_precision(options.machine.precision, choose_device(options.machine.device))
    return () if note is None else (note,)


def open_store_of(options: ExtractOptions, manifest: Manifest, clip: LoadedClip) -> Job:
    """The job over the store at `options.out`: created, resumed, repaired, or extended by what is missing."""
    recipe = recipe_of(options, clip.config)
    spec = spec_of(options, manifest, clip.config, recipe)
    out = os.fspath(options.out)
    files = files_at(out)
    job_store.require_store_or_nothing(out)
    report, found, said = None, None, []
    with files.lock():
        standing = read_plan(files)
        if standing is not None and options.keep_labels:
            manifest = job_store.with_labels_of(standing, manifest)
            spec = replace(spec, classes=manifest.classes)
        if standing is not None:
            job_store.require_same(standing, spec, out)
        pack = job_store.pack_at(out, clip, standing, check=options.check)
        spec = replace(spec, pack_hash=pack.hash)
        if standing is None:
            writer = job_store.create(options, spec, manifest)
        else:
            writer = job_store.open_existing(options)
            report = job_store.take_back_what_is_bad(writer, options)
            found = identity.compare(out, writer, manifest)
            if not options.refresh:
                identity.require_unchanged(writer, found, spec)
            identity.apply(writer, found, manifest, prune=options.prune)
            job_store.extend(writer, options, spec, manifest)
            if options.refresh:
                writer.retry(found.changed, refresh=True)
            else:  # a failed video whose file was mended may be among those that --retry names
                retried = {index for unit in writer.pending_units() for index in unit.video_indices}
                found = replace(found, changed={i: how for i, how in found.changed.items() if i not in retried})
            said = identity.notes(writer, found, refresh=options.refresh, prune=options.prune)
    return Job(
        out=out,
        writer=writer,
        recipe=replace(recipe, views=replace(recipe.views, n_views=writer.plan.n_views)),
        pack=pack,
        paths=_paths(writer, manifest),
        precision=spec.fingerprint.fields["precision"],
        notes=(*manifest.notes, *said, *machine_notes(options)),
        n_changed=0 if found is None or options.refresh else len(found.changed),
        rebuild=report is not None and report.needs_rebuild,
    )


def _paths(writer: StoreWriter, manifest: Manifest) -> dict[str, str]:
    """File by video id: the source's; a pruned video of a unit still to do has the one it had, which is gone."""
    planned = writer.plan.videos
    pruned = {planned[index].id: os.path.join(manifest.root, planned[index].id) for index in writer.plan.pruned}
    return pruned | {item.id: item.path for item in manifest.items}
