"""What can be wrong with a split and is not seen in a result: swapped class files, leaks, videos that are not there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from prompttune.data.features import FeatureSource, open_source
from prompttune.errors import some
from prompttune.prompts.file import read_prompt_file
from prompttune.splits.class_files import read_class_file
from prompttune.splits.class_overlap import class_overlap
from prompttune.splits.file import NEW, SplitFile, letters, structure_problems, video_ids
from prompttune.splits.lists import evenly, read_video_list, videos_by_class
from prompttune.splits.of_file import label_problems
from prompttune.splits.recordings import recordings_on_both_sides
from vidfeat.id_matching import match_ids

_TELLING_NAME = 8  # letters from which a file name is one video's own, and not "001.mp4"


@dataclass(frozen=True)
class CheckInputs:
    """What a split is held against.

    Attributes:
        store: path of the store it is for; "" for none.
        apart: stores or lists that must have no test video: anchors, sources of hard prompts.
        hard_prompts: prompt files whose training classes must not be new classes.
        references: (list, class file) pairs whose labels are known to be right.
    """

    store: str = ""
    apart: Sequence[str] = ()
    hard_prompts: Sequence[Path] = ()
    references: Sequence[tuple[Path, Path]] = ()


@dataclass(frozen=True)
class CheckReport:
    """What was found.

    Attributes:
        problems: what makes results wrong or impossible.
        notes: what is worth knowing.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_split(split: SplitFile, inputs: CheckInputs = CheckInputs()) -> CheckReport:
    """Everything that is wrong with a split, in itself and against a store, anchors, hard prompts and other lists.

    Raises:
        PrompttuneError, vidfeat.errors.VidfeatError: a store, list or prompt file that cannot be read.
    """
    report = CheckReport()
    report.problems.extend(structure_problems(split))
    report.problems.extend(foreign_names(split))
    report.notes.extend(recordings_on_both_sides(split))
    report.notes.extend(_left_out(split))
    for videos, classes in inputs.references:
        report.problems.extend(_against_reference(split, videos, classes))
    source = open_source(inputs.store) if inputs.store else None
    if source is not None:
        _against_store(split, source, report)
    for other in inputs.apart:
        report.problems.extend(_touching_test(split, source, other))
    for path in inputs.hard_prompts:
        report.problems.extend(_hard_prompt(split, path))
    return report


def _left_out(split: SplitFile) -> Iterable[str]:
    missing = split.made_by.get("missing", {})
    for part, keys in missing.items() if isinstance(missing, dict) else [("the lists", missing)]:
        yield f"{part}: {len(keys)} listed videos were missing when it was imported: {some(keys, 3)}"


def foreign_names(split: SplitFile) -> Iterable[str]:
    """Parts whose videos are called by other classes than those they are filed under.

    UCF-101's and HMDB-51's file names hold their class. A base list read with the novel class file files
    `v_Typing_g01_c01.avi` under `PlayingViolin`; where most videos that name any class name a wrong one, so it is.
    """
    words = {name: letters(name) for name in split.class_names()}
    for part, _, videos in split.parts():
        sample = evenly([(key, name) for name, ids in videos.items() for key in ids])
        right, wrong = 0, []
        for key, name in sample:
            spelled = letters(key)
            if words.get(name, "\0") in spelled:
                right += 1
                continue
            named = max((other for other, word in words.items() if word in spelled), key=len, default=None)
            if named is not None:
                wrong.append(f"{key} under {name!r}, not {named!r}")
        if len(wrong) > right and len(wrong) >= 0.1 * len(sample):
            yield (
                f"{part}: paired with the wrong class file? {len(wrong)} of {len(sample)} videos are called by "
                f"another class than theirs, {right} by their own: {some(wrong, 2)}"
            )


def _against_reference(split: SplitFile, videos: Path, classes: Path) -> Iterable[str]:
    known = videos_by_class(read_video_list(videos), read_class_file(classes))
    right = [(key, name) for name, ids in known.items() for key in ids]
    for part, _, own in split.parts():
        rows = match_ids(video_ids(own), [key for key, _ in right]).rows
        pairs = {key: (name, right[rows[key]][1]) for name, ids in own.items() for key in ids if key in rows}
        for line in label_problems(pairs):
            yield f"{part}: other labels than {videos.name}: {line}"


