"""A caption for a clip, from a grammar with synonyms. Any attribute may be left unsaid; what is said is true.

The grammar also speaks in general ("a picture of something", "an empty forest", "the background"), so that generic
words have trained embeddings, and now and then at length, so that positions far beyond a class name's are trained.
"""

import random

from benchmarks.world.scene import Clip
from benchmarks.world.vocabulary import ACTIONS, COLOURS, SCENE_NOUNS, SCENES, SIZES, THINGS

OPENERS = (
    "a video of",
    "a photo of",
    "a clip of",
    "a picture of",
    "an image of",
    "a frame of",
    "a drawing of",
    "a video showing",
    "footage of",
    "an example of",
    "a low quality video of",
    "a blurry photo of",
    "a good photo of",
    "a short clip of",
    "this is",
    "there is",
    "here we see",
    "one can see",
)
GENERIC_THINGS = ("something", "a thing", "an object", "someone", "a subject", "it")
GENERIC_NOUNS = ("thing", "object", "figure", "shape")
GENERIC_ACTIONS = ("doing something", "moving", "in action", "performing an action")
EMPTY = ("nothing", "no one", "no object", "nobody", "only the background", "the background", "an empty background")
EMPTY_SCENES = ("an empty", "a", "the", "nothing but a", "a background with a", "a quiet")
POSITIONS: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "at the left side"),
    "right": ("on the right", "at the right side"),
    "centre": ("in the middle", "in the center"),
}
NOTES: dict[str, tuple[str, ...]] = {
    "shake": ("the camera shakes", "the camera is moving", "filmed with a shaking camera"),
    "still": ("the camera is still", "the camera does not move"),
    "small": ("seen from far away", "in the distance", "small in the picture"),
    "large": ("a close up", "seen from close by", "close to the camera"),
    "noisy": ("the picture is noisy", "with a lot of noise", "bad quality"),
    "dark": ("the picture is dark", "dark lighting"),
    "bright": ("the picture is bright", "bright lighting"),
}
_GLUE = (
    "a an the one , . is are was that which and it a person doing in with background is clearly visible "
    "of someone video photo clip image not there no his her its two many"
)


def all_phrases() -> list[str]:
    """Every phrase a caption can be made of; the words outside it have no trained embedding."""
    groups: list[dict[str, tuple[str, ...]]] = [THINGS, ACTIONS, COLOURS, SCENES, SCENE_NOUNS, SIZES, POSITIONS, NOTES]
    phrases = [phrase for group in groups for options in group.values() for phrase in options]
    lists = (OPENERS, GENERIC_THINGS, GENERIC_NOUNS, GENERIC_ACTIONS, EMPTY, EMPTY_SCENES)
    return [*phrases, *(phrase for options in lists for phrase in options), *_GLUE.split(), *SIZES, *SCENES]


def caption(clip: Clip, rng: random.Random, notes: tuple[str, ...] = ()) -> str:
    """A caption that is true of `clip`; `notes` are keys of `NOTES` that the picture's style adds."""
    if clip.thing is None or clip.action is None:
        text = _empty_scene(clip, rng)
    elif rng.random() < 0.22:
        text = _label(clip, rng)
    else:
        text = _sentence(clip, rng)
    if rng.random() < 0.22:
        remarks = _remarks(clip, rng, notes)
        rng.shuffle(remarks)
        for remark in remarks[: rng.choice((1, 1, 2, 3, 5))]:
            text += rng.choice((", ", " . ", " and ", " , ")) + remark
    return text + rng.choice((".", ".", ""))


def _word(options: tuple[str, ...], rng: random.Random) -> str:
    """The canonical word in two of three cases, else a synonym."""
    return options[0] if rng.random() < 0.67 else rng.choice(options)


def _label(clip: Clip, rng: random.Random) -> str:
    """The terse form that class names and prompts have: "star spinning", with or without an opener."""
    assert clip.thing is not None
    assert clip.action is not None
    name = f"{_word(THINGS[clip.thing], rng)} {_word(ACTIONS[clip.action], rng)}"
    if rng.random() < 0.3:
        name = f"{_word(COLOURS[clip.colour], rng)} {name}"
    kind = rng.random()
    if kind < 0.35:
        return name
    if kind < 0.5:
        return f"{rng.choice(('a video of', 'a clip of', 'a photo of'))} the action {_word(ACTIONS[clip.action], rng)}"
    return f"{rng.choice(OPENERS)} {rng.choice(('', 'a ', 'the '))}{name}"


def _noun_phrase(clip: Clip, rng: random.Random) -> str:
    assert clip.thing is not None
    kind = rng.random()
    if kind < 0.05:
        return rng.choice(GENERIC_THINGS)
    noun = rng.choice(GENERIC_NOUNS) if kind < 0.1 else _word(THINGS[clip.thing], rng)
    words = []
    if rng.random() < 0.25:
        words.append(_word(SIZES[clip.size], rng))
    if rng.random() < 0.5:
        words.append(_word(COLOURS[clip.colour], rng))
    words.append(noun)
    article = rng.choice(("a", "a", "the", "one"))
    if article == "a" and words[0][0] in "aeiou":
        article = "an"
    return " ".join([article, *words])


def _sentence(clip: Clip, rng: random.Random) -> str:
    assert clip.action is not None
    text = _noun_phrase(clip, rng)
    if rng.random() < 0.7:
        text = f"{rng.choice(OPENERS)} {text}"
    kind = rng.random()
    if kind < 0.04:
        text += " " + rng.choice(GENERIC_ACTIONS)
    elif kind < 0.9:
        text += rng.choice((" ", " ", " is ", " that is ", " which is ")) + _word(ACTIONS[clip.action], rng)
    if rng.random() < 0.45:
        text += " " + _word(SCENES[clip.scene], rng)
    if rng.random() < 0.1:
        text += " " + rng.choice(POSITIONS[_position(clip)])
    return text


def _empty_scene(clip: Clip, rng: random.Random) -> str:
    kind = rng.random()
    place = f"{rng.choice(EMPTY_SCENES)} {_word(SCENE_NOUNS[clip.scene], rng)}"
    if kind < 0.4:
        text = place
    elif kind < 0.7:
        text = rng.choice(EMPTY)
    else:
        text = f"{rng.choice(EMPTY)} {_word(SCENES[clip.scene], rng)}"
    return f"{rng.choice(OPENERS)} {text}" if rng.random() < 0.6 else text


def _position(clip: Clip) -> str:
    return "left" if clip.x < 0.44 else "right" if clip.x > 0.56 else "centre"


def _remarks(clip: Clip, rng: random.Random, notes: tuple[str, ...]) -> list[str]:
    keys = [*notes, "shake" if clip.shake > 0 else "still"]
    remarks = [f"the background is a {rng.choice(SCENE_NOUNS[clip.scene])}"]
    if clip.thing is not None:
        noun = _word(THINGS[clip.thing], rng)
        if clip.size != "medium":
            keys.append(clip.size)
        remarks.append(f"the {noun} is {_word(COLOURS[clip.colour], rng)}")
        remarks.append(f"the {noun} is {_word(SIZES[clip.size], rng)}")
        remarks.append(f"it is {rng.choice(POSITIONS[_position(clip)])}")
    return remarks + [rng.choice(NOTES[key]) for key in keys]
