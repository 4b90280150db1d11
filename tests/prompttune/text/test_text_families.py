"""Learned prompts in the text tower of every family, on both exact paths, against open_clip's own modules.

The reference is open_clip's tower itself: a hook puts the learned vectors where the token embedding leaves, others put
deep rows in front of blocks; masks, pooling and projection are its own.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import replace
from functools import partial

import pytest
import torch
from flop_counts import needs_counted_attention
from text_families import FAMILIES, VOCAB, WIDTH, Family, family
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from prompttune.text.class_prompts import ClassPrompts
from prompttune.text.engine import TextContext, TextEngine, plain_encode
from prompttune.text.engine.text_engine import takes_full_length
from vidfeat.backbone import TextConfig

MANY = tuple(f"name {i} {'and more ' * (i % 3)}of {i // 5}" for i in range(20))
NAMES = MANY[:10]  # three lengths and two ends; in threes, with one left over
N_CTX, RUNS = 4, 2
# Without start of text: T5's and Gemma's vocabularies. Without end of text: CLIPA's.
NO_START, NO_END = {"siglip", "siglip2", "siglip-i18n"}, {"clipa"}
FULL = {"mobileclip", "siglip", "siglip2", "siglip-i18n", "clipa"}
# CoCa's mask: padding inside a name and at its end; texts that leave 2, 1, 0 places between the end and the embedding.
MASKED = ("wow ! run", "wow ! run far", "wow !", "! go", "wow", *(" ".join(["word"] * n) for n in (68, 69, 70)))


class FamilyTokenizer:
    """A token per word; what stands before and behind a text is the family's. "!" is the padding's, as CLIP's is."""

    def __init__(self, config: TextConfig, *, name: str, pad_id: int | None = None) -> None:
        self.context_length = config.context_length
        end = VOCAB - 1 if config.eos_id is None else config.eos_id
        self.sot_id = None if name in NO_START else VOCAB - 2
        self.eot_id = None if name in NO_END else end
        self.pad_id = (1 if name in NO_START else 0) if pad_id is None else pad_id

    def encode(self, text: str) -> list[int]:
        words = re.findall(r"\w+|[^\w\s]", text)
        return [self.pad_id if word == "!" else 3 + zlib.crc32(word.encode()) % (VOCAB - 6) for word in words]


def prompts_of(both: Family, name: str, position: str = "end", names: tuple[str, ...] = NAMES) -> ClassPrompts:
    tokenizer = FamilyTokenizer(both.ours.config, name=name)
    return ClassPrompts.build(names, tokenizer, n_ctx=N_CTX, position=position)  # type: ignore[arg-type]


def open_clip_encode(theirs: nn.Module, prompts: ClassPrompts, context: TextContext) -> Tensor:
    """Features [R C E] by open_clip's own forward pass."""
    layout = prompts.plain_layout()
    ids = layout.token_ids.masked_fill(layout.ctx_index >= 0, 3)  # a word's id: neither padding nor an end of text
    n_classes, start = prompts.n_classes, prompts.n_start
    features = []
    for run in range(context.n_runs):
        ctx = context.ctx[run].expand(n_classes, -1, -1)
        index = layout.ctx_index.clamp(min=0).unsqueeze(-1).expand(-1, -1, WIDTH)

        def embed(_module, _args, output, ctx=ctx, index=index) -> Tensor:
            return torch.where(layout.ctx_index.unsqueeze(-1) >= 0, ctx.gather(1, index), output)

        hooks = [theirs.token_embedding.register_forward_hook(embed)]
        for block, rows in enumerate(context.deep, start=1):

            def replace(_module, args, rows=rows[run]) -> tuple:
                x = args[0]
                rows = rows.expand(len(x), -1, -1)
                return (torch.cat([x[:, :start], rows, x[:, start + N_CTX :]], dim=1), *args[1:])

            hooks.append(theirs.transformer.resblocks[block].register_forward_pre_hook(replace))
        try:
            out = theirs(ids)
            features.append(out[0] if isinstance(out, tuple) else out)
        finally:
            for hook in hooks:
                hook.remove()
    return torch.stack(features)


