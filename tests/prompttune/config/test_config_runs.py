"""Configurations: strict, complete in their complaints, and printable as the file that would do the same again."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from prompttune.cli.tables import describe_method
from prompttune.config.effects import require_effect, require_effect_in_evaluation
from prompttune.config.methods import METHODS
from prompttune.config.runs import expand_runs, group_runs, parse_overrides
from prompttune.config.train_config import TrainConfig, read_toml, resolve, valid_keys
from prompttune.errors import ConfigError


@pytest.mark.parametrize("name", METHODS)
def test_every_method_resolves_and_round_trips_through_toml(name: str) -> None:
    text = describe_method(name)
    config = resolve(tomllib.loads(text))
    assert config.method == name
    assert resolve(tomllib.loads(config.to_toml())) == config
    assert METHODS[name].summary
    assert METHODS[name].source


def test_round_trip_keeps_what_takes_a_part_off_a_method() -> None:
    config = resolve({"method": "ga2-text", "store": "x", "coupling": "none"})
    assert config.coupling is None
    assert resolve(tomllib.loads(config.to_toml())).coupling is None
    with pytest.raises(ConfigError, match="hard_prompts"):
        resolve({"method": "ga2-text", "store": "x"})


def test_every_problem_is_reported_at_once_with_the_nearest_key() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(
            {
                "method": "coop",
                "store": "x",
                "optim": {"lrr": 1.0, "epochs": -1, "name": "adamm"},
                "contxt": {},
                "losses": {"cross-entropi": 1.0},
                "templates": {"zero_shot": "no place"},
            }
        )
    message = str(caught.value)
    assert "optim.lrr: unknown key; did you mean 'optim.lr'?" in message
    assert "optim.epochs" in message
    assert "'adamw'" in message
    assert "did you mean 'context'?" in message
    assert "template" in message
    with pytest.raises(ConfigError, match="did you mean 'cross-entropy'"):
        resolve({"method": "coop", "store": "x", "losses": {"cross-entropi": 1.0}})


def test_unknown_and_missing_methods() -> None:
    with pytest.raises(ConfigError, match="did you mean 'kgcoop'"):
        resolve({"method": "kgcop", "store": "x"})
    with pytest.raises(ConfigError, match="no method given"):
        resolve({"store": "x"})
    with pytest.raises(ConfigError, match="store"):
        resolve({"method": "coop"})


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ({"selection": "val"}, "nothing is ever selected on test videos"),
        ({"protocol": {"shots": 4, "val_shots": 4}}, "leaves nothing"),
        ({"seeds": [1, 1]}, "twice"),
        ({"seeds": []}, "seeds"),
        ({"context": {"position": "front", "prompt_depth": 2}}, "context.position"),
        ({"coupling": {"hard_prompts": ["x"], "depth": 3}}, "deeper than context.prompt_depth"),
        ({"coupling": {"hard_prompts": ["x"]}, "context": {"kind": "class"}}, "one per class"),
        ({"optim": {"gradient": "prograd"}}, "zero-shot-consistency"),
        ({"protocol": {"name": "few-shot", "base_classes": ["a"]}}, "base_classes belongs"),
    ],
)
def test_contradictions_are_refused(tables: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        resolve({"method": "coop", "store": "x", **tables})


def test_configurations_are_frozen() -> None:
    config = resolve({"method": "coop", "store": "x"})
    with pytest.raises(ValueError):
        config.optim.lr = 1.0  # type: ignore[misc]


def test_overrides_are_typed_and_commas_open_axes() -> None:
    plain, axes = parse_overrides(
        [
            "optim.lr=0.002,0.01",
            "seeds=1,2",
            "coupling.hard_prompts=a.safetensors,b.safetensors",
            "templates.zero_shot='one, two {}.'",
            "store=/some/where.zarr",
            "log.tensorboard=true",
            "losses.knowledge-guided=4,8",
            "loss_options.knowledge-guided.power=2",
            "optim.betas=0.9,0.98",
            "context.n_ctx=4",
        ]
    )
    assert axes == {"optim.lr": [0.002, 0.01], "losses.knowledge-guided": [4, 8]}
    assert plain["seeds"] == [1, 2]
    assert plain["coupling"]["hard_prompts"] == ["a.safetensors", "b.safetensors"]
    assert plain["templates"]["zero_shot"] == "one, two {}."
    assert plain["store"] == "/some/where.zarr"
    assert plain["log"]["tensorboard"] is True
    assert plain["optim"]["betas"] == [0.9, 0.98]
    assert plain["context"]["n_ctx"] == 4
    single, _ = parse_overrides(["seeds=3", "coupling.hard_prompts=a.safetensors"])
    assert single == {"seeds": [3], "coupling": {"hard_prompts": ["a.safetensors"]}}


def test_the_last_part_of_a_key_stands_for_it_where_it_is_the_only_one() -> None:
    plain, axes = parse_overrides(["lr=0.002,0.01", "n_ctx=4", "hard_prompts=a.safetensors,b.safetensors"])
    assert axes == {"optim.lr": [0.002, 0.01]}
    assert plain["context"] == {"n_ctx": 4}
    assert plain["coupling"] == {"hard_prompts": ["a.safetensors", "b.safetensors"]}
    with pytest.raises(ConfigError, match=r"name: may be protocol\.name or optim\.name"):
        parse_overrides(["name=sgd"])
    assert parse_overrides(["store=x", "anchors.store=y"])[0] == {"store": "x", "anchors": {"store": "y"}}


def test_bad_overrides_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_overrides(["optim.lrate=1", "nonsense", "context.n_ctx=4"])
    message = str(caught.value)
    assert "optim.lrate: unknown key; did you mean 'optim.lr'?" in message
    assert "nonsense: expected KEY=VALUE" in message
    assert "n_ctx" not in message


def test_axes_and_seeds_make_the_product_and_group_by_shape() -> None:
    axes = {"optim.lr": [0.1, 0.2], "context.n_ctx": [2, 4]}
    runs = expand_runs({"method": "coop", "store": "x", "seeds": [1, 2]}, axes)
    assert len(runs) == 8
    assert len({run.name for run in runs}) == 8
    groups = group_runs(runs)
    assert [len(group) for group in groups] == [4, 4]  # by n_ctx: another shape; learning rates go together
    assert all(len({run.config.context.n_ctx for run in group}) == 1 for group in groups)
    assert runs[0].config.seeds == (1,)


def test_zero_shot_runs_once_whatever_the_seeds() -> None:
    assert len(expand_runs({"method": "zero-shot", "store": "x", "seeds": [1, 2, 3]}, {})) == 1


def test_toml_files_that_cannot_be_read(tmp_path) -> None:
    with pytest.raises(ConfigError, match="no such configuration"):
        read_toml(tmp_path / "missing.toml")
    (tmp_path / "bad.toml").write_text("method = ")
    with pytest.raises(ConfigError, match="not a TOML file"):
        read_toml(tmp_path / "bad.toml")


def test_valid_keys_cover_every_section() -> None:
    keys = valid_keys()
    assert "optim.lr" in keys
    assert "coupling.variant" in keys
    assert {key.split(".")[0] for key in keys} == set(TrainConfig.model_fields)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("optim.learning_rate", "optim.lr"),
        ("learning_rate", "optim.lr"),
        ("optim.lrr", "optim.lr"),
        ("contxt.n_ctx", "context.n_ctx"),
        ("protocol.shot", "protocol.shots"),
        ("nctx", "context.n_ctx"),
        ("optm", "optim"),
        ("visual.dept", "visual.depth"),
        ("optim.optimizer", "optim.name"),
    ],
)
def test_an_unknown_key_is_told_the_one_it_meant(word: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{re.escape(meant)}'"):
        parse_overrides([f"{word}=1"])


def test_a_key_of_no_likeness_is_told_the_keys_of_its_table() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_overrides(["optim.xyzzy=1"])
    assert "optim.lr" in str(caught.value)
    assert "context.n_ctx" not in str(caught.value)


def test_template_alone_may_be_one_of_two_and_its_commas_are_its_own() -> None:
    with pytest.raises(ConfigError, match=r"anchors\.template or templates\.zero_shot"):
        parse_overrides(["template=a photo of {}."])
    plain, axes = parse_overrides(["templates.zero_shot=a clip, short, of {}."])
    assert plain == {"templates": {"zero_shot": "a clip, short, of {}."}}
    assert not axes
    _, axes = parse_overrides(["zero_shot=a clip of {}.,a photo of {}."])
    assert axes == {"templates.zero_shot": ["a clip of {}.", "a photo of {}."]}


@pytest.mark.parametrize(
    ("given", "key", "needs"),
    [
        ({"method": "zero-shot", "store": "x"}, "optim.lr", "gradient"),
        ({"method": "vifi-vl", "store": "x"}, "optim.momentum", "sgd"),
        ({"method": "coop", "store": "x"}, "optim.eps", "adam"),
        ({"method": "coop", "store": "x"}, "head.tip_alpha", "tip-adapter"),
        ({"method": "clip-adapter", "store": "x"}, "context.n_ctx", "learned context"),
        ({"method": "coop", "store": "x"}, "classes.n_negatives", "classes.sample"),
        ({"method": "coop", "store": "x"}, "protocol.split_seed", "test_fraction"),
    ],
)
def test_a_setting_that_changes_nothing_is_refused(given: dict[str, Any], key: str, needs: str) -> None:
    with pytest.raises(ConfigError, match=f"{re.escape(key)}: needs .*{needs}"):
        require_effect([key], expand_runs(given, {}))


def test_a_setting_that_acts_on_one_of_the_runs_is_taken() -> None:
    runs = expand_runs({"method": "coop", "store": "x"}, {"optim.name": ["sgd", "adam"]})
    require_effect(["optim.name", "optim.eps", "optim.momentum", "optim.lr", "context.init_std"], runs)
    require_effect_in_evaluation(["templates.zero_shot", "device"], zero_shot=True)
    with pytest.raises(ConfigError, match=r"optim\.lr"):
        require_effect_in_evaluation(["optim.lr"], zero_shot=True)
    with pytest.raises(ConfigError, match=r"templates\.zero_shot"):
        require_effect_in_evaluation(["templates.zero_shot"], zero_shot=False)


def test_published_lists_of_templates_go_by_name() -> None:
    """Lengths, first and last as in the sources named in template_presets; the words are in the configuration."""
    expected = {
        "clip-kinetics": (28, "a photo of {}.", "a demonstration of a person practicing {}."),
        "clip-ucf101": (48, "a photo of a person {}.", "a demonstration of the person practicing {}."),
        "promptsrc": (60, "a photo of a {}.", "itap of the {}."),
    }
    for name, (length, first, last) in expected.items():
        held = resolve({"method": "zero-shot", "store": "x", "templates": {"ensemble": f"@{name}"}}).templates.ensemble
        assert (len(held), len(set(held)), held[0], held[-1]) == (length, length, first, last)
    both = resolve({"method": "zero-shot", "store": "x", "templates": {"ensemble": ["@promptsrc", "{}!"]}})
    assert both.templates.ensemble[60:] == ("{}!",)


def test_a_file_of_templates_is_read_into_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "templates.txt"
    file.write_text("# of a paper\na clip of {}.\n\na video, of {}.\n")
    plain, axes = parse_overrides([f"templates.ensemble=@{file}"])
    config = resolve({"method": "promptsrc-text", "store": "x", **plain})
    assert not axes
    assert config.templates.ensemble == ("a clip of {}.", "a video, of {}.")
    assert resolve(tomllib.loads(config.to_toml())) == config
    with pytest.raises(ConfigError, match="no file of templates"):
        resolve({"method": "coop", "store": "x", "templates": {"ensemble": ["@nowhere.txt"]}})
    file.write_text("no place\n")
    with pytest.raises(ConfigError, match="a template holds"):
        resolve({"method": "coop", "store": "x", "templates": {"ensemble": [f"@{file}"]}})
