"""An open_clip model by name, or a local checkpoint, turned into a backbone."""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from vidfeat.backbone import (
    AnyTokenizer,
    BackboneConfig,
    BackbonePack,
    ForeignText,
    ForeignVision,
    Tokenizer,
    weights_sha256,
)
from vidfeat.backbone.state_check import tower_problems
from vidfeat.clip import door
from vidfeat.clip.checkpoint import Checkpoint, part_state, read_checkpoint
from vidfeat.clip.config import TowerSizes, tower_sizes
from vidfeat.clip.foreign import built, state_problems
from vidfeat.clip.hub import not_loaded, of_another_model, require_tag, shared_preprocessing, unknown_model
from vidfeat.clip.hub_text import with_hub_config
from vidfeat.clip.hub_tokenizer import hub_tokenizer
from vidfeat.clip.rerun_check import require_same_features
from vidfeat.clip.visual_state import visual_state
from vidfeat.errors import UnsupportedModelError, explain

# Source: openai/CLIP, clip/clip.py, _transform; the defaults of open_clip's PreprocessCfg.
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
# Merges of CLIP's vocabulary of 49,408: 49,152 - 256 - 2, after one header line. Source: open_clip, tokenizer.py.
N_MERGES = 49152 - 256 - 2


@dataclass(frozen=True)
class LoadedClip:
    """A CLIP in memory, ready to be written as a pack.

    Attributes:
        config: sizes, preprocessing, logit scale, weights hash.
        text_state, visual_state: float tensors under the pack's names (open_clip's, `visual.` taken off).
        tokenizer: CLIP's byte pairs, or one from the hub.
        leftovers: tensors of the checkpoint outside both towers that were not used; show them to the user.
        filled_from_base: tensors the checkpoint lacks and `base_weights` gave.
    """

    config: BackboneConfig
    text_state: dict[str, Tensor]
    visual_state: dict[str, Tensor]
    tokenizer: AnyTokenizer
    leftovers: tuple[str, ...] = ()
    filled_from_base: tuple[str, ...] = ()

    def pack_for(self, path: str | os.PathLike[str]) -> BackbonePack:
        """The pack that its `save` will write at `path`, without a second check; its image tower is ready."""
        return BackbonePack.of_checked(path, **self._parts())

    def write_pack(self, path: str | os.PathLike[str]) -> BackbonePack:
        """The pack written at `path`; see BackbonePack.write."""
        return BackbonePack.write(path, **self._parts())

    def _parts(self) -> dict[str, Any]:
        names = ("config", "text_state", "visual_state", "tokenizer")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class _Architecture:
    """A model config with the names and preprocessing that go with it."""

    name: str
    model_config: dict[str, Any]
    preprocess: dict[str, Any]
    sizes: TowerSizes
    tokenizer: AnyTokenizer


def load_open_clip(
    *,
    model: str | None = None,
    pretrained: str | None = None,
    model_config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    weights: str | os.PathLike[str] | None = None,
    base_weights: str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
) -> LoadedClip:
    """A CLIP by its open_clip name, or from a local checkpoint.

    Args:
        model: an open_clip architecture (`ViT-B-16-quickgelu`, `hf-hub:org/name`, `local-dir:path`).
        pretrained: an open_clip tag of weights to download (`openai`), or a weights file.
        model_config: instead of `model`: an open_clip model config, as a JSON file or a mapping.
        weights: a local checkpoint; see `vidfeat.clip.checkpoint.read_checkpoint` for what is read.
        base_weights: the checkpoint `weights` was fine-tuned from, for tensors it was saved without.
        tokenizer: the `tokenizer.json` of a model whose tokenizer is on the hub, with its `tokenizer_config.json`
            beside it; None takes both out of the hub's cache, or downloads them.

    Raises:
        UnsupportedModelError: towers we cannot rerun exactly, weights that do not fit the config, an activation
            other than the one the weights were trained with, weights that cannot be downloaded, or arguments that do
            not go together.
        FileNotFoundError: no such config or weights file.
    """
    if (model is None) == (model_config is None):
        raise UnsupportedModelError(
            "give either model (an open_clip name) or model_config (a JSON file), not both and not neither"
        )
    if pretrained is not None and Path(pretrained).is_file() and weights is None:
        weights, pretrained = pretrained, None
    hub_schema = model is not None and ":" in model
    if hub_schema and (weights is not None or pretrained is not None):
        raise UnsupportedModelError(f"{model} brings its own weights; leave out pretrained and weights")
    if not hub_schema and (weights is None) == (pretrained is None):
        raise UnsupportedModelError(
            "give either weights (a local file) or pretrained (an open_clip tag), not both and not neither"
        )
    if base_weights is not None and weights is None:
        raise UnsupportedModelError("base_weights fills what a local checkpoint lacks; give weights too")
    given = None if tokenizer is None else Path(tokenizer)
    architecture = _architecture(model, given) if model is not None else _local_architecture(model_config, given)
    if weights is not None:
        return _from_files(architecture, weights=Path(weights), base_weights=base_weights)
    assert model is not None
    return _from_hub(architecture, model=model, pretrained=pretrained)


