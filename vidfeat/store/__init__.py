"""The feature store: a plain Zarr v3 group, written unit by unit, verified, and read at the speed of a memory map.

Needs numpy and zarr; knows nothing of torch, of videos or of models.
"""

from vidfeat.store.reader import Rows, StoreReader, open_store
from vidfeat.store.spec import (
    FieldDifference,
    Fingerprint,
    StoreSpec,
    TapSpec,
    VideoRow,
    require_same_fingerprint,
)
from vidfeat.store.tap import POOLED, Tap, tap_flags, token_layers
from vidfeat.store.unit_plan import Unit
from vidfeat.store.values import feature_problem, rows_without_direction, storage_problem
from vidfeat.store.verify import Problem, VerifyReport, verify
from vidfeat.store.writer import CommitRecord, StoreWriter

__all__ = [
    "POOLED",
    "CommitRecord",
    "FieldDifference",
    "Fingerprint",
    "Problem",
    "Rows",
    "StoreReader",
    "StoreSpec",
    "StoreWriter",
    "Tap",
    "TapSpec",
    "Unit",
    "VerifyReport",
    "VideoRow",
    "feature_problem",
    "open_store",
    "require_same_fingerprint",
    "rows_without_direction",
    "storage_problem",
    "tap_flags",
    "token_layers",
    "verify",
]
