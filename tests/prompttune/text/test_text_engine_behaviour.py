"""What the text engine promises besides equality: where gradients go, what it keeps, counts, refuses and says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from text_towers import CASES, CLASS_NAMES, VOCAB, WIDTH, ContextCase, WordTokenizer, open_clip_text_model, our_tower
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from prompttune.text.class_prompts import ClassPrompts
from prompttune.text.engine import TextContext, TextEngine, plain_encode
from prompttune.text.engine.encoding_plan import build_plan
from prompttune.text.engine.frozen_block import choose_parts
from vidfeat.backbone import TextConfig, TextTower

BY_NAME = {case.name: case for case in CASES}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return open_clip_text_model()


@pytest.fixture
def tower(model: nn.Module) -> TextTower:
    return our_tower(model)


def context_of(name: str, *, n_runs: int = 1) -> TextContext:
    return BY_NAME[name].context(BY_NAME[name].leaves(n_runs=n_runs))


def numbered_classes(count: int) -> tuple[str, ...]:
    return tuple(f"{verb} {thing}" for verb in range(count // 4) for thing in range(4))


def saved_bytes(engine: TextEngine, prompts: ClassPrompts, context: TextContext) -> int:
    """Bytes that autograd keeps for the backward pass, each storage once."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = engine.encode(prompts, context)
    features.sum().backward()
    return sum(storages.values())


@pytest.mark.parametrize("name", ["shared-end", "class-front", "deep-9", "class-tokens-at-8"])
def test_gradients_reach_the_context_and_nothing_else(tower: TextTower, name: str) -> None:
    tower.requires_grad_(True)  # even a tower that somebody forgot to freeze
    leaves = BY_NAME[name].leaves(n_runs=2)
    TextEngine(tower).encode(BY_NAME[name].prompts(), BY_NAME[name].context(leaves)).square().sum().backward()
    assert all(leaf.grad is not None and leaf.grad.abs().sum() > 0 for leaf in leaves.values())
    assert all(parameter.grad is None for parameter in tower.parameters())


def test_nothing_is_kept_without_gradients(tower: TextTower) -> None:
    engine, case = TextEngine(tower), BY_NAME["deep-9"]
    with torch.no_grad():
        features = engine.encode(case.prompts(), context_of("deep-9"))
    assert not features.requires_grad
    assert torch.equal(features, engine.encode(case.prompts(), context_of("deep-9")).detach())


def test_checkpointed_memory_does_not_grow_with_classes(tower: TextTower) -> None:
    """Four times the classes: without checkpoints four times the bytes, with them only what is kept per chunk."""
    case = ContextCase("shared", n_ctx=16)
    few, many = case.prompts(numbered_classes(32)), case.prompts(numbered_classes(128))

    def bytes_for(prompts: ClassPrompts, *, checkpoint: bool) -> int:
        engine = TextEngine(tower, class_chunk=8, checkpoint=checkpoint)
        return saved_bytes(engine, prompts, case.context(case.leaves(n_runs=1)))

    assert bytes_for(many, checkpoint=False) > 3 * bytes_for(few, checkpoint=False)
    assert bytes_for(many, checkpoint=True) < bytes_for(few, checkpoint=False) / 4
    assert bytes_for(many, checkpoint=True) <= 64 * many.n_classes  # where each class's features are


@pytest.mark.parametrize("name", ["shared-end", "class-end", "image-front", "deep-9", "class-tokens-at-8"])
def test_kept_bytes_are_known_beforehand(tower: TextTower, name: str) -> None:
    engine, prompts, context = TextEngine(tower), BY_NAME[name].prompts(), context_of(name, n_runs=2)
    engine.encode(prompts, context)
    # The last norm and a few index tensors are not counted.
    assert saved_bytes(engine, prompts, context) == pytest.approx(engine.kept_bytes(prompts, context), rel=0.03)


