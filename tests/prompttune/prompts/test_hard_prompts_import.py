"""Contexts out of other projects' checkpoints; files made here, some of them hostile."""

from __future__ import annotations

import argparse
import dataclasses
import os
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from prompttune.api.apply_prompts import config_of_prompt
from prompttune.config.sections import CouplingConfig
from prompttune.errors import PromptFileError
from prompttune.parts.coupling import Coupling
from prompttune.prompts.file import PromptFile, read_hard_prompt, read_prompt_file, write_prompt_file
from prompttune.prompts.foreign_checkpoints import as_prompt_file, import_context

M, W = 4, 8


@pytest.fixture
def ctx() -> torch.Tensor:
    return torch.randn(M, W, generator=torch.Generator().manual_seed(3))


def coop(ctx: torch.Tensor) -> dict:
    """What Dassl's save_checkpoint writes: optimiser, scheduler and a numpy accuracy beside the weights."""
    optimiser = {"state": {0: {"momentum_buffer": ctx + 5}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return {
        "state_dict": OrderedDict(ctx=ctx, token_prefix=torch.randn(3, 1, W), token_suffix=torch.randn(3, 5, W)),
        "epoch": 50,
        "optimizer": optimiser,
        "scheduler": {"last_epoch": 50, "base_lrs": [0.1]},
        "val_result": np.float64(71.5),
    }


def ga2(ctx: torch.Tensor) -> dict:
    deep = {f"text_encoder.transformer.resblocks.{i}.VPT_shallow": ctx + i for i in (2, 1)}
    visual = {
        "image_encoder.transformer.resblocks.1.VPT_shallow": torch.randn(M, 12),
        "image_encoder.VPT": torch.ones(2),
    }
    state = OrderedDict({"prompt_learner.ctx_VPT": ctx, "logit_scale": torch.tensor(4.6), **deep, **visual})
    return {"epoch": 11, "model_state_dict": state, "optimizer_state_dict": {}}


def save_vifi(path: Path, ctx: torch.Tensor) -> None:
    """A ViFi-CLIP checkpoint holds a yacs configuration; the class exists while it is written and not afterwards."""

    class CfgNode(dict):
        def __init__(self, values: dict) -> None:
            super().__init__(values)
            self.__dict__["__immutable__"] = True

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    modules = {"yacs": types.ModuleType("yacs"), "yacs.config": types.ModuleType("yacs.config")}
    modules["yacs.config"].CfgNode = CfgNode  # type: ignore[attr-defined]
    sys.modules.update(modules)
    try:
        config = CfgNode({"TRAINER": CfgNode({"N_CTX_TEXT": 16, "NAMES": ["a", "b"]})})
        state = OrderedDict({"module.prompt_learner.ctx": ctx.half(), "module.logit_scale": torch.tensor(4.6)})
        args = argparse.Namespace(seed=1, config=config)
        torch.save({"model": state, "max_accuracy": 0.5, "epoch": 10, "config": config, "args": args}, path)
    finally:
        for name in modules:
            del sys.modules[name]


def test_coop_checkpoint(tmp_path: Path, ctx: torch.Tensor) -> None:
    torch.save(coop(ctx), tmp_path / "model.pth.tar-50")
    found = import_context(tmp_path / "model.pth.tar-50")
    assert torch.equal(found.ctx, ctx)
    assert (found.key, found.n_ctx, found.width, found.deep, found.dtype) == ("state_dict.ctx", M, W, None, "float32")


def test_ga2_checkpoint_with_its_deep_text_prompts(tmp_path: Path, ctx: torch.Tensor) -> None:
    torch.save(ga2(ctx), tmp_path / "k400_base_pre.pt")
    found = import_context(tmp_path / "k400_base_pre.pt")
    assert torch.equal(found.ctx, ctx)
    assert torch.equal(found.stacked(), torch.stack([ctx, ctx + 1, ctx + 2]))
    coupled = Coupling([found.stacked()], config=CouplingConfig(variant="released"), seeds=[1], width=W)
    assert coupled(torch.zeros(1, M, W)).shape == (1, M, W)


def test_vifi_checkpoint_with_a_configuration_nobody_imports(tmp_path: Path, ctx: torch.Tensor) -> None:
    save_vifi(tmp_path / "ckpt_epoch_10.pth", ctx)
    assert "yacs.config" not in sys.modules
    before = set(torch.serialization.get_safe_globals())
    found = import_context(tmp_path / "ckpt_epoch_10.pth")
    assert torch.equal(found.ctx, ctx.half().float())
    assert found.dtype == "float16"
    assert found.key == "model.module.prompt_learner.ctx"
    assert set(torch.serialization.get_safe_globals()) == before  # nothing is trusted afterwards
    assert "yacs.config" not in sys.modules


def test_old_style_torch_file_and_safetensors(tmp_path: Path, ctx: torch.Tensor) -> None:
    from safetensors.torch import save_file

    torch.save({"ctx": ctx}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file({"prompt_learner.ctx": ctx.bfloat16()}, tmp_path / "a.safetensors")
    assert torch.equal(import_context(tmp_path / "old.pt").ctx, ctx)
    assert torch.equal(import_context(tmp_path / "a.safetensors").ctx, ctx.bfloat16().float())


class Payload:
    """Pickles to a call of `function` with the marker's path: what a hostile checkpoint does."""

    def __init__(self, function: object, argument: str) -> None:
        self.call = (function, (argument,))

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("where", ["beside", "inside", "raw"])
@pytest.mark.parametrize("function", [os.mkdir, eval, "getattr"])
def test_hostile_pickles_are_refused_and_not_run(
    tmp_path: Path, ctx: torch.Tensor, where: str, function: object
) -> None:
    marker = tmp_path / "run"
    argument = f"__import__('os').mkdir({str(marker)!r})" if function is eval else str(marker)
    payload: object = Payload(os.mkdir if function == "getattr" else function, argument)
    if function == "getattr":  # hidden one level down, in the state of an allowed container
        payload = OrderedDict(inner=[payload])
    path = tmp_path / "hostile.pt"
    if where == "beside":
        torch.save({"model_state_dict": {"prompt_learner.ctx_VPT": ctx}, "extra": payload}, path)
    elif where == "inside":
        torch.save({"prompt_learner.ctx_VPT": payload}, path)
    else:
        path.write_bytes(pickle.dumps({"ctx": payload}))
    with pytest.raises(PromptFileError):
        import_context(path)
    assert not marker.exists()


def test_the_payload_would_run_if_it_were_loaded_plainly(tmp_path: Path) -> None:
    """The test above can fail: a plain load does create the marker."""
    torch.save({"extra": Payload(os.mkdir, str(tmp_path / "run"))}, tmp_path / "hostile.pt")
    torch.load(tmp_path / "hostile.pt", weights_only=False)
    assert (tmp_path / "run").is_dir()


def test_a_refusal_names_what_was_found_and_how_to_convert(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(PromptFileError) as caught:
        import_context(tmp_path / "module.pt")
    message = str(caught.value)
    assert "torch.nn.modules.linear.Linear" in message
    assert "nothing in it was run" in message
    assert "save_file" in message


def test_stand_ins_give_no_way_to_run_code(tmp_path: Path) -> None:
    """The names that are passed over are reached by a payload, too: they only ever make empty objects."""
    marker = tmp_path / "run"

    class Namespace:
        def __reduce__(self) -> tuple:
            return (argparse.Namespace, (Payload(os.mkdir, str(marker)),))

    torch.save({"ctx": torch.zeros(M, W), "args": Namespace()}, tmp_path / "a.pt")
    with pytest.raises(PromptFileError, match="mkdir"):
        import_context(tmp_path / "a.pt")
    assert not marker.exists()


def test_self_containing_dictionary_ends(tmp_path: Path, ctx: torch.Tensor) -> None:
    endless: dict = {"ctx": ctx}
    endless["self"] = endless
    torch.save(endless, tmp_path / "a.pt")
    assert torch.equal(import_context(tmp_path / "a.pt").ctx, ctx)


def test_which_tensor_is_meant(tmp_path: Path, ctx: torch.Tensor) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a.ctx": ctx, "b.ctx": ctx + 1, "other": torch.zeros(2)}, path)
    with pytest.raises(PromptFileError, match=r"several contexts[\s\S]*a\.ctx, b\.ctx"):
        import_context(path)
    assert torch.equal(import_context(path, key="b.ctx").ctx, ctx + 1)
    with pytest.raises(PromptFileError, match="no such tensor"):
        import_context(path, key="c.ctx")
    torch.save({"weight": ctx}, path)
    with pytest.raises(PromptFileError, match=r"no context[\s\S]*weight"):
        import_context(path)
    assert torch.equal(import_context(path, key="weight").ctx, ctx)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(2, 3, M, W), r"\[C M W\]"),
        (torch.zeros(M, W, dtype=torch.int64), "int64"),
        (torch.full((M, W), float("nan")), "not finite"),
    ],
)
def test_tensors_that_cannot_be_a_hard_prompt(tmp_path: Path, value: torch.Tensor, message: str) -> None:
    torch.save({"prompt_learner.ctx": value}, tmp_path / "a.pt")
    with pytest.raises(PromptFileError, match=message):
        import_context(tmp_path / "a.pt")


def test_deep_prompts_must_continue_the_context(tmp_path: Path, ctx: torch.Tensor) -> None:
    gap = {"prompt_learner.ctx": ctx, "text_encoder.transformer.resblocks.2.VPT_shallow": ctx}
    torch.save(gap, tmp_path / "a.pt")
    with pytest.raises(PromptFileError, match=r"block 2: \[4, 8\]"):
        import_context(tmp_path / "a.pt")


def test_missing_and_damaged_files(tmp_path: Path, ctx: torch.Tensor) -> None:
    with pytest.raises(PromptFileError, match="no checkpoint here"):
        import_context(tmp_path / "none.pt")
    torch.save({"ctx": ctx}, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    for size in (0, 5, len(whole) // 2):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        with pytest.raises(PromptFileError):
            import_context(tmp_path / "cut.pt")


def test_imported_context_becomes_a_prompt_file_that_couples(tmp_path: Path, ctx: torch.Tensor) -> None:
    torch.save(ga2(ctx), tmp_path / "k400.pt")
    imported = as_prompt_file(import_context(tmp_path / "k400.pt"), classes=["abseiling", "yoga"], pack_hash="abc")
    write_prompt_file(tmp_path / "k400.safetensors", imported)
    read = read_hard_prompt(tmp_path / "k400.safetensors", pack_hash="abc", width=W)
    assert torch.equal(read.ctx, ctx)
    assert read.classes == ("abseiling", "yoga")
    assert read.config["imported_from"] == "k400.pt"
    assert len(read.config["sha256"]) == 64
    assert torch.equal(read.learned["context.deep.1"], ctx + 2)
    with pytest.raises(PromptFileError, match="another backbone"):
        read_hard_prompt(tmp_path / "k400.safetensors", pack_hash="other", width=W)


def test_own_prompt_file_gives_its_context(tmp_path: Path, ctx: torch.Tensor) -> None:
    held = PromptFile(
        method="coop",
        seed=1,
        config={},
        classes=("a",),
        split_sha256="s",
        store_fingerprint="f",
        pack_hash="p",
        n_ctx=M,
        width=W,
        ctx=ctx,
        learned={"ctx": ctx + 1},
    )
    write_prompt_file(tmp_path / "own.safetensors", held)
    assert torch.equal(import_context(tmp_path / "own.safetensors").ctx, ctx)
    assert dataclasses.asdict(read_prompt_file(tmp_path / "own.safetensors"))["classes"] == ("a",)


def test_what_dassl_saves_with_warm_up_on_is_read(tmp_path: Path, ctx: torch.Tensor) -> None:
    """The scheduler's state holds the one that follows the warm-up, as an object with its optimiser in it."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(ctx.clone())], lr=0.1, momentum=0.9)
    after = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 50)
    content = coop(ctx) | {"scheduler": {"last_epoch": 50, "warmup_epoch": 1, "successor": after, "cons_lr": 1e-5}}
    torch.save(content, tmp_path / "model.pth.tar-50")
    assert "CosineAnnealingLR" in " ".join(
        torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "model.pth.tar-50")
    )
    allowed = set(torch.serialization.get_safe_globals())
    found = import_context(tmp_path / "model.pth.tar-50")
    assert torch.equal(found.ctx, ctx)
    assert (found.n_classes, found.left_out) == (3, ())
    assert set(torch.serialization.get_safe_globals()) == allowed  # no stand-in stays behind


def test_an_object_of_a_package_nobody_has_is_passed_over(tmp_path: Path, ctx: torch.Tensor) -> None:
    module = types.ModuleType("trainers")
    made = type("Logger", (), {"__module__": "trainers", "__init__": lambda self: setattr(self, "lines", ["a"])})
    module.Logger = made  # type: ignore[attr-defined]
    sys.modules["trainers"] = module
    try:
        torch.save(coop(ctx) | {"logger": made()}, tmp_path / "a.pt")
    finally:
        del sys.modules["trainers"]
    assert torch.equal(import_context(tmp_path / "a.pt").ctx, ctx)
    assert "trainers" not in sys.modules


def test_a_class_file_of_another_length_is_refused(tmp_path: Path, ctx: torch.Tensor) -> None:
    torch.save(coop(ctx), tmp_path / "a.pt")  # its token_prefix has three rows
    found = import_context(tmp_path / "a.pt")
    assert as_prompt_file(found, classes=("a", "b", "c"), pack_hash="p").classes == ("a", "b", "c")
    with pytest.raises(PromptFileError, match=r"3 classes[\s\S]*got: +2"):
        as_prompt_file(found, classes=("a", "b"), pack_hash="p")


@pytest.mark.parametrize(
    "beside",
    [
        "prompt_learner.meta_net.linear1.weight",
        "prompt_learner.compound_prompts_text.0",
        "prompt_learner.compound_prompt_projections.0.weight",
        "prompt_learner.proj.weight",
        "proj.weight",
        "image_encoder.transformer.resblocks.1.VPT_shallow",
        "image_encoder.VPT",
    ],
)
def test_what_is_learned_beside_the_context_is_named(tmp_path: Path, ctx: torch.Tensor, beside: str) -> None:
    state = {"prompt_learner.ctx": ctx, beside: torch.ones(2), "image_encoder.proj": torch.ones(3)}
    torch.save({"state_dict": state}, tmp_path / "a.pt")
    found = import_context(tmp_path / "a.pt")
    assert found.left_out == (f"state_dict.{beside}",)
    held = as_prompt_file(found, classes=("a",), pack_hash="p")
    with pytest.raises(PromptFileError, match=beside.replace(".", r"\.")):
        config_of_prompt(held, {"store": "s.zarr"})
