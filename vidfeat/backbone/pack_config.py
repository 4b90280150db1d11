"""A pack's `config.json`: what it says of the three other files, of the model, and of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidfeat.errors import PackError, explain

from .config import BackboneConfig
from .config_json import uses_later

FORMAT = "vidfeat-backbone-pack"
FORMAT_VERSIONS = (1, 2)
CONFIG, TEXT, VISUAL, TOKENIZER = "config.json", "text.safetensors", "visual.safetensors", "tokenizer.json"
PAYLOADS = (TEXT, VISUAL, TOKENIZER)
REWRITE = "copy the pack again from where it is whole, or write it again with `vidfeat extract`"


def damaged(where: Path, what: str, *, expected: str, got: str) -> PackError:
    """The error of bytes that are not those written."""
    return PackError(explain(f"{what} is damaged", where=where, expected=f"sha256 {expected}", got=got, fix=REWRITE))


def config_bytes(config: BackboneConfig, payloads: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The file's bytes, of the payloads' sizes and hashes."""
    files = dict(sorted(payloads.items()))
    # A pack that uses nothing new stays one that older versions read, under the hash they know.
    version = FORMAT_VERSIONS[uses_later(config)]
    values = {"format": FORMAT, "version": version, "config": config.to_json(), "files": files}
    return (json.dumps(values | {"checksum": _checksum(values)}, indent=2) + "\n").encode()


def _checksum(values: Mapping[str, Any]) -> str:
    """sha256 of the config file's values, so that a flipped bit in it is found without a second file."""
    canonical = json.dumps({key: value for key, value in values.items() if key != "checksum"}, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def read_config(directory: Path) -> tuple[bytes, dict[str, Any]]:
    """The file's bytes and values.

    Raises:
        PackError: no pack there, another format, or a damaged file.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise PackError(
            explain(
                "there is no backbone pack here",
                where=directory,
                expected=f"a directory with {', '.join((CONFIG, *PAYLOADS))}",
                got="no such directory" if not directory.exists() else f"no {CONFIG} in it",
                fix="`vidfeat extract` writes the pack; copy it together with the store",
            )
        )
    raw = path.read_bytes()
    try:
        values = json.loads(raw)
        found = (values["format"], values["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise PackError(
            explain("the pack's config cannot be read", where=path, got=repr(error), fix=REWRITE)
        ) from error
    if found[0] != FORMAT or found[1] not in FORMAT_VERSIONS:
        raise PackError(
            explain(
                "this is not a backbone pack this version reads",
                where=path,
                expected=f"{FORMAT}, version {' or '.join(map(str, FORMAT_VERSIONS))}",
                got=f"{found[0]} version {found[1]}",
                fix="write the pack again with this version of vidfeat",
            )
        )
    if values.get("checksum") != _checksum(values):
        raise damaged(path, f"the pack's {CONFIG}", expected=str(values.get("checksum")), got=_checksum(values))
    return raw, values
