"""The field's own lists to a split file: each list under its own class file, paths matched to a store's ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompttune.errors import SplitError, explain, some
from prompttune.splits.class_files import read_class_file
from prompttune.splits.file import SplitFile, TestPart, TrainPart, Videos, listed, structure_problems, video_ids
from prompttune.splits.lists import file_sha256, read_video_list, videos_by_class
from vidfeat.id_matching import match_ids


@dataclass(frozen=True)
class ListPair:
    """A list and the class file that says what its labels mean.

    Attributes:
        name: of the draw ("1", "2", ...) or of the test set.
    """

    name: str
    videos: Path
    classes: Path


def import_lists(train: Sequence[ListPair], tests: Sequence[ListPair]) -> SplitFile:
    """The split that lists describe.

    Raises:
        SplitError: lists that do not fit their class files, or parts that do not fit together; all in one message.
    """
    paths = dict.fromkeys(path for pair in (*train, *tests) for path in (pair.videos, pair.classes))
    class_files = {path: read_class_file(path) for path in dict.fromkeys(pair.classes for pair in (*train, *tests))}
    found: dict[tuple[str, str], Videos] = {}
    problems = []
    for kind, pairs in (("train", train), ("test", tests)):
        for pair in pairs:
            own = class_files[pair.classes]
            others = [other for path, other in class_files.items() if path != pair.classes]
            try:
                found[kind, pair.name] = videos_by_class(read_video_list(pair.videos), own, others)
            except SplitError as error:
                problems.append(str(error))
    if problems:
        raise SplitError("\n".join(problems))
    lists = {class_files[pair.classes].classes for pair in train}
    if len(lists) > 1:
        raise SplitError(explain("training lists of different classes", got=some(pair.classes for pair in train)))
    split = SplitFile(
        train=TrainPart(classes=next(iter(lists)), draws={p.name: found["train", p.name] for p in train})
        if train
        else None,
        tests={p.name: TestPart(classes=class_files[p.classes].classes, videos=found["test", p.name]) for p in tests},
        made_by={
            "command": "prompttune splits import",
            "lists": [{"name": path.name, "sha256": file_sha256(path)} for path in paths],
        },
    )
    wrong = structure_problems(split)
    if wrong:
        raise SplitError(explain("the lists do not make a split", got=listed(wrong)))
    return split


def onto_store(split: SplitFile, ids: Sequence[str], *, store: str, allow_missing: int | None) -> SplitFile:
    """The split with the store's ids; up to `allow_missing` videos that the store does not have (None: any number) are
    left out, named in the file part by part: a result says on how many of the listed test videos it stands.

    The hash of the file is then another than that of the whole split.

    Raises:
        SplitError: more videos missing than allowed, or paths that could mean several videos.
    """
    matches = match_ids((key for _, _, videos in split.parts() for key in video_ids(videos)), ids)
    problems = [f"{key} could be {some(found, 3)}" for key, found in matches.ambiguous.items()][:5]
    fixes = ["write the folders into the list, as the store names them"] if problems else []
    if allow_missing is not None and len(matches.missing) > allow_missing:
        problems.append(f"{len(matches.missing)} videos are not in the store: {some(matches.missing, 5)}")
        fixes.append(
            f"extract the missing videos, or --allow-missing {len(matches.missing)} to leave them out for good"
        )
    if problems:
        raise SplitError(
            explain(
                "the lists do not fit the store",
                where=store,
                got=listed(problems),
                fix="; ".join(fixes),
            )
        )

    def renamed(videos: Videos) -> Videos:
        kept = {
            name: tuple(ids[matches.rows[key]] for key in keys if key in matches.rows) for name, keys in videos.items()
        }
        return {name: keys for name, keys in kept.items() if keys}

    train = split.train
    if train is not None:
        train = train.model_copy(update={"draws": {name: renamed(videos) for name, videos in train.draws.items()}})
    tests = {name: part.model_copy(update={"videos": renamed(part.videos)}) for name, part in split.tests.items()}
    gone = set(matches.missing)
    missing = {name: [key for key in video_ids(videos) if key in gone] for name, _, videos in split.parts()}
    recorded = {name: keys for name, keys in missing.items() if keys}
    made_by = split.made_by | {"store": store} | ({"missing": recorded} if recorded else {})
    moved = split.model_copy(update={"train": train, "tests": tests, "made_by": made_by})
    wrong = structure_problems(moved)
    if wrong:
        raise SplitError(explain("on this store the lists do not make a split", where=store, got=listed(wrong)))
    return moved


def named_draws(pairs: Iterable[tuple[Path, Path]]) -> list[ListPair]:
    """Training lists as the draws 1, 2, ... in their order."""
    return [ListPair(str(number), *pair) for number, pair in enumerate(pairs, 1)]


def named_tests(triples: Iterable[tuple[Any, ...]]) -> list[ListPair]:
    """Test lists with their names.

    Raises:
        SplitError: a name given twice, or with a slash.
    """
    pairs = [ListPair(str(name), Path(videos), Path(classes)) for name, videos, classes in triples]
    names = [pair.name for pair in pairs]
    wrong = sorted({name for name in names if names.count(name) > 1 or "/" in name or not name})
    if wrong:
        raise SplitError(explain("test sets need names of their own, without a slash", got=", ".join(wrong)))
    return pairs
