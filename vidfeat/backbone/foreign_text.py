"""A text tower that the transformers library runs: features of whole texts, for zero-shot, adapters and the probe.

Source: mlfoundations/open_clip, src/open_clip/hf_model.py, HFTextEncoder (3.3.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from vidfeat.errors import UnsupportedModelError, explain

from .tower_config import ForeignText

# Blocks that write texts are no part of the feature: one of each is built, which is the least that transformers builds.
_DECODER_BLOCKS = ("decoder_layers", "num_decoder_layers")


class ForeignTextTower(nn.Module):
    """An encoder of transformers with open_clip's pooling and projection; parameters named as in open_clip.

    Raises:
        UnsupportedModelError: transformers is not installed, or builds no such encoder.
    """

    def __init__(self, config: ForeignText, *, embed_dim: int, name: str) -> None:
        super().__init__()
        self.config, self.embed_dim = config, embed_dim
        self.transformer, width = _encoder(config, name)
        self.proj: nn.Module = nn.Identity()
        if config.projection == "linear":
            self.proj = nn.Linear(width, embed_dim, bias=False)
        elif config.projection == "mlp":
            hidden = (width + embed_dim) // 2
            layers = (nn.Linear(width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, embed_dim, bias=False))
            self.proj = nn.Sequential(*layers)
        elif width != embed_dim:
            raise _not_built(config, name, f"no projection from its width {width} to the joint space's {embed_dim}")
        self.pad_id = int(config.model["pad_token_id"])

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and features."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def n_needed(self, token_ids: Tensor) -> Tensor:
        """How many leading tokens of each text [C S] its feature depends on, int64 [C]: padding is hidden from all."""
        places = torch.arange(1, token_ids.shape[1] + 1, device=token_ids.device)
        return ((token_ids != self.pad_id) * places).amax(1)

    def forward(self, token_ids: Tensor) -> Tensor:
        """[C E] features of token ids [C S] int64, not normalised; open_clip's `encode_text`."""
        shown = (token_ids != self.pad_id).long()
        found = self.transformer(input_ids=token_ids, attention_mask=shown)
        rows = found.last_hidden_state
        if self.config.pooler == "mean_pooler":
            pooled = (rows * shown.unsqueeze(-1)).sum(1) / shown.sum(-1, keepdim=True)
        else:
            own = getattr(found, "pooler_output", None) if self.config.pooler == "cls_pooler" else None
            pooled = rows[:, 0] if own is None else own
        features: Tensor = self.proj(pooled)
        return features


def _encoder(config: ForeignText, name: str) -> tuple[nn.Module, int]:
    """transformers' encoder with initial weights, and its width."""
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError as error:
        raise UnsupportedModelError(
            explain(
                f"the text tower of {name} is run by transformers, which is not installed",
                got=error,
                fix='pip install "prompttune[hf-text]"; stored video features need no text tower',
            )
        ) from None
    values = dict(config.model)
    try:
        if values.get("is_encoder_decoder"):
            model = AutoModel.from_config(
                AutoConfig.for_model(**values | {key: 1 for key in _DECODER_BLOCKS if key in values})
            ).encoder
        else:
            given = AutoConfig.for_model(**values)
            model = AutoModel.from_config(given, add_pooling_layer=config.pooler == "cls_pooler")
    except Exception as error:
        # transformers raises ValueError, KeyError, TypeError and its own for what it does not know.
        raise _not_built(config, name, f"{type(error).__name__}: {error}") from error
    return model, int(values.get("hidden_size") or values["d_model"])


def _not_built(config: ForeignText, name: str, got: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        explain(
            f"the installed transformers cannot run the text tower of {name}",
            where=f"installed: transformers {text_versions().get('transformers', 'is not there')}",
            expected=f"what its pack was written with: {', '.join(f'{k} {v}' for k, v in config.versions.items())}",
            got=got,
            fix="install that version",
        )
    )


def text_versions() -> Mapping[str, Any]:
    """Of what runs such a tower; empty where it is not installed."""
    try:
        return {"transformers": version("transformers")}
    except PackageNotFoundError:
        return {}
