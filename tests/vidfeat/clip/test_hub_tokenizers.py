"""Tokenizers that lie on the hub: ids, what a pack keeps of them, and what is said where their files are not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from hub_tokenizers import KINDS, MODELS, fill_tokenizer, texts, write_tokenizer
from tokenizers import Tokenizer as LibraryTokenizer

from vidfeat.backbone import HubTokenizer
from vidfeat.backbone.hub_tokenizer import cleaned
from vidfeat.clip import door
from vidfeat.clip.hub_tokenizer import hub_tokenizer
from vidfeat.clip.openclip import load_open_clip
from vidfeat.errors import UnsupportedModelError

TEXTS = [*texts(2000), "", "playing guitar", "Don't_STOP!", "a\u00a0b"]
LENGTH = 64
NLLB = {"hf_tokenizer_name": "facebook/nllb-200-distilled-600M"}


def text_config_of(kind: str) -> dict:
    return NLLB if kind == "nllb" else (door.model_config(MODELS[kind]) or {})["text_cfg"]


def loaded(folder: Path, kind: str) -> HubTokenizer:
    found = hub_tokenizer(text_config_of(kind), model="x", context_length=LENGTH, vocab_size=10**6, given=folder)
    assert found is not None
    return found


@pytest.fixture(params=KINDS, scope="module")
def kind_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, write_tokenizer(tmp_path_factory.mktemp(request.param), request.param).parent


def test_ids_are_open_clips(kind_folder: tuple[str, Path]) -> None:
    transformers = pytest.importorskip("transformers")
    kind, folder = kind_folder
    if kind == "worldwide" and int(transformers.__version__.partition(".")[0]) > 4:
        pytest.skip("transformers 5 makes XLM-R's tokenizer anew: other ids where a text spells a special token")
    settings = json.dumps({"model_cfg": {"text_cfg": text_config_of(kind)}})
    (folder / "open_clip_config.json").write_text(settings, "utf-8")
    theirs = open_clip.get_tokenizer(f"local-dir:{folder}", context_length=LENGTH)
    assert torch.equal(loaded(folder, kind).tokenize(TEXTS), theirs(TEXTS))


def test_ids_are_the_librarys_own_padded_and_closed(kind_folder: tuple[str, Path]) -> None:
    """What transformers asks of the library, where its class leaves the file as it is."""
    kind, folder = kind_folder
    ours = loaded(folder, kind)
    library = LibraryTokenizer.from_file(str(folder / "tokenizer.json"))
    library.enable_padding(pad_id=ours.pad_id, length=LENGTH)
    library.enable_truncation(LENGTH)
    encoded = library.encode_batch([cleaned(text, ours.settings.clean) for text in TEXTS])
    expected = torch.tensor([one.ids for one in encoded])
    if kind == "clipa":
        expected[expected == library.token_to_id("[SEP]")] = 0
    if kind == "nllb":  # its class puts the language in front, where the file has it behind
        english, length = library.token_to_id("eng_Latn"), (expected != ours.pad_id).sum(1)
        expected = torch.cat([torch.full((len(expected), 1), english), expected], dim=1)
        expected[torch.arange(len(expected)), length] = ours.pad_id
        expected = expected[:, :LENGTH]
    assert torch.equal(ours.tokenize(TEXTS), expected)


def test_what_stands_around_a_text_is_known() -> None:
    """SigLIP pads with its end of text, which its config alone says; CLIPA's separator keeps its place as 0."""
    expected = {
        "siglip": (None, "</s>", "</s>"),
        "siglip2": (None, "<eos>", "<pad>"),
        "worldwide": ("<s>", "</s>", "<pad>"),
    }
    for kind, around in expected.items():
        made = KINDS[kind][0]()
        ids = tuple(None if token is None else made.token_to_id(token) for token in around)
        ours = hub_from(made, kind)
        assert (ours.sot_id, ours.eot_id, ours.pad_id) == ids
    ours, made = hub_from(KINDS["clipa"][0](), "clipa"), KINDS["clipa"][0]()
    assert (ours.sot_id, ours.eot_id, ours.pad_id) == (made.token_to_id("[CLS]"), 0, 0)
    assert ours.encode("a [SEP] b")[1] == 0


