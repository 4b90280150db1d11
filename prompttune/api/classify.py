"""A trained prompt, or zero-shot CLIP, on videos without labels: which classes they are, with scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prompttune.api.apply_prompts import config_of_prompt, prompted_model
from prompttune.config.train_config import TrainConfig
from prompttune.data.features import FeatureSource, open_source
from prompttune.data.store_needs import require_served
from prompttune.data.video_files import EncodedVideos, is_store, open_videos
from prompttune.errors import ConfigError, PromptFileError, explain, note
from prompttune.evaluation.evaluate import Classifiers, Predictions, predict
from prompttune.prompts.file import PromptFile, read_prompt_file
from prompttune.splits.class_files import named_classes, one_class_two_spellings
from prompttune.splits.split import TestSet


@dataclass(frozen=True)
class Classified:
    """One video's most likely classes.

    Attributes:
        id: its id in the store, or its path below the folder given.
        classes: the k most likely, most likely first.
        scores: their probabilities among all classes asked for, in [0, 1].
        error: why the video could not be decoded; it then has no classes.
    """

    id: str
    classes: tuple[str, ...]
    scores: tuple[float, ...]
    error: str = ""

    def __str__(self) -> str:
        if self.error:
            return f"{self.id}: {self.error}"
        return f"{self.id}: {', '.join(f'{c} {100 * s:.1f} %' for c, s in zip(self.classes, self.scores, strict=True))}"


@dataclass(frozen=True)
class ClassifyOptions:
    """How videos are classified.

    Attributes:
        prompts: a prompt file; None for zero-shot CLIP.
        classes: the classes to tell apart, as names or as `named_classes` reads them out of a text; () for those the
            prompt was trained on, else the store's.
        like: for video files: a store to read them like, or a backbone pack.
        n_frames: frames per video, beside a pack.
        top: how many classes each video gets.
        template: of the zero-shot prompts, "" for the default.
    """

    prompts: str | Path | None = None
    classes: Sequence[str] | str = ()
    like: str | Path | None = None
    n_frames: int | None = None
    top: int = 5
    device: str = "auto"
    template: str = ""


def classify(source: str | Path, options: ClassifyOptions = ClassifyOptions()) -> list[Classified]:
    """The most likely classes of every video of a store, of a video file, or of the videos below a folder.

    Videos that cannot be decoded come last, with their `error`; where none can, that is an error.

    Raises:
        ConfigError: video files without a store to read them like, or no classes.
        PromptFileError: prompts of another backbone than the videos'.
        vidfeat.errors.VidfeatError: a store, pack or video that cannot be used.
    """
    prompt = read_prompt_file(options.prompts) if options.prompts is not None else None
    given: dict[str, Any] = {"store": str(source), "device": options.device}
    if options.template and prompt is None:
        given["templates"] = {"zero_shot": options.template}
    config = config_of_prompt(prompt, given)
    opened = _open(source, config, options)
    if prompt is not None and prompt.pack_hash != opened.pack.hash:
        raise PromptFileError(
            explain(
                "the prompt was learned with another backbone than these features",
                where=options.prompts,
                expected=f"pack {opened.pack.hash}",
                got=f"pack {prompt.pack_hash}",
                fix="a store (or --like a store) of the model the prompt was trained on",
            )
        )
    classes = _classes(opened, prompt, options)
    rows = np.flatnonzero(opened.table.usable).astype(np.int64)
    # Labels play no part in what is predicted.
    table = replace(opened.table, labels=(classes[0],) * len(opened.table.ids), classes=classes)
    tests = (TestSet("videos", rows, classes),)
    model, videos = prompted_model(config, opened, prompt, table=table, tests=tests)
    (found,) = predict(Classifiers(model), videos["videos"])
    reader: object = opened.reader
    failures = reader.failures if isinstance(reader, EncodedVideos) else {}
    broken = [Classified(key, (), (), error) for key, error in failures.items()]
    return [*_most_likely(found, top=options.top), *broken]


def _open(source: str | Path, config: TrainConfig, options: ClassifyOptions) -> FeatureSource:
    if is_store(source):
        opened = open_source(source)
        require_served(config, [opened], trains=False)
        return opened
    if options.like is None:
        raise ConfigError(
            explain(
                "a video file is read like the videos of a store",
                where=source,
                fix="--like STORE.zarr takes that store's backbone, frames and crop (or --like PACK --frames N)",
            )
        )
    layers = () if config.visual is None else (config.visual.first_block,)
    return open_videos(source, like=options.like, n_frames=options.n_frames, layers=layers, device=options.device)


def _classes(source: FeatureSource, prompt: PromptFile | None, options: ClassifyOptions) -> tuple[str, ...]:
    given = named_classes(options.classes) if isinstance(options.classes, str) else tuple(options.classes)
    classes = given or (prompt.classes if prompt is not None else ())
    if not classes and is_store(source.path):
        classes = source.table.classes
    elif not classes and options.like is not None and is_store(options.like):
        classes = open_source(options.like).table.classes
    twice = sorted({name for name in classes if classes.count(name) > 1})
    if twice or not classes:
        got = f"twice: {', '.join(twice)}" if twice else "none"
        raise ConfigError(explain("which classes are to be told apart?", got=got, fix="--classes run,jump or a file"))
    for line in one_class_two_spellings(classes):
        note(f"{line}; they are told apart as two classes")
    return classes


def _most_likely(found: Predictions, *, top: int) -> list[Classified]:
    best = torch.topk(found.logits.softmax(dim=1), k=min(top, len(found.classes)), dim=1)
    return [
        Classified(key, tuple(found.classes[place] for place in places), tuple(scores))
        for key, places, scores in zip(found.ids, best.indices.tolist(), best.values.tolist(), strict=True)
    ]