def from_state_dict(
    state: Mapping[str, Tensor],
    *,
    model_config: Mapping[str, Any],
    name: str = "in-memory",
    pretrained: str = "in-memory",
    tokenizer: str | os.PathLike[str] | None = None,
) -> LoadedClip:
    """The backbone of an open_clip model already in memory: its `state_dict()` and the config it was built from.

    Raises:
        UnsupportedModelError: as `load_open_clip`.
    """
    architecture = _made(name, model_config, {}, None if tokenizer is None else Path(tokenizer))
    parts = part_state(state, path=Path(pretrained), vocab_size=architecture.sizes.text.vocab_size)
    return _loaded(architecture, parts, pretrained=pretrained)


@cache
def clip_merges() -> tuple[str, ...]:
    """The merges of CLIP's vocabulary in rank order, `"left right"` each, out of the file that open_clip ships.

    The file is found without importing open_clip, which takes longer than all else that loads a local checkpoint.

    Raises:
        ModuleNotFoundError: open_clip is not installed.
    """
    installed = find_spec("open_clip")
    if installed is None or installed.origin is None:
        raise ModuleNotFoundError(
            explain(
                "open_clip is not installed; it brings CLIP's vocabulary",
                fix='install the video side: pip install "prompttune[extract]"',
            ),
            name="open_clip",
        )
    compressed = Path(installed.origin).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(compressed.read_bytes()).decode("utf-8").split("\n")
    return tuple(lines[1 : N_MERGES + 1])


def _made(
    name: str, model_config: Mapping[str, Any], preprocess: Mapping[str, Any], tokenizer: Path | None
) -> _Architecture:
    """The architecture of a model config, its tokenizer found."""
    sizes, text_cfg = tower_sizes(model_config, name=name), model_config["text_cfg"]
    if isinstance(sizes.text, ForeignText):
        sizes = replace(sizes, text=with_hub_config(sizes.text, text_cfg, model=name))
    lengths = {"context_length": sizes.text.context_length, "vocab_size": sizes.text.vocab_size}
    found = hub_tokenizer(text_cfg, model=name, given=tokenizer, **lengths)
    if found is not None:
        sizes = replace(sizes, text=replace(sizes.text, tokenizer=found.settings))
    own = found or Tokenizer(clip_merges(), context_length=sizes.text.context_length)
    return _Architecture(name, dict(model_config), dict(preprocess), sizes, own)


def _architecture(model: str, tokenizer: Path | None) -> _Architecture:
    """The architecture of an open_clip name, with the preprocessing that all its weights share."""
    try:
        found = door.model_config(model)
    except Exception as error:
        raise not_loaded(f"the config of {model}", error) from error
    if found is None:
        raise unknown_model(model)
    return _made(door.listed(model), found, shared_preprocessing(model), tokenizer)


def _local_architecture(
    source: str | os.PathLike[str] | Mapping[str, Any] | None, tokenizer: Path | None
) -> _Architecture:
    """The architecture of a config file: a model config, or an `open_clip_config.json` with preprocessing."""
    if isinstance(source, Mapping):
        name, values = "in-memory config", dict(source)
    else:
        path = Path(source)  # type: ignore[arg-type]
        if not path.is_file():
            raise FileNotFoundError(explain("there is no such model config", where=path, fix="check the path"))
        try:
            name, values = path.stem, json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise UnsupportedModelError(explain("the model config is not JSON", where=path, got=error)) from error
    preprocess = values.get("preprocess_cfg") or {}
    values = values.get("model_cfg", values)
    return _made(name, values, preprocess, tokenizer)


def _from_files(
    architecture: _Architecture, *, weights: Path, base_weights: str | os.PathLike[str] | None
) -> LoadedClip:
    """A backbone out of one checkpoint, completed from a second one where that is given."""
    vocab_size = architecture.sizes.text.vocab_size
    checkpoint = read_checkpoint(weights, vocab_size=vocab_size)
    filled: tuple[str, ...] = ()
    if base_weights is not None:
        base = read_checkpoint(base_weights, vocab_size=vocab_size)
        checkpoint, filled = _completed(checkpoint, base)
    return _loaded(architecture, checkpoint, pretrained=weights.name, filled=filled)


def _completed(checkpoint: Checkpoint, base: Checkpoint) -> tuple[Checkpoint, tuple[str, ...]]:
    """The checkpoint with what only its base has, and the names of those tensors."""
    filled = [name for name in base.text if name not in checkpoint.text]
    filled += [f"visual.{name}" for name in base.visual if name not in checkpoint.visual]
    scale = checkpoint.logit_scale
    if scale is None and base.logit_scale is not None:
        scale = base.logit_scale
        filled.append("logit_scale")
    completed = Checkpoint(
        path=checkpoint.path,
        text=base.text | checkpoint.text,
        visual=base.visual | checkpoint.visual,
        logit_scale=scale,
        leftovers=checkpoint.leftovers,
        logit_bias=base.logit_bias if checkpoint.logit_bias is None else checkpoint.logit_bias,
        openai_code=checkpoint.openai_code or base.openai_code,
    )
    return completed, tuple(sorted(filled))


