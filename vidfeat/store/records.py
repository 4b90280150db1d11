"""The store's JSON: one canonical form, so that equal contents are equal bytes, and a checksum inside each document."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from vidfeat.errors import StoreCorruptError, explain

_SEAL = "sha256"


def canonical_json(document: Any) -> bytes:
    """The one byte string of a JSON value: sorted keys, no blanks, ASCII, shortest round-trip floats, final newline."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode("ascii") + b"\n"


def seal(document: Mapping[str, Any]) -> bytes:
    """Canonical JSON of `document` plus a "sha256" member: the hex digest of the canonical JSON without that member."""
    body = dict(document)
    if _SEAL in body:
        raise ValueError(f"a sealed document may not have its own {_SEAL!r} member")
    return canonical_json({**body, _SEAL: hashlib.sha256(canonical_json(body)).hexdigest()})


def unseal(content: bytes, *, path: str) -> dict[str, Any]:
    """The document that `seal` wrote, without its checksum member.

    Raises:
        StoreCorruptError: the bytes are not exactly those that were sealed.
    """
    try:
        document = json.loads(content)
        digest = document.pop(_SEAL)
        intact = hashlib.sha256(canonical_json(document)).hexdigest() == digest
        # The digest covers the values; comparing the bytes also covers blanks, escapes and key order.
        intact = intact and canonical_json({**document, _SEAL: digest}) == content
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        intact = False
    if not intact:
        raise StoreCorruptError(
            explain(
                "a file of the store is damaged",
                where=path,
                expected="JSON whose own checksum is right",
                got=f"{len(content)} bytes that fail it",
                fix="run `vidfeat verify` on the store; it says which units to extract again",
            )
        )
    return document