@pytest.mark.parametrize("name", ["shared-end", "class-end", "deep-9", "class-tokens-at-8"])
def test_a_device_keeps_buffers_besides(tower: TextTower, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prompttune.text.engine.text_engine.launches_cost", lambda like: True)
    engine, prompts, context = TextEngine(tower, class_chunk=4), BY_NAME[name].prompts(), context_of(name, n_runs=2)
    saved = saved_bytes(engine, prompts, context)
    (prepared,) = engine._prepared.values()
    spaces = [chunk._given[0, 2].space for chunk in prepared.chunks]  # type: ignore[attr-defined]
    buffers = sum(own.vectors[own.first_borrowed :].nbytes + own.attended[1:].nbytes for own in spaces)
    assert len(spaces) == 2
    assert saved + buffers == pytest.approx(engine.kept_bytes(prompts, context), rel=0.03)
    # Recomputing a chunk spares what it saves, not its buffers.
    again = TextEngine(tower, class_chunk=4, checkpoint=True).kept_bytes(prompts, context)
    assert buffers + saved / 2 < 1.03 * again < buffers + saved


@pytest.mark.long
def test_a_thousand_classes_train_in_three_gigabytes() -> None:
    """A whole process, ViT-B/16's text tower, 16 context vectors, one step: peak resident memory."""
    script = """
import resource, torch
from prompttune.text.class_prompts import ClassPrompts
from prompttune.text.engine import TextContext, TextEngine
from text_towers import WordTokenizer
from vidfeat.backbone import TextConfig, TextTower
tower = TextTower(TextConfig(77, 49408, 512, 12, 8, activation="quick_gelu"), embed_dim=512)
for parameter in tower.parameters():
    torch.nn.init.normal_(parameter, std=0.02)
names = [f"class number {i // 100} {i // 10 % 10} {i % 10}" for i in range(1000)]
ctx = torch.randn(1, 16, 512).requires_grad_()
prompts = ClassPrompts.build(names, WordTokenizer(), n_ctx=16)
TextEngine(tower).encode(prompts, TextContext(ctx=ctx)).sum().backward()
assert ctx.grad.abs().sum() > 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n{script}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kilobytes = int(done.stdout.split()[-1]) / (1024 if sys.platform == "darwin" else 1)
    assert kilobytes < 3e6


class ProductCounter(TorchDispatchMode):
    """Floating-point operations of the matrix products that run: those of linear layers, and batches of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = self.attention = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "addmm_", "bmm"):
            left, right = args[-2:]
            operations = 2 * left.numel() * right.shape[-1]
            self.attention += operations if name == "bmm" else 0
            self.linear += 0 if name == "bmm" else operations
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["shared-end", "class-end", "shared-front", "deep-9", "class-tokens-at-8"])
def test_flops_are_those_of_the_matrix_products(tower: TextTower, name: str) -> None:
    """Linear layers run no row too many; attention's tiles also run places that are masked, which are not counted."""
    engine, case = TextEngine(tower), BY_NAME[name]
    prompts, context = case.prompts(), context_of(name)
    engine.encode(prompts, context)  # constants are computed beforehand
    with ProductCounter() as ran:
        engine.encode(prompts, context).sum().backward()
    attention = engine.flops(prompts, context).total - ran.linear
    assert 0 < attention < ran.attention


def test_attention_counts_what_is_on_the_path(tower: TextTower) -> None:
    engine, prompts = TextEngine(tower), BY_NAME["shared-end"].prompts()
    context = context_of("shared-end")
    engine.encode(prompts, context)
    beginnings = {prompts.slots(c)[:end] for c in range(prompts.n_classes) for end in range(1, prompts.n_tokens(c))}
    ends = [prompts.slots(c) for c in range(prompts.n_classes)]
    seen = 11 * sum(1 + len(path) for path in beginnings) + sum(1 + len(path) for path in ends)  # the last block: EOT
    with ProductCounter() as ran:
        engine.encode(prompts, context).sum().backward()
    # Two products forward (scores, values) and four backward, of two operations per number.
    assert engine.flops(prompts, context).total - ran.linear == 3 * 2 * 2 * WIDTH * seen


