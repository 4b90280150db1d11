"""Videos cut from one recording, told by the field's file names; what is wrong where they both train and test.

Clips of one recording share person, place and light: a model that has seen one knows the other. UCF-101 numbers its
recordings (`v_Typing_g04_c01`), HMDB-51's names begin with the film, Kinetics' with the YouTube id, and cutters number
parts and clips.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from prompttune.errors import some
from prompttune.splits.file import SplitFile, video_ids
from prompttune.splits.split import Split, TestSet

# What the group matches is the recording. Of parts and clips the folder belongs to it: their names are often "video".
_PATTERNS = (
    r"^(?:.*/)?([^/]+_g\d+)_c\d+",
    r"^(?:.*/)?([^/]+)_[fhlu]_[cn]m_np\d_",
    r"^(?:.*/)?([\w-]{11})_\d{6}_\d{6}",
    r"^(.+?)[_-](?:part|clip|segment|seg|scene)[_-]?\d+(?:\.\w+)?$",
)


def shared_recordings(train: Iterable[str], test: Iterable[str]) -> list[str]:
    """One line where recordings have videos among both: how many, which, and the group pattern that parts them."""
    train, test = list(train), list(test)
    acting, shared = [], []
    for pattern in _PATTERNS:
        expression = re.compile(pattern)
        tested = {match[1]: key for key in test if (match := expression.search(key))}
        both = {match[1]: key for key in train if (match := expression.search(key)) and match[1] in tested}
        if both:
            acting.append(pattern)
            shared += [f"{key} and {tested[name]}" for name, key in both.items()]
    if not shared:
        return []
    all_match = all(any(re.search(pattern, key) for pattern in acting) for key in (*train, *test))
    parted = "|".join([*acting, *([] if all_match else ["^.*$"])])
    return [
        f"{len(shared)} recordings, by the videos' names, are in training and in test: {some(shared, 2)}; "
        f"prompttune splits make ... --group-pattern '{parted}' keeps each on one side"
    ]


def recordings_on_both_sides(split: SplitFile) -> list[str]:
    """`shared_recordings` of all draws and all test sets of a split file."""
    draws = () if split.train is None else split.train.draws.values()
    tests = (part.videos for part in split.tests.values())
    return shared_recordings(
        dict.fromkeys(key for videos in draws for key in video_ids(videos)),
        dict.fromkeys(key for videos in tests for key in video_ids(videos)),
    )


def split_notes(split: Split, tests: Iterable[TestSet], *, shots: int | None) -> list[str]:
    """What a reader of a run's numbers must know of its videos, a line each.

    Args:
        tests: all test sets of the run, other stores' too.
        shots: what was asked for per class, where a class may have fewer; None where none may.
    """
    ids = split.table.ids
    trained = [ids[row] for row in (*split.train, *split.val)]
    notes = shared_recordings(trained, (ids[row] for test in split.tests for row in test.videos))
    counts = split.shots()
    fewer = [f"{name} ({n})" for name, n in counts.items() if shots is not None and n < shots]
    if fewer:
        notes.append(f"{len(fewer)} of {len(counts)} classes have fewer than {shots} shots: {some(fewer)}")
    return notes + missing_videos(tests)


def missing_videos(tests: Iterable[TestSet]) -> list[str]:
    """A line for each test set of fewer videos than its split file lists."""
    return [
        f"{test.name} stands on {len(test.videos):,} of the {test.n_listed:,} videos that its split file lists"
        for test in tests
        if test.n_listed is not None and test.n_listed != len(test.videos)
    ]
