"""Every visual method's step equals a plain computation on open_clip's own towers, losses and gradients.

The plain side writes the published recipe out: C x 77 tokens, every row of every block, one run and one video at a
time, frozen teachers by a second pass. Tolerances: loss terms 1e-5, gradients 1e-4 of the largest entry (float32; the
two sides sum in another order).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from plain_clip import CONFIG, plain_class_features, plain_video_feature, random_clip
from torch import Tensor, nn
from torch.nn import functional as F

from prompttune.base.run_axis import named_run_parameters
from prompttune.config.runs import Run
from prompttune.config.train_config import merge, resolve
from prompttune.data.features import Batch
from prompttune.losses.of_runs import loss_terms
from prompttune.losses.terms import compute_losses
from prompttune.model.prompt_model import PromptModel
from vidfeat.backbone import BackbonePack

VALUES, GRADIENTS = 1e-5, 1e-4
CLASSES = ("run", "wave_hand", "climb")
N_RUNS, N_VIDEOS, N_FRAMES, DEPTH = 2, 3, 2, 3
METHODS: dict[str, dict[str, Any]] = {
    "vpt": {},
    "vpt-deep": {"visual": {"depth": 4}},
    "ivlp": {},
    "maple": {},
    "promptsrc": {},
    "vifi-vl": {},
    "ga2": {"coupling": {"dropout": 0.0, "hard_prompts": ["a.safetensors"]}},
}


@pytest.fixture(scope="module")
def clip() -> nn.Module:
    return random_clip(CONFIG)


@pytest.fixture(scope="module")
def pack(clip: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> BackbonePack:
    from vidfeat.clip.openclip import from_state_dict

    loaded = from_state_dict(clip.state_dict(), model_config=CONFIG)
    return loaded.write_pack(tmp_path_factory.mktemp("packs") / "pack")


def plain_losses(
    model: PromptModel, clip: Any, pixels: Tensor, labels: Tensor, hard: Tensor, run: int
) -> dict[str, Tensor]:
    """The weighted terms of one run, from the run's own parameters by name."""
    config, pack = model.config, model.pack
    own = {name: parameter.values[run] for name, parameter in named_run_parameters(model)}
    texts = [name.replace("_", " ") for name in CLASSES]
    # The hand-written prompt is a sentence of frozen words: [SOS] words [EOT], a context of length 0.
    template = config.templates.zero_shot
    frozen = plain_class_features(
        clip, pack, [template.format(text).removesuffix(".") for text in texts], torch.zeros(0, 32), []
    )
    deep = [own[f"context.deep.{block}"] for block in range(DEPTH - 1)] if "context.ctx" in own else []
    classes = frozen
    if "context.ctx" in own:
        ctx = own["context.ctx"]
        if config.coupling is not None:
            weight, bias = (own[f"context.coupling.mappings.0.first.{part}"] for part in ("weight", "bias"))
            ctx = torch.relu(torch.cat([hard, ctx], dim=-1) @ weight.T + bias)
        behind = config.context.words_behind  # frozen words between the context and the name: MaPLe's "of a"
        classes = plain_class_features(clip, pack, [f"{behind} {text}".strip() for text in texts], ctx, deep)
    if config.visual.source == "from-text":
        text_rows = [own["context.ctx"], *deep]
        rows = [
            row @ own[f"visual.from_text.maps.{j}.weight"].T + own[f"visual.from_text.maps.{j}.bias"]
            for j, row in enumerate(text_rows)
        ]
    else:
        rows = [own[f"visual.own.blocks.{j}"] for j in range(config.visual.depth)]
    videos = torch.stack([plain_video_feature(clip.visual, frames, rows) for frames in pixels])
    teacher = torch.stack([plain_video_feature(clip.visual, frames, []) for frames in pixels])
    scale = model.logit_scale
    logits, frozen_logits = scale * videos @ classes.T, scale * teacher @ frozen.T
    terms = {"cross-entropy": F.cross_entropy(logits, labels, label_smoothing=config.targets.label_smoothing)}
    if "text-l1" in config.losses:  # PromptSRC's code: F.l1_loss(reduction="mean") x 25 and x 10, KL sum / numel
        terms["text-l1"] = 25 * F.l1_loss(classes, frozen)
        terms["image-l1"] = 10 * F.l1_loss(videos, teacher)
        kl = F.kl_div(logits.log_softmax(1), frozen_logits.log_softmax(1), reduction="sum", log_target=True)
        terms["logit-kl"] = kl / logits.numel()
    return terms


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max().clamp(min=1e-12))


