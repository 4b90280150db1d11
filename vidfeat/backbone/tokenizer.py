"""CLIP's byte-pair tokenizer, from a file in the pack: no open_clip, and never a truncated text."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidfeat.errors import PackError, explain

FORMAT = "clip-bpe"
FORMAT_VERSION = 1
SPECIAL_TOKENS = ("<start_of_text>", "<end_of_text>")
_END_OF_WORD = "</w>"
# Words, single digits, runs of anything else; contractions first. Source: openai/CLIP, clip/simple_tokenizer.py.
_PIECES = r"""|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def byte_symbols() -> dict[int, str]:
    """{byte: one printable character}, in the order of CLIP's vocabulary.

    Source: openai/CLIP, clip/simple_tokenizer.py, bytes_to_unicode.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    symbols = {byte: chr(byte) for byte in printable}
    hidden = (byte for byte in range(256) if byte not in symbols)
    return symbols | {byte: chr(256 + offset) for offset, byte in enumerate(hidden)}


def clean_text(text: str) -> str:
    """The text as CLIP tokenizes it: mojibake repaired, HTML entities resolved twice, blanks collapsed, lower case.

    Source: mlfoundations/open_clip, src/open_clip/tokenizer.py, get_clean_fn("lower").
    """
    return " ".join(repair_text(text).split()).lower()


def repair_text(text: str) -> str:
    """Mojibake repaired and HTML entities resolved twice.

    Plain printable ASCII without an ampersand has nothing to repair, so it does not wait for ftfy to be imported.
    """
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text)))


def token_rows(texts: Sequence[str], rows: Sequence[Sequence[int]], *, context_length: int, pad_id: int) -> Tensor:
    """[C context_length] int64: each text's token ids, then padding.

    Raises:
        ValueError: texts that do not fit, each named with its token count; nothing is ever cut.
    """
    too_long = [(text, len(row)) for text, row in zip(texts, rows, strict=True) if len(row) > context_length]
    if too_long:
        shown = "; ".join(f"{text[:80]!r} has {count}" for text, count in too_long[:5])
        raise ValueError(
            explain(
                f"{len(too_long)} of {len(texts)} texts do not fit the text tower",
                expected=f"at most {context_length} tokens, start and end of text included",
                got=shown + (f"; and {len(too_long) - 5} more" if len(too_long) > 5 else ""),
                fix="shorten the text or the template; nothing is cut, a cut text means another thing",
            )
        )
    token_ids = torch.full((len(rows), context_length), pad_id, dtype=torch.int64)
    for index, row in enumerate(rows):
        token_ids[index, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return token_ids


class Tokenizer:
    """Text to token ids, identical to `open_clip.tokenize` for every text that fits.

    Made without a look at the vocabulary, which is put together for the first text: commands start at once.

    Args:
        merges: `"left right"`, two symbols each, by rank; with the 256 byte symbols they define the vocabulary:
            256 symbols, the same 256 closing a word, one per merge, then start of text and end of text.
        context_length: tokens per text, start and end included.
    """

    def __init__(self, merges: Iterable[str], *, context_length: int) -> None:
        self.merges = tuple(merges)
        self.context_length = context_length
        self._byte_symbols = byte_symbols()
        self.vocab_size = 2 * len(self._byte_symbols) + len(self.merges) + len(SPECIAL_TOKENS)
        self.sot_id, self.eot_id = self.vocab_size - 2, self.vocab_size - 1
        self.pad_id = 0
        # A special token spelled out in a text is that token, as in CLIP.
        self._known_pieces: dict[str, tuple[int, ...]] = {
            token: (self.sot_id + index,) for index, token in enumerate(SPECIAL_TOKENS)
        }

    @cached_property
    def _vocabulary(self) -> list[str]:
        symbols = list(self._byte_symbols.values())
        merged = [merge.replace(" ", "", 1) for merge in self.merges]
        return [*symbols, *(symbol + _END_OF_WORD for symbol in symbols), *merged, *SPECIAL_TOKENS]

    @cached_property
    def _id_of(self) -> dict[str, int]:
        return dict(zip(self._vocabulary, range(self.vocab_size), strict=True))

    @cached_property
    def _pattern(self) -> Any:
        import regex

        return regex.compile("|".join(SPECIAL_TOKENS) + _PIECES, regex.IGNORECASE)

    @cached_property
    def _bytes_to_pairs(self) -> Any:
        from tokenizers import models

        merges = [(left, right) for left, right in (merge.split(" ") for merge in self.merges)]
        return models.BPE(vocab=self._id_of, merges=merges, end_of_word_suffix=_END_OF_WORD)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without start and end of text; of any length."""
        ids: list[int] = []
        for piece in self._pattern.findall(clean_text(text)):
            symbols = "".join(self._byte_symbols[byte] for byte in piece.encode("utf-8"))
            if symbols not in self._known_pieces:
                self._known_pieces[symbols] = tuple(token.id for token in self._bytes_to_pairs.tokenize(symbols))
            ids.extend(self._known_pieces[symbols])
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids, lower case, one blank after each word; start and end of text are spelled out."""
        byte_of = {symbol: byte for byte, symbol in self._byte_symbols.items()}
        joined = "".join(self._vocabulary[index] for index in ids)
        return bytes(byte_of[symbol] for symbol in joined).decode("utf-8", errors="replace").replace(_END_OF_WORD, " ")

    def tokenize(self, texts: Sequence[str] | str) -> Tensor:
        """[C context_length] int64: start, text, end, zeros.

        Raises:
            ValueError: texts that do not fit, each named with its token count; nothing is ever cut.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows = [[self.sot_id, *self.encode(text), self.eot_id] for text in texts]
        return token_rows(texts, rows, context_length=self.context_length, pad_id=self.pad_id)

    def to_json(self) -> dict[str, Any]:
        """The tokenizer file: format, version, context length, special tokens, `"left right"` merges by rank."""
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "context_length": self.context_length,
            "special_tokens": list(SPECIAL_TOKENS),
            "merges": list(self.merges),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, where: Path | str = "tokenizer.json") -> Tokenizer:
        """The tokenizer of such a file.

        Raises:
            PackError: another format or version, or a file that lacks something.
        """
        found = (values.get("format"), values.get("version"))
        merges = values.get("merges", ())
        sound = isinstance(values.get("context_length"), int) and all(merge.count(" ") == 1 for merge in merges)
        if found != (FORMAT, FORMAT_VERSION) or not merges or not sound:
            raise PackError(
                explain(
                    "this is not a tokenizer file this version reads",
                    where=where,
                    expected=f"format {FORMAT!r}, version {FORMAT_VERSION}, merges and a context length",
                    got=f"format {found[0]!r}, version {found[1]!r}, {len(merges)} merges",
                    fix="write the pack again with this version of vidfeat",
                )
            )
        return cls(merges, context_length=values["context_length"])

    def to_bytes(self) -> bytes:
        """The tokenizer file's bytes: JSON, UTF-8, the same for the same tokenizer."""
        return (json.dumps(self.to_json(), ensure_ascii=False, indent=0) + "\n").encode("utf-8")
