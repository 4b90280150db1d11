"""A feature store as one meets it in a notebook: what is in it, as arrays and frames, and splits of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prompttune.config.train_config import ProtocolConfig
from prompttune.data.features import FeatureSource, open_source
from prompttune.data.protocols import make_split, split_table
from prompttune.splits.split import Split

if TYPE_CHECKING:
    import pandas


class VideoStore:
    """A feature store with its backbone: labelled videos whose features are read when they are needed.

    Args:
        path: the store.

    Attributes:
        ids, labels, splits, groups: str arrays [N], one entry per video.
        classes: class names in the store's order.
        source: what the rest of the package reads features from.

    Raises:
        vidfeat.errors.StoreError, FeatureError: no such store, or one that cannot be trained on.
    """

    def __init__(self, path: str | Path) -> None:
        self.source: FeatureSource = open_source(path)
        table = self.source.table
        self.ids, self.labels, self.splits, self.groups = (
            np.array(column, dtype=np.str_) for column in (table.ids, table.labels, table.splits, table.groups)
        )
        self.classes = table.classes

    @property
    def path(self) -> str:
        return self.source.path

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        sides = ", ".join(f"{n} {side or 'without split'}" for side, n in sorted(Counter(self.splits.tolist()).items()))
        failed = f", {len(self.source.failed)} failed" if self.source.failed else ""
        backbone = self.source.pack.config
        frames = self.source.reader.n_frames or "all"
        return (
            f"VideoStore({self.path}: {len(self)} videos of {len(self.classes)} classes ({sides}{failed}), "
            f"{frames} frames each, {backbone.name} {backbone.pretrained})"
        )

    # A store is read and never changed: copies (`sklearn.clone`) share it, other processes open it again.
    def __deepcopy__(self, _memo: dict[int, Any]) -> VideoStore:
        return self

    def __reduce__(self) -> tuple[type[VideoStore], tuple[str]]:
        return VideoStore, (self.path,)

    @property
    def frame(self) -> pandas.DataFrame:
        """One row per video: id, label, split, group, usable (its extraction did not fail)."""
        import pandas

        columns = {"id": self.ids, "label": self.labels, "split": self.splits, "group": self.groups}
        return pandas.DataFrame(columns | {"usable": self.source.table.usable})

    def split(
        self,
        protocol: str = "base-to-new",
        *,
        shots: int | None = 16,
        seed: int = 1,
        file: str | Path | None = None,
        **options: Any,
    ) -> Split:
        """The videos that train and test under a protocol.

        Args:
            protocol: base-to-new, few-shot, fully-supervised or zero-shot.
            shots: training videos per class, None for all.
            seed: of the shots.
            file: a split file of `prompttune splits`; None for the store's own train and test videos.
            options: further keys of the configuration's `protocol` table: val_shots, base_classes, test_fraction, ...

        Raises:
            SplitError: a split that this store cannot have.
        """
        given = {"name": protocol, "shots": shots, "split_file": None if file is None else str(file), **options}
        config = ProtocolConfig.model_validate(given)
        return make_split(config, split_table(config, self.source.table), seed=seed, trains=protocol != "zero-shot")

    def rows_of(self, ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """The rows of video ids, int64 [n].

        Raises:
            KeyError: an id that the store does not have.
        """
        place = {key: row for row, key in enumerate(self.source.table.ids)}
        return np.array([place[str(key)] for key in ids], dtype=np.int64)
