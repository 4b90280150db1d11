"""The split file: which videos may train, which test, among which classes; versioned JSON, with a hash of its own.

    {"format": "prompttune split", "version": 1,
     "train": {"classes": [...], "draws": {"1": {CLASS: [ID, ...], ...}, "2": ...}},
     "tests": {"base": {"classes": [...], "videos": {CLASS: [ID, ...], ...}}, "new": ...},
     "made_by": {...}, "sha256": "..."}

Videos are filed under the name of their class, never under a number, so that a list cannot be read with another list's
classes. `train` is null where nothing trains. A file with one draw trains every seed on it; with several, seed 2 trains
on the draw "2". Test sets called "base" and "new" make it a base-to-new file; several others are averaged.
`protocol.split_file` takes it; `prompttune splits` makes, imports and checks it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prompttune.base.tensor_files import write_bytes
from prompttune.errors import SplitError, explain, some
from prompttune.splits.class_overlap import normalise_class_name

FORMAT = "prompttune split"
VERSION = 1
BASE, NEW = "base", "new"

Videos = dict[str, tuple[str, ...]]  # class name -> ids


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TrainPart(_Part):
    """Videos that may train."""

    classes: tuple[str, ...] = Field(min_length=1, description="the classes trained on, in the order of the logits")
    draws: dict[str, Videos] = Field(min_length=1, description="by seed, or one for every seed: class -> video ids")


class TestPart(_Part):
    """Videos that are only ever evaluated."""

    __test__ = False  # not a test case, whatever pytest makes of the name

    classes: tuple[str, ...] = Field(min_length=1, description="the classes the videos are told apart among")
    videos: Videos = Field(description="class -> video ids")


class SplitFile(_Part):
    """The content of a split file."""

    format: Literal["prompttune split"] = "prompttune split"
    version: Literal[1] = 1
    train: TrainPart | None = Field(default=None, description="null where nothing trains")
    tests: dict[str, TestPart] = Field(min_length=1, description="by name; `base` and `new` for base-to-new")
    made_by: dict[str, Any] = Field(default_factory=dict, description="command, sources and seeds; not in the hash")

    def __repr__(self) -> str:
        return f"SplitFile({'; '.join(self.summary())})"

    @property
    def sha256(self) -> str:
        """Over classes, draws and tests; where the file came from is not in it."""
        content = self.model_dump(mode="json", include={"train", "tests"})
        text = json.dumps(content, ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def is_base_to_new(self) -> bool:
        return set(self.tests) == {BASE, NEW}

    def draw(self, seed: int) -> Videos:
        """The videos that seed trains on: the only draw, or the draw of that name.

        Raises:
            SplitError: nothing to train on, or no draw for the seed among several.
        """
        if self.train is None:
            raise SplitError(explain("the split file has no training videos", fix='protocol.name = "zero-shot"'))
        if len(self.train.draws) == 1:
            return next(iter(self.train.draws.values()))
        if str(seed) not in self.train.draws:
            names = ", ".join(self.train.draws)
            fix = f"--seeds {','.join(name for name in self.train.draws if name.isdecimal())}"
            raise SplitError(
                explain(f"the split file has no draw for seed {seed}", expected=f"one of {names}", fix=fix)
            )
        return self.train.draws[str(seed)]

    def parts(self) -> Iterable[tuple[str, tuple[str, ...], Videos]]:
        """Name, class list and videos of every draw and test set."""
        if self.train is not None:
            for name, videos in self.train.draws.items():
                yield f"train draw {name}", self.train.classes, videos
        for name, part in self.tests.items():
            yield f"test {name}", part.classes, part.videos

    def n_listed(self) -> dict[str, int]:
        """By test set: how many videos its list has, those that `splits import --allow-missing` left out included."""
        missing = self.made_by.get("missing")
        left_out = missing if isinstance(missing, dict) else {}
        return {name: n_videos(p.videos) + len(left_out.get(f"test {name}", ())) for name, p in self.tests.items()}

    def class_names(self) -> tuple[str, ...]:
        """Every class of the file, once, training classes first."""
        lists = [] if self.train is None else [self.train.classes]
        return tuple(
            dict.fromkeys(name for part in (*lists, *(t.classes for t in self.tests.values())) for name in part)
        )

    def labels(self) -> dict[str, str]:
        """Class name by video id, of all parts."""
        return {key: name for _, _, videos in self.parts() for name, ids in videos.items() for key in ids}

    def summary(self) -> list[str]:
        """One line per part: `train draw 1: 416 videos of 26 classes`."""
        return [
            f"{part}: {n_videos(videos):,} videos of {len(classes)} classes" for part, classes, videos in self.parts()
        ]


def n_videos(videos: Mapping[str, Iterable[str]]) -> int:
    """How many videos a part has."""
    return sum(len(tuple(ids)) for ids in videos.values())


def video_ids(videos: Mapping[str, Iterable[str]]) -> list[str]:
    """The ids of a part, class by class."""
    return [key for ids in videos.values() for key in ids]


def write_split_file(path: str | os.PathLike[str], split: SplitFile, *, overwrite: bool = True) -> None:
    """Writes a split file, whole or not at all.

    Raises:
        SplitError: without `overwrite`, a file that says something else is there: finished runs may be pinned to it.
    """
    if not overwrite and Path(path).exists():
        try:
            there = f"a split of sha256 {parse_split_file(path).sha256}"
        except SplitError:
            there = "something else"
        if there != f"a split of sha256 {split.sha256}":
            fix = "another name, or --overwrite: runs on the split that is there then no longer fit it"
            raise SplitError(explain("the split file is there already", where=path, got=there, fix=fix))
    document = split.model_dump(mode="json") | {"sha256": split.sha256}
    text = json.dumps(document, indent=1, ensure_ascii=False)
    try:
        content = text.encode()
    except UnicodeEncodeError:  # the id of a video may hold bytes that are no UTF-8; JSON can escape them
        content = json.dumps(document, indent=1).encode()
    write_bytes(Path(path), content + b"\n")


def read_split_file(path: str | os.PathLike[str]) -> SplitFile:
    """The split file at `path`, checked in itself.

    Raises:
        SplitError: no such file, not of this format, changed by hand, or with any of `structure_problems`.
    """
    file = Path(path)
    try:
        facts = file.stat()
    except OSError:
        raise SplitError(
            explain("there is no such split file", where=path, fix="prompttune splits make, or splits import")
        ) from None
    return _read(str(file), facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=16)
def _read(path: str, _mtime_ns: int, _size: int) -> SplitFile:
    split = parse_split_file(path)
    problems = structure_problems(split)
    if problems:
        raise SplitError(explain("this split file cannot be used", where=path, got=listed(problems)))
    return split


def parse_split_file(path: str | os.PathLike[str]) -> SplitFile:
    """The split file at `path`, of the right format and hash, whatever else may be wrong with it.

    Raises:
        SplitError: not JSON, another format or version, unknown keys, or a hash that does not fit.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise SplitError(explain("this is no split file", where=path, got=error)) from None
    kind = document.get("format") if isinstance(document, dict) else type(document).__name__
    if kind != FORMAT or document.get("version") != VERSION:
        got = kind if kind != FORMAT else f"version {document.get('version')}"
        raise SplitError(explain("this is no split file", where=path, expected=f"{FORMAT}, version {VERSION}", got=got))
    hashed = document.pop("sha256", None)
    try:
        split = SplitFile.model_validate(document)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise SplitError(explain("this is no split file", where=path, got=listed(wrong))) from None
    if hashed is not None and hashed != split.sha256:
        raise SplitError(
            explain(
                "the split file was changed after it was made",
                where=path,
                expected=f"sha256 {split.sha256}",
                got=f"sha256 {hashed}",
                fix="make it again; for a change that is meant, take the line `sha256` out",
            )
        )
    return split


