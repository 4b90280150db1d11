"""The tensors in a step's inputs, wherever they are in them: to copy them, exchange them, or tell two steps apart."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

from prompttune.text.vocabulary import Vocabulary

Given = TypeVar("Given")


def mapped(given: Given, function: Callable[[Tensor], Tensor]) -> Given:
    """The same with other tensors, taken in the order of `tensors_of`."""
    if isinstance(given, Tensor):
        return function(given)  # type: ignore[return-value]
    if isinstance(given, (list, tuple)):
        return type(given)(mapped(one, function) for one in given)  # type: ignore[return-value]
    if _is_inputs(given):
        own = {field.name: mapped(getattr(given, field.name), function) for field in fields(given)}  # type: ignore[arg-type]
        return replace(given, **own)  # type: ignore[type-var]
    return given


def tensors_of(given: Any) -> list[Tensor]:
    """Its tensors, in the order of its fields."""
    if isinstance(given, Tensor):
        return [given]
    if isinstance(given, (list, tuple)):
        return [tensor for one in given for tensor in tensors_of(one)]
    if _is_inputs(given):
        return [tensor for field in fields(given) for tensor in tensors_of(getattr(given, field.name))]
    return []


def kind_of(given: Any) -> Hashable:
    """What two steps have in common if one graph does both: shapes, dtypes, and which other objects they look at."""
    if isinstance(given, Tensor):
        return tuple(given.shape), given.dtype
    if isinstance(given, (list, tuple)):
        return tuple(kind_of(one) for one in given)
    if _is_inputs(given):
        return tuple(kind_of(getattr(given, field.name)) for field in fields(given))
    return given if isinstance(given, (float, int, str)) else id(given)


def _is_inputs(given: object) -> bool:
    # A vocabulary is part of the model: its tensors never change, and the text engine knows it by its identity.
    return is_dataclass(given) and not isinstance(given, (Vocabulary, type))
