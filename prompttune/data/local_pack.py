"""The backbone pack of a store as a local folder: a remote store's is fetched once and kept by its hash."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from vidfeat.store import StoreReader

CACHE_VARIABLE = "PROMPTTUNE_CACHE"


def pack_cache() -> Path:
    """Where fetched packs are kept: $PROMPTTUNE_CACHE, else $XDG_CACHE_HOME/prompttune, else ~/.cache/prompttune."""
    chosen = os.environ.get(CACHE_VARIABLE)
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return (Path(chosen) if chosen else Path(home) / "prompttune") / "packs"


def local_pack(reader: StoreReader) -> Path:
    """The folder of the store's pack: inside a local store; of a remote one in the cache, whole or not there.

    Two processes that fetch the same pack at once write the same bytes; the first to finish leaves its own.
    """
    if isinstance(reader.pack_path, Path):
        return reader.pack_path
    folder = pack_cache() / reader.pack_hash
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    fetched = Path(tempfile.mkdtemp(prefix=f".{reader.pack_hash[:12]}-", dir=folder.parent))
    try:
        for name, content in reader.pack_files():
            (fetched / name).write_bytes(content)
        fetched.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(fetched, ignore_errors=True)
    return folder
