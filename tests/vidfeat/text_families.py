"""One open_clip text tower of every family, cut in depth and width, with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vidfeat.backbone import TextTower
from vidfeat.clip.text_config import text_config

WIDTH, HEADS, LAYERS, VOCAB, EMBED_DIM = 48, 4, 3, 600, 40
# CLIP's causal tower; QuickGELU; 32 positions; bidirectional, read at the end of text; the last of 64 positions, other
# norms and activations, a biased projection; without a projection; read at a named token; CoCa's class embedding.
FAMILIES = {
    "clip": "ViT-B-16",
    "quickgelu": "ViT-B-16-quickgelu",
    "pe-core": "PE-Core-B-16",
    "mobileclip": "MobileCLIP2-S2",
    "siglip": "ViT-SO400M-14-SigLIP-384",
    "siglip2": "ViT-B-16-SigLIP2",
    "siglip-i18n": "ViT-SO400M-16-SigLIP-i18n-256",
    "clipa": "ViT-L-14-CLIPA",
    "worldwide": "ViT-H-14-worldwide",
    "coca": "coca_ViT-B-32",
}


def model_config(family: str) -> dict[str, Any]:
    """open_clip's config of a family's model, its text tower cut; the tokenizer is left to other tests."""
    import open_clip

    config = open_clip.get_model_config(FAMILIES[family])
    text = {key: value for key, value in config["text_cfg"].items() if not key.startswith(("hf_", "tokenizer"))}
    sizes = {"width": WIDTH, "heads": HEADS, "layers": LAYERS, "vocab_size": VOCAB}
    no_projection = text.get("proj_type") == "none"
    return config | {"text_cfg": text | sizes, "embed_dim": WIDTH if no_projection else EMBED_DIM}


@dataclass(frozen=True)
class Family:
    """Both towers with the same weights.

    Attributes:
        theirs: open_clip's TextTransformer.
        ours: the same through our config and state.
    """

    theirs: nn.Module
    ours: TextTower

    def texts(self, n: int = 20, *, seed: int = 0, full: bool = False) -> Tensor:
        """[n context_length] made-up texts: start, words, end of text (highest id), padding 0; `full` has none."""
        config, generator = self.ours.config, torch.Generator().manual_seed(seed)
        ids = torch.zeros(n, config.context_length, dtype=torch.int64)
        for row in range(n):
            length = config.context_length if full else 3 + row % (config.context_length - 3)
            ids[row, :length] = torch.randint(3, VOCAB - 2, (length,), generator=generator)
            ids[row, 0] = VOCAB - 2
            ids[row, length - 1] = VOCAB - 1 if config.eos_id is None else config.eos_id
        return ids


def family(name: str, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Family:
    """A family's towers; weights make attention far from uniform."""
    from open_clip import CustomTextCLIP

    config = model_config(name)
    torch.manual_seed(seed)
    vision = {"image_size": 8, "patch_size": 8, "width": 16, "head_width": 16, "layers": 1}
    options = {"vision_cfg": vision, "text_cfg": config["text_cfg"], "quick_gelu": bool(config.get("quick_gelu"))}
    theirs = CustomTextCLIP(config["embed_dim"], **options).text.to(dtype).eval().requires_grad_(False)
    _shake(theirs)
    ours = TextTower(text_config(config), embed_dim=config["embed_dim"]).to(dtype)
    ours.load_state_dict(_without_mask(theirs.state_dict()))
    return Family(theirs, ours.eval().requires_grad_(False))


def _without_mask(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name != "attn_mask"}


def _shake(model: nn.Module) -> None:
    for name, value in model.named_parameters():
        if name.endswith("in_proj_weight"):
            value.normal_(std=2.0 * WIDTH**-0.5)
        elif value.dim() == 2:
            value.normal_(std=value.shape[1] ** -0.5)
        elif name.endswith("bias"):
            value.normal_(std=0.3)
        elif "ln_" in name:
            value.normal_(mean=1.0, std=0.2)
        else:
            value.normal_(std=0.5)
