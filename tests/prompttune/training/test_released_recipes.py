"""Golden values: where each method's training starts, and the settings its release has besides the default ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_store import make_pack
from torch.nn import functional as F
from training import short_runs, train_runs

from prompttune.api.apply_prompts import config_of_prompt
from prompttune.cli.tables import describe_method
from prompttune.config.methods import METHODS
from prompttune.config.record import NEWER, fingerprint_tables
from prompttune.config.runs import expand_runs, trains_by_gradient
from prompttune.config.train_config import TrainConfig, merge, resolve
from prompttune.data.features import read_features
from prompttune.data.protocols import open_sources
from prompttune.errors import ConfigError, FeatureError
from prompttune.model.fitted_adapters import tune_adapter
from prompttune.model.prompt_model import PromptModel
from prompttune.parts.adapters import TipAdapter, TipGrid
from prompttune.parts.class_adapters import ClassCache
from prompttune.parts.learned_context import LearnedContext
from prompttune.prompts.file import PromptFile
from prompttune.training.run_folder import claim_content
from prompttune.training.run_group import prepare
from prompttune.training.schedules import learning_rate, steps_per_epoch
from vidfeat.backbone import BackbonePack

# 16 videos of each of HMDB-51's 26 base classes: steps of an epoch; the rates of steps 0, 1 and 2, of epoch 1's first
# step and of the last step; the first numbers of the last context token before training, seed 1, in the tiny tower.
WORDS = (0.03233, -0.26369, 0.56937)  # "a"
RANDOM_16 = (-0.00364, 0.025, 0.01544)
GOLDEN: dict[str, tuple[int, tuple[float, ...], tuple[float, ...] | None]] = {
    "coop": (13, (1e-05, 1e-05, 1e-05, 0.002, 7.8853e-06), RANDOM_16),
    "coop-csc": (13, (1e-05, 1e-05, 1e-05, 0.002, 7.8853e-06), RANDOM_16),
    "kgcoop": (3, (1e-05, 1e-05, 1e-05, 0.002, 1.97327e-06), WORDS),
    "cocoop": (416, (1e-05, 1e-05, 1e-05, 0.002, 0.000190983), WORDS),
    "tcp": (13, (1e-05, 1e-05, 1e-05, 0.002, 7.8853e-06), (0.01117, 0.01508, -0.0235)),
    "prograd": (13, (1e-05, 1e-05, 1e-05, 0.002, 7.8853e-06), (0.02699, -0.2057, 0.86299)),  # "person"
    "promptsrc-text": (104, (1e-05, 1e-05, 1e-05, 0.0025, 6.11794e-05), WORDS),
    "a5": (7, (0.0001, 9.9998e-05, 9.99919e-05, 9.99013e-05, 2.01419e-09), (-0.00033, -0.00352, -0.00231)),
    "ga2-text": (6, (0.0, 0.000333333, 0.000666667, 0.002, 2.74093e-06), RANDOM_16),
    "tip-adapter-f": (2, (0.001, 0.000998459, 0.000993844, 0.000993844, 1.54133e-06), None),
    "clip-adapter": (13, (1e-05, 1e-05, 1e-05, 0.002, 4.9344e-07), None),
    "vpt": (104, (1e-05, 1e-05, 1e-05, 0.0025, 0.000863729), None),
    "vpt-deep": (104, (1e-05, 1e-05, 1e-05, 0.0025, 0.000863729), None),
    "ivlp": (104, (1e-05, 1e-05, 1e-05, 0.0025, 6.11794e-05), WORDS),
    "maple": (104, (1e-05, 1e-05, 1e-05, 0.0035, 0.00120922), (0.6551, 0.23252, 0.55688)),  # "video"
    "promptsrc": (104, (1e-05, 1e-05, 1e-05, 0.0025, 6.11794e-05), WORDS),
    "vifi-vl": (6, (0.0, 0.0, 0.00133333, 0.00666667, 0.000489656), RANDOM_16),
    "ga2-plus": (13, (0.0, 0.000384615, 0.000769231, 0.005, 7.4488e-07), (0.01117, 0.01508, -0.0235)),
    "ga2": (6, (0.0, 0.000333333, 0.000666667, 0.002, 2.74093e-06), RANDOM_16),
}


def config_of(name: str, tables: dict[str, Any] | None = None) -> TrainConfig:
    return resolve(merge({"method": name, "store": "x", **METHODS[name].requires}, tables or {}))


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> BackbonePack:
    return make_pack(tmp_path_factory.mktemp("golden") / "tiny.pack")


def start_of(config: TrainConfig, pack: BackbonePack) -> torch.Tensor:
    """The context's initial values of run 0 [M W]; of a context per class the first class's."""
    fit: dict[str, Any] = {"context": {"prompt_depth": min(config.context.prompt_depth, 3)}, "coupling": "none"}
    if config.context.class_tokens_block:
        fit["context"]["class_tokens_block"] = 2
    if config.visual is not None:
        fit["visual"] = {"depth": 3}
    small = resolve(merge(config.model_dump(exclude_none=True), fit | {"aggregation": "none", "anchors": "none"}))
    return (
        LearnedContext(small, pack, seeds=[1], n_classes=3).soft_rows()[0].reshape(-1, *config_shape(config, pack))[0]
    )


def config_shape(config: TrainConfig, pack: BackbonePack) -> tuple[int, int]:
    return config.context.n_ctx, pack.config.text.width


@pytest.mark.parametrize("name", [name for name in METHODS if trains_by_gradient(config_of(name))])
def test_every_training_starts_where_its_release_does(name: str, pack: BackbonePack) -> None:
    config = config_of(name)
    n_per_epoch, rates, values = GOLDEN[name]
    n_found = steps_per_epoch(config.optim, 416)
    n_steps = n_found * config.optim.epochs
    found = [
        learning_rate(config.optim, step, n_steps=n_steps, steps_per_epoch=n_found)
        for step in (0, 1, 2, n_found, n_steps - 1)
    ]
    assert n_found == n_per_epoch
    assert found == pytest.approx(rates, rel=1e-5, abs=1e-12)
    assert (values is None) == (config.context.kind == "none")
    if values is not None:
        assert start_of(config, pack)[-1, :3].tolist() == pytest.approx(values, abs=1e-5)


def test_prograd_starts_from_zeros_and_the_template_s_words_before_the_name(pack: BackbonePack) -> None:
    ids = pack.tokenizer().encode("a video of a person")
    words = pack.text_tower().embed(torch.tensor(ids))
    n_ctx = len(ids) + 3
    start = start_of(config_of("prograd", {"context": {"n_ctx": n_ctx}}), pack)
    assert torch.equal(start, torch.cat([torch.zeros(3, words.shape[1]), words]))
    other = config_of("prograd", {"context": {"n_ctx": n_ctx}, "templates": {"zero_shot": "a video of a {}."}})
    assert not start_of(other, pack)[: n_ctx - 4].any()
    with pytest.raises(ConfigError, match="init_pad = true"):
        start_of(config_of("coop", {"context": {"init": "a video of a", "n_ctx": 5}}), pack)
    with pytest.raises(ConfigError, match="not as many tokens"):
        start_of(config_of("prograd", {"context": {"n_ctx": 2}}), pack)


def test_hidden_width_of_tcp_is_a_quarter_of_the_joint_width(pack: BackbonePack) -> None:
    small = resolve(merge(config_of("tcp").model_dump(exclude_none=True), {"context": {"class_tokens_block": 2}}))
    assert small.context.class_tokens_hidden == 128  # what a whole configuration does not say is the table's own
    context = LearnedContext(config_of("tcp", {"context": {"class_tokens_block": 2}}), pack, seeds=[1], n_classes=3)
    assert context.class_net is not None
    assert context.class_net.first.weight().shape[1] == pack.config.embed_dim // 4


def test_words_behind_the_context_are_the_prompt_s_own_words(pack: BackbonePack) -> None:
    names = ("run", "wave_hand")
    whole = PromptModel(config_of("kgcoop"), pack, seeds=[1], classes=names).eval()
    parts = {"context": {"n_ctx": 2, "init": "a video", "words_behind": "of a"}}
    split = PromptModel(config_of("kgcoop", parts), pack, seeds=[1], classes=names).eval()
    features = [model.class_features(model.vocabulary(names)) for model in (whole, split)]
    # Two learned rows and two of the name against four learned rows: other products, so not the same bits.
    torch.testing.assert_close(features[0], features[1], rtol=1e-5, atol=1e-6)
    assert split.prompt_texts(names)["wave_hand"] == "[2] of a wave hand."
    assert split.run_tensors(0)["context.ctx"].shape == (2, 32)
    with pytest.raises(ConfigError, match="words_behind"):
        config_of("coop", {"context": {"words_behind": "of a", "position": "front"}})


def test_promptsrc_s_teacher_averages_features_before_they_have_unit_length(pack: BackbonePack) -> None:
    assert config_of("promptsrc").templates.average == "raw"
    templates = ("a video of a {}.", "one {}, filmed.", "{}")
    tables = {"context": {"prompt_depth": 1}, "templates": {"ensemble": templates}}
    model = PromptModel(config_of("promptsrc-text", tables), pack, seeds=[1], classes=("run",))
    tokenizer, tower = pack.tokenizer(), pack.text_tower()
    with torch.no_grad():
        raw = [tower(torch.as_tensor(tokenizer.tokenize([one.format("run")]))) for one in templates]
    expected = F.normalize(torch.stack(raw).mean(dim=0), dim=-1)
    found = model.frozen_text(["run"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    units = F.normalize(torch.stack([F.normalize(one, dim=-1) for one in raw]).mean(dim=0), dim=-1)
    assert (found - units).abs().max() > 1e-4


def test_tip_adapter_s_keys_are_the_mean_of_the_augmented_views(visual_target: str, target: str) -> None:
    runs = short_runs({"method": "tip-adapter", "head": {"tip_keys": "views"}}, store=visual_target, seeds=[1, 2])
    sources = open_sources(runs[0].config)
    group = prepare(runs, sources)
    assert isinstance(group.model.fitted, ClassCache)
    for run, split in enumerate(group.splits):
        flipped = read_features(sources.train, split.train, reduce="mean", view=1)  # the store's one augmented view
        keys = F.normalize(flipped.values[flipped.positions(split.train)], dim=-1)
        torch.testing.assert_close(group.model.fitted.tip.keys[run], keys)
    with pytest.raises(FeatureError, match=r"(?s)head.tip_keys = \"views\" needs several.*--views 2"):
        open_sources(resolve({"method": "tip-adapter", "store": target, "head": {"tip_keys": "views"}}))


def test_tip_adapter_searches_as_far_as_its_data_set_says(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    far = {"method": "tip-adapter", "recipe": "dtd", "protocol": {"val_shots": 1}, "head": {"tip_largest_beta": 12.0}}
    runs = short_runs(far, store=target, seeds=[1])
    group = prepare(runs, open_sources(runs[0].config))
    tried: list[TipGrid] = []
    monkeypatch.setattr(TipAdapter, "search", lambda _, *, grid, **__: tried.append(grid))
    tune_adapter(group.model, splits=group.splits, features=group.features[""])
    assert tried == [TipGrid(largest_beta=12.0, largest_alpha=13.0)]
    assert isinstance(group.model.fitted, ClassCache)
    assert float(group.model.fitted.tip.alpha[0]) == 2.0


@pytest.mark.parametrize("name", METHODS)
def test_recipes_resolve_and_pages_say_release_and_differences(name: str) -> None:
    method = METHODS[name]
    page = " ".join(line.removeprefix("#").strip() for line in describe_method(name).splitlines() if line[:1] == "#")
    for recipe in method.recipes:
        config = config_of(name, {"recipe": recipe, "protocol": {"val_shots": 1}})
        assert resolve(config.model_dump(mode="json", exclude_none=True) | {"method": name}).recipe == recipe
        assert fingerprint_tables(config) != fingerprint_tables(config_of(name, {"protocol": {"val_shots": 1}}))
        assert f"{recipe}: " in page
    if name not in ("zero-shot", "ga2-plus"):  # neither is anybody's release
        assert method.release in page
        assert "@" in method.release
        assert all(" ".join(one.split()) in " ".join(page.replace("- ", "", 0).split()) for one in method.differs)
        assert method.differs
    with pytest.raises(ConfigError, match="has no recipe 'nonsense'"):
        config_of(name, {"recipe": "nonsense"})


def test_no_epochs_leave_nothing_to_average() -> None:
    with pytest.raises(ConfigError, match="aggregation = none"):
        config_of("promptsrc", {"optim": {"epochs": 0}})
    assert config_of("promptsrc", {"optim": {"epochs": 0}, "aggregation": "none"}).aggregation is None
    with pytest.raises(ConfigError, match="leaves none of 4 epochs any weight"):
        config_of("promptsrc", {"optim": {"epochs": 4}, "aggregation": {"mean": 100.0}})
    with pytest.raises(ConfigError, match=r"2 problems in .*\n.*\n    selection = .*\n    aggregation is"):
        config_of("promptsrc", {"optim": {"epochs": 0}, "selection": "val"})


def before(config: TrainConfig) -> dict[str, Any]:
    """A configuration's document as it was before there were the newer keys."""
    tables = json.loads(config.model_dump_json())
    for key in NEWER:
        table, _, name = key.rpartition(".")
        (tables[table] or {} if table else tables).pop(name, None)
    return tables


