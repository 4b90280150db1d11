"""An image tower's tensors, as open_clip names them, under the names and in the form of `vidfeat.backbone`.

Most names are open_clip's already. timm's are translated; and what can be said with fewer parts is: three projections
become one, a bias that a model lacks becomes zeros, layer scale and the norms between a stem's convolutions are
multiplied into the weights beside them, a linear head becomes a matrix and a bias.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from vidfeat.backbone import ForeignVision, VisionConfig

# timm's names and ours, for whole tensors that stay as they are; `\1` is the block's number.
_TIMM_NAMES = (
    (r"trunk\.patch_embed\.proj\.(.*)", r"conv1.\1"),
    (r"trunk\.norm_pre\.(.*)", r"ln_pre.\1"),
    (r"trunk\.(?:fc_)?norm\.(.*)", r"ln_post.\1"),
    (r"trunk\.blocks\.(\d+)\.norm([12])\.(.*)", r"transformer.resblocks.\1.ln_\2.\3"),
    (r"trunk\.blocks\.(\d+)\.attn\.qkv\.(.*)", r"transformer.resblocks.\1.attn.in_proj_\2"),
    (r"trunk\.blocks\.(\d+)\.attn\.norm\.(.*)", r"transformer.resblocks.\1.attn.ln_inner.\2"),
    (r"trunk\.blocks\.(\d+)\.attn\.proj\.(.*)", r"transformer.resblocks.\1.attn.out_proj.\2"),
    (r"trunk\.blocks\.(\d+)\.attn\.(.*)", r"transformer.resblocks.\1.attn.\2"),
    (r"trunk\.blocks\.(\d+)\.mlp\.fc1_g\.(.*)", r"transformer.resblocks.\1.mlp.c_gate.\2"),
    (r"trunk\.blocks\.(\d+)\.mlp\.fc1(?:_x)?\.(.*)", r"transformer.resblocks.\1.mlp.c_fc.\2"),
    (r"trunk\.blocks\.(\d+)\.mlp\.fc2\.(.*)", r"transformer.resblocks.\1.mlp.c_proj.\2"),
    (r"trunk\.blocks\.(\d+)\.mlp\.norm\.(.*)", r"transformer.resblocks.\1.mlp.ln.\2"),
    (r"trunk\.blocks\.(\d+)\.(?:ls|gamma_)([12])(?:\.gamma)?", r"transformer.resblocks.\1.ls_\2.gamma"),
    (r"trunk\.attn_pool\.q\.(.*)", r"attn_pool.q_proj.\1"),
    (r"trunk\.attn_pool\.proj\.(.*)", r"attn_pool.out_proj.\1"),
    (r"trunk\.attn_pool\.norm\.(.*)", r"attn_pool.ln_mlp.\1"),
    (r"trunk\.attn_pool\.mlp\.fc1\.(.*)", r"attn_pool.mlp.c_fc.\1"),
    (r"trunk\.attn_pool\.mlp\.fc2\.(.*)", r"attn_pool.mlp.c_proj.\1"),
)
_BLOCK = re.compile(r"transformer\.resblocks\.\d+\.")


def visual_state(state: Mapping[str, Tensor], vision: VisionConfig | ForeignVision) -> dict[str, Tensor]:
    """The state of the tower that `vision` describes; what does not belong to it is left as it is, to be reported.

    Args:
        state: tensors of open_clip's image tower, `visual.` taken off.
        vision: what its config was read into.
    """
    if isinstance(vision, ForeignVision):
        # A counter of training steps, in batch norms.
        return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    found = dict(state)
    if any(name.startswith("trunk.") for name in found):
        found = _without_timm(found)
    for block in {match.group() for name in found if (match := _BLOCK.match(name))}:
        _plain_attention(found, f"{block}attn.")
        _scale(found, f"{block}ls_1.gamma", f"{block}attn.out_proj")
        _scale(found, f"{block}ls_2.gamma", f"{block}mlp.c_proj")
    if vision.attention_pool is not None:
        _plain_pool(found)
    return {name: value.contiguous() for name, value in found.items()}


def _without_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's tensors under our names, parts of one not yet put together."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if name == "trunk.cls_token":
            found["class_embedding"] = value.flatten()
        elif name == "trunk.pos_embed":
            found["positional_embedding"] = value.squeeze(0)
        elif name in ("trunk.head.weight", "head.proj.weight"):
            found["proj"] = value.T
        elif name in ("trunk.head.bias", "head.proj.bias"):
            found["proj_bias"] = value
        elif name == "trunk.attn_pool.latent":
            found["attn_pool.query"] = value.flatten()
        elif name.startswith("trunk.attn_pool.kv."):
            kind = name.rpartition(".")[2]
            found[f"attn_pool.k_proj.{kind}"], found[f"attn_pool.v_proj.{kind}"] = value.chunk(2)
        elif not name.startswith("trunk.patch_embed.backbone."):
            found[_timm_name(name)] = value
    return found | _stem(state)


def _timm_name(name: str) -> str:
    for pattern, ours in _TIMM_NAMES:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, ours, name)
    return name


def _stem(state: Mapping[str, Tensor], *, eps: float = 1e-5) -> dict[str, Tensor]:
    """A stem's convolutions with the batch norms behind them multiplied in; nothing for towers without such a stem."""
    found: dict[str, Tensor] = {}
    prefix = "trunk.patch_embed.backbone."
    for layer in {name.split(".")[3] for name in state if name.startswith(prefix)}:
        weight = state[f"{prefix}{layer}.conv.weight"]
        bias = state.get(f"{prefix}{layer}.conv.bias", torch.zeros(len(weight), dtype=weight.dtype))
        if f"{prefix}{layer}.bn.running_var" in state:
            mean, var, scale, shift = (
                state[f"{prefix}{layer}.bn.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
            )
            factor = scale / (var + eps).sqrt()
            weight, bias = weight * factor[:, None, None, None], (bias - mean) * factor + shift
        found[f"stem.{layer}.weight"], found[f"stem.{layer}.bias"] = weight, bias
    return found


def _plain_attention(state: dict[str, Tensor], prefix: str) -> None:
    """One projection with a bias, whatever the attention came in."""
    parts = [f"{prefix}{name}_proj" for name in "qkv"]
    if all(f"{part}.weight" in state for part in parts):
        weights = [state.pop(f"{part}.weight") for part in parts]
        state[f"{prefix}in_proj_weight"] = torch.cat(weights)
        zeros = [weight.new_zeros(len(weight)) for weight in weights]
        biases = [state.pop(f"{part}.bias", zero) for part, zero in zip(parts, zeros, strict=True)]
        state[f"{prefix}in_proj_bias"] = torch.cat(biases)
    elif f"{prefix}q_bias" in state and f"{prefix}v_bias" in state:
        query, value = state.pop(f"{prefix}q_bias"), state.pop(f"{prefix}v_bias")
        state[f"{prefix}in_proj_bias"] = torch.cat([query, torch.zeros_like(query), value])
    elif f"{prefix}in_proj_weight" in state and f"{prefix}in_proj_bias" not in state:
        weight = state[f"{prefix}in_proj_weight"]
        state[f"{prefix}in_proj_bias"] = weight.new_zeros(len(weight))


def _scale(state: dict[str, Tensor], factors: str, linear: str) -> None:
    """Layer scale multiplied into the projection in front of it."""
    if factors not in state or f"{linear}.weight" not in state:
        return
    gamma = state.pop(factors)
    state[f"{linear}.weight"] = state[f"{linear}.weight"] * gamma[:, None]
    state[f"{linear}.bias"] = state[f"{linear}.bias"] * gamma


def _plain_pool(state: dict[str, Tensor]) -> None:
    """CoCa's pool: the first of its queries, which alone is read, and nn.MultiheadAttention's projections by name."""
    query = state.get("attn_pool.query")
    if query is not None and query.ndim == 2:
        state["attn_pool.query"] = query[0]
    prefix = "attn_pool.attn."
    for kind in ("weight", "bias"):
        if f"{prefix}in_proj_{kind}" in state:
            for name, part in zip("qkv", state.pop(f"{prefix}in_proj_{kind}").chunk(3), strict=True):
                state[f"attn_pool.{name}_proj.{kind}"] = part
        if f"{prefix}out_proj.{kind}" in state:
            state[f"attn_pool.out_proj.{kind}"] = state.pop(f"{prefix}out_proj.{kind}")
    for name in "qkv":
        if f"{prefix}{name}_proj_weight" in state:
            state[f"attn_pool.{name}_proj.weight"] = state.pop(f"{prefix}{name}_proj_weight")
