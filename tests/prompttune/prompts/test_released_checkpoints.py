"""Checkpoints as the releases save them, through import, eval and classify: the logits of their own computation.

The plain side is written out on open_clip's own towers, from the release's tensors by the release's names. Tolerance:
1e-5 of the logit scale, as both sides sum float32 in another order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from plain_clip import CONFIG, plain_class_features, plain_video_feature, random_clip
from torch import Tensor, nn

from prompttune.api.apply_prompts import apply_prompts
from prompttune.api.classify import ClassifyOptions, classify
from prompttune.cli.commands import cli
from prompttune.errors import PromptFileError
from prompttune.evaluation.evaluate import load_predictions
from prompttune.prompts.registry import import_prompt
from vidfeat.backbone import BackbonePack
from vidfeat.store import Fingerprint, StoreSpec, StoreWriter, TapSpec, VideoRow

CLASSES = ("run", "wave_hand", "climb (rope)", "apple")
NAMES = [name.replace("_", " ") for name in CLASSES]
MODEL = {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "layers": 9}}
TEXT_WIDTH, VISION_WIDTH, EMBED, M = 32, 48, 24, 2
HAND_WRITTEN = "a photo of a person doing {}."


class World:
    """A CLIP, its pack, a store of its features, and the pixels they are of."""

    def __init__(self, folder: Path) -> None:
        from vidfeat.clip.openclip import from_state_dict

        self.clip = random_clip(MODEL)
        self.store = folder / "X.zarr"
        self.pack = from_state_dict(self.clip.state_dict(), model_config=MODEL).write_pack(folder / "pack")
        self.pixels = torch.randn(8, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            taps = self.pack.vision_tower().taps(self.pixels.flatten(0, 1), [0])
        rows = {"pooled": taps.pooled.numpy(), "tokens/00": taps.tokens[0].numpy()}
        videos = [VideoRow(f"v{i}.mp4", CLASSES[i % 4], "test", n_frames=2) for i in range(8)]
        spec = StoreSpec(
            taps=tuple(TapSpec(name, values.shape[1:], "float32") for name, values in rows.items()),
            n_frames=2,
            classes=CLASSES,
            fingerprint=Fingerprint({"model": {"name": "tiny", "pretrained": "random"}}),
            pack_hash=self.pack.hash,
        )
        writer = StoreWriter.create(self.store, spec, videos)
        for name, content in self.pack.files():
            writer.write_pack_file(name, content)
        (unit,) = writer.pending_units()
        writer.commit(unit, rows, videos)
        writer.finalize()
        (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
        self.classes = folder / "classes.txt"

    def suffix(self, template: str = "{}.", classes: tuple[str, ...] = CLASSES) -> Tensor:
        """`token_suffix`: embeddings of the words behind the context, padding included."""
        tokenizer = self.pack.tokenizer()
        rows = []
        for name in classes:
            ids = [*tokenizer.encode(template.format(name.replace("_", " "))), tokenizer.eot_id]
            rows.append(ids + [0] * (76 - M - len(ids)))
        return self.clip.token_embedding(torch.tensor(rows))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("released"))


def normal(*shape: int, seed: int, std: float = 0.3) -> Tensor:
    return std * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(n_in: int, n_out: int, *, seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(n_in, n_out)


def learner_state(world: World, ctx: Tensor, template: str = "{}.", **modules: nn.Module) -> OrderedDict:
    """The state of a `prompt_learner`, from modules of the release's own names."""
    learner = nn.Module()
    learner.ctx = nn.Parameter(ctx)
    learner.register_buffer("token_prefix", world.clip.token_embedding.weight[-2].expand(len(CLASSES), 1, -1).clone())
    learner.register_buffer("token_suffix", world.suffix(template))
    for name, module in modules.items():
        setattr(learner, name, module)
    return learner.state_dict()


def whole_state(world: World, learner: OrderedDict, **prompts: Tensor) -> OrderedDict:
    """The state of the whole model, as MaPLe, IVLP and PromptSRC save it: the towers' weights are in it."""
    state = OrderedDict((f"prompt_learner.{name}", value) for name, value in learner.items())
    state |= {f"image_encoder.{name}": value for name, value in world.clip.visual.state_dict().items()}
    return state | prompts