def test_records_of_before_mean_what_they_meant(tmp_path: Path, target: str) -> None:
    plain = {"context": {"words_behind": ""}, "optim": {"drop_last": False}}
    config = config_of("maple", plain)
    old = before(config)
    document = {key: {k: "none" if v is None else v for k, v in value.items()} if isinstance(value, dict) else value
                for key, value in old.items()}  # fmt: skip
    read = resolve({key: "none" if value is None else value for key, value in document.items()})
    assert read == config  # and not MaPLe's words of today
    prompt = PromptFile("maple", 1, old, (), "", "", "", 2, 32, None, {})
    assert config_of_prompt(prompt, {"store": "y"}).context.words_behind == ""
    # What another training would be keeps its name on disk: the claim of a run folder is byte for byte that of before.
    run = expand_runs({"method": "coop", "store": target, "optim": {"drop_last": False, "schedule": "cosine"}}, {})[0]
    claimed = json.loads(claim_content([run]))["runs"][run.name]
    assert claimed == {k: v for k, v in before(run.config).items() if k in claimed}
    assert "drop_last" in json.dumps(json.loads(claim_content(short_runs({"method": "coop"}, store=target))))


def test_an_epoch_without_its_last_batch_trains_on_whole_batches(tmp_path: Path, target: str) -> None:
    tables = {"method": "coop", "optim": {"epochs": 2, "batch_size": 5}}
    fitted = train_runs(tmp_path / "run", tables, store=target, seeds=[1])
    assert fitted.result.runs[0].n_train == 16
    assert fitted.result.runs[0].n_steps == 2 * 3
    rates = [json.loads(line)["lr"] for line in (fitted.folder / "seed1" / "log.jsonl").read_text().splitlines()]
    assert np.isclose(rates[0], 1e-5)
