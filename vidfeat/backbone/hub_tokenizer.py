"""A tokenizer of the `tokenizers` library out of its own file, as open_clip's models on the hub bring it."""

from __future__ import annotations

import string
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from vidfeat.errors import PackError, explain

from .tokenizer import repair_text, token_rows
from .tower_config import TokenizerSettings

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def cleaned(text: str, how: str) -> str:
    """The text as open_clip hands it to such a tokenizer: mojibake and HTML entities resolved, blanks collapsed.

    Args:
        how: `whitespace` leaves it at that, `lower` makes it lower case, `canonicalize` takes out ASCII punctuation
            too, underscores as blanks (SigLIP).

    Source: mlfoundations/open_clip, src/open_clip/tokenizer.py, get_clean_fn.
    """
    text = repair_text(text)
    if how == "canonicalize":
        text = text.replace("_", " ").translate(_NO_PUNCTUATION)
    text = " ".join(text.split())
    return text if how == "whitespace" else text.lower()


class HubTokenizer:
    """Text to token ids, identical to open_clip's `HFTokenizer` for every text that fits.

    Args:
        data: the bytes of its `tokenizer.json`, in the `tokenizers` library's format; kept as they are.
        settings: what stands around a text, which the file alone does not say.
        context_length: tokens per text, those around it included.
        vocab_size: rows of the token embedding; the file may know tokens beyond it, which no text may use.
    """

    def __init__(self, data: bytes, settings: TokenizerSettings, *, context_length: int, vocab_size: int) -> None:
        self.settings = settings
        self.context_length = context_length
        self.vocab_size = vocab_size
        self.sot_id, self.eot_id, self.pad_id = settings.start_id, settings.end_id, settings.pad_id
        self._data = data

    @cached_property
    def _backend(self) -> Any:
        return library_tokenizer(self._data, where=self.settings.name)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without what stands around every text; of any length.

        Raises:
            ValueError: a token that the text tower has no embedding for.
        """
        ids: list[int] = self._backend.encode(cleaned(text, self.settings.clean), add_special_tokens=False).ids
        if ids and max(ids) >= self.vocab_size:
            raise ValueError(
                explain(
                    f"the text {text[:80]!r} has a token that the text tower does not know",
                    expected=f"tokens below {self.vocab_size}, the rows of its embedding",
                    got=f"{max(ids)}, {self._backend.id_to_token(max(ids))!r}",
                    fix="leave that word out",
                )
            )
        return [0 if token == self.settings.zeroed_id else token for token in ids]

    def tokenize(self, texts: Sequence[str] | str) -> Tensor:
        """[C context_length] int64: start, text, end, padding.

        Raises:
            ValueError: texts that do not fit, each named with its token count; nothing is ever cut.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        before = [] if self.sot_id is None else [self.sot_id]
        behind = [] if self.eot_id is None else [self.eot_id]
        rows = [[*before, *self.encode(text), *behind] for text in texts]
        return token_rows(texts, rows, context_length=self.context_length, pad_id=self.pad_id)

    def to_bytes(self) -> bytes:
        """The file it was made of."""
        return self._data


def library_tokenizer(data: bytes, *, where: Path | str) -> Any:
    """The `tokenizers` library's object of such a file; it neither cuts nor fills up.

    Raises:
        PackError: no file of that library.
    """
    from tokenizers import Tokenizer as LibraryTokenizer

    try:
        found = LibraryTokenizer.from_str(data.decode("utf-8"))
    except Exception as error:
        # The library raises plain Exception for whatever it cannot read.
        raise PackError(
            explain(
                "this is not a tokenizer file that the tokenizers library reads",
                where=where,
                expected="the tokenizer.json of that library",
                got=str(error)[:200],
                fix="copy the file again; another release of the tokenizers library may read it",
            )
        ) from error
    found.no_truncation()
    found.no_padding()
    return found
