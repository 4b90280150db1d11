"""What an image or a text tower is, in numbers: of those whose blocks run here, and of those that others run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from .config_json import LATER, exact_keys, of_kind

Activation = Literal["gelu", "quick_gelu", "gelu_tanh", "silu"]
ACTIVATIONS: tuple[Activation, ...] = ("gelu", "quick_gelu", "gelu_tanh", "silu")
Stem = Literal["conv", "conv3"]
NormOrder = Literal["pre", "post"]
Pool = Literal["class", "mean", "attention"]
TextPooling = Literal["argmax", "eos", "last", "class"]
TextPath = Literal["shared-prefix", "full-length", "frozen"]


def check_tower(width: int, heads: int, layers: int, activation: str, tower: str) -> None:
    """None, if a transformer of these sizes can be.

    Raises:
        ValueError: otherwise.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"{tower}: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if min(width, heads, layers) < 1:
        raise ValueError(f"{tower}: width {width}, heads {heads} and layers {layers} must all be at least 1")
    if width % heads:
        raise ValueError(f"{tower}: width {width} is not a multiple of heads {heads}")


@dataclass(frozen=True)
class Rotary:
    """Rotary positions of a grid of patches: queries and keys are turned by angles that grow along both axes.

    Attributes:
        reference: rows and columns of the grid the angles were trained on; other grids are scaled to it.
        offset: added to every position.
        order: `ij`, the first half of a head's pairs turns with the row; `xy`, with the column.
        temperature: the slowest pair's wavelength, in positions, divided by 2 pi.

    Source: timm, layers/pos_embed_sincos.py, RotaryEmbeddingCat (EVA-02; Perception Encoder with offset 1 and `xy`).
    """

    reference: tuple[int, int]
    offset: float = 0.0
    order: Literal["ij", "xy"] = "ij"
    temperature: float = 10000.0


@dataclass(frozen=True)
class AttentionPool:
    """A head that reads the tokens by attention from one learned query.

    Attributes:
        heads: of that attention.
        width: of its query and output; the tower's own in timm's `map` pooling, E in CoCa's.
        mlp_width: hidden width of the residual MLP behind it; None where there is none.
        norms: query and tokens have a norm of their own in front of the attention (CoCa).
    """

    heads: int
    width: int
    mlp_width: int | None = None
    norms: bool = False


@dataclass(frozen=True)
class VisionConfig:
    """A ViT that we run block by block. The defaults are CLIP's; everything else came with other families.

    Attributes:
        image_size: side of the picture in pixels, or its height and width.
        patch_size, width, layers, heads, mlp_ratio, activation: D is `width`.
        class_token: a class token stands before the patches.
        class_position: the class token has a position too.
        stem: `conv`, one convolution; `conv3`, three with GELU in between (MobileCLIP-B).
        stem_bias: whether the one convolution has a bias; the three always have.
        pre_norm: a norm before the first block.
        rotary: rotary positions of the patches, beside the learned ones.
        norm_eps: of every norm.
        norm_order: `pre`, x + f(norm(x)); `post`, x + norm(f(x)) (EVA-02 E).
        gated_mlp: the MLP is act(gate(x)) * fc(x), as SwiGLU.
        mlp_norm, attention_norm: a norm inside, before the last projection (EVA-02's sub-norms).
        pool: the class token; the mean of the patches; or attention by a learned query.
        attention_pool: that of pool `attention`.
        norm_after_pool: the final norm works on the pooled vector, not on the tokens.
        projection: `matrix`, or `linear` (with a bias); None where features are the pooled vector itself.
    """

    image_size: int | tuple[int, int]
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_ratio: float = 4.0
    activation: Activation = "gelu"
    class_token: bool = field(default=True, metadata=LATER)
    class_position: bool = field(default=True, metadata=LATER)
    stem: Stem = field(default="conv", metadata=LATER)
    stem_bias: bool = field(default=False, metadata=LATER)
    pre_norm: bool = field(default=True, metadata=LATER)
    rotary: Rotary | None = field(default=None, metadata=LATER)
    norm_eps: float = field(default=1e-5, metadata=LATER)
    norm_order: NormOrder = field(default="pre", metadata=LATER)
    gated_mlp: bool = field(default=False, metadata=LATER)
    mlp_norm: bool = field(default=False, metadata=LATER)
    attention_norm: bool = field(default=False, metadata=LATER)
    pool: Pool = field(default="class", metadata=LATER)
    attention_pool: AttentionPool | None = field(default=None, metadata=LATER)
    norm_after_pool: bool = field(default=False, metadata=LATER)
    projection: Literal["matrix", "linear"] | None = field(default="matrix", metadata=LATER)

    def __post_init__(self) -> None:
        check_tower(self.width, self.heads, self.layers, self.activation, "vision tower")
        if self.patch_size < 1 or min(self.image_hw) < self.patch_size:
            raise ValueError(f"vision tower: no patch of {self.patch_size} fits an image of {self.image_size}")
        if self.pool == "class" and not self.class_token:
            raise ValueError("vision tower: it is read at its class token, and has none")
        if (self.pool == "attention") != (self.attention_pool is not None):
            raise ValueError(f"vision tower: pool {self.pool!r} with attention_pool {self.attention_pool}")

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width of the picture in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches; pixels beyond a whole number of patches are not read."""
        height, width = self.image_hw
        return height // self.patch_size, width // self.patch_size

    @property
    def n_tokens(self) -> int:
        """Tokens per frame, the class token included (S)."""
        return self.grid[0] * self.grid[1] + int(self.class_token)

    @property
    def n_read(self) -> int:
        """How many leading rows the head reads after the last block: the class token's alone, or all S."""
        return 1 if self.pool == "class" else self.n_tokens

    @property
    def mlp_width(self) -> int:
        """Hidden width of a block's MLP."""
        return int(self.width * self.mlp_ratio)

    @property
    def pooled_width(self) -> int:
        """Width of the pooled vector before the projection."""
        return self.width if self.attention_pool is None else self.attention_pool.width


