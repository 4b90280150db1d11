"""Which classes, looks and clips a dataset has: pure functions of its name and the world's seed.

The seed shuffles things and actions and cuts them in two: `target` takes its classes from one side, `other` and
`irrelevant` from the other, so these show nothing that a class of `target` names, neither the thing nor what it does.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.world.scene import N_UNIFORMS, Framing, draw_clip
from benchmarks.world.styles import Style, draw_look
from benchmarks.world.videos import VideoPlan
from benchmarks.world.vocabulary import ACTIONS, THINGS

DATASET_NAMES = ("target", "other", "irrelevant")
IRRELEVANT_LABEL = "irrelevant"

TARGET_THINGS, TARGET_ACTIONS = 14, 14
"""How many things and actions the target's classes are combined from; the rest is left to the other datasets."""
STYLE_SHIFT = 2.0
"""Strength of the target's style, set once by `calibrate` on zero-shot and CoOp alone."""

_EMPTY_SHARE = 0.25
"""Share of the irrelevant videos that show a scene and nothing in it."""


@dataclass(frozen=True)
class VideoClass:
    """A class of a dataset: a thing that does something."""

    thing: str
    action: str

    @property
    def name(self) -> str:
        return f"{self.thing} {self.action}"


@dataclass(frozen=True)
class DatasetPlan:
    """A dataset before it is drawn. The first half of `classes` are the base classes, the second half the new ones."""

    name: str
    seed: int
    classes: tuple[VideoClass, ...]
    style: Style
    framing: Framing
    width: int
    height: int
    n_train: int
    n_test: int

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)


@dataclass(frozen=True)
class LabelledVideo:
    """One row of `videos.csv` and what to draw for it. `path` is relative to the dataset's folder."""

    path: str
    label: str
    split: str
    video: VideoPlan


def plan_dataset(name: str, seed: int = 0) -> DatasetPlan:
    """The plan of one of `DATASET_NAMES`; `n_train` and `n_test` count videos per class (of all, for `irrelevant`).

    Raises:
        ValueError: there is no dataset of that name.
    """
    rng = np.random.default_rng([seed, 1])
    things, actions = rng.permutation(list(THINGS)).tolist(), rng.permutation(list(ACTIONS)).tolist()
    inside = list(itertools.product(things[:TARGET_THINGS], actions[:TARGET_ACTIONS]))
    outside = list(itertools.product(things[TARGET_THINGS:], actions[TARGET_ACTIONS:]))
    inside_order, outside_order = rng.permutation(len(inside)), rng.permutation(len(outside))
    drawn = rng.uniform(0.9, 1.1, 3).tolist()
    if name == "target":
        classes = [VideoClass(*inside[i]) for i in inside_order[:40]]
        return DatasetPlan(
            name, seed, tuple(classes), _target_style(drawn), Framing((1.2, 1.6), 0.4), 80, 64, n_train=32, n_test=25
        )
    if name == "other":
        style = Style(tint=0.1, brightness=0.35, desaturation=0.8 * drawn[1], noise=3.0)
        classes = [VideoClass(*outside[i]) for i in outside_order[:24]]
        return DatasetPlan(name, seed, tuple(classes), style, Framing((1.1, 1.4), 0.3), 64, 80, n_train=32, n_test=16)
    if name == "irrelevant":
        style = Style(tint=0.2, brightness=0.3, desaturation=0.3, noise=6.0)
        classes = [VideoClass(*outside[i]) for i in outside_order[24:]]
        return DatasetPlan(name, seed, tuple(classes), style, Framing((1.1, 1.6), 0.5), 80, 64, n_train=200, n_test=0)
    raise ValueError(f"no dataset {name!r} in the world; expected one of {', '.join(DATASET_NAMES)}")


def _target_style(drawn: list[float]) -> Style:
    tint, desaturation, noise = (STYLE_SHIFT * x for x in drawn)
    return Style(tint=0.4 * tint, brightness=0.1, desaturation=0.2 * desaturation, noise=6.0 * noise)


def plan_videos(plan: DatasetPlan) -> Iterator[LabelledVideo]:
    """Every video of the dataset, in the order of `videos.csv`."""
    key = [plan.seed, 2 + DATASET_NAMES.index(plan.name)]
    if plan.name == "irrelevant":
        yield from _irrelevant_videos(plan, key)
        return
    for class_index, video_class in enumerate(plan.classes):
        folder = f"videos/{video_class.name.replace(' ', '_')}"
        for split, count in (("train", plan.n_train), ("test", plan.n_test)):
            for i in range(count):
                rng = np.random.default_rng([*key, class_index, split == "test", i])
                video = _plan_video(plan, rng, video_class)
                yield LabelledVideo(f"{folder}/{split}_{i:03d}.mp4", video_class.name, split, video)


def _irrelevant_videos(plan: DatasetPlan, key: list[int]) -> Iterator[LabelledVideo]:
    for i in range(plan.n_train):
        rng = np.random.default_rng([*key, i])
        empty = rng.random() < _EMPTY_SHARE
        video_class = None if empty else plan.classes[rng.integers(len(plan.classes))]
        yield LabelledVideo(f"videos/{i:04d}.mp4", IRRELEVANT_LABEL, "train", _plan_video(plan, rng, video_class))


def _plan_video(plan: DatasetPlan, rng: np.random.Generator, video_class: VideoClass | None) -> VideoPlan:
    uniforms = rng.random(N_UNIFORMS)
    if video_class is None:
        clip = draw_clip(uniforms, empty=True)
    else:
        clip = draw_clip(uniforms, thing=video_class.thing, action=video_class.action, framing=plan.framing)
    look = draw_look(plan.style, rng)
    crf, noise_seed = int(rng.integers(18, 31)), int(rng.integers(2**32))
    return VideoPlan(clip, look, crf, noise_seed, plan.width, plan.height)
