"""Whether the stores hold what a configuration trains and tests on. Checked before any feature is read.

Every method reads the pooled features. Visual prompts from block k also read the tokens that enter block k, from every
store that trains, tests or anchors. `frames.views = "random"` and `head.tip_keys = "views"` need a training store of
several views, and `frames.used = T` one with at least T frames per video. A store that lacks something is refused, and
the message holds the `vidfeat extract` command that adds it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from prompttune.config.sections import ContextConfig
from prompttune.config.train_config import TrainConfig
from prompttune.data.extract_command import extract_command, is_imported
from prompttune.data.features import FeatureSource
from prompttune.errors import FeatureError, explain
from vidfeat.backbone import BackbonePack, TextConfig
from vidfeat.errors import UnsupportedModelError
from vidfeat.store import POOLED, Tap, tap_flags


def needed_taps(config: TrainConfig) -> tuple[str, ...]:
    """The taps a configuration reads, pooled first."""
    return (POOLED,) if config.visual is None else (POOLED, Tap(config.visual.first_block).name)


def tap_bytes(source: FeatureSource, tap: str) -> int:
    """Bytes of a tap for all usable videos, frames and views of a store, whether it is there or not; without indices.

    What is not there is counted in float16, `vidfeat extract`'s default.
    """
    config = source.pack.config
    shape = (config.embed_dim,) if tap == POOLED else (config.vit.n_tokens, config.vit.width)
    spec = source.reader.taps.get(tap)
    size = np.dtype(spec.dtype).itemsize if spec is not None else 2
    n_rows = int(source.reader.n_frames_per_video[source.reader.ok].sum()) * source.reader.n_views
    return n_rows * math.prod(shape) * size


def require_served(config: TrainConfig, sources: Sequence[FeatureSource], *, trains: bool = True) -> None:
    """Refuses what the stores cannot serve.

    Args:
        sources: stores of one backbone; the first is the training store.
        trains: False where prompts are only evaluated, which draws no views and frames.

    Raises:
        UnsupportedModelError: learned text prompts for a text tower that transformers runs.
        FeatureError: an image tower that open_clip runs, blocks that a tower does not have, or stores without a tap,
            views or frames that are needed; all problems in one message, with settings and commands that would mend it.
    """
    if config.context.kind != "none":
        # Before tokens are asked for, which would cost an extraction and could not be trained on either.
        _ = sources[0].pack.config.open_text
    if config.visual is not None:
        _require_vit(config, sources)
    too_deep = [*_visual_depth_problems(config, sources[0]), *text_depth_problems(config.context, sources[0].pack)]
    problems, settings = [problem for problem, _ in too_deep], _tied([setting for _, setting in too_deep], config)
    commands = []
    for place, source in enumerate(sources):
        asks = _asks_for_views(config) if trains and place == 0 else ""
        wanted_views = 2 if asks else 1
        lacking = [tap for tap in needed_taps(config) if tap not in source.reader.taps]
        if lacking:
            size = sum(tap_bytes(source, tap) for tap in lacking) / 2**30
            problems.append(
                f"{source.path} has no {tap_flags(lacking)} (it has {tap_flags(source.reader.taps)}); it takes "
                f"{size:.3g} GiB"
            )
        if source.reader.n_views < wanted_views:
            problems.append(f"{source.path} has one view, and {asks} needs several")
        problems += _frame_problems(config, source, trains=trains and place == 0)
        if lacking or source.reader.n_views < wanted_views:
            commands.append(_extraction(source, lacking, wanted_views))
    if not problems:
        return
    fix = _fix(settings, commands, imported=any(is_imported(source.reader) for source in sources))
    raise FeatureError(
        explain(
            f"the configuration of {config.method} asks for what is not there",
            where=", ".join(dict.fromkeys(source.path for source in sources)),
            expected=f"taps {tap_flags(needed_taps(config))}",
            got="; ".join(problems),
            fix=fix or None,
        )
    )


def _extraction(source: FeatureSource, lacking: Sequence[str], n_views: int) -> str:
    """The command that adds these taps, and views up to that many."""
    return extract_command(
        source.path,
        source.reader,
        taps=[*source.reader.taps, *lacking],
        n_views=max(source.reader.n_views, n_views),
        model=source.pack.config,
    )


def _fix(settings: Sequence[str], commands: Sequence[str], *, imported: bool) -> str:
    """The settings and the extractions that would mend it, and what the extractions' placeholders stand for."""
    fix = "; ".join([*([" ".join(settings)] if settings else []), *commands])
    if commands:
        fix += " (SOURCE: the videos the store was extracted from; what is there is kept"
        if "FOLDER/" in fix:
            fix += (
                "; FOLDER: where the model's files lie, of a model of open_clip's own by --model and --pretrained FILE"
            )
        fix += ")"
    return fix + ("; imported features cannot be added to, NEW.zarr takes their place" if imported else "")


