"""The tokenizer that an open_clip model config names on the hub: its files, and what stands around a text.

open_clip lets transformers' AutoTokenizer make it. Its class adds little to `tokenizer.json`, and only that is here:
which token pads, and for Gemma's and NLLB's tokenizers what stands around a text, which their classes write anew
whenever they are loaded. transformers 5 makes XLM-R's tokenizer anew in another form: the same for every text that does
not spell out a special token such as `</s>`.

Source: mlfoundations/open_clip, src/open_clip/tokenizer.py, HFTokenizer (3.3.0); huggingface/transformers,
PreTrainedTokenizerFast, GemmaTokenizerFast, NllbTokenizerFast (4.57).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidfeat.backbone import HubTokenizer, TokenizerSettings
from vidfeat.backbone.hub_tokenizer import library_tokenizer
from vidfeat.clip.hub import cache, hub_file
from vidfeat.errors import UnsupportedModelError, explain

TOKENIZER, CONFIG, SPECIAL = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
# What padding is called where no file of the tokenizer says it: BERT's; T5's, RoBERTa's, XLM-R's and Gemma's.
_USUAL_PADS = ("[PAD]", "<pad>")


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer as the hub keeps it.

    Attributes:
        data: the bytes of `tokenizer.json`.
        facts: `tokenizer_config.json`, with what only `special_tokens_map.json` says.
        where: the folder.
    """

    data: bytes
    facts: Mapping[str, Any]
    where: Path


def hub_tokenizer(
    text: Mapping[str, Any], *, model: str, context_length: int, vocab_size: int, given: Path | None = None
) -> HubTokenizer | None:
    """The tokenizer of a `text_cfg`; None for CLIP's own byte pairs.

    Args:
        text: the section of the model config, `text_reasons` having nothing against it.
        model: what errors call it; `local-dir:FOLDER` has its tokenizer in that folder.
        context_length, vocab_size: of the text tower.
        given: a `tokenizer.json` with its `tokenizer_config.json` beside it, or their folder.

    Raises:
        UnsupportedModelError: files that are not there, or a tokenizer that is not run here as open_clip runs it.
        PackError: a `tokenizer.json` that the tokenizers library does not read.
    """
    name = text.get("hf_tokenizer_name")
    if not name:
        if given is not None:
            raise UnsupportedModelError(
                explain(
                    f"{model} has CLIP's own byte pairs, which open_clip brings", got=given, fix="leave --tokenizer out"
                )
            )
        return None
    schema, _, folder = model.partition(":")
    given = Path(folder) if given is None and schema == "local-dir" else given
    files = _from_hub(name, model=model) if given is None else _from_folder(given, name=name, model=model)
    kwargs = text.get("tokenizer_kwargs") or {}
    settings = _settings(files, name=name, clean=kwargs.get("clean", "whitespace"))
    if kwargs.get("strip_sep_token"):
        settings = _without_separator(settings, files)
    return HubTokenizer(files.data, settings, context_length=context_length, vocab_size=vocab_size)


def _from_hub(name: str, *, model: str) -> TokenizerFiles:
    try:
        paths = {file: hub_file(name, file) for file in (TOKENIZER, CONFIG)}
    except Exception as error:
        # The hub's client raises its own, requests' and OSError alike.
        first_line = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
        raise UnsupportedModelError(
            explain(
                f"the tokenizer of {model} is neither in the hub's cache nor could it be fetched",
                where=cache(name),
                expected=f"{TOKENIZER} and {CONFIG} of the hub's {name}",
                got=f"{type(error).__name__}: {first_line}",
                fix="with a network, run this command again. Without one, bring both files here into one folder and "
                f"add --tokenizer FOLDER/{TOKENIZER}{_conversion(name, error)}",
            )
        ) from error
    return _read(paths[TOKENIZER].parent, paths[TOKENIZER])


def _conversion(name: str, error: Exception) -> str:
    """The advice where the hub has another form of the tokenizer alone (mT5's sentencepiece model)."""
    on_hub_otherwise = type(error).__name__ in ("EntryNotFoundError", "RemoteEntryNotFoundError")
    return f"; it is not on the hub in this form: {_convert(name)}" if on_hub_otherwise else ""


def _convert(name: str) -> str:
    return f'transformers writes it, AutoTokenizer.from_pretrained("{name}").save_pretrained("FOLDER")'


