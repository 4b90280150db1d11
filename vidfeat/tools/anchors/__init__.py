"""Irrelevant videos for a task: chosen from a pool store far from every class, spread out, and vetted against leaks.

    task.py       the lists and stores that anchors must have nothing in common with
    features.py   pooled rows -> video features, class texts -> class features, their similarity
    vetting.py    content hashes, file names, near-duplicates frame by frame
    k_center.py   n videos spread as widely as possible
    selection.py  select_anchors: pool -> vetted -> spread out -> a store, a CSV, a report
    checking.py   check_anchors: the same questions, asked of a store that exists

Needs numpy and zarr; torch only to encode class names.
"""

from vidfeat.tools.anchors.checking import AnchorCheck, CheckOptions, check_anchors
from vidfeat.tools.anchors.features import ClassSimilarity, class_similarity, video_features
from vidfeat.tools.anchors.k_center import k_center
from vidfeat.tools.anchors.selection import AnchorSelection, SelectOptions, select_anchors
from vidfeat.tools.anchors.task import AnchorError
from vidfeat.tools.anchors.vetting import NEAR_DUPLICATE, Hit, Matches, best_matches

__all__ = [
    "NEAR_DUPLICATE",
    "AnchorCheck",
    "AnchorError",
    "AnchorSelection",
    "CheckOptions",
    "ClassSimilarity",
    "Hit",
    "Matches",
    "SelectOptions",
    "best_matches",
    "check_anchors",
    "class_similarity",
    "k_center",
    "select_anchors",
    "video_features",
]
