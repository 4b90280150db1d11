"""The pre-training stream: the same seed gives the same pixels and words, and the words are true of the pixels."""

import random
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.world.captions import all_phrases, caption
from benchmarks.world.scene import N_UNIFORMS, draw_clip, draw_frame
from benchmarks.world.stream import LESSONS, Lesson, captioned_batch
from benchmarks.world.vocabulary import ACTIONS, COLOURS, RGB, SCENES, SIZES, THINGS

SMALL = (Lesson(first_index=0, batch_size=24), replace(LESSONS[-1], first_index=5, batch_size=24))


@pytest.mark.parametrize("index", [0, 7])
def test_same_seed_same_frames_and_captions(index: int) -> None:
    first, again = captioned_batch(3, index, SMALL), captioned_batch(3, index, SMALL)
    assert first.frames.tobytes() == again.frames.tobytes()
    assert first.captions == again.captions
    assert first.frames.shape == (24, 64, 64, 3)
    assert first.frames.dtype == np.uint8


def test_other_seed_or_index_gives_other_batches() -> None:
    batches = [captioned_batch(seed, index, SMALL) for seed, index in ((0, 0), (0, 1), (1, 0))]
    assert len({batch.frames.tobytes() for batch in batches}) == 3
    assert len({batch.captions for batch in batches}) == 3


def test_a_late_batch_shows_few_scenes() -> None:
    # Words of a scene that are in no other phrase tell which scenes the captions of one batch name.
    lesson = replace(LESSONS[-1], first_index=0, batch_size=96)
    texts = " ".join(captioned_batch(0, 1, (lesson,)).captions)
    named = {scene for scene, phrases in SCENES.items() if any(phrase in texts for phrase in phrases)}
    assert 1 <= len(named) <= lesson.n_scenes


def test_the_vocabulary_is_as_large_as_promised() -> None:
    assert len(THINGS) >= 16
    assert len(ACTIONS) >= 16
    assert len(COLOURS) >= 8
    assert len(SCENES) >= 8
    assert RGB.keys() == COLOURS.keys()


def _clip(seed: int, **fixed: str):  # type: ignore[no-untyped-def]
    return draw_clip(np.random.default_rng(seed).random(N_UNIFORMS), **fixed)


@pytest.mark.parametrize("thing", THINGS)
def test_every_thing_can_do_everything_and_moves(thing: str) -> None:
    for action in ACTIONS:
        clip = replace(_clip(5, thing=thing, action=action), shake=0.0, pan=0.0)
        frames = [np.asarray(draw_frame(clip, t, 64, 64), dtype=int) for t in (0.11, 0.37)]
        empty = np.asarray(draw_frame(replace(clip, thing=None, action=None), 0.11, 64, 64), dtype=int)
        assert (frames[0] != empty).any(axis=-1).sum() > 40, f"{thing} {action} is hardly visible"
        assert (frames[0] != frames[1]).any(), f"{thing} {action} does not move"


def test_actions_differ_in_one_frame() -> None:
    frames = {a: draw_frame(_clip(8, thing="star", action=a), 0.3, 64, 64).tobytes() for a in ACTIONS}
    assert len(set(frames.values())) == len(ACTIONS)


def test_captions_never_name_what_is_not_shown() -> None:
    # A thing's words are taken whole; "star" inside "under the stars" or "starlet" is not the thing.
    groups = ((THINGS, "thing"), (COLOURS, "colour"), (SIZES, "size"))
    scene_words = {w for phrases in SCENES.values() for p in phrases for w in p.split()}
    words = random.Random(0)
    for seed in range(400):
        clip = _clip(seed)
        tokens = set(caption(clip, words).replace(".", " ").replace(",", " ").split())
        for options, field in groups:
            for key, names in options.items():
                if key == getattr(clip, field):
                    continue
                mine = set(options[getattr(clip, field)])
                wrong = {n for n in names if " " not in n and n not in mine} - scene_words - {"normal", "small"}
                assert not wrong & (tokens - {"box"}), f"{clip} has {wrong & tokens} in its caption"


def test_captions_use_only_phrases_with_a_trained_embedding() -> None:
    known = {word for phrase in all_phrases() for word in phrase.replace(".", " ").replace(",", " ").split()}
    for index in (0, 6):
        for text in captioned_batch(1, index, SMALL).captions:
            assert set(text.replace(".", " ").replace(",", " ").split()) <= known, text


def test_generic_and_template_words_are_trained() -> None:
    texts = " ".join(text for i in range(12) for text in captioned_batch(0, i, (Lesson(0, 128),)).captions)
    for phrase in ("a video of", "a photo of", "a clip of", "a picture of", "something", "the background", "person"):
        assert phrase in texts