def _against_store(split: SplitFile, source: FeatureSource, report: CheckReport) -> None:
    matches = match_ids((key for _, _, videos in split.parts() for key in video_ids(videos)), source.table.ids)
    for part, _, videos in split.parts():
        missing = [key for key in video_ids(videos) if key in set(matches.missing)] if matches.missing else []
        if missing:
            report.problems.append(f"{part}: {len(missing)} videos are not in the store: {some(missing, 3)}")
    for key, ids in list(matches.ambiguous.items())[:5]:
        report.problems.append(f"{key} could be several videos of the store: {some(ids, 3)}")
    labels = split.labels()
    pairs = {key: (labels[key], source.table.labels[row]) for key, row in matches.rows.items()}
    report.problems.extend(f"other labels than the store's: {line}" for line in label_problems(pairs))
    failed = [key for key, row in matches.rows.items() if not source.table.usable[row]]
    if failed:
        report.notes.append(f"{len(failed)} videos failed in the extraction and will be left out: {some(failed, 3)}")
    unused = len(source.table.ids) - len(matches.rows)
    if unused:
        report.notes.append(f"{unused} videos of the store are in no part of the split")
    report.problems.extend(_same_content(split, source, matches.rows))


def _same_content(split: SplitFile, source: FeatureSource, rows: Mapping[str, int]) -> Iterable[str]:
    """Videos of equal bytes under two ids, one training and one tested."""
    hashes = [row.content_sha256 for row in source.reader.videos()]
    tested: dict[str, str] = {}
    for part in split.tests.values():
        tested |= {hashes[rows[key]]: key for key in video_ids(part.videos) if key in rows}
    tested.pop("", None)
    for name, videos in ({} if split.train is None else split.train.draws).items():
        known = [(key, tested.get(hashes[rows[key]])) for key in video_ids(videos) if key in rows]
        both = [f"{key} = {other}" for key, other in known if other is not None and other != key]
        if both:
            yield f"{len(both)} videos of train draw {name} have the bytes of a test video: {some(both, 3)}"


def _touching_test(split: SplitFile, source: FeatureSource | None, other: str) -> Iterable[str]:
    """Videos of a store or list that are test videos, by bytes where both are stores and by telling file names."""
    tested = {Path(key).stem: key for part in split.tests.values() for key in video_ids(part.videos)}
    if Path(other).is_file():
        ids: Sequence[str] = [video for video, _ in read_video_list(other).lines]
    else:
        store = open_source(other)
        ids = store.table.ids
        if source is not None:
            yield from _same_bytes(split, source, store)
    named = [key for key in ids if len(letters(Path(key).stem)) >= _TELLING_NAME and Path(key).stem in tested]
    if named:
        yield f"{other}: {len(named)} of {len(ids)} videos have the name of a test video: {some(named, 3)}"


def _same_bytes(split: SplitFile, source: FeatureSource, other: FeatureSource) -> Iterable[str]:
    keys = [key for part in split.tests.values() for key in video_ids(part.videos)]
    rows = np.unique(list(match_ids(keys, source.table.ids).rows.values())).astype(int)
    own = source.reader.videos()
    tested = {own[row].content_sha256 for row in rows} - {""}
    hits = [video.id for video in other.reader.videos() if video.content_sha256 in tested]
    if hits:
        of_all = f"{len(hits)} of {len(other.table.ids)}"
        yield f"{other.path}: {of_all} videos have the bytes of a test video: {some(hits, 3)}"


def _hard_prompt(split: SplitFile, path: Path) -> Iterable[str]:
    prompt = read_prompt_file(path)
    new = split.tests[NEW].classes if NEW in split.tests else ()
    report = class_overlap(prompt.classes, new)
    if report.overlaps:
        yield f"{path}: the hard prompt was trained on new classes: {report.summary()}"