def leaves(n_deep: int = 0, *, kind: str = "shared", dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = [(RUNS, *((len(NAMES),) if kind == "class" else ()), N_CTX, WIDTH)] + [(RUNS, N_CTX, WIDTH)] * n_deep
    return [torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def context_of(tensors: list[Tensor], kind: str = "shared") -> TextContext:
    return TextContext(tensors[0], kind=kind, deep=tuple(tensors[1:]))  # type: ignore[arg-type]


@pytest.fixture(params=FAMILIES, scope="module")
def named(request: pytest.FixtureRequest) -> tuple[str, Family]:
    return request.param, family(request.param)


@pytest.mark.parametrize(
    ("position", "n_deep", "kind"),
    [("end", 0, "shared"), ("end", 2, "shared"), ("middle", 0, "shared"), ("front", 0, "shared"), ("end", 1, "class")],
)
def test_features_and_gradients_are_open_clips(named, position: str, n_deep: int, kind: str) -> None:
    name, both = named
    prompts, tensors = prompts_of(both, name, position), leaves(n_deep, kind=kind)
    expected = open_clip_encode(both.theirs, prompts, context_of(tensors, kind))
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad(expected, tensors, cotangent)
    engine, in_chunks = TextEngine(both.ours), TextEngine(both.ours, class_chunk=3, checkpoint=True)
    for encode in (engine.encode, in_chunks.encode, partial(plain_encode, both.ours)):
        features = encode(prompts, context_of(tensors, kind))
        # float64: what remains is rounding, far below what a wrong row or mask would make.
        torch.testing.assert_close(features, expected, rtol=1e-9, atol=1e-9)
        for found, wanted in zip(torch.autograd.grad(features, tensors, cotangent), gradients, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)
    assert takes_full_length(both.ours, prompts) == (name in FULL)
    for one in (engine, in_chunks):
        path = one.path(prompts, context_of(tensors, kind))
        assert path.startswith("full-length") == takes_full_length(both.ours, prompts)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("is_fused", [False, True])
def test_what_a_class_embedding_sees_is_open_clips(monkeypatch, position: str, is_fused: bool) -> None:
    monkeypatch.setattr("prompttune.text.engine.text_engine.launches_cost", lambda like: is_fused)
    both = family("coca")
    tokenizer = FamilyTokenizer(both.ours.config, name="coca")
    prompts = ClassPrompts.build(MASKED, tokenizer, n_ctx=N_CTX, position=position, template="{}")  # type: ignore[arg-type]
    assert [prompts.n_tokens(c) for c in (-3, -2, -1)] == [74, 75, 76]
    tensors = leaves(1 if position == "end" else 0)
    expected = open_clip_encode(both.theirs, prompts, context_of(tensors))
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad(expected, tensors, cotangent)
    for chunk in (None, 3):
        engine = TextEngine(both.ours, class_chunk=chunk, checkpoint=chunk is not None)
        features = engine.encode(prompts, context_of(tensors))
        torch.testing.assert_close(features, expected, rtol=1e-9, atol=1e-9)
        for found, wanted in zip(torch.autograd.grad(features, tensors, cotangent), gradients, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)
        assert not takes_full_length(both.ours, prompts)
        assert engine.tokens_per_step(prompts, context_of(tensors)) < len(MASKED) * both.ours.config.n_positions


def test_where_padding_is_another_token_than_the_masks_all_of_it_is_seen() -> None:
    both = family("coca")
    prompts = replace(prompts_of(both, "coca", names=MASKED[3:5]), pad_id=7)
    tensors = leaves()
    features = TextEngine(both.ours).encode(prompts, context_of(tensors))
    expected = open_clip_encode(both.theirs, prompts, context_of(tensors))
    torch.testing.assert_close(features, expected, rtol=1e-9, atol=1e-9)


def test_float32_keeps_the_stated_accuracy() -> None:
    """Values to 1e-5, gradients to 1e-4 of their size, on both paths."""
    for name in ("pe-core", "siglip2", "coca"):
        both = family(name, dtype=torch.float32)
        prompts, tensors = prompts_of(both, name), leaves(dtype=torch.float32)
        expected = open_clip_encode(both.theirs, prompts, context_of(tensors))
        features = TextEngine(both.ours).encode(prompts, context_of(tensors))
        assert (features - expected).norm() < 1e-5 * expected.norm()
        cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
        wanted, found = (torch.autograd.grad(f, tensors[0], cotangent)[0] for f in (expected, features))
        assert (found - wanted).norm() < 1e-4 * wanted.norm()


def test_images_and_autocast_take_the_full_length_path_too() -> None:
    both = family("siglip2", dtype=torch.float32)
    prompts = prompts_of(both, "siglip2", names=NAMES[:3])
    ctx = torch.randn(RUNS, 2, N_CTX, WIDTH)
    found = TextEngine(both.ours).encode(prompts, TextContext(ctx, kind="image"))
    expected = torch.stack([TextEngine(both.ours).encode(prompts, TextContext(ctx[:, i])) for i in (0, 1)], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = TextEngine(both.ours).encode(prompts, TextContext(ctx, kind="image"))
    assert (half.float() - expected).norm() < 0.05 * expected.norm()  # bfloat16 has 8 bits


@needs_counted_attention
def test_full_length_counts_the_products_it_makes() -> None:
    both = family("siglip2", dtype=torch.float32)
    prompts = prompts_of(both, "siglip2", names=NAMES[:5])
    ctx = torch.randn(1, N_CTX, WIDTH, requires_grad=True)
    engine = TextEngine(both.ours)
    engine.encode(prompts, TextContext(ctx))  # constants are made once
    with FlopCounterMode(display=False) as forward:
        features = engine.encode(prompts, TextContext(ctx))
    with FlopCounterMode(display=False) as backward:
        features.sum().backward()
    counted = engine.flops(prompts, TextContext(ctx))
    assert forward.get_total_flops() == counted.forward
    # PyTorch's attention computes its scores again in the backward pass: half as much more as ours counts.
    assert counted.backward <= backward.get_total_flops() <= 1.1 * counted.backward


def test_full_length_keeps_what_it_says() -> None:
    both = family("siglip2", dtype=torch.float32)
    prompts = prompts_of(both, "siglip2", names=MANY)
    ctx = torch.randn(1, N_CTX, WIDTH, requires_grad=True)
    engine = TextEngine(both.ours)
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in both.ours.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = engine.encode(prompts, TextContext(ctx))
    said = engine.kept_bytes(prompts, TextContext(ctx))
    assert 0.8 * sum(kept.values()) < said < 1.2 * sum(kept.values())
    assert features.requires_grad


def test_equal_words_and_padding_are_one_row_of_block_0() -> None:
    both = family("siglip2")
    prompts = prompts_of(both, "siglip2", names=MANY)
    (chunk,) = TextEngine(both.ours, class_chunk=20)._prepare_full_length(prompts, context_of(leaves()))
    n_words = int((chunk.rows.ctx_index < 0).sum())
    assert len(chunk.words.x) < n_words / 8