@dataclass(frozen=True)
class ForeignVision:
    """An image tower that open_clip itself runs when videos are encoded; we have its pooled features, not its inside.

    Attributes:
        image_size: side of the picture in pixels, or its height and width.
        model: what open_clip builds the tower from: `vision_cfg`, `embed_dim`, `quick_gelu` of its model config.
        versions: of `open_clip` and `timm` that the pack was written with.
        reason: why its blocks cannot be rerun here; follows "visual prompts cannot join NAME: ".
    """

    kind: ClassVar[str] = "open_clip"

    image_size: int | tuple[int, int]
    model: Mapping[str, Any]
    versions: Mapping[str, str]
    reason: str

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width of the picture in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size


@dataclass(frozen=True)
class TokenizerSettings:
    """How a tokenizer of the `tokenizers` library is used; CLIP's own byte pairs need none of this.

    Attributes:
        name: where open_clip takes it from (`timm/ViT-B-16-SigLIP2`).
        clean: what is done to a text first, in open_clip's words: `lower`, `whitespace`, `canonicalize`.
        start_id, end_id: what stands before and behind every text; None where nothing does.
        pad_id: what fills a text up to the context length.
        zeroed_id: a token that is replaced by 0 wherever it stands (CLIPA's separator); None: none is.
    """

    name: str
    clean: Literal["lower", "whitespace", "canonicalize"]
    start_id: int | None
    end_id: int | None
    pad_id: int
    zeroed_id: int | None = None