def dassl(state: OrderedDict) -> dict[str, Any]:
    """What Dassl's save_checkpoint writes once warm-up is on."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    after = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 50)
    return {"state_dict": state, "epoch": 50, "optimizer": {}, "scheduler": {"successor": after}, "val_result": None}


def videos(world: World, rows: list[Tensor] | None = None) -> Tensor:
    return torch.stack([plain_video_feature(world.clip.visual, frames, rows or []) for frames in world.pixels])


def scored(world: World, shown: Tensor, classes: Tensor) -> Tensor:
    return world.pack.config.logit_scale * shown @ classes.T


Release = Callable[[World], tuple[OrderedDict, Tensor]]


def coop(world: World) -> tuple[OrderedDict, Tensor]:
    """CoOp, KgCoOp and ProGrad: one context for all classes."""
    ctx = normal(M, TEXT_WIDTH, seed=1)
    classes = plain_class_features(world.clip, world.pack, NAMES, ctx)
    return learner_state(world, ctx), scored(world, videos(world), classes)


def coop_per_class(world: World) -> tuple[OrderedDict, Tensor]:
    ctx = normal(len(CLASSES), M, TEXT_WIDTH, seed=1)
    return learner_state(world, ctx), scored(
        world, videos(world), plain_class_features(world.clip, world.pack, NAMES, ctx)
    )


def cocoop(world: World) -> tuple[OrderedDict, Tensor]:
    ctx = normal(M, TEXT_WIDTH, seed=1)
    layers = OrderedDict(linear1=linear(EMBED, 5, seed=2), relu=nn.ReLU(), linear2=linear(5, TEXT_WIDTH, seed=3))
    net, shown = nn.Sequential(layers), videos(world)
    with torch.no_grad():
        shifted = ctx + net(shown).unsqueeze(1)
    rows = [plain_class_features(world.clip, world.pack, NAMES, own) for own in shifted]
    logits = torch.stack([scored(world, one[None], row)[0] for one, row in zip(shown, rows, strict=True)])
    return learner_state(world, ctx, meta_net=net), logits


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def tcp(world: World) -> tuple[OrderedDict, Tensor]:
    """Class-aware tokens at block 8, of the hand-written features; UCF-101's prompt has words behind the context."""
    ctx, template = normal(M, TEXT_WIDTH, seed=1), "person doing {}."
    layers = OrderedDict(linear1=linear(EMBED, 6, seed=2), relu=QuickGELU(), linear2=linear(6, M * TEXT_WIDTH, seed=3))
    net = nn.Sequential(layers)
    written = [HAND_WRITTEN.format(name).removesuffix(".") for name in NAMES]
    frozen = plain_class_features(world.clip, world.pack, written, torch.zeros(0, TEXT_WIDTH))
    with torch.no_grad():
        tokens = net(frozen).unflatten(-1, (M, TEXT_WIDTH))
    classes = plain_class_features(world.clip, world.pack, NAMES, ctx, template=template, class_tokens=(8, tokens))
    return learner_state(world, ctx, template, meta_net=net), scored(world, videos(world), classes)


def promptsrc(world: World) -> tuple[OrderedDict, Tensor]:
    """IVLP's and PromptSRC's names: text prompts of 4 blocks, 3 visual ones of 3 blocks."""
    ctx, deep = normal(M, TEXT_WIDTH, seed=1), [normal(M, TEXT_WIDTH, seed=10 + i) for i in range(3)]
    rows = [normal(3, VISION_WIDTH, seed=20 + i) for i in range(3)]
    prompts = {f"text_encoder.transformer.resblocks.{i + 1}.VPT_shallow": value for i, value in enumerate(deep)}
    prompts |= {"image_encoder.VPT": rows[0]}
    prompts |= {f"image_encoder.transformer.resblocks.{i}.VPT_shallow": rows[i] for i in (1, 2)}
    prompts["prompt_learner.ZS_image_encoder.proj"] = world.clip.visual.proj
    classes = plain_class_features(world.clip, world.pack, NAMES, ctx, deep)
    return whole_state(world, learner_state(world, ctx), **prompts), scored(world, videos(world, rows), classes)


def maple(world: World) -> tuple[OrderedDict, Tensor]:
    """Two learned tokens of "a photo of a"; "of a" stays, frozen, between them and the name."""
    ctx, deep = normal(M, TEXT_WIDTH, seed=1), [normal(M, TEXT_WIDTH, seed=10 + i) for i in range(2)]
    maps = [linear(TEXT_WIDTH, VISION_WIDTH, seed=30 + i) for i in range(3)]
    modules: dict[str, nn.Module] = {
        "proj": maps[0],
        "compound_prompts_text": nn.ParameterList(deep),
        "compound_prompt_projections": nn.ModuleList(maps[1:]),
    }
    template = "of a {}."
    with torch.no_grad():
        rows = [layer(own) for layer, own in zip(maps, [ctx, *deep], strict=True)]
    classes = plain_class_features(world.clip, world.pack, NAMES, ctx, deep, template=template)
    state = whole_state(world, learner_state(world, ctx, template, **modules))
    return state, scored(world, videos(world, rows), classes)


