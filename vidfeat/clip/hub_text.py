"""transformers' own config of a text tower that open_clip takes from the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vidfeat.backbone import ForeignText
from vidfeat.clip.hub import cache
from vidfeat.errors import UnsupportedModelError, explain

# Not of the computation: how it was written, names of other tasks' classes.
_LEFT_OUT = ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype", "id2label", "label2id")


def with_hub_config(text: ForeignText, text_cfg: Mapping[str, Any], *, model: str) -> ForeignText:
    """The text tower with transformers' config of it, from the hub's cache or the hub.

    Raises:
        UnsupportedModelError: transformers is not installed, or the config is not there.
    """
    name = text_cfg["hf_model_name"]
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise UnsupportedModelError(
            explain(
                f"the text tower of {model} is run by transformers, which is not installed",
                where=name,
                got=error,
                fix='pip install "prompttune[hf-text]"',
            )
        ) from None
    try:
        found = AutoConfig.from_pretrained(name).to_dict()
    except Exception as error:
        # transformers turns whatever the hub's client raises into OSError, or lets it through.
        first_line = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
        raise UnsupportedModelError(
            explain(
                f"the config of {model}'s text tower is neither in the hub's cache nor could it be fetched",
                where=cache(name),
                expected=f"config.json of the hub's {name}",
                got=f"{type(error).__name__}: {first_line}",
                fix=f"run this command once with a network, or copy the folder models--{name.replace('/', '--')} of "
                f"another machine's hub cache into {cache()}",
            )
        ) from error
    values = {key: value for key, value in found.items() if key not in _LEFT_OUT}
    return replace(text, vocab_size=int(found["vocab_size"]), model=json.loads(json.dumps(values)))