def _from_folder(given: Path, *, name: str, model: str) -> TokenizerFiles:
    path = given / TOKENIZER if given.is_dir() else given
    missing = [file for file in (path, path.with_name(CONFIG)) if not file.is_file()]
    if path.suffix != ".json" and path.is_file():
        raise UnsupportedModelError(
            explain(
                "this is not a tokenizer file that the tokenizers library reads",
                where=path,
                expected=f"a {TOKENIZER}; a sentencepiece model must be converted first",
                fix=f"{_convert(name)}; then --tokenizer FOLDER/{TOKENIZER}",
            )
        )
    if missing:
        raise UnsupportedModelError(
            explain(
                f"the tokenizer of {model} is not whole: there is no {missing[0].name}",
                where=path.parent,
                expected=f"{TOKENIZER} and {CONFIG}, which says how texts are padded, side by side",
                fix=f"bring both from the hub's {name} into one folder",
            )
        )
    return _read(path.parent, path)


def _read(folder: Path, tokenizer: Path) -> TokenizerFiles:
    facts: dict[str, Any] = {}
    for name in (SPECIAL, CONFIG):
        path = folder / name
        if not path.is_file():
            continue
        try:
            facts |= {key: value for key, value in json.loads(path.read_text("utf-8")).items() if value is not None}
        except (ValueError, AttributeError) as error:
            raise UnsupportedModelError(
                explain("this file of the tokenizer is no JSON object", where=path, got=error, fix="bring it again")
            ) from error
    return TokenizerFiles(tokenizer.read_bytes(), facts, folder)


def _settings(files: TokenizerFiles, *, name: str, clean: Any) -> TokenizerSettings:
    backend = library_tokenizer(files.data, where=files.where / TOKENIZER)
    kind = str(files.facts.get("tokenizer_class", "")).removesuffix("Fast")
    if files.facts.get("padding_side", "left" if kind == "GemmaTokenizer" else "right") != "right":
        raise _refused(name, "it pads texts in front")
    before, behind = _around(backend, files.facts, kind)
    if len(before) > 1 or len(behind) > 1:
        raise _refused(name, f"tokens {before} stand before and {behind} behind every text, more than one")
    pads = [_content(files.facts["pad_token"])] if "pad_token" in files.facts else _USUAL_PADS
    ids = [backend.token_to_id(token) for token in pads]
    pad_id = next((token_id for token_id in ids if token_id is not None), None)
    if pad_id is None:
        raise _refused(name, f"its vocabulary has no padding token ({' or '.join(pads)})")
    return TokenizerSettings(
        name=name, clean=clean, start_id=next(iter(before), None), end_id=next(iter(behind), None), pad_id=pad_id
    )


def _around(backend: Any, facts: Mapping[str, Any], kind: str) -> tuple[list[int], list[int]]:
    """What stands before and behind every text."""

    def ids(*tokens: str) -> list[int]:
        return [backend.token_to_id(token) for token in tokens]

    if kind == "GemmaTokenizer":
        begin, end = _content(facts.get("bos_token", "<bos>")), _content(facts.get("eos_token", "<eos>"))
        return ids(begin) * bool(facts.get("add_bos_token", True)), ids(end) * bool(facts.get("add_eos_token", False))
    if kind == "NllbTokenizer":
        language, end = facts.get("src_lang", "eng_Latn"), _content(facts.get("eos_token", "</s>"))
        return ([], ids(end, language)) if facts.get("legacy_behaviour") else (ids(language), ids(end))
    encoded = backend.encode("a")
    special = encoded.special_tokens_mask
    n_before = special.index(0) if 0 in special else len(special)
    n_behind = special[::-1].index(0) if 0 in special else 0
    return encoded.ids[:n_before], encoded.ids[len(special) - n_behind :]


def _content(token: Any) -> str:
    """The text of a special token, which may be written with its flags."""
    return str(token["content"] if isinstance(token, Mapping) else token)


def _without_separator(settings: TokenizerSettings, files: TokenizerFiles) -> TokenizerSettings:
    """CLIPA's: the separator, which ends every text, keeps its place and becomes 0."""
    separator = library_tokenizer(files.data, where=files.where).token_to_id(
        _content(files.facts.get("sep_token", "[SEP]"))
    )

    def zeroed(token_id: int | None) -> int | None:
        return 0 if token_id is not None and token_id == separator else token_id

    return TokenizerSettings(
        name=settings.name,
        clean=settings.clean,
        start_id=zeroed(settings.start_id),
        end_id=zeroed(settings.end_id),
        pad_id=zeroed(settings.pad_id) or 0,
        zeroed_id=separator,
    )


def _refused(name: str, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        explain(f"the tokenizer {name} is not run here as open_clip runs it", got=reason, fix="choose another model")
    )
