"""An image tower of timm's read off its modules: the VisionConfig that reruns it, or the part that we do not have.

open_clip names such towers; what they are made of is known to timm alone. So the tower is built without memory (on the
meta device) and looked through, part by part: every part must be of a class whose computation is known here, in a
setting we have. Tensors are checked when they are renamed (`visual_state`), values when the model is loaded.

Source: timm, models/vision_transformer.py, models/eva.py, layers (1.0).
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from vidfeat.backbone import VisionConfig
from vidfeat.backbone.tower_config import Activation, AttentionPool, Rotary


class NotRerun(Exception):
    """A part that is not rerun here; says which."""


def timm_vision(visual: nn.Module) -> VisionConfig:
    """The config of open_clip's image tower around a timm model.

    Raises:
        NotRerun: the first part that we do not have.
    """
    trunk, head = _of(visual, "trunk"), _of(visual, "head")
    if not _is(trunk, "VisionTransformer", "Eva"):
        raise NotRerun(f"the stages and blocks of timm's {type(trunk).__name__}, not those of a plain ViT")
    blocks = list(trunk.blocks)
    first = blocks[0]
    pool = _pool(trunk)
    stem = _stem(trunk)
    norms = {float(one.eps) for one in trunk.modules() if isinstance(one, nn.LayerNorm)}
    if len(norms) != 1:
        raise NotRerun(f"norms of {len(norms)} different epsilons")
    if len({_signature(block) for block in blocks}) != 1:
        raise NotRerun("blocks that differ from one another")
    _check_rest(trunk, head)
    size = tuple(trunk.patch_embed.img_size)
    return VisionConfig(
        image_size=size[0] if size[0] == size[1] else size,
        width=trunk.embed_dim,
        layers=len(blocks),
        heads=first.attn.num_heads,
        class_token=trunk.cls_token is not None,
        class_position=not trunk.no_embed_class,
        pre_norm=isinstance(trunk.norm_pre, nn.LayerNorm),
        rotary=_rotary(trunk),
        norm_eps=norms.pop(),
        attention_norm=isinstance(getattr(first.attn, "norm", None), nn.LayerNorm),
        norm_order="post" if _is(first, "EvaBlockPostNorm") else "pre",
        **stem,
        **_mlp(trunk),
        **pool,
        projection=_projection(trunk, head),
    )


def _is(module: object, *names: str) -> bool:
    """Whether a module is of exactly one of timm's (or torch's) classes of these names."""
    kind = type(module)
    return kind.__name__ in names and kind.__module__.split(".")[0] in ("timm", "torch")


def _of(module: nn.Module, name: str) -> Any:
    if (found := getattr(module, name, None)) is None:
        raise NotRerun(f"an image tower without {name}")
    return found


def _is_nothing(module: object) -> bool:
    return module is None or isinstance(module, (nn.Identity, nn.Dropout))


def _stem(trunk: Any) -> dict[str, Any]:
    """Fields of the patch embedding."""
    embed = trunk.patch_embed
    if _is(embed, "PatchEmbed") and _is_nothing(embed.norm):
        if len(set(embed.patch_size)) != 1:
            raise NotRerun(f"patches that are not square {tuple(embed.patch_size)}")
        return {"patch_size": embed.patch_size[0], "stem_bias": embed.proj.bias is not None}
    backbone: Any = getattr(embed, "backbone", None)
    if _is(embed, "HybridEmbed") and _is_nothing(embed.proj) and _is(backbone, "ConvStem"):
        convs = [(layer.conv.kernel_size, layer.conv.stride) for layer in backbone]
        acts = [type(layer.bn.act).__name__ for layer in backbone if hasattr(layer, "bn") and hasattr(layer.bn, "act")]
        if convs == [((size, size), (size, size)) for size in (4, 2, 2)] and acts[:2] == ["GELU", "GELU"]:
            return {"patch_size": 16, "stem": "conv3"}
    raise NotRerun(f"a convolutional stem ({type(backbone or embed).__name__} of timm's)")


def _mlp(trunk: Any) -> dict[str, Any]:
    """Fields of the blocks' MLP."""
    mlp = trunk.blocks[0].mlp
    gated = _is(mlp, "SwiGLU")
    if not gated and not _is(mlp, "Mlp"):
        raise NotRerun(f"blocks with timm's {type(mlp).__name__}")
    hidden = mlp.fc2.in_features
    ratio = hidden / trunk.embed_dim
    if int(trunk.embed_dim * ratio) != hidden:
        ratio = (hidden + 0.5) / trunk.embed_dim
    return {
        "mlp_ratio": ratio,
        "activation": _activation(mlp.act),
        "gated_mlp": gated,
        "mlp_norm": isinstance(mlp.norm, nn.LayerNorm),
    }


