"""Around prompt files: the nearest words of one, the mean of several runs' logits, training from another's context."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from training import train_runs

from prompttune.api.apply_prompts import apply_prompts
from prompttune.cli.commands import cli
from prompttune.data.features import open_source
from prompttune.errors import ConfigError, PromptFileError
from prompttune.evaluation.evaluate import load_predictions
from prompttune.prompts.file import PromptFile, read_prompt_file, write_prompt_file
from prompttune.prompts.nearest_words import nearest_words, usual_distance


def run(*arguments: object) -> str:
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def prompt_of(ctx: torch.Tensor, target: str) -> PromptFile:
    pack = open_source(target).pack
    kind = "shared" if ctx.dim() == 2 else "class"
    return PromptFile(
        method="coop",
        seed=1,
        config={"method": "coop", "context": {"kind": kind, "n_ctx": ctx.shape[-2]}},
        classes=("run", "jump"),
        split_sha256="",
        store_fingerprint="",
        pack_hash=pack.hash,
        n_ctx=ctx.shape[-2],
        width=ctx.shape[-1],
        ctx=ctx if kind == "shared" else None,
        learned={"context.ctx": ctx.clone()},
    )


def test_vectors_beside_words_are_spelled(tmp_path: Path, target: str) -> None:
    pack = open_source(target).pack
    tokenizer, tower = pack.tokenizer(), pack.text_tower()
    ids = tokenizer.encode("video of a")
    step = torch.zeros(tower.embed(torch.tensor(ids)).shape[1])
    step[0] = 0.01
    ctx = tower.embed(torch.tensor(ids)).detach() + step
    found = nearest_words(prompt_of(ctx, target), pack, n=2)
    assert [(word.vector, word.rank) for word in found] == [(i, rank) for i in range(3) for rank in (1, 2)]
    assert [word.word for word in found if word.rank == 1] == ["video", "of", "a"]
    assert [word.distance for word in found if word.rank == 1] == pytest.approx([0.01] * 3, rel=1e-3)
    assert all(word.distance > 0.1 for word in found if word.rank == 2)
    assert usual_distance(pack) > 0.1
    of_class = nearest_words(prompt_of(torch.stack([ctx, ctx.flip(0)]), target), pack, n=1)
    assert [(word.class_name, word.word) for word in of_class][2:4] == [("run", "a"), ("jump", "a")]
    write_prompt_file(tmp_path / "p.safetensors", prompt_of(ctx, target))
    told = run("prompts", "words", tmp_path / "p.safetensors", "--store", target, "--nearest", 1)
    assert "video (0.010)" in told
    assert "from their nearest other word (median)" in told
    rows = json.loads(run("prompts", "words", tmp_path / "p.safetensors", "--store", target, "--json"))
    assert rows[0]["word"] == "video"


def test_the_mean_of_the_seeds_logits_is_a_row_of_its_own(tmp_path: Path, target: str) -> None:
    fitted = train_runs(tmp_path / "runs", method="coop", store=target, seeds=[1, 2])
    out = tmp_path / "eval"
    result = apply_prompts([fitted.folder], given={"store": target}, average=True, out=out)
    assert len(result.runs) == 3
    assert len(result.cells) == 2
    sets = [load_predictions(str(out / run.name / "predictions.npz"))["test"] for run in result.runs]
    assert torch.equal(sets[2].logits, torch.stack([sets[0].logits, sets[1].logits]).mean(dim=0))
    assert result.runs[2].tests["test"].top1 == pytest.approx(sets[2].top(1))
    assert "logits of 2 averaged" in result.runs[2].overrides["prompts"]
    assert "averaged" in run("eval", "--store", target, "--prompts", fitted.folder, "--average").replace("\n", " ")
    with pytest.raises(PromptFileError, match="nothing to average"):
        apply_prompts([], given={"store": target}, average=True)


def test_a_context_starts_from_a_prompt_file(tmp_path: Path, target: str, hard_prompt: str) -> None:
    held = read_prompt_file(hard_prompt)
    start = {"context": {"init": f"@{hard_prompt}", "n_ctx": 16}, "optim": {"epochs": 0}}
    fitted = train_runs(tmp_path / "start", start, method="coop", store=target, seeds=[1, 2])
    for seed in (1, 2):
        begun = read_prompt_file(fitted.folder / f"seed{seed}" / "prompt.safetensors")
        assert torch.equal(begun.ctx, held.ctx)
    (provenance,) = fitted.result.hard_prompts
    assert (provenance["used_as"], provenance["classes"]) == ("context.init", list(held.classes))
    trained = train_runs(
        tmp_path / "trained", {"context": {"init": f"@{hard_prompt}"}}, method="coop", store=target, seeds=[1]
    )
    prompt = trained.folder / "seed1" / "prompt.safetensors"
    assert not torch.equal(read_prompt_file(prompt).ctx, held.ctx)
    assert apply_prompts([prompt], given={"store": target}).runs[0].tests["test"].top1 > 0
    with pytest.raises(ConfigError, match=rf"context\.init = @{hard_prompt}"):
        train_runs(tmp_path / "n", {"context": {"init": hard_prompt}}, method="coop", store=target, seeds=[1])
    short = {"context": {"init": f"@{hard_prompt}", "n_ctx": 4}}
    with pytest.raises(PromptFileError, match=r"context\.n_ctx=16"):
        train_runs(tmp_path / "short", short, method="coop", store=target, seeds=[1])
