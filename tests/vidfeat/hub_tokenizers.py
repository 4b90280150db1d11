"""Small tokenizers of the kinds that open_clip's models bring, trained here and laid out as the hub lays them out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hub_cache import COMMIT
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = (
    "a video of a person playing the guitar, brushing hair and riding a horse.",
    "Wall pushups; tai chi; pommel horse? The cat & the dog don't: 12 kicks, 3.5 metres!",
    "ein Mann wäscht das Auto – наливать воду в стакан 跳绳 カメラ <s> </s> don't_stop",
)
VOCAB = 600


def texts(n: int) -> list[str]:
    """Made-up texts of letters, signs, blanks, entities and special tokens, most of them short."""
    import random

    draw = random.Random(7)
    pieces = [
        *" ".join(CORPUS).split(),
        "</s>",
        "[SEP]",
        "&amp;",
        "Ã©",
        "_",
        "(1)",
        "  ",
        "\t",
        "😀",
        "ﬁ",
        "É",
        "don't",
    ]
    return [
        "".join(draw.choice(pieces) + draw.choice((" ", "", "_", "-")) for _ in range(draw.randrange(9)))
        for _ in range(n)
    ]


def _unigram(specials: list[str], post: Any) -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=VOCAB, special_tokens=specials, unk_token="<unk>", show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    return _ended(made, post)


def _ended(made: Tokenizer, post: Any) -> Tokenizer:
    single, tokens = post
    ids = [(token, made.token_to_id(token)) for token in tokens]
    made.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    return made


def _gemma() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=specials[:4], show_progress=False)
    made.train_from_iterator([text.replace(" ", "▁") for text in CORPUS], trainer)
    written = json.loads(made.to_str())
    # Byte tokens are words of the vocabulary, no special tokens.
    for byte in specials[4:]:
        written["model"]["vocab"][byte] = len(written["model"]["vocab"])
    return _ended(Tokenizer.from_str(json.dumps(written)), ("$A <eos>", ["<eos>"]))


def _bert() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCAB, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    return _ended(made, ("[CLS] $A [SEP]", ["[CLS]", "[SEP]"]))


def _nllb() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=specials, show_progress=False)
    )
    made.add_special_tokens([AddedToken(language, special=True) for language in ("deu_Latn", "eng_Latn")])
    # As the hub's file has it, in the old order; the class writes it anew.
    return _ended(made, ("$A </s> eng_Latn", ["</s>", "eng_Latn"]))


_T5 = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "eos_token": "</s>", "unk_token": "<unk>"}
# Per kind: how it is made, its tokenizer_config.json as the hub's repositories have it.
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "siglip": (
        lambda: _unigram(["<pad>", "</s>", "<unk>"], ("$A </s>", ["</s>"])),
        _T5 | {"pad_token": "</s>", "additional_special_tokens": []},
    ),
    "siglip2": (
        _gemma,
        {
            "tokenizer_class": "GemmaTokenizer",
            "add_bos_token": False,
            "add_eos_token": True,
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "padding_side": "right",
        },
    ),
    "clipa": (_bert, {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}),
    "worldwide": (
        lambda: _unigram(["<s>", "<pad>", "</s>", "<unk>"], ("<s> $A </s>", ["<s>", "</s>"])),
        {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512},
    ),
    "nllb": (
        _nllb,
        {"tokenizer_class": "NllbTokenizer", "src_lang": None, "eos_token": "</s>", "pad_token": "<pad>"},
    ),
}
# The model whose text_cfg names such a tokenizer.
MODELS = {
    "siglip": "ViT-B-16-SigLIP",
    "siglip2": "ViT-B-16-SigLIP2",
    "clipa": "ViT-L-14-CLIPA",
    "worldwide": "ViT-H-14-worldwide",
}


def write_tokenizer(folder: Path, kind: str) -> Path:
    """`tokenizer.json` and `tokenizer_config.json` of a kind in that folder; the first of them."""
    folder.mkdir(parents=True, exist_ok=True)
    made, config = KINDS[kind]
    path = folder / "tokenizer.json"
    made().save(str(path))
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return path


def fill_tokenizer(home: Path, kind: str, *, repository: str) -> Path:
    """The same in a hub cache; the file there."""
    folder = home / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    path = write_tokenizer(snapshot, kind)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    _into_blobs(folder, (path, path.with_name("tokenizer_config.json")))
    return path


def _into_blobs(folder: Path, files: Iterable[Path]) -> None:
    """Files of a snapshot are links into `blobs`, as the hub's client makes them."""
    (folder / "blobs").mkdir(exist_ok=True)
    for number, path in enumerate(sorted(files)):
        blob = folder / "blobs" / f"{number:040x}"
        path.rename(blob)
        path.symlink_to(os.path.relpath(blob, path.parent))
