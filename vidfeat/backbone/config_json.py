"""Frozen dataclasses as JSON objects whose old forms stay what they were, byte for byte.

A field with LATER in its metadata came after the first packs were written: it is left out where it holds its default,
and may be absent when read. So a pack that uses nothing new has the config, and the hash, that it always had.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Any

LATER = {"later": True}
KIND = "kind"


def is_later(one: Field[Any]) -> bool:
    """Whether packs written before the field existed lack it."""
    return bool(one.metadata.get("later"))


def plain(value: Any) -> Any:
    """The value as JSON knows it: dataclasses as objects without their unused later fields, tuples as lists."""
    if is_dataclass(value) and not isinstance(value, type):
        kind = getattr(value, KIND, None)
        found: dict[str, Any] = {} if kind is None else {KIND: kind}
        for one in fields(value):
            content = getattr(value, one.name)
            if not (is_later(one) and content == one.default):
                found[one.name] = plain(content)
        return found
    if isinstance(value, Mapping):
        return {str(name): plain(content) for name, content in value.items()}
    return [plain(content) for content in value] if isinstance(value, (list, tuple)) else value


def uses_later(value: Any) -> bool:
    """Whether an older reader would miss something: a later field in use, or a part of a kind it does not know."""
    if not is_dataclass(value) or isinstance(value, type):
        return False
    if getattr(value, KIND, None) is not None:
        return True
    found = ((one, getattr(value, one.name)) for one in fields(value))
    return any((is_later(one) and content != one.default) or uses_later(content) for one, content in found)


def exact_keys(kind: type, values: Any, where: str) -> dict[str, Any]:
    """The values of a JSON object by the names of a dataclass's fields; lists become tuples.

    Raises:
        ValueError: no object, missing or unknown keys.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: expected a JSON object, got {type(values).__name__}")
    known = {one.name for one in fields(kind)}
    needed = {one.name for one in fields(kind) if not is_later(one)}
    missing, unknown = sorted(needed - values.keys()), sorted(values.keys() - known)
    if missing or unknown:
        raise ValueError(f"{where}: missing keys {missing}, unknown keys {unknown}")
    return {name: _tupled(value) for name, value in values.items()}


def of_kind(kinds: Mapping[str | None, type], values: Any, where: str) -> tuple[type, dict[str, Any]]:
    """The dataclass that an object's `kind` names (None where it names none), and the object without it.

    Raises:
        ValueError: no object, or a kind that this version does not know.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: expected a JSON object, got {type(values).__name__}")
    named = values.get(KIND)
    if named not in kinds:
        known = ", ".join(str(kind) for kind in kinds if kind is not None)
        raise ValueError(f"{where}: this version knows the kinds {known or 'none'}, not {named!r}")
    return kinds[named], {name: value for name, value in values.items() if name != KIND}


def _tupled(value: Any) -> Any:
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value
