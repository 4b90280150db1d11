"""Exact text encoding of learned prompts, fast: shared prefixes, packed names, several runs at a time."""

from prompttune.text_engine.context import CONTEXT_KINDS, ContextKind, TextContext
from prompttune.text_engine.engine import TextEngine
from prompttune.text_engine.plain import plain_encode
from prompttune.text_engine.plan import Flops

__all__ = ["CONTEXT_KINDS", "ContextKind", "Flops", "TextContext", "TextEngine", "plain_encode"]