@dataclass(frozen=True)
class TextConfig:
    """A text transformer that we run block by block. The defaults are CLIP's; the rest came with other families.

    Attributes:
        context_length: tokens it takes; one position more where a class embedding is appended.
        vocab_size, width, layers, heads, mlp_ratio, activation: W is `width`.
        causal: a token attends to those before it alone; otherwise to all, padding included.
        pooling: which row is read. `argmax`: that of the token with the highest id, which is the end of text; `eos`: of
            the first token `eos_id`; `last`: of the last position, whatever stands there; `class`: of the class
            embedding behind the last token, from which padding is hidden as in CoCa (see `TextTower`).
        eos_id: of pooling `eos`.
        pad_id: of pooling `class`, the token that is padding.
        projection: `matrix`, or `linear` (with a bias); None where features are the row itself.
        norm_eps: of every norm.
        tokenizer: None for CLIP's byte pairs.
    """

    context_length: int
    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp_ratio: float = 4.0
    activation: Activation = "gelu"
    causal: bool = field(default=True, metadata=LATER)
    pooling: TextPooling = field(default="argmax", metadata=LATER)
    eos_id: int | None = field(default=None, metadata=LATER)
    pad_id: int = field(default=0, metadata=LATER)
    projection: Literal["matrix", "linear"] | None = field(default="matrix", metadata=LATER)
    norm_eps: float = field(default=1e-5, metadata=LATER)
    tokenizer: TokenizerSettings | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        check_tower(self.width, self.heads, self.layers, self.activation, "text tower")
        if self.context_length < 3 or self.vocab_size < 3:
            raise ValueError(
                f"text tower: context length {self.context_length} and vocabulary {self.vocab_size} must be at least 3"
            )
        if self.pooling not in get_args(TextPooling) or (self.pooling == "eos") != (self.eos_id is not None):
            raise ValueError(f"text tower: pooling {self.pooling!r} with eos_id {self.eos_id}")
        if self.pooling == "class" and not self.causal:
            raise ValueError("text tower: a class embedding is appended to causal towers alone")

    @property
    def mlp_width(self) -> int:
        """Hidden width of a block's MLP."""
        return int(self.width * self.mlp_ratio)

    @property
    def n_positions(self) -> int:
        """Positions of the tower: the context length, and one for an appended class embedding."""
        return self.context_length + (self.pooling == "class")

    @property
    def path(self) -> TextPath:
        """How learned prompts are encoded exactly.

        `shared-prefix`: a row depends on those before it alone, so beginnings are shared and padding is left out; but
        for the one padding token that a class embedding sees.
        `full-length`: every position of every class is computed, as all of them change the feature.
        """
        return "shared-prefix" if self.causal and self.pooling != "last" else "full-length"


@dataclass(frozen=True)
class ForeignText:
    """A text tower that transformers runs: features of whole texts, nothing learned among their tokens.

    Attributes:
        context_length: tokens of a text, start and end included.
        vocab_size: rows of its token embedding.
        model: transformers' own config of it, as JSON.
        pooler: how rows become one, by open_clip's name: `mean_pooler`, `cls_pooler`, `cls_last_hidden_state_pooler`.
        projection: `linear` or `mlp`, without biases; None where features are the pooled row.
        versions: of `transformers` that the pack was written with.
        tokenizer: as of TextConfig.
    """

    kind: ClassVar[str] = "transformers"
    path: ClassVar[TextPath] = "frozen"

    context_length: int
    vocab_size: int
    model: Mapping[str, Any]
    pooler: str
    projection: Literal["linear", "mlp"] | None
    versions: Mapping[str, str]
    tokenizer: TokenizerSettings | None


# What a pack may hold, by the `kind` its config names; towers of the first packs name none.
VISION_KINDS: Mapping[str | None, type] = {None: VisionConfig, ForeignVision.kind: ForeignVision}
TEXT_KINDS: Mapping[str | None, type] = {None: TextConfig, ForeignText.kind: ForeignText}


def vision_from_json(values: Any) -> VisionConfig | ForeignVision:
    """The image tower of a JSON object. Raises: ValueError, as `BackboneConfig.from_json`."""
    where = "backbone config, vision"
    kind, values = of_kind(VISION_KINDS, values, where)
    checked = exact_keys(kind, values, where)
    parts: Mapping[str, type] = {"rotary": Rotary, "attention_pool": AttentionPool}
    for name, part in parts.items():
        if kind is VisionConfig and checked.get(name) is not None:
            checked[name] = part(**exact_keys(part, checked[name], f"{where}, {name}"))
    vision: VisionConfig | ForeignVision = kind(**checked)
    return vision


def text_from_json(values: Any) -> TextConfig | ForeignText:
    """The text tower of a JSON object. Raises: ValueError, as `BackboneConfig.from_json`."""
    where = "backbone config, text"
    kind, values = of_kind(TEXT_KINDS, values, where)
    checked = exact_keys(kind, values, where)
    if checked.get("tokenizer") is not None:
        given = exact_keys(TokenizerSettings, checked["tokenizer"], f"{where}, tokenizer")
        checked["tokenizer"] = TokenizerSettings(**given)
    text: TextConfig | ForeignText = kind(**checked)
    return text