def _from_hub(architecture: _Architecture, *, model: str, pretrained: str | None) -> LoadedClip:
    """A backbone out of open_clip's own loading code."""
    if pretrained is not None:
        require_tag(model, pretrained)
        has = architecture.sizes.quick_gelu
        if of_another_model(model, pretrained, quick_gelu=has) is not None:
            raise _wrong_activation(architecture, expected_quick_gelu=not has, source=f"{model}, {pretrained}")
    try:
        clip = door.loaded_model(model, pretrained)
    except Exception as error:
        raise not_loaded(
            f"the weights of {model}, {pretrained or 'its own'}", error, model=model, tag=pretrained
        ) from error
    architecture = replace(architecture, preprocess=door.preprocessing_of(clip))
    tag = pretrained or model.split(":", 1)[0]
    parts = part_state(clip.state_dict(), path=Path(tag), vocab_size=architecture.sizes.text.vocab_size)
    # A multimodal decoder (CoCa) is part of neither feature; that it is left out is no news.
    leftovers = tuple(name for name in parts.leftovers if not name.startswith("text_decoder."))
    loaded = _loaded(architecture, replace(parts, leftovers=leftovers), pretrained=tag)
    require_same_features(loaded.config, loaded.visual_state, clip)
    return loaded


def _wrong_activation(
    architecture: _Architecture, *, expected_quick_gelu: bool, source: object
) -> UnsupportedModelError:
    name = architecture.name.removesuffix("-quickgelu")
    other, flag = (f"{name}-quickgelu", "true") if expected_quick_gelu else (name, "false")
    return UnsupportedModelError(
        explain(
            "these weights were trained with another activation than the model config has",
            where=source,
            expected="quick_gelu" if expected_quick_gelu else "gelu",
            got="quick_gelu" if architecture.sizes.quick_gelu else "gelu",
            fix=f'use the model {other} (in a config file: "quick_gelu": {flag}); '
            "the mismatch runs without an error and lowers every accuracy",
        )
    )


def _loaded(
    architecture: _Architecture, checkpoint: Checkpoint, *, pretrained: str, filled: tuple[str, ...] = ()
) -> LoadedClip:
    """The backbone, once tensors and sizes agree to the last name.

    Raises:
        UnsupportedModelError: otherwise.
    """
    sizes, preprocess = architecture.sizes, architecture.preprocess
    if checkpoint.openai_code and not sizes.quick_gelu:
        raise _wrong_activation(architecture, expected_quick_gelu=True, source=checkpoint.path)
    config = BackboneConfig(
        name=architecture.name,
        pretrained=pretrained,
        embed_dim=sizes.embed_dim,
        vision=sizes.vision,
        text=sizes.text,
        image_mean=tuple(preprocess.get("mean") or OPENAI_MEAN),  # type: ignore[arg-type]
        image_std=tuple(preprocess.get("std") or OPENAI_STD),  # type: ignore[arg-type]
        interpolation=preprocess.get("interpolation") or "bicubic",
        resize_mode=preprocess.get("resize_mode") or "shortest",
        fill_color=int(preprocess.get("fill_color") or 0),
        logit_scale=math.exp(checkpoint.logit_scale) if checkpoint.logit_scale is not None else 1.0,
        logit_bias=checkpoint.logit_bias,
    )
    states = {"text_state": checkpoint.text, "visual_state": visual_state(checkpoint.visual, sizes.vision)}
    with ThreadPoolExecutor(1) as beside:  # every weight is looked at twice, and neither look needs the interpreter
        digest = beside.submit(weights_sha256, **states)
        problems = tower_problems(config, **states)
        if isinstance(sizes.vision, ForeignVision):
            module = built(sizes.vision, name=architecture.name, device="meta")
            problems += [f"vision tower: {problem}" for problem in state_problems(module, states["visual_state"])]
    if checkpoint.logit_scale is None:
        problems.append("missing logit_scale")
    if problems:
        raise UnsupportedModelError(
            explain(
                "this checkpoint is not the model that the config describes",
                where=f"{checkpoint.path}, read as {architecture.name}",
                got="; ".join(problems),
                fix="give the config it was trained with; where it was saved without a frozen part (ViFi-CLIP leaves "
                "out the token embedding), give the CLIP it started from as base_weights",
            )
        )
    return LoadedClip(
        config=replace(config, weights_sha256=digest.result()),
        tokenizer=architecture.tokenizer,
        leftovers=checkpoint.leftovers,
        filled_from_base=filled,
        **states,
    )
