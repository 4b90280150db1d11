"""What is known of weights before they are there, and what to do where they cannot be fetched."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from vidfeat.clip import door
from vidfeat.errors import UnsupportedModelError, explain

PREPROCESSING = ("mean", "std", "interpolation", "resize_mode", "fill_color")
# What open_clip looks for in a repository on the hub, where its list names none.
WEIGHTS_FILE = "open_clip_model.safetensors"


def unknown_model(model: str) -> UnsupportedModelError:
    """The error for a name that open_clip does not have, with the nearest it has."""
    known = door.model_names()
    by_lower = {name.lower(): name for name in known}
    near = [by_lower[name] for name in get_close_matches(model.lower(), by_lower, n=3)]
    return UnsupportedModelError(
        explain(
            f"open_clip {door.versions().get('open_clip', '')} has no such model",
            where=model,
            expected=f"one of {len(known)} names, see `vidfeat models`",
            fix=f"nearest names: {', '.join(near)}" if near else "`vidfeat models` lists all names",
        )
    )


def require_tag(model: str, tag: str) -> dict[str, Any]:
    """What open_clip knows of that tag's weights.

    Raises:
        UnsupportedModelError: there is no such tag for that model.
    """
    if facts := door.tag_facts(model, tag):
        return facts
    known = door.weights_tags(model)
    raise UnsupportedModelError(
        explain(
            f"open_clip has no weights {tag!r} for {model}",
            expected=f"one of {', '.join(known)}" if known else "a weights file: it has none for this model",
            fix="give another tag, or a local file, as --pretrained",
        )
    )


def of_another_model(model: str, tag: str, *, quick_gelu: bool) -> str | None:
    """The model to take for weights that were trained with another activation than this model has; None where it fits.

    Weights that stand under no model of the activation that their entry states have the model's own: open_clip's entry
    of roberta-ViT-B-32's only weights does not mention the QuickGELU that their model was trained with.

    Args:
        quick_gelu: the activation of the model's config.
    """
    trained_with = bool(door.tag_facts(model, tag).get("quick_gelu"))
    plain = model.removesuffix("-quickgelu")
    other = f"{plain}-quickgelu" if trained_with else plain
    return other if trained_with != quick_gelu and other != model and tag in door.weights_tags(other) else None


def shared_preprocessing(model: str) -> dict[str, Any]:
    """The preprocessing that all of open_clip's weights for a model share; empty where they differ, or there are none.

    It is what a local file of weights is taken to want, which says nothing of its own.
    """
    if ":" in model:
        return {}
    found = [door.tag_facts(model, tag) for tag in door.weights_tags(model)]
    kinds = [{key: facts[key] for key in PREPROCESSING if facts.get(key) is not None} for facts in found]
    return kinds[0] if kinds and all(kind == kinds[0] for kind in kinds) else {}


def not_loaded(
    what: str, error: Exception, *, model: str | None = None, tag: str | None = None
) -> UnsupportedModelError:
    """The error for a config or weights that could not be fetched, with the file to bring where there is no network."""
    first_line = str(error).splitlines()[0][:200] if str(error) else ""
    source = str(door.tag_facts(model, tag).get("hf_hub") or "") if model and tag else ""
    fix = "check the network, or fill the hub's cache on a machine that has one"
    if source and model:
        repository, _, file = source.rpartition("/")
        fix = (
            f"with a network, run this command again. Without one, bring the file {file or WEIGHTS_FILE} of the hub's "
            f"{repository} here and give it: --model {model} --pretrained FILE"
        )
    return UnsupportedModelError(
        explain(
            f"open_clip could not load {what}",
            where=f"the hub's cache, {cache()}",
            got=f"{type(error).__name__}: {first_line}",
            fix=fix,
        )
    )


def hub_file(repository: str, name: str) -> Path:
    """A file of a repository on the hub: out of the cache where it is there, downloaded otherwise.

    Raises:
        Exception: whatever the hub raises where it is neither.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(repository, name)
    return Path(cached if isinstance(cached, str) else hf_hub_download(repository, name))


def cache(repository: str = "") -> str:
    """Where the hub's files are kept on this machine, in words; those of one repository where it is named."""
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return "for which huggingface_hub is not installed"
    return str(Path(HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" if repository else HF_HUB_CACHE)
