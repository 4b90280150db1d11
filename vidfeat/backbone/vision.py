"""The frozen image tower: pixels to tokens at any block, and from tokens at any block to features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import BlockOptions, Transformer
from .layers import Conv2d, LayerNorm
from .pooling import AttentionPoolHead
from .rotary import RotaryTable, rotary_table
from .tower_config import VisionConfig


@dataclass(frozen=True)
class VisionTaps:
    """What one pass over a batch of frames yields.

    Attributes:
        pooled: [N E] projected features, not normalised.
        tokens: {L: [N S D]} tokens entering block L; L = 0 is after `ln_pre`, L = number of blocks is after the last.
    """

    pooled: Tensor
    tokens: dict[int, Tensor]


class Stem(nn.Sequential):
    """[N 3 H W] -> [N D H/16 W/16]: three convolutions with GELU in between, as MobileCLIP-B's.

    The norms between them are folded into the convolutions when a model is loaded.

    Source: timm, models/vision_transformer_hybrid.py, ConvStem of vit_base_mci_224.
    """

    KERNELS = (4, 2, 2)

    def __init__(self, width: int) -> None:
        sizes = (3, width // 4, width // 4, width)
        super().__init__(
            *(Conv2d(sizes[i], sizes[i + 1], kernel, stride=kernel) for i, kernel in enumerate(self.KERNELS))
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """[N 3 H W] -> [N D H/16 W/16]."""
        first, second, third = self
        found: Tensor = third(F.gelu(second(F.gelu(first(pixels)))))
        return found


class VisionTower(nn.Module):
    """A ViT with open_clip's parameter names; frozen weights, differentiable in its activations.

    Prompt rows may follow the S tokens: blocks treat them as rows without a position, and the head does not read them
    (docs/decisions/0004-heads-and-prompt-rows.md).

    Sources: mlfoundations/open_clip, src/open_clip/transformer.py, VisionTransformer (3.3.0); timm,
    models/vision_transformer.py and models/eva.py, for what `VisionConfig` has beyond CLIP's.
    """

    def __init__(self, config: VisionConfig, *, embed_dim: int) -> None:
        super().__init__()
        self.config = config
        self.embed_dim = embed_dim
        width, patch, eps = config.width, config.patch_size, config.norm_eps
        if config.class_token:
            self.class_embedding = nn.Parameter(torch.empty(width))
        n_positions = config.n_tokens - int(config.class_token and not config.class_position)
        self.positional_embedding = nn.Parameter(torch.empty(n_positions, width))
        if config.stem == "conv":
            self.conv1 = Conv2d(3, width, kernel_size=patch, stride=patch, bias=config.stem_bias)
        else:
            self.stem = Stem(width)
        self.ln_pre = LayerNorm(width, eps=eps) if config.pre_norm else nn.Identity()
        self.transformer = Transformer(
            layers=config.layers,
            width=width,
            heads=config.heads,
            mlp_width=config.mlp_width,
            activation=config.activation,
            options=BlockOptions(eps, config.norm_order, config.gated_mlp, config.mlp_norm, config.attention_norm),
        )
        self.attn_pool: AttentionPoolHead | None = None
        if config.attention_pool is not None:
            self.attn_pool = AttentionPoolHead(
                config.attention_pool, token_width=width, activation=config.activation, norm_eps=eps
            )
        self.ln_post = LayerNorm(config.pooled_width if config.norm_after_pool else width, eps=eps)
        self.proj = nn.Parameter(torch.empty(config.pooled_width, embed_dim)) if config.projection else None
        self.proj_bias = nn.Parameter(torch.empty(embed_dim)) if config.projection == "linear" else None
        self._rotary: RotaryTable | None = None

    @property
    def blocks(self) -> nn.ModuleList:
        """The residual blocks in order (each a ResidualBlock)."""
        return self.transformer.resblocks

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.config.layers

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return self.positional_embedding.dtype

    @property
    def rotary(self) -> RotaryTable | None:
        """The angles of the S tokens, on the tower's device; None for towers without rotary positions."""
        config, device = self.config, self.positional_embedding.device
        if config.rotary is None:
            return None
        if self._rotary is None or self._rotary.cos.device != device:
            # Kept from the first call on, which may be one without gradients: not as a tensor that only serves those.
            with torch.inference_mode(False):
                table = rotary_table(
                    config.rotary,
                    grid=config.grid,
                    head_width=config.width // config.heads,
                    n_prefix=int(config.class_token),
                )
                self._rotary = table.to(device)
        return self._rotary

    def embed(self, pixels: Tensor) -> Tensor:
        """[N S D]: patches through the convolution, class token in front, positions added; before `ln_pre`.

        Args:
            pixels: [N 3 H W] float, already normalised, H and W those of `config.image_hw`.

        Raises:
            ValueError: pixels of another shape or of an integer dtype.
        """
        config = self.config
        height, width = config.image_hw
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, height, width) or not pixels.is_floating_point():
            raise ValueError(
                f"pixels must be normalised floats [N 3 {height} {width}], got {pixels.dtype} {list(pixels.shape)}"
            )
        patches = (self.conv1 if config.stem == "conv" else self.stem)(pixels).flatten(2).transpose(1, 2)
        positions = self.positional_embedding.to(patches.dtype)
        if not config.class_token:
            return patches + positions
        class_rows = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        if not config.class_position:
            return torch.cat([class_rows, patches + positions], dim=1)
        return torch.cat([class_rows, patches], dim=1) + positions

    def run_blocks(self, tokens: Tensor, start: int, stop: int) -> Tensor:
        """Tokens entering block `stop` from tokens entering block `start`; blocks [start, stop), [N S D] -> [N S D]."""
        if not 0 <= start <= stop <= self.n_layers:
            raise ValueError(f"blocks [{start}, {stop}) are not within [0, {self.n_layers})")
        for block in self.blocks[start:stop]:
            tokens = block(tokens, rotary=self.rotary)
        return tokens

    def pool(self, tokens: Tensor) -> Tensor:
        """[... E] features, not normalised, from tokens [... S D] after the last block; rows behind S are not read.

        A tower that is read at its class token alone takes [... 1 D] as well.
        """
        config = self.config
        rows = tokens[..., 0, :] if config.pool == "class" else tokens[..., : config.n_tokens, :]
        if not config.norm_after_pool:
            rows = self.ln_post(rows)
        if self.attn_pool is not None:
            rows = self.attn_pool(rows)
        elif config.pool == "mean":
            rows = rows[..., int(config.class_token) :, :].mean(dim=-2)
        if config.norm_after_pool:
            rows = self.ln_post(rows)
        if self.proj is None:
            return rows
        projected = rows @ self.proj
        return projected if self.proj_bias is None else projected + self.proj_bias

    def resume(self, tokens: Tensor, *, layer: int) -> Tensor:
        """[N E] features, not normalised, of tokens that enter block `layer`.

        Runs blocks [layer, end), the last one for the rows alone that the head reads.

        Args:
            tokens: [N S D] as `taps` gives them; more rows than S (prompts) are let through.
            layer: number of blocks already applied, in [0, n_layers]; n_layers means only pooling is left.
        """
        self._check_layer(layer)
        if layer < self.n_layers:
            tokens = self.run_blocks(tokens, layer, self.n_layers - 1)
            tokens = self.blocks[-1](tokens, n_query=self.config.n_read, rotary=self.rotary)
        return self.pool(tokens)

    def taps(self, pixels: Tensor, layers: Sequence[int] = ()) -> VisionTaps:
        """Pooled features and the tokens entering each block of `layers`, in one pass.

        Args:
            pixels: [N 3 H W] float, normalised.
            layers: block indices in [0, n_layers]; may be empty.
        """
        for layer in layers:
            self._check_layer(layer)
        wanted = sorted(set(layers))
        tokens = self.ln_pre(self.embed(pixels))
        at = 0
        kept: dict[int, Tensor] = {}
        for layer in wanted:
            tokens = self.run_blocks(tokens, at, layer)
            at = layer
            kept[layer] = tokens
        return VisionTaps(pooled=self.resume(tokens, layer=at), tokens=kept)

    def forward(self, pixels: Tensor) -> Tensor:
        """[N E] features of pixels [N 3 H W], not normalised; open_clip's `encode_image`."""
        return self.taps(pixels).pooled

    def _check_layer(self, layer: int) -> None:
        if not 0 <= layer <= self.n_layers:
            raise ValueError(f"layer {layer} is not in [0, {self.n_layers}], the blocks of this tower")
