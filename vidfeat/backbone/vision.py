"""The frozen image tower: pixels to tokens at any block, and from tokens at any block to features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .blocks import Transformer
from .config import VisionConfig
from .layers import Conv2d, LayerNorm


@dataclass(frozen=True)
class VisionTaps:
    """What one pass over a batch of frames yields.

    Attributes:
        pooled: [N E] projected features of the class token, not normalised.
        tokens: {L: [N S D]} tokens entering block L; L = 0 is after `ln_pre`, L = number of blocks is after the last.
    """

    pooled: Tensor
    tokens: dict[int, Tensor]


class VisionTower(nn.Module):
    """CLIP's plain ViT with open_clip's parameter names; frozen weights, differentiable in its activations.

    Source: mlfoundations/open_clip, src/open_clip/transformer.py, VisionTransformer (3.3.0).
    """

    def __init__(self, config: VisionConfig, *, embed_dim: int) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch_size
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(config.n_tokens, width))
        self.proj = nn.Parameter(torch.empty(width, embed_dim))
        self.conv1 = Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(
            layers=config.layers,
            width=width,
            heads=config.heads,
            mlp_width=config.mlp_width,
            activation=config.activation,
        )
        self.ln_post = LayerNorm(width)

    @property
    def blocks(self) -> nn.ModuleList:
        """The residual blocks in order (each a ResidualBlock)."""
        return self.transformer.resblocks

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.config.layers

    @property
    def embed_dim(self) -> int:
        """E, the width of the joint space."""
        return self.proj.shape[1]

    def embed(self, pixels: Tensor) -> Tensor:
        """[N S D]: patches through the convolution, class token in front, positions added; before `ln_pre`.

        Args:
            pixels: [N 3 H W] float, already normalised, H = W = `config.image_size`.

        Raises:
            ValueError: pixels of another shape or of an integer dtype.
        """
        size = self.config.image_size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, size, size) or not pixels.is_floating_point():
            raise ValueError(
                f"pixels must be normalised floats [N 3 {size} {size}], got {pixels.dtype} {list(pixels.shape)}"
            )
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        class_rows = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        return torch.cat([class_rows, patches], dim=1) + self.positional_embedding.to(patches.dtype)

    def run_blocks(self, tokens: Tensor, start: int, stop: int) -> Tensor:
        """Tokens entering block `stop` from tokens entering block `start`; blocks [start, stop), [N S D] -> [N S D]."""
        if not 0 <= start <= stop <= self.n_layers:
            raise ValueError(f"blocks [{start}, {stop}) are not within [0, {self.n_layers})")
        for block in self.blocks[start:stop]:
            tokens = block(tokens)
        return tokens

    def pool(self, tokens: Tensor) -> Tensor:
        """[... E] features of the class token, not normalised, from tokens [... S D] after the last block."""
        return self.ln_post(tokens[..., 0, :]) @ self.proj

    def resume(self, tokens: Tensor, *, layer: int) -> Tensor:
        """[N E] features, not normalised, of tokens that enter block `layer`.

        Runs blocks [layer, end), the last one for the class token only, which is all that is read.

        Args:
            tokens: [N S D] as `taps` gives them; more rows than S (prompts) are let through.
            layer: number of blocks already applied, in [0, n_layers]; n_layers means only pooling is left.
        """
        self._check_layer(layer)
        if layer < self.n_layers:
            tokens = self.run_blocks(tokens, layer, self.n_layers - 1)
            tokens = self.blocks[-1](tokens, n_query=1)
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
