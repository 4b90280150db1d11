"""Exact text encoding of learned prompts, fast: shared prefixes, packed names, several runs at a time."""

from prompttune.text.engine.context import CONTEXT_KINDS, ContextKind, TextContext
from prompttune.text.engine.encoding_plan import Flops
from prompttune.text.engine.plain import plain_encode
from prompttune.text.engine.text_engine import TextEngine

__all__ = ["CONTEXT_KINDS", "ContextKind", "Flops", "TextContext", "TextEngine", "plain_encode"]