def _asks_for_views(config: TrainConfig) -> str:
    """The setting that reads augmented views of the training store; empty where none does."""
    if config.head.adapter == "tip-adapter" and config.head.tip_keys == "views":
        return 'head.tip_keys = "views"'
    return 'frames.views = "random"' if config.frames.views == "random" else ""


def _require_vit(config: TrainConfig, sources: Sequence[FeatureSource]) -> None:
    """Refuses visual prompts for image towers that open_clip runs: no other tap of such a store would help."""
    for source in sources:
        try:
            _ = source.pack.config.vit
        except UnsupportedModelError as error:
            raise FeatureError(
                explain(f"{config.method} learns visual prompts, which this store cannot take", got=error)
            ) from None


def _visual_depth_problems(config: TrainConfig, source: FeatureSource) -> Iterable[tuple[str, str]]:
    if config.visual is None:
        return
    first, depth, layers = config.visual.first_block, config.visual.depth, source.pack.config.vit.layers
    if first + depth > layers:
        yield (
            f"the vision tower of {source.pack.config.name} has blocks 0 to {layers - 1}, and visual.first_block = "
            f"{first} with visual.depth = {depth} prompts up to block {first + depth - 1}",
            f"--set visual.depth={layers - first}" if first < layers else "--set visual.first_block=0",
        )


def _tied(settings: list[str], config: TrainConfig) -> list[str]:
    """The settings that name a depth, as one for both where prompts are made from each other (MaPLe)."""
    depths = {"visual.depth", "context.prompt_depth"}
    named = [text.removeprefix("--set ").partition("=") for text in settings]
    found = [int(value) for key, _, value in named if key in depths]
    if config.visual is None or config.visual.source == "own" or not found:
        return settings
    others = [text for text, (key, _, _) in zip(settings, named, strict=True) if key not in depths]
    return [f"--set visual.depth={min(found)} --set context.prompt_depth={min(found)}", *others]


def text_depth_problems(context: ContextConfig, pack: BackbonePack) -> Iterable[tuple[str, str]]:
    """What a configuration asks of blocks that the text tower does not have, each with a setting that it has."""
    if not isinstance(pack.config.text, TextConfig):
        return  # transformers runs it; that it takes no context is another message
    layers = pack.config.text.layers
    has = f"the text tower of {pack.config.name} has blocks 0 to {layers - 1}"
    depth, block = context.prompt_depth, context.class_tokens_block
    deepest = layers if block is None else min(block, layers - 1)  # class tokens enter behind the prompted blocks
    if depth > deepest:
        yield f"{has}, and context.prompt_depth = {depth}", f"--set context.prompt_depth={deepest}"
    if block is not None and block >= layers:
        yield f"{has}, and context.class_tokens_block = {block}", f"--set context.class_tokens_block={layers - 1}"


def _frame_problems(config: TrainConfig, source: FeatureSource, *, trains: bool) -> Iterable[str]:
    counts = np.unique(source.reader.n_frames_per_video[source.reader.ok])
    if config.visual is not None and len(counts) > 1:
        yield f"videos of {source.path} have {counts.min()} to {counts.max()} frames, visual prompts need equally many"
    used = config.frames.used
    if trains and used is not None and len(counts) and used > counts.min():
        yield f"frames.used = {used}, and videos of {source.path} have {counts.min()} frames"