def hub_from(made: LibraryTokenizer, kind: str) -> HubTokenizer:
    import json
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        made.save(str(path / "tokenizer.json"))
        (path / "tokenizer_config.json").write_text(json.dumps(KINDS[kind][1]))
        return loaded(path, kind)


def test_texts_that_do_not_fit_or_have_no_embedding_are_refused(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, "siglip").parent
    with pytest.raises(ValueError, match="do not fit the text tower"):
        loaded(folder, "siglip").tokenize(["guitar " * LENGTH])
    known = loaded(folder, "siglip")
    small = HubTokenizer(known.to_bytes(), known.settings, context_length=LENGTH, vocab_size=5)
    with pytest.raises(ValueError, match="a token that the text tower does not know"):
        small.tokenize(["guitar"])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without a network; its hub cache is empty."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "home"


def test_it_is_taken_from_the_hubs_cache(hub: Path) -> None:
    fill_tokenizer(hub, "siglip2", repository="timm/ViT-B-16-SigLIP2")
    text = text_config_of("siglip2")
    found = hub_tokenizer(text, model="ViT-B-16-SigLIP2", context_length=LENGTH, vocab_size=10**6)
    assert found is not None
    assert found.settings.name == "timm/ViT-B-16-SigLIP2"


def test_absent_it_is_named_with_its_place_and_the_advice_works(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        load_open_clip(model="ViT-B-16-SigLIP2", pretrained="webli")
    message = str(raised.value)
    assert message.splitlines()[0] == (
        "the tokenizer of ViT-B-16-SigLIP2 is neither in the hub's cache nor could it be fetched"
    )
    assert len(message.splitlines()) == 5
    assert str(hub / "hub" / "models--timm--ViT-B-16-SigLIP2") in message
    assert "tokenizer.json and tokenizer_config.json of the hub's timm/ViT-B-16-SigLIP2" in message
    assert "--tokenizer FOLDER/tokenizer.json" in message
    # Followed: the two files in one folder, given as the file or as the folder.
    brought = write_tokenizer(tmp_path / "brought", "siglip2")
    for given in (brought, brought.parent):
        with pytest.raises(UnsupportedModelError, match="could not load the weights of ViT-B-16-SigLIP2, webli"):
            load_open_clip(model="ViT-B-16-SigLIP2", pretrained="webli", tokenizer=given)


def test_one_that_the_hub_has_in_another_form_is_to_be_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import errors

    # huggingface_hub 1 raises this for a file that is not in a repository, older ones its base.
    absent = getattr(errors, "RemoteEntryNotFoundError", errors.EntryNotFoundError)

    def not_there(repository: str, name: str) -> Path:
        raise absent.__new__(absent)

    monkeypatch.setattr("vidfeat.clip.hub_tokenizer.hub_file", not_there)
    with pytest.raises(UnsupportedModelError, match=r"AutoTokenizer\.from_pretrained\(\"google/mt5-base\"\)"):
        hub_tokenizer({"hf_tokenizer_name": "google/mt5-base"}, model="x", context_length=64, vocab_size=9)


def test_files_that_do_not_say_enough_are_refused(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "whole", "siglip")
    (tmp_path / "half").mkdir()
    half = shutil.copy(path, tmp_path / "half" / "tokenizer.json")
    cases = {
        half: "there is no tokenizer_config.json",
        tmp_path / "nowhere": "there is no nowhere",
        shutil.copy(path, tmp_path / "spiece.model"): "a sentencepiece model must be converted first",
    }
    for given, message in cases.items():
        with pytest.raises(UnsupportedModelError, match=message):
            hub_tokenizer(text_config_of("siglip"), model="x", context_length=64, vocab_size=9, given=Path(given))
    with pytest.raises(UnsupportedModelError, match="CLIP's own byte pairs"):
        hub_tokenizer({}, model="ViT-B-16", context_length=77, vocab_size=49408, given=path)