def structure_problems(split: SplitFile) -> list[str]:
    """What is wrong with a split in itself: labels, classes, videos on two sides. Empty when nothing is."""
    problems: list[str] = []
    for part, classes, videos in split.parts():
        twice = sorted({name for name in classes if classes.count(name) > 1})
        if twice:
            problems.append(f"{part}: classes listed twice: {some(twice)}")
        outside = [name for name in videos if name not in set(classes)]
        if outside:
            problems.append(f"{part}: labels outside its class list: {some(outside)}")
        if not n_videos(videos):
            problems.append(f"{part}: no video")
    return [*problems, *_repeated(split), *_both_sides(split), *_base_and_new(split)]


def _repeated(split: SplitFile) -> Iterable[str]:
    known: dict[str, str] = {}
    two_labels: list[str] = []
    for part, _, videos in split.parts():
        seen: set[str] = set()
        twice: list[str] = []
        for name, ids in videos.items():
            for key in ids:
                if key in seen:
                    twice.append(key)
                seen.add(key)
                if known.setdefault(key, name) != name:
                    two_labels.append(f"{key} ({known[key]} and {name})")
        if twice:
            yield f"{part}: videos listed twice: {some(twice)}"
    if two_labels:
        yield f"videos with two labels: {some(dict.fromkeys(two_labels))}"


def _both_sides(split: SplitFile) -> Iterable[str]:
    draws = {} if split.train is None else split.train.draws
    for test, part in split.tests.items():
        tested = set(video_ids(part.videos))
        for name, videos in draws.items():
            both = [key for key in dict.fromkeys(video_ids(videos)) if key in tested]
            if both:
                yield f"{len(both)} videos are in train draw {name} and in test {test}: {some(both)}"


def _base_and_new(split: SplitFile) -> Iterable[str]:
    if not {BASE, NEW} & set(split.tests):
        return
    if not split.is_base_to_new:
        yield f"base-to-new has the test sets base and new, and no others: {', '.join(split.tests)}"
        return
    shared = sorted(set(split.tests[BASE].classes) & set(split.tests[NEW].classes))
    if shared:
        yield f"classes that are both base and new: {some(shared)}"
    if split.train is not None and split.train.classes != split.tests[BASE].classes:
        foreign = sorted(set(split.train.classes) ^ set(split.tests[BASE].classes))
        yield f"training and base classes differ: {some(foreign) if foreign else 'in their order'}"


def listed(problems: Iterable[str]) -> str:
    """Problems under one another, as the got of an error."""
    return "".join(f"\n    - {problem}" for problem in problems)


def letters(name: str) -> str:
    """A class name or video id without case, blanks and signs: what is left when spelling does not count."""
    return normalise_class_name(name).replace(" ", "")
