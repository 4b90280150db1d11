"""The committed small CLIP: compact file, open_clip's own model, and that it has learned the world."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F

from benchmarks.world import clip_weights
from benchmarks.world.clip_weights import (
    CONFIG_PATH,
    WEIGHTS_PATH,
    build_clip,
    load_clip,
    load_compact,
    normalise_frames,
    save_compact,
)
from benchmarks.world.pretrain import PretrainOptions, pretrain
from benchmarks.world.scene import N_UNIFORMS, draw_clip, draw_frame
from benchmarks.world.stream import LESSONS, Lesson, captioned_batch
from benchmarks.world.text_batches import CaptionTokenizer, encode_rows, trained_token_ids
from benchmarks.world.vocabulary import ACTIONS, SCENES, THINGS


def test_weights_fit_in_the_repository() -> None:
    assert WEIGHTS_PATH.stat().st_size <= 16 * 2**20


def test_open_clip_builds_and_loads_it_by_its_own_factory() -> None:
    """In a process of its own: a configuration that open_clip was told of stays in its list for all later tests."""
    program = """
import open_clip, torch
from benchmarks.world.clip_weights import CONFIG_PATH, load_clip, load_compact
open_clip.add_model_config(CONFIG_PATH)
model = open_clip.create_model("world-clip", pretrained=None)
model.load_state_dict({k: v.float() for k, v in load_compact().items()})
frames = torch.rand(2, 3, 64, 64)
with torch.inference_mode():
    torch.testing.assert_close(model.eval().encode_image(frames), load_clip().encode_image(frames))
print("same")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "same\n"


def test_compact_round_trip(tmp_path: Path) -> None:
    state = build_clip().state_dict()
    ids = torch.tensor([5, 320, 49406, 49407])
    save_compact(tmp_path / "w.safetensors", state, ids)
    back = load_compact(tmp_path / "w.safetensors")
    assert back.keys() == state.keys()
    kept = torch.zeros(len(state["token_embedding.weight"]), dtype=torch.bool)
    kept[ids] = True
    for key, value in state.items():
        expected = value * kept[:, None] if key == "token_embedding.weight" else value
        torch.testing.assert_close(back[key], expected, rtol=0, atol=0)


@pytest.mark.parametrize("ids", [[], [3, 2], [2, 2], [-1, 4], [49408]])
def test_compact_refuses_bad_ids(tmp_path: Path, ids: list[int]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        save_compact(tmp_path / "w.safetensors", build_clip().state_dict(), torch.tensor(ids))


def test_load_compact_refuses_another_format(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="compact-open-clip"):
        load_compact(tmp_path / "w.safetensors")


def test_captions_are_tokenised_as_open_clip_does() -> None:
    texts = captioned_batch(0, 0, (Lesson(0, 32),)).captions
    expected = open_clip.get_tokenizer("ViT-B-32")(list(texts))
    ids = trained_token_ids()
    for row, tokens in zip(CaptionTokenizer()(texts), expected, strict=True):
        found = [ids[i] for i in row]
        assert found == tokens[: len(found)].tolist()
        assert not tokens[len(found) :].any()


def test_shortened_text_encoding_is_exact() -> None:
    model = load_clip()
    texts = list(captioned_batch(0, 1, (Lesson(0, 32),)).captions)
    tokens = open_clip.get_tokenizer("ViT-B-32")(texts)
    ids = trained_token_ids()
    rows = CaptionTokenizer()(texts)
    with torch.inference_mode():
        expected = model.encode_text(tokens)
        model.token_embedding = torch.nn.Embedding.from_pretrained(model.token_embedding.weight[list(ids)])
        found = encode_rows(model, rows)
    # Sums in another order: float32 noise, far below what one wrong position would change.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def _top1(texts: list[str], labels: list[int], image_features: torch.Tensor) -> float:
    with torch.inference_mode():
        text = load_clip().encode_text(open_clip.get_tokenizer("ViT-B-32")(texts))
    return (image_features @ F.normalize(text, dim=-1).T).argmax(1).eq(torch.tensor(labels)).float().mean().item()


def test_it_knows_things_actions_and_scenes() -> None:
    rng = np.random.default_rng(123)
    clips = [draw_clip(rng.random(N_UNIFORMS), framing=LESSONS[-1].framing) for _ in range(300)]
    frames = np.stack([np.asarray(draw_frame(clip, rng.random(), 64, 64)) for clip in clips])
    with torch.inference_mode():
        features = load_clip().encode_image(normalise_frames(torch.from_numpy(frames)))
    things, actions, scenes = list(THINGS), list(ACTIONS), list(SCENES)
    # Chance is 4, 4 and 10 %; the committed weights reach 26, 91 and 97 % (things are its weak side),
    # and the standard error of 300 frames is under 3 points.
    said = [f"a video of a {t}." for t in things]
    assert _top1(said, [things.index(c.thing) for c in clips], features) > 0.17
    said = [f"a video of something {a}." for a in actions]
    assert _top1(said, [actions.index(c.action) for c in clips], features) > 0.8
    said = [f"a video of something {SCENES[s][0]}." for s in scenes]
    assert _top1(said, [scenes.index(c.scene) for c in clips], features) > 0.85


@pytest.fixture
def tiny_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrower model and batches of 8, so that a pre-training takes a second."""
    config = json.loads(CONFIG_PATH.read_text())
    config["vision_cfg"] |= {"width": 32, "layers": 1}
    config["text_cfg"] |= {"width": 32, "layers": 1}
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(config))
    monkeypatch.setattr(clip_weights, "CONFIG_PATH", path)
    lessons = (Lesson(0, 8), Lesson(2, 4, n_scenes=2))
    monkeypatch.setattr(
        "benchmarks.world.pretrain.captioned_batch", lambda seed, index: captioned_batch(seed, index, lessons)
    )


def test_a_resumed_pretraining_equals_an_unbroken_one(tiny_clip: None, tmp_path: Path) -> None:
    whole = PretrainOptions(steps=4, checkpoint_steps=2, warmup_steps=1, decay_share=0.5)
    pretrain(tmp_path / "whole", whole, weights_path=tmp_path / "whole.safetensors")
    # Two steps in the constant phase of a longer run, then the rest as a run of four.
    longer = PretrainOptions(steps=1000, checkpoint_steps=2, warmup_steps=1, decay_share=0.5)
    assert [longer.learning_rate_at(s) for s in range(2)] == [whole.learning_rate_at(s) for s in range(2)]
    half = PretrainOptions(steps=2, checkpoint_steps=2, warmup_steps=1, decay_share=0.0)
    pretrain(tmp_path / "half", half, weights_path=tmp_path / "half.safetensors")
    pretrain(tmp_path / "half", whole, weights_path=tmp_path / "half.safetensors")
    first, second = (load_compact(tmp_path / f"{name}.safetensors") for name in ("whole", "half"))
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=0, atol=0)
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [0, 3]


def test_the_learning_rate_warms_up_holds_and_decays() -> None:
    options = PretrainOptions(steps=100, warmup_steps=10, decay_share=0.2, learning_rate=1.0)
    rates = [options.learning_rate_at(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert set(rates[10:81]) == {1.0}
    assert rates[80:] == pytest.approx([1 - i / 20 for i in range(20)])
