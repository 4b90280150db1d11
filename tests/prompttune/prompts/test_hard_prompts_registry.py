"""The registry of prompt files: through its functions and through `prompttune prompts`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from training import train_runs

from prompttune.api.apply_prompts import apply_prompts
from prompttune.api.classify import ClassifyOptions, classify
from prompttune.cli.commands import cli
from prompttune.cli.prompts import read_class_names
from prompttune.errors import PromptFileError
from prompttune.prompts.file import PromptFile, read_prompt_file
from prompttune.prompts.registry import list_prompts

WIDTH = 32  # of the tiny store's text tower


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["prompts", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    path = tmp_path / "classes.csv"
    path.write_text("id,name\n0,ThrowingBall\n1,cook\n", encoding="utf-8")
    return path


def test_list_and_show_what_a_command_learned(stores: Path, hard_prompt: str) -> None:
    entries = list_prompts(stores)
    assert [str(entry.path) for entry in entries] == [hard_prompt]  # packs and other safetensors are not prompts
    listed = run("list", stores).output
    assert "coop" in listed
    shown = run("show", hard_prompt).output
    assert f"method:{' ' * 13}coop" in shown
    assert "cook, paint, dance" in shown
    assert "context.ctx [16, 32]" in shown
    with pytest.raises(PromptFileError, match="no folder"):
        list_prompts(stores / "nowhere")


def test_import_train_with_it_and_export(tmp_path: Path, target: str, classes: Path) -> None:
    ctx = torch.randn(16, WIDTH)
    torch.save({"state_dict": {"prompt_learner.ctx": ctx}}, tmp_path / "coop.pth")
    imported = tmp_path / "imported.safetensors"
    told = run("import", tmp_path / "coop.pth", imported, "--store", target, "--classes", classes).output
    assert "16 tokens of width 32" in told
    tables = {"method": "ga2-text", "coupling": {"hard_prompts": [str(imported)]}}
    found = train_runs(tmp_path / "run", tables, store=target, seeds=[1])
    (provenance,) = found.result.hard_prompts
    assert provenance["method"] == "imported"
    assert provenance["classes"] == ["ThrowingBall", "cook"]
    held = read_prompt_file(tmp_path / "run" / "seed1" / "prompt.safetensors")
    assert torch.equal(held.learned["context.coupling.hard_0"], ctx)

    run("export", imported, tmp_path / "plain.safetensors")
    assert torch.equal(load_file(tmp_path / "plain.safetensors")["ctx"], ctx)
    with pytest.raises(PromptFileError, match="there already"):
        run("export", imported, tmp_path / "plain.safetensors")


def test_import_of_another_width_is_refused(tmp_path: Path, target: str, classes: Path) -> None:
    torch.save({"ctx": torch.randn(4, 12)}, tmp_path / "a.pt")
    with pytest.raises(PromptFileError, match="width 12"):
        run("import", tmp_path / "a.pt", tmp_path / "out.safetensors", "--store", target, "--classes", classes)
    assert not (tmp_path / "out.safetensors").exists()


def test_overlap_is_told_by_the_command_and_in_every_result(tmp_path: Path, target: str, hard_prompt: str) -> None:
    # The target's new classes are climb, throw_ball, ride, spin; this prompt claims two of them.
    torch.save({"ctx": torch.randn(16, WIDTH)}, tmp_path / "a.pt")
    names = tmp_path / "names.txt"
    names.write_text("Spin\nthrowing balls\nknit\n", encoding="utf-8")
    leaky = tmp_path / "leaky.safetensors"
    run("import", tmp_path / "a.pt", leaky, "--store", target, "--classes", names)
    told = run("overlap", leaky, "--store", target).output
    # The tiny tower is random, so what it calls near means nothing; names do.
    assert "of 4 classes are in the source (1 equal, 1 same-words" in told
    assert "  equal       spin ~ Spin  (cosine 1.0)" in told
    assert "  same-words  throw_ball ~ throwing balls" in told

    tables = {"method": "ga2-text", "coupling": {"hard_prompts": [str(leaky), hard_prompt]}}
    first, second = train_runs(tmp_path / "run", tables, store=target, seeds=[1]).result.hard_prompts
    named = {pair["target"]: pair["kind"] for pair in first["overlapping"] if pair["kind"] != "near"}
    assert named == {"throw_ball": "same-words", "spin": "equal"}
    assert "of 4 classes are in the source" in first["overlap"]
    assert [pair["kind"] for pair in second["overlapping"] if pair["kind"] != "near"] == []


def test_hard_prompt_of_several_blocks() -> None:
    ctx, deep = torch.zeros(2, 4), [torch.full((2, 4), float(block)) for block in (1, 2)]
    facts = {"method": "coop", "seed": 1, "config": {}, "classes": (), "split_sha256": "", "store_fingerprint": ""}
    held = PromptFile(
        **facts,
        pack_hash="p",
        n_ctx=2,
        width=4,
        ctx=ctx,
        learned={"context.deep.0": deep[0], "context.deep.1": deep[1]},
    )
    assert torch.equal(held.hard_prompt(), ctx)
    assert torch.equal(held.hard_prompt(depth=2), torch.stack([ctx, deep[0]]))
    assert torch.equal(held.hard_prompt(depth=9), torch.stack([ctx, *deep]))
    none = PromptFile(**facts, pack_hash="p", n_ctx=0, width=0, ctx=None, learned={})
    with pytest.raises(PromptFileError, match="no context"):
        none.hard_prompt()


def test_class_name_files(tmp_path: Path) -> None:
    path = tmp_path / "names"
    for text, wanted in (
        ("id,name\r\n0,a b\r\n1,c\r\n", ["a b", "c"]),
        ('\ufeffid,name\n0,"a, b"\n', ["a, b"]),
        ("one\n\n two \n", ["one", "two"]),
    ):
        path.write_text(text, encoding="utf-8")
        assert read_class_names(path) == wanted
    assert read_class_names("one, two") == ["one", "two"]


@pytest.mark.parametrize("depth", [1, 3])
def test_an_imported_context_evaluates_and_classifies_as_the_run_it_came_from(
    tmp_path: Path, target: str, depth: int
) -> None:
    """Our own run's tensors, saved as CoOp's and ViFi-CLIP's code saves theirs, come back with the same accuracies."""
    tables = {"optim": {"epochs": 2}, "context": {"n_ctx": 4, "prompt_depth": depth}}
    trained = train_runs(tmp_path / "run", tables, method="coop", store=target, seeds=[1]).result.runs[0]
    own = tmp_path / "run" / "seed1" / "prompt.safetensors"
    held = read_prompt_file(own)
    state = {"prompt_learner.ctx": held.ctx, "prompt_learner.token_prefix": torch.zeros(4, 1, WIDTH)}
    for block in range(depth - 1):
        state[f"text_encoder.transformer.resblocks.{block + 1}.VPT_shallow"] = held.learned[f"context.deep.{block}"]
    torch.save({"state_dict": state}, tmp_path / "theirs.pth")
    (tmp_path / "classes.txt").write_text("\n".join(held.classes))
    imported = tmp_path / "imported.safetensors"
    run("import", tmp_path / "theirs.pth", imported, "--store", target, "--classes", tmp_path / "classes.txt")
    found = apply_prompts([imported], given={"store": target}, base_to_new=True)
    assert found.runs[0].metrics == trained.metrics
    theirs, ours = (classify(target, ClassifyOptions(prompts=path)) for path in (imported, own))
    assert theirs == ours
