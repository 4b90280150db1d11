"""The model's forward pass against plain computations written out a second time, video by video and class by class."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from training import short_runs, trainer_of

from prompttune.base.run_axis import RunParameter
from prompttune.data.features import Batch
from prompttune.errors import ConfigError, FeatureError
from prompttune.model.prompt_model import PromptModel
from prompttune.text.class_prompts import clean_class_name
from vidfeat.backbone import TextTower

TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}  # packed against plain rows: sums of other order, scaled by 50 in logits


def model_of(tables: dict, target: str, seeds: tuple[int, ...] = (1, 2)) -> PromptModel:
    group, _ = trainer_of(short_runs(tables, store=target, seeds=list(seeds)))
    return group.model.eval()


def plain_class_feature(
    tower: TextTower, model: PromptModel, name: str, ctx: torch.Tensor, replaced: dict[int, torch.Tensor] | None = None
) -> torch.Tensor:
    """One class, all 77 positions, block by block: `SOS ctx name . EOT`."""
    tokenizer = model.pack.tokenizer()
    ids = [*tokenizer.encode(name + "."), tokenizer.eot_id]
    start, words = tower.embed(torch.tensor([tokenizer.sot_id])), tower.embed(torch.tensor(ids))
    rows = torch.cat([start, ctx, words])
    x = F.pad(rows, (0, 0, 0, 77 - len(rows)))[None] + tower.positional_embedding
    for index, block in enumerate(tower.blocks):
        if replaced and index in replaced:
            x = torch.cat([x[:, :1], replaced[index][None], x[:, 1 + len(ctx) :]], dim=1)
        x = block(x, is_causal=True)
    return F.normalize(tower.ln_final(x[0, len(rows) - 1]) @ tower.text_projection, dim=-1)


def linear(layer, run: int, x: torch.Tensor) -> torch.Tensor:
    return x @ layer.weight.runs[run].T + layer.bias.runs[run]


def test_everything_trainable_is_a_run_parameter_and_no_tower_is_inside(target: str) -> None:
    for method in ("coop", "cocoop", "clip-adapter"):
        model = model_of({"method": method}, target)
        owned = {id(module.values) for module in model.modules() if isinstance(module, RunParameter)}
        assert owned == {id(parameter) for parameter in model.parameters()}
        assert not any("tower" in name for name, _ in model.named_modules())
        assert all(not parameter.requires_grad for parameter in model.pack.text_tower().parameters())


@pytest.mark.parametrize("depth", [1, 3])
def test_coop_equals_one_class_at_a_time(target: str, depth: int) -> None:
    model = model_of({"method": "coop", "context": {"prompt_depth": depth, "init_std": 0.3}}, target)
    vocabulary = model.vocabulary(("run", "wave_hand", "throw_ball"))
    found = model.class_features(vocabulary)
    assert model.context is not None
    for run in range(2):
        deep = {block: layer.runs[run] for block, layer in enumerate(model.context.deep, start=1)}
        for place, words in enumerate(("run", "wave hand", "throw ball")):
            expected = plain_class_feature(model.pack.text_tower(), model, words, model.context.ctx.runs[run], deep)
            torch.testing.assert_close(found[run, place], expected, **TOLERANCE)


def test_cocoop_equals_one_video_at_a_time(target: str) -> None:
    model = model_of({"method": "cocoop"}, target)
    vocabulary = model.vocabulary(("run", "jump"))
    videos = F.normalize(torch.randn(2, 3, 24, generator=torch.Generator().manual_seed(0)), dim=-1)
    found = model.class_features(vocabulary, videos)
    assert found.shape == (2, 3, 2, 24)
    context = model.context
    assert context is not None
    assert context.image_net is not None
    for run in range(2):
        for video in range(3):
            hidden = linear(context.image_net.first, run, videos[run, video]).relu()
            ctx = context.ctx.runs[run] + linear(context.image_net.second, run, hidden)
            for place, name in enumerate(("run", "jump")):
                expected = plain_class_feature(model.pack.text_tower(), model, name, ctx)
                torch.testing.assert_close(found[run, video, place], expected, **TOLERANCE)
    by_batch = model.classifier(("run", "jump"))(videos)
    expected_logits = model.logit_scale * torch.einsum("rbe,rbce->rbc", videos, found)
    torch.testing.assert_close(by_batch, expected_logits, rtol=1e-4, atol=2e-3)


def test_tcp_equals_one_class_at_a_time(target: str) -> None:
    model = model_of({"method": "tcp", "context": {"class_tokens_block": 2}}, target)
    names = ("run", "jump", "swim")
    vocabulary = model.vocabulary(names)
    found = model.class_features(vocabulary)
    context = model.context
    assert context is not None
    assert context.class_net is not None
    for run in range(2):
        for place, name in enumerate(names):
            hidden = linear(context.class_net.first, run, vocabulary.frozen[place])
            hidden = hidden * torch.sigmoid(1.702 * hidden)
            tokens = linear(context.class_net.second, run, hidden).reshape(4, 32)
            expected = plain_class_feature(model.pack.text_tower(), model, name, context.ctx.runs[run], {2: tokens})
            torch.testing.assert_close(found[run, place], expected, **TOLERANCE)


def test_frozen_text_is_the_mean_over_templates_of_unit_features(target: str) -> None:
    templates = ["a photo of {}.", "{} in a video."]
    model = model_of({"method": "coop", "templates": {"ensemble": templates}}, target)
    tower, tokenizer = model.pack.text_tower(), model.pack.tokenizer()
    expected = sum(F.normalize(tower(tokenizer.tokenize([t.format("run")])), dim=-1) for t in templates)
    torch.testing.assert_close(model.frozen_text(("run",)), F.normalize(expected, dim=-1), **TOLERANCE)


def test_step_holds_what_the_terms_may_look_at(target: str) -> None:
    group, trainer = trainer_of(short_runs({"method": "coop"}, store=target, seeds=[1, 2]))
    batch: Batch = trainer.inputs.videos.batch(torch.tensor([[0, 1, 2], [3, 4, 5]]))
    (step,) = group.model.steps(batch, trainer.inputs.vocabulary)
    unit = F.normalize(batch.features, dim=-1)
    torch.testing.assert_close(step.video_features, unit)
    zero_shot = group.model.logit_scale * unit @ trainer.inputs.vocabulary.frozen.T
    torch.testing.assert_close(step.frozen_logits, zero_shot, rtol=1e-5, atol=1e-4)
    expected = group.model.logit_scale * torch.einsum("rbe,rce->rbc", unit, step.class_features)
    torch.testing.assert_close(step.logits, expected)


def test_a_tower_too_shallow_is_refused_with_what_to_set(target: str) -> None:
    with pytest.raises(FeatureError, match=r"class_tokens_block=2"):
        model_of({"method": "tcp"}, target)
    with pytest.raises(FeatureError, match=r"prompt_depth=3"):
        model_of({"method": "coop", "context": {"prompt_depth": 9}}, target)


def test_words_and_tokens_must_agree(target: str) -> None:
    with pytest.raises(ConfigError, match=r"context.n_ctx = 4"):
        model_of({"method": "coop", "context": {"init": "a video of a"}}, target)


def test_hard_prompts_of_another_length_are_refused_before_training(target: str, hard_prompt: str) -> None:
    tables = {"method": "ga2-text", "coupling": {"hard_prompts": [hard_prompt]}, "context": {"n_ctx": 8}}
    with pytest.raises(ConfigError, match=r"--set context\.n_ctx=16"):
        model_of(tables, target)


@pytest.mark.parametrize(
    ("name", "split", "words"),
    [
        ("wave_hand", False, "wave hand"),
        ("PlayingViolin", False, "PlayingViolin"),
        ("PlayingViolin", True, "Playing Violin"),
        ("YoYo_trick", True, "Yo Yo trick"),
        ("  a  b ", False, "a b"),
    ],
)
def test_class_names_become_words(name: str, split: bool, words: str) -> None:
    assert clean_class_name(name, split_camel_case=split) == words


def test_underscores_stay_where_they_are_to_stay_and_acronyms_are_one_word() -> None:
    assert clean_class_name("wave_hand", replace_underscores=False) == "wave_hand"
    assert clean_class_name("WatchingTVShow", split_camel_case=True) == "Watching TV Show"


def test_the_cleaned_name_is_what_the_prompt_says(target: str) -> None:
    for options, words in (({}, "wave hand"), ({"replace_underscores": False}, "wave_hand")):
        model = model_of({"method": "coop", "context": {"n_ctx": 4}, "templates": options}, target)
        assert model.prompt_texts(["wave_hand"]) == {"wave_hand": f"[4] {words}."}