def test_equal_beginnings_are_one_row(tower: TextTower) -> None:
    """5 context rows and one row per different beginning: counted by hand."""
    prompts = BY_NAME["shared-end"].prompts(("play guitar", "play violin", "play"))
    # play, guitar, violin; three full stops; three EOT. The third class's full stop follows "play" itself.
    assert TextEngine(tower).tokens_per_step(prompts, context_of("shared-end")) == 5 + 3 + 3 + 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("shared-end", "shared-prefix: SOS and 5 context rows"),
        ("image-end", "one prefix per image"),
        ("class-tokens-at-8", "partly-shared-prefix: the context is the same for all classes in 8 of 12 blocks"),
        (
            "deep-9-per-class-dropout",
            "the context is the same for all classes in 11 of 12 blocks",
        ),
        ("class-end", "packed: every class has its own context"),
        ("shared-front", "packed: the name stands in front"),
    ],
)
def test_path_says_which_and_why(tower: TextTower, name: str, expected: str) -> None:
    path = TextEngine(tower).path(BY_NAME[name].prompts(), context_of(name))
    assert expected in path
    assert f"instead of {len(CLASS_NAMES) * 77}" in path


def test_bfloat16_autocast_stays_close_and_in_float32(model: nn.Module) -> None:
    """bfloat16 has 8 bits: a few per cent after 12 blocks, whether the backward pass is called inside or outside."""
    tower = our_tower(model).float()
    engine, case = TextEngine(tower), BY_NAME["deep-9"]
    leaves = {name: leaf.detach().float().requires_grad_() for name, leaf in case.leaves(n_runs=1).items()}
    prompts, context = case.prompts(), case.context(leaves)
    exact = engine.encode(prompts, context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = engine.encode(prompts, context)
        inside = torch.autograd.grad(features.sum(), list(leaves.values()), retain_graph=True)
    outside = torch.autograd.grad(features.sum(), list(leaves.values()))
    assert features.dtype == torch.float32
    assert nn.functional.cosine_similarity(features, exact, dim=-1).min() > 0.98
    assert not torch.allclose(features, exact, rtol=1e-5)
    expected = torch.autograd.grad(exact.sum(), list(leaves.values()))
    for found_inside, found, gradient in zip(inside, outside, expected, strict=True):
        assert nn.functional.cosine_similarity(found.flatten(), gradient.flatten(), dim=0) > 0.95
        assert nn.functional.cosine_similarity(found.flatten(), found_inside.flatten(), dim=0) > 0.999


def test_frozen_texts_are_encoded_once_and_like_open_clip(model: nn.Module, tower: TextTower) -> None:
    texts = [f"a video of {name}." for name in CLASS_NAMES] + ["else", "a " * 60]
    engine, tokenizer = TextEngine(tower), WordTokenizer()
    features = engine.encode_frozen(texts, tokenizer)  # type: ignore[arg-type]
    expected = model.encode_text(tokenizer.tokenize(texts))
    assert torch.allclose(features, expected, rtol=1e-10, atol=1e-10)
    assert not features.requires_grad
    with patch.object(TextTower, "forward", side_effect=AssertionError("encoded again")):
        assert torch.equal(engine.encode_frozen(texts, tokenizer), features)  # type: ignore[arg-type]


def test_plans_are_prepared_once_and_forgotten_in_time(tower: TextTower) -> None:
    engine, case = TextEngine(tower), BY_NAME["shared-end"]
    prompts = case.prompts()
    with patch("prompttune.text.engine.text_engine.build_plan", wraps=build_plan) as planner:
        for n_runs in (1, 2, 1):
            engine.encode(prompts, context_of("shared-end", n_runs=n_runs))
        assert planner.call_count == 1
        for count in range(1, 25):
            engine.encode(prompts.subset(range(count % 7 + 1)), context_of("shared-end"))
    assert len(engine._prepared) <= 16


@pytest.mark.parametrize(
    ("n_threads", "n_rows", "width", "dtype", "expected"),
    [
        (2, 102, 512, torch.float32, 2),
        (2, 102, 512, torch.float64, 2),
        (3, 102, 512, torch.float32, 2),  # 8 heads do not go into three parts
        (16, 102, 512, torch.float32, 8),
        (1, 102, 512, torch.float32, 1),
        (2, 1200, 512, torch.float32, 1),  # MKL shares these as well
        (2, 102, 64, torch.float32, 1),  # too small to be shared
        (2, 102, 512, torch.bfloat16, 1),  # not MKL's
    ],
)
def test_parts_are_threads_where_that_pays(
    n_threads: int, n_rows: int, width: int, dtype: torch.dtype, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    assert choose_parts(n_rows, width=width, n_heads=8, like=torch.zeros(1, dtype=dtype)) == expected


def test_a_change_of_threads_changes_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans are prepared once, but for as many parts as there are threads now."""
    torch.manual_seed(0)
    tower = TextTower(TextConfig(77, VOCAB, 512, 2, 8, activation="quick_gelu"), embed_dim=32).requires_grad_(False)
    for parameter in tower.parameters():
        nn.init.normal_(parameter, std=0.02)
    prompts = BY_NAME["shared-end"].prompts()
    engine, context = TextEngine(tower), TextContext(ctx=torch.randn(1, 5, 512))
    batches = []
    for n_threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda n_threads=n_threads: n_threads)
        with BatchCounter() as ran:
            features = engine.encode(prompts, context)
        batches.append((ran.sizes, features))
    (alone, expected), (shared, found) = batches
    assert 2 not in alone
    assert 2 in shared
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


class BatchCounter(TorchDispatchMode):
    """How many products each batch of them has."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ == "bmm":
            self.sizes.add(len(args[0]))
        return func(*args, **(kwargs or {}))


def test_shapes_that_do_not_fit_are_refused_together() -> None:
    ctx = torch.zeros(2, 5, WIDTH)
    with pytest.raises(ValueError, match=r"deep\[0\].*[\s\S]*class_tokens\[8\].*[\s\S]*both replace"):
        TextContext(
            ctx=ctx,
            deep=(torch.zeros(2, 4, WIDTH), ctx),
            class_tokens={8: torch.zeros(2, 5, WIDTH), 2: torch.zeros(2, 3, 5, WIDTH)},
        )
    with pytest.raises(ValueError, match=r"expected \[R C M W\]"):
        TextContext(ctx=ctx, kind="class")
    with pytest.raises(ValueError, match="unknown kind"):
        TextContext(ctx=ctx, kind="per-class")  # type: ignore[arg-type]


@pytest.mark.parametrize("encode", ["engine", "plain"])
def test_contexts_for_other_prompts_are_refused(tower: TextTower, encode: str) -> None:
    def run(prompts: ClassPrompts, context: TextContext) -> Tensor:
        return (
            TextEngine(tower).encode(prompts, context) if encode == "engine" else plain_encode(tower, prompts, context)
        )

    case = BY_NAME["shared-end"]
    with pytest.raises(ValueError, match=r"keep 5 places.*has 4"):
        run(case.prompts(), TextContext(ctx=torch.zeros(1, 4, WIDTH)))
    with pytest.raises(ValueError, match=rf"{WIDTH} wide, the context 8"):
        run(case.prompts(), TextContext(ctx=torch.zeros(1, 5, 8)))
    with pytest.raises(ValueError, match="ctx is for 3 classes, the prompts have 7"):
        run(case.prompts(), TextContext(ctx=torch.zeros(1, 3, 5, WIDTH), kind="class"))
    with pytest.raises(ValueError, match=r"enter at block 12, the tower's last block is 11"):
        run(case.prompts(), TextContext(ctx=torch.zeros(1, 5, WIDTH), deep=(torch.zeros(1, 5, WIDTH),) * 12))
    front = BY_NAME["shared-front"].prompts()
    with pytest.raises(ValueError, match='use position "end"'):
        run(front, TextContext(ctx=torch.zeros(1, 5, WIDTH), deep=(torch.zeros(1, 5, WIDTH),)))
    with pytest.raises(ValueError, match="encode_frozen"):
        run(ClassPrompts.build(("run",), WordTokenizer(), n_ctx=0), TextContext(ctx=torch.zeros(1, 0, WIDTH)))