@pytest.mark.parametrize("method", METHODS)
def test_step_equals_the_plain_computation(method: str, clip: Any, pack: BackbonePack) -> None:
    shape = {"context": {"prompt_depth": DEPTH}, "visual": {"depth": DEPTH}}
    own = METHODS[method] if method.startswith("vpt") else merge(shape, METHODS[method])
    config = resolve(merge({"method": method, "store": "x", "seeds": [1, 2]}, own))
    generator = torch.Generator().manual_seed(1)
    hard = 0.1 * torch.randn(config.context.n_ctx, 32, generator=generator)
    model = PromptModel(
        config, pack, seeds=[1, 2], classes=CLASSES, hard_prompts=[hard] if config.coupling is not None else []
    )
    pixels = torch.randn(N_RUNS, N_VIDEOS, N_FRAMES, 3, 32, 32, generator=generator)
    labels = torch.tensor([[0, 2, 1], [1, 1, 2]])
    with torch.no_grad():
        taps = pack.vision_tower().taps(pixels.flatten(0, 2), [0])
    lead = (N_RUNS, N_VIDEOS, N_FRAMES)
    batch = Batch(taps.pooled.unflatten(0, lead), labels, taps.tokens[0].unflatten(0, lead))
    (step,) = model.steps(batch, model.vocabulary(CLASSES))
    found = compute_losses(step, loss_terms([Run(1, config), Run(2, config)]))

    expected = [plain_losses(model, clip, pixels[run], labels[run], hard, run) for run in range(N_RUNS)]
    assert found.terms.keys() == expected[0].keys()
    for name, values in found.terms.items():
        assert relative_error(values, torch.stack([terms[name] for terms in expected])) < VALUES, name
    parameters = list(model.parameters())
    names = [name for name, _ in named_run_parameters(model)]
    assert len(names) == len(parameters) > 0
    ours = torch.autograd.grad(found.total.sum(), parameters)
    theirs = torch.autograd.grad(sum(sum(terms.values()) for terms in expected), parameters)
    for name, one, other in zip(names, ours, theirs, strict=True):
        assert other.abs().max() > 0, f"{name} does not act"
        assert relative_error(one, other) < GRADIENTS, name


def test_the_released_variant_trains_709120_numbers() -> None:
    """ViT-B/16, 16 + 16 tokens, 9 blocks: visual 110,592, text 73,728, mapping 524,800. Source: ga2-clip.md 1.6."""
    import tempfile

    from vidfeat.backbone import BackboneConfig, TextConfig, Tokenizer, VisionConfig
    from vidfeat.backbone import BackbonePack as Pack

    tokenizer = Tokenizer(("a b",), context_length=77)
    config = BackboneConfig(
        name="ViT-B-16",
        pretrained="none",
        embed_dim=512,
        vision=VisionConfig(image_size=224, patch_size=16, width=768, layers=12, heads=12),
        text=TextConfig(context_length=77, vocab_size=tokenizer.vocab_size, width=512, layers=12, heads=8),
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        interpolation="bicubic",
        logit_scale=100.0,
    )

    class Unwritten(Pack):
        """A pack of these sizes whose towers have no weights: nothing is computed here."""

        def __init__(self) -> None:
            super().__init__(Path(tempfile.gettempdir()), config=config, config_sha256="", files=FILES)

        def text_tower(self) -> Any:
            return meta(lambda: TextTower(config.text, embed_dim=512))

        def vision_tower(self) -> Any:
            return meta(lambda: VisionTower(config.vision, embed_dim=512))

        def tokenizer(self) -> Tokenizer:
            return tokenizer

    from vidfeat.backbone import TextTower, VisionTower

    def meta(make: Any) -> Any:
        with torch.device("meta"):
            return make()

    given = {"method": "ga2", "store": "x", "coupling": {"hard_prompts": ["a.safetensors"]}}
    resolved = resolve(given)
    from prompttune.base.run_axis import n_parameters_per_run
    from prompttune.parts.learned_context import LearnedContext
    from prompttune.parts.learned_visual import LearnedVisual

    pack = Unwritten()
    context = LearnedContext(resolved, pack, seeds=[1], n_classes=26, hard_prompts=[torch.zeros(16, 512)])
    visual = LearnedVisual(resolved.visual, pack, seeds=[1], device="meta")
    assert n_parameters_per_run(visual) == 110_592
    assert n_parameters_per_run(context) == 73_728 + 524_800
    assert n_parameters_per_run(visual) + n_parameters_per_run(context) == 709_120


FILES = {name: {"sha256": "", "size": 0} for name in ("text.safetensors", "visual.safetensors", "tokenizer.json")}