@pytest.mark.parametrize("release", [coop, coop_per_class, cocoop, tcp, promptsrc, maple], ids=lambda r: r.__name__)
@torch.no_grad()
def test_eval_and_classify_give_the_releases_logits(release: Release, world: World, tmp_path: Path) -> None:
    state, expected = release(world)
    torch.save(dassl(state), tmp_path / "model.pth.tar-50")
    arguments = ["prompts", "import", tmp_path / "model.pth.tar-50", tmp_path / "p.safetensors"]
    options = ["--store", world.store, "--classes", world.classes]
    options += ["--hand-written", HAND_WRITTEN] if release is tcp else []
    done = CliRunner().invoke(cli, [str(argument) for argument in [*arguments, *options]])
    assert done.exit_code == 0, done.output
    assert f"next:    prompttune eval --store {world.store} --prompts {tmp_path / 'p.safetensors'}\n" in done.output
    apply_prompts([tmp_path / "p.safetensors"], given={"store": str(world.store)}, out=tmp_path / "run")
    (path,) = (tmp_path / "run").rglob("predictions.npz")
    found = load_predictions(str(path))["test"]
    assert found.classes == CLASSES
    scale = world.pack.config.logit_scale
    assert float((found.logits - expected).abs().max()) < 1e-5 * scale
    assert float(expected.std()) > 1e-3 * scale, "the videos are not all alike"
    answers = classify(world.store, ClassifyOptions(prompts=tmp_path / "p.safetensors"))
    assert [video.classes[0] for video in answers] == [CLASSES[i] for i in expected.argmax(dim=1).tolist()]


def test_the_prompts_parts_all_act(world: World) -> None:
    """The test above can fail: without what lies beside the context the logits are others."""
    with torch.no_grad():
        plain = coop(world)[1]
        for release in (coop_per_class, cocoop, tcp, promptsrc, maple):
            assert float((release(world)[1] - plain).abs().max()) > 1e-3 * world.pack.config.logit_scale


def imported(world: World, state: OrderedDict, folder: Path, **options: Any) -> Any:
    torch.save(dassl(state), folder / "a.pth")
    (folder / "p.safetensors").unlink(missing_ok=True)
    given = {"pack": BackbonePack.load(world.pack.path), "classes": CLASSES} | options
    return import_prompt(folder / "a.pth", folder / "p.safetensors", **given)


def test_words_that_share_an_embedding_are_the_same_words(world: World, tmp_path: Path) -> None:
    """As in a tower whose tokenizer has words that were never trained: the small CLIP's, for one."""
    from prompttune.prompts.suffix_words import words_behind

    pack = BackbonePack.load(world.pack.path)
    ids = pack.tokenizer().encode("wave apple")  # two tokens that come before theirs in no other class
    table = pack.text_tower().token_embedding.weight
    with torch.no_grad():
        table[ids] = table[0].clone()
        suffix = world.suffix("of a {}.")
        for token in ids:
            suffix[(suffix == world.clip.token_embedding.weight[token]).all(dim=-1)] = table[0].clone()
        assert words_behind(suffix, pack=pack, classes=CLASSES, where="x") == "of a"
        with pytest.raises(PromptFileError, match="not in its order"):
            words_behind(suffix, pack=pack, classes=CLASSES[::-1], where="x")


def test_half_precision_and_parallel_training_change_nothing_but_the_rounding(world: World, tmp_path: Path) -> None:
    state, _ = maple(world)
    halves = OrderedDict((f"module.{name}", value.half()) for name, value in state.items())
    held = imported(world, halves, tmp_path)
    assert held.config["left_out"] == []
    assert held.config["as_trained"]["context"]["words_behind"] == "of a"
    assert torch.equal(held.ctx, state["prompt_learner.ctx"].half().float())


def test_what_cannot_be_used_is_named(world: World, tmp_path: Path) -> None:
    state, _ = tcp(world)
    held = imported(world, state, tmp_path)
    assert held.config["left_out"] == ["tcp reads hand-written prompts: import with --hand-written TEMPLATE"]
    with pytest.raises(PromptFileError, match="--hand-written TEMPLATE"):
        apply_prompts([tmp_path / "p.safetensors"], given={"store": str(world.store)})
    state, _ = maple(world)
    del state["prompt_learner.compound_prompt_projections.1.bias"]
    held = imported(world, state, tmp_path)
    assert "state_dict.prompt_learner.proj.weight" in held.config["left_out"]
    state, _ = promptsrc(world)
    del state["image_encoder.VPT"]
    assert any("VPT_shallow" in name for name in imported(world, state, tmp_path).config["left_out"])


def test_another_backbone_and_other_classes_are_refused(world: World, tmp_path: Path) -> None:
    state, _ = coop(world)
    swapped = (CLASSES[1], CLASSES[0], *CLASSES[2:])
    with pytest.raises(PromptFileError, match=r"class 0: 'run[\s\S]*got: +class 0: 'wave_hand'"):
        imported(world, state, tmp_path, classes=swapped)
    with pytest.raises(PromptFileError, match=r"4 classes[\s\S]*got: +3"):
        imported(world, state, tmp_path, classes=CLASSES[:3])
    other = state | {"token_suffix": torch.randn_like(state["token_suffix"])}
    with pytest.raises(PromptFileError, match="another backbone than this one"):
        imported(world, other, tmp_path)
    deep = {f"text_encoder.transformer.resblocks.{i}.VPT_shallow": normal(M, TEXT_WIDTH, seed=i) for i in range(1, 12)}
    with pytest.raises(PromptFileError, match=r"a\.pth[\s\S]*blocks 0 to 8[\s\S]*--store: a store of the backbone"):
        imported(world, whole_state(world, state, **deep), tmp_path)
    assert not (tmp_path / "p.safetensors").exists()
