"""The tokenizer equals open_clip's, text for text and token for token."""

from __future__ import annotations

import csv
import json
import random
import string
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidfeat.backbone import Tokenizer, clean_text
from vidfeat.clip.openclip import clip_merges
from vidfeat.errors import PackError

LABELS = Path(__file__).resolve().parents[4] / "shared" / "splits" / "labels"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(clip_merges(), context_length=77)


@pytest.fixture(scope="module")
def theirs():
    from open_clip import SimpleTokenizer

    return SimpleTokenizer()


STRINGS = [
    "",
    " ",
    "a",
    "A Video Of A Person   juggling\n\tballs .",
    "it's we're I'll you'd they've i'm don't 'tis",
    "tai-chi/kung_fu (advanced) #7 @home 100% $5.00",
    "PlayingViolin HandstandPushups YoYo",
    "caf\u00e9 na\u00efve \u00dcber stra\u00dfe \u0130stanbul \u1e9e",
    "\u65e5\u672c\u8a9e \u4e2d\u6587 \ud55c\uad6d\uc5b4 \u0627\u0644\u0639\u0631\u0628\u064a\u0629"
    " \u0939\u093f\u0928\u094d\u0926\u0940",
    "\U0001f600\U0001f469\u200d\U0001f680 \u2764\ufe0f",
    "&amp;lt;b&amp;gt; &quot;quoted&quot; &#39;x&#39; &nbsp; &eacute;",
    "<p> &amp;lt;b&amp;gt; &amp;amp;",
    "sch\u00c3\u00b6n \u00e2\u20ac\u0153quoted\u00e2\u20ac\u009d",
    "<start_of_text>a cat<end_of_text> <START_OF_TEXT> <|endoftext|>",
    "0123456789 1st 2nd \u00b2 \u2167 \u0663",
    "!!!???...,,,;;;---___///\\\\\\",
    "a\u00a0b\u2003c\u200bd\ufeff e\x00f\x07",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "</w> w</w> a</w>b",
    "\ufb01ne \uff21\uff22\uff23 \u2460",
]


@pytest.mark.parametrize("text", STRINGS)
def test_same_ids_as_open_clip(tokenizer: Tokenizer, theirs, text: str) -> None:
    assert tokenizer.encode(text) == theirs.encode(text)
    assert torch.equal(tokenizer.tokenize([text]), theirs([text]))


def test_same_ids_on_thousands_of_made_up_words(tokenizer: Tokenizer, theirs) -> None:
    draw = random.Random(0)
    letters = string.ascii_letters * 3 + string.digits + string.punctuation + " \u00e9\u00f1\u00fc\u0142\u03b2"
    texts = ["".join(draw.choices(letters, k=draw.randint(1, 40))) for _ in range(4000)]
    assert [tokenizer.encode(text) for text in texts] == [theirs.encode(text) for text in texts]


@pytest.mark.long
def test_same_ids_on_every_character(tokenizer: Tokenizer, theirs) -> None:
    """Each once, in words of six as chance has it; then words of the letters that names are made of."""
    draw = random.Random(1)
    signs = [chr(code) for code in range(32, 0x1FB00) if not 0xD800 <= code < 0xE000]
    draw.shuffle(signs)
    texts = ["".join(signs[first : first + 6]) for first in range(0, len(signs), 6)]
    for letters in (string.printable, "".join(map(chr, range(32, 0x250)))):
        texts += ["".join(draw.choices(letters, k=6)) for _ in range(2000)]
    assert [one for one in texts if tokenizer.encode(one) != theirs.encode(one)] == []


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=120))
def test_same_ids_on_any_unicode(tokenizer: Tokenizer, theirs, text: str) -> None:
    assert tokenizer.encode(text) == theirs.encode(text)


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="&;#<>'\"abcdefghilmnopqrstuvx0123456789 \u00a0\u00c3\u00a9\u0130", max_size=80))
def test_cleaning_equals_open_clips(theirs, text: str) -> None:
    assert clean_text(text) == theirs.clean_fn(text)


@pytest.mark.shared
@pytest.mark.skipif(not LABELS.is_dir(), reason="the shared class lists are not here")
def test_same_ids_on_every_class_name_of_the_field(tokenizer: Tokenizer, theirs) -> None:
    names = set()
    for path in LABELS.glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            names |= {row["name"] for row in csv.DictReader(file)}
    assert len(names) > 800
    texts = [text for name in sorted(names) for text in (name, f"a video of a person {name}.", name.replace("_", " "))]
    assert torch.equal(tokenizer.tokenize(texts), theirs(texts))


def test_vocabulary(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 49408
    assert (tokenizer.sot_id, tokenizer.eot_id) == (49406, 49407)
    assert tokenizer.encode("a cat") == [320, 2368]


def test_decode_gives_the_cleaned_text_back(tokenizer: Tokenizer) -> None:
    text = "A person juggling caf\u00e9 balls"
    assert tokenizer.decode(tokenizer.encode(text)).strip() == clean_text(text)


def test_too_long_texts_are_named_and_never_cut(tokenizer: Tokenizer, theirs) -> None:
    fits, too_long = "cat " * 75, "dog " * 76
    assert torch.equal(tokenizer.tokenize([fits]), theirs([fits]))
    with pytest.raises(ValueError, match=r"2 of 3 texts do not fit") as raised:
        tokenizer.tokenize([fits, too_long, "bird " * 100])
    assert "'dog dog" in str(raised.value)
    assert "has 78" in str(raised.value)
    assert "has 102" in str(raised.value)


def test_the_file_gives_the_same_tokenizer_back(tokenizer: Tokenizer) -> None:
    again = Tokenizer.from_json(json.loads(tokenizer.to_bytes()))
    assert again.merges == tokenizer.merges
    assert again.context_length == 77
    assert again.to_bytes() == tokenizer.to_bytes()


@pytest.mark.parametrize(
    "change",
    [{"format": "other"}, {"version": 2}, {"merges": []}, {"merges": ["one"]}, {"context_length": None}],
    ids=str,
)
def test_another_file_is_refused(tokenizer: Tokenizer, change: dict) -> None:
    with pytest.raises(PackError, match="not a tokenizer file this version reads"):
        Tokenizer.from_json(tokenizer.to_json() | change, where="here")