def _activation(module: Any) -> Activation:
    if _is(module, "SiLU"):
        return "silu"
    if _is(module, "GELU") and getattr(module, "approximate", "none") == "none":
        return "gelu"
    if _is(module, "GELUTanh") or (_is(module, "GELU") and module.approximate == "tanh"):
        return "gelu_tanh"
    raise NotRerun(f"the activation {type(module).__name__}")


def _pool(trunk: Any) -> dict[str, Any]:
    """Fields of how the tokens become one vector, the final norm's place among them."""
    before, after = (isinstance(norm, nn.LayerNorm) for norm in (trunk.norm, trunk.fc_norm))
    if before == after:
        raise NotRerun("no final norm" if not before else "two final norms")
    if trunk.global_pool == "map":
        pool = trunk.attn_pool
        parts = (pool.q_norm, pool.k_norm, pool.pos_embed)
        plain = _is(pool, "AttentionPoolLatent") and pool.latent_len == 1 and all(map(_is_nothing, parts))
        reads_class = trunk.cls_token is not None and not getattr(trunk, "pool_include_prefix", True)
        if not plain or after or reads_class or pool.mlp is None or not isinstance(pool.norm, nn.LayerNorm):
            raise NotRerun("an attention pool of another make than SigLIP's and Perception Encoder's")
        if _activation(pool.mlp.act) != _activation(trunk.blocks[0].mlp.act):
            raise NotRerun("an attention pool with another activation than the blocks")
        config = AttentionPool(pool.num_heads, pool.latent_dim, pool.mlp.fc1.out_features)
        return {"pool": "attention", "attention_pool": config}
    if trunk.attn_pool is not None or trunk.global_pool not in ("token", "avg"):
        raise NotRerun(f"pooling {trunk.global_pool!r}")
    if trunk.global_pool == "avg" and getattr(trunk, "pool_include_prefix", False):
        raise NotRerun("a mean over class token and patches")
    return {"pool": "class" if trunk.global_pool == "token" else "mean", "norm_after_pool": after}


def _rotary(trunk: Any) -> Rotary | None:
    rope = getattr(trunk, "rope", None)
    if rope is None:
        return None
    known = _is(rope, "RotaryEmbeddingCat") and rope.grid_type == "index" and not rope.rotate_half
    if not known or trunk.rope_mixed or trunk.num_prefix_tokens != int(trunk.cls_token is not None):
        raise NotRerun(f"rotary positions of another make ({type(rope).__name__})")
    rows, columns = rope.ref_feat_shape or trunk.patch_embed.grid_size
    return Rotary((int(rows), int(columns)), float(rope.grid_offset), rope.grid_indexing, float(rope.temperature))


def _projection(trunk: Any, head: Any) -> Literal["matrix", "linear"] | None:
    """How features come from the pooled vector: timm's classifier, or open_clip's projection behind it."""
    layers = [layer for layer in (trunk.head, *head) if not _is_nothing(layer)]
    if not layers:
        return None
    if len(layers) > 1 or not _is(layers[0], "Linear"):
        raise NotRerun(f"a projection of {', '.join(type(layer).__name__ for layer in layers)}")
    return "linear" if layers[0].bias is not None else "matrix"


def _signature(block: Any) -> tuple[Any, ...]:
    """What must be the same in all blocks."""
    attn, mlp = block.attn, block.mlp
    known = _is(block, "Block", "EvaBlock", "EvaBlockPostNorm") and _is(
        attn, "Attention", "EvaAttention", "AttentionRope"
    )
    if not known:
        raise NotRerun(f"blocks of timm's {type(block).__name__} with {type(attn).__name__}")
    if not (_is_nothing(attn.q_norm) and _is_nothing(attn.k_norm) and getattr(attn, "gate", None) is None):
        raise NotRerun("blocks that norm or gate queries and keys")
    if getattr(attn, "num_kv_heads", attn.num_heads) != attn.num_heads:
        raise NotRerun("blocks with fewer keys than queries")
    scaled = [name for name in ("ls1", "gamma_1") if not _is_nothing(getattr(block, name, None))]
    if scaled and _is(block, "EvaBlockPostNorm"):
        raise NotRerun("layer scale behind a norm")
    parts = (type(block), type(attn), type(mlp), type(mlp.act), type(getattr(attn, "norm", None)), type(mlp.norm))
    return (*parts, attn.num_heads, attn.head_dim, mlp.fc2.in_features, bool(scaled))


def _check_rest(trunk: Any, head: Any) -> None:
    if trunk.pos_embed is None:
        raise NotRerun("no learned positions")
    if trunk.reg_token is not None:
        raise NotRerun("register tokens")
    if not _is_nothing(getattr(trunk, "patch_drop", None)) and not _is(trunk.patch_drop, "PatchDropout"):
        raise NotRerun("patches that are left out")
    if trunk.dynamic_img_size:
        raise NotRerun("pictures of any size")
    if trunk.blocks[0].attn.num_heads * trunk.blocks[0].attn.head_dim != trunk.embed_dim:
        raise NotRerun("heads whose width is not the tower's, divided by their number")
