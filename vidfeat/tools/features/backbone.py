"""The backbone of features that came without one: a pack, a store that has it, or an open_clip model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vidfeat.backbone import BackbonePack
from vidfeat.errors import PackError, explain


@contextmanager
def backbone(*, pack: Path | None = None, **model: Any) -> Iterator[BackbonePack | None]:
    """The pack at `pack`, or that of the model (see `load_open_clip`), in a temporary folder; None where none is named.

    Raises:
        PackError: both are given, or no pack is there.
        UnsupportedModelError: a model that cannot be loaded.
    """
    named = {name: value for name, value in model.items() if value is not None}
    if pack is not None and named:
        raise PackError(
            explain("the backbone is named twice", got=f"--pack and --{', --'.join(named)}", fix="one of them")
        )
    if pack is not None:
        inside = pack / "pack"
        yield BackbonePack.load(inside if inside.is_dir() else pack)
    elif named:
        from vidfeat.clip.openclip import load_open_clip

        with tempfile.TemporaryDirectory(prefix="vidfeat-pack-") as folder:
            yield load_open_clip(**model).write_pack(Path(folder, "pack"))
    else:
        yield None
