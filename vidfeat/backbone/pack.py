"""The backbone pack: one directory that is everything prompt learning needs of a CLIP.

    config.json          sizes, preprocessing, logit scale, weights hash; size and sha256 of the three other files
    text.safetensors     the text tower      names as in open_clip
    visual.safetensors   the vision tower    names as in open_clip, without `visual.`
    tokenizer.json       CLIP's merges, or a tokenizer of the `tokenizers` library

Tensors are float32, stored as float16 where that loses nothing, and a token embedding that is mostly zero rows keeps
the others alone (`token_embedding.ids`, `token_embedding.rows`). Files are read when a tower is asked for, so that
text-only work never touches the vision weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vidfeat.errors import PackError, explain

from .config import BackboneConfig
from .foreign_text import ForeignTextTower
from .hub_tokenizer import HubTokenizer
from .pack_config import CONFIG, PAYLOADS, REWRITE, TEXT, TOKENIZER, VISUAL, config_bytes, damaged, read_config
from .state_check import empty_text_tower, empty_vision_tower, state_problems, tower_problems
from .text import TextTower
from .tokenizer import Tokenizer
from .vision import VisionTower
from .weights import EncodedState, decode_state, weights_sha256
from .whole_directory import Content, write_directory

Tower = TypeVar("Tower", bound=nn.Module)
AnyTokenizer = Tokenizer | HubTokenizer


class BackbonePack:
    """A pack on disk, with its config read and the rest checked when it is first used.

    Attributes:
        path: the directory.
        config: sizes, preprocessing constants, logit scale, weights hash.
        hash: sha256 over the names and hashes of the four files; what a store or a prompt file names its pack by.
        files_seen: size and sha256 of those files whose every byte this object has written, or read and checked.
    """

    files_seen: dict[str, tuple[int, str]]

    def __init__(self, path: Path, *, config: BackboneConfig, config_sha256: str, files: Mapping[str, Any]) -> None:
        self.path = path
        self.config = config
        self._files = dict(files)
        hashes = {CONFIG: config_sha256} | {name: files[name]["sha256"] for name in PAYLOADS}
        listing = "".join(f"{name} {hashes[name]}\n" for name in sorted(hashes))
        self.hash = hashlib.sha256(listing.encode()).hexdigest()
        self.files_seen = {}
        self._unsaved: dict[str, Content] = {}
        self._states: dict[str, dict[str, Tensor]] = {}  # of a pack made from them

    def __repr__(self) -> str:
        return f"BackbonePack({self.config.name}, {self.config.pretrained}, {self.hash[:12]}, {self.path})"

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, expected_hash: str | None = None) -> BackbonePack:
        """The pack in that directory; reads `config.json` and the other files' sizes, nothing more.

        Args:
            path: the directory.
            expected_hash: the hash a store or a prompt file names; another pack is refused.

        Raises:
            PackError: no pack there, a file missing or of another size, a damaged config, or another hash.
        """
        directory = Path(path)
        raw, values = read_config(directory)
        problems = [problem for name in PAYLOADS if (problem := _size_problem(directory, name, values["files"]))]
        if problems:
            raise PackError(
                explain("the backbone pack is not whole", where=directory, got="; ".join(problems), fix=REWRITE)
            )
        try:
            config = BackboneConfig.from_json(values["config"])
        except (ValueError, TypeError) as error:
            raise PackError(
                explain("the pack's config cannot be used", where=directory / CONFIG, got=error, fix=REWRITE)
            ) from error
        pack = cls(directory, config=config, config_sha256=hashlib.sha256(raw).hexdigest(), files=values["files"])
        if expected_hash is not None and pack.hash != expected_hash:
            raise PackError(
                explain(
                    "this is another backbone pack than the one asked for",
                    where=directory,
                    expected=expected_hash,
                    got=f"{pack.hash} ({config.name}, {config.pretrained})",
                    fix="use the pack that came with the store (or the prompt file); features of two models do not mix",
                )
            )
        return pack

    @classmethod
    def write(
        cls,
        path: str | os.PathLike[str],
        *,
        config: BackboneConfig,
        text_state: Mapping[str, Tensor],
        visual_state: Mapping[str, Tensor],
        tokenizer: AnyTokenizer,
    ) -> BackbonePack:
        """The pack just written there: complete, or not there at all.

        An equal pack already at `path` is kept; any other thing there is refused.

        Args:
            path: a directory that does not exist yet.
            config: `weights_sha256` is filled in, or checked where it is given.
            text_state, visual_state: open_clip's names (`visual.` taken off), any float dtype.
            tokenizer: must match the text tower's vocabulary and context length.

        Raises:
            PackError: tensors missing, left over, of another shape or not finite; another thing at `path`; no room, or
                no right, to write there.
        """
        config = _checked(config, text_state=text_state, visual_state=visual_state, tokenizer=tokenizer)
        cls.of_checked(
            path, config=config, text_state=text_state, visual_state=visual_state, tokenizer=tokenizer
        ).save()
        return cls.load(path)

    @classmethod
    def of_checked(
        cls,
        path: str | os.PathLike[str],
        *,
        config: BackboneConfig,
        text_state: Mapping[str, Tensor],
        visual_state: Mapping[str, Tensor],
        tokenizer: AnyTokenizer,
    ) -> BackbonePack:
        """The pack that `save` will write there, with its hash; its image tower is ready, read from no file.

        The text tower and the tokenizer can be had once it is saved. Tensors are taken as they are.

        Args:
            path, text_state, visual_state, tokenizer: as of `write`.
            config: `weights_sha256` is that of these states, which `tower_problems` found nothing wrong with.

        Raises:
            PackError: a tokenizer that is not the text tower's.
        """
        _refuse(config, _tokenizer_problems(config, tokenizer))
        payloads: dict[str, Content] = {
            TEXT: EncodedState(text_state),
            VISUAL: EncodedState(visual_state),
            TOKENIZER: [tokenizer.to_bytes()],
        }
        with ThreadPoolExecutor(len(payloads)) as threads:  # hashing lets other threads run
            files = dict(zip(payloads, threads.map(_size_and_hash, payloads.values()), strict=True))
        raw = config_bytes(config, files)
        pack = cls(Path(path), config=config, config_sha256=hashlib.sha256(raw).hexdigest(), files=files)
        pack._unsaved = payloads | {CONFIG: [raw]}
        # Copies, where the tensors may be views of a mapped file that somebody truncates while the tower is in use.
        pack._states = {
            VISUAL: {name: value.to("cpu", torch.float32, copy=True) for name, value in visual_state.items()}
        }
        return pack

    def save(self) -> None:
        """Nothing, once the pack is on disk: complete, or not there at all; again and it does nothing.

        Raises:
            PackError: another thing at its path; no room, or no right, to write there.
        """
        if not self._unsaved:
            return
        files = {name: _size_and_hash(content) for name, content in self._unsaved.items() if name == CONFIG}
        files |= self._files
        try:
            if self.path.exists() or not write_directory(self.path, self._unsaved):
                _require_equal(self.path, files)
        except OSError as error:
            raise PackError(
                explain(
                    "the backbone pack cannot be written",
                    where=self.path,
                    expected=f"{sum(file['bytes'] for file in files.values())} free bytes, and the right to write",
                    got=error.strerror or error,
                    fix="free some space, or give another place to write to, and run the same command again",
                )
            ) from error
        self._unsaved = {}
        self.files_seen = {name: (file["bytes"], file["sha256"]) for name, file in files.items()}

    def text_tower(self) -> TextTower:
        """The text tower whose blocks run here: frozen, eval, float32, the same object at every call.

        Raises:
            PackError: damaged weights.
            UnsupportedModelError: a tower that transformers runs.
        """
        self.config.open_text  # noqa: B018 - says why not
        assert isinstance(self._text_tower, TextTower)
        return self._text_tower

    def frozen_text(self) -> TextTower | ForeignTextTower:
        """The text tower for features of whole texts, whoever runs it; as `text_tower` where that is there.

        Raises:
            PackError: damaged weights.
            UnsupportedModelError: transformers is not installed, or builds another tower.
        """
        return self._text_tower

    def vision_tower(self) -> VisionTower:
        """The vision tower: frozen, eval, float32, the same object at every call.

        Raises:
            PackError: damaged weights.
            UnsupportedModelError: a tower that open_clip runs.
        """
        return self._vision_tower

    def visual_state(self) -> dict[str, Tensor]:
        """The tensors of the image tower, float32; for a tower that is not run here.

        Raises:
            PackError: damaged weights.
        """
        return self._state(VISUAL)

    def tokenizer(self) -> AnyTokenizer:
        """The tokenizer, the same object at every call.

        Raises:
            PackError: a damaged tokenizer file.
        """
        return self._tokenizer

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of its files, as stores hold them.

        Raises:
            PackError: a file that is damaged.
        """
        yield CONFIG, (self.path / CONFIG).read_bytes()
        for name in PAYLOADS:
            yield name, self._read(name)

    def verify(self) -> None:
        """None, if every byte of the pack is what was written and the weights have the hash the config names.

        Raises:
            PackError: otherwise.
        """
        text, visual = self._state(TEXT), self._state(VISUAL)
        self._read(TOKENIZER)
        found = weights_sha256(text_state=text, visual_state=visual)
        if found != self.config.weights_sha256:
            raise damaged(self.path, "the weights", expected=self.config.weights_sha256, got=found)

    @cached_property
    def _text_tower(self) -> TextTower | ForeignTextTower:
        tower = empty_text_tower(self.config)
        return self._filled(tower, TEXT)

    @cached_property
    def _vision_tower(self) -> VisionTower:
        tower = empty_vision_tower(self.config)
        return self._filled(tower, VISUAL)

    @cached_property
    def _tokenizer(self) -> AnyTokenizer:
        data, text = self._read(TOKENIZER), self.config.text
        if text.tokenizer is None:
            return Tokenizer.from_json(json.loads(data), where=self.path / TOKENIZER)
        return HubTokenizer(data, text.tokenizer, context_length=text.context_length, vocab_size=text.vocab_size)

    def _filled(self, tower: Tower, name: str) -> Tower:
        state = self._state(name)
        if problems := state_problems(tower, state):
            raise PackError(
                explain("the pack's tensors do not fit its config", where=self.path / name, got=problems, fix=REWRITE)
            )
        tower.load_state_dict(state, strict=True, assign=True)
        return tower.requires_grad_(False).eval()

    def _state(self, name: str) -> dict[str, Tensor]:
        if name in self._states:
            return self._states[name]
        return decode_state(self._read(name), vocab_size=self.config.text.vocab_size)

    def _read(self, name: str) -> bytes:
        path = self.path / name
        data = path.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != self._files[name]["sha256"]:
            raise damaged(path, f"the pack's {name}", expected=self._files[name]["sha256"], got=found)
        self.files_seen[name] = len(data), found
        return data


def _checked(
    config: BackboneConfig,
    *,
    text_state: Mapping[str, Tensor],
    visual_state: Mapping[str, Tensor],
    tokenizer: AnyTokenizer,
) -> BackboneConfig:
    """The config with the hash of its weights, once tensors, tokenizer and config agree."""
    problems = tower_problems(config, text_state=text_state, visual_state=visual_state)
    problems += _tokenizer_problems(config, tokenizer)
    found = weights_sha256(text_state=text_state, visual_state=visual_state) if not problems else ""
    if config.weights_sha256 and found and found != config.weights_sha256:
        problems.append(f"the weights' sha256 is {found}, the config names {config.weights_sha256}")
    _refuse(config, problems)
    return dataclasses.replace(config, weights_sha256=found)


def _tokenizer_problems(config: BackboneConfig, tokenizer: AnyTokenizer) -> list[str]:
    problems = []
    if (tokenizer.vocab_size, tokenizer.context_length) != (config.text.vocab_size, config.text.context_length):
        problems.append(
            f"tokenizer: vocabulary {tokenizer.vocab_size} and context length {tokenizer.context_length}, "
            f"text tower: {config.text.vocab_size} and {config.text.context_length}"
        )
    settings = tokenizer.settings if isinstance(tokenizer, HubTokenizer) else None
    if settings != config.text.tokenizer:
        problems.append(f"tokenizer: {settings}, text tower: {config.text.tokenizer}")
    return problems


def _refuse(config: BackboneConfig, problems: list[str]) -> None:
    if problems:
        raise PackError(
            explain(
                "these weights do not make the backbone that the config describes",
                where=f"{config.name}, {config.pretrained}",
                got="; ".join(problems),
                fix="give the model config these weights were trained with",
            )
        )


def _size_and_hash(content: Content) -> dict[str, Any]:
    digest, n_bytes = hashlib.sha256(), 0
    for piece in content:
        digest.update(piece)
        n_bytes += len(piece)
    return {"bytes": n_bytes, "sha256": digest.hexdigest()}


def _size_problem(directory: Path, name: str, files: Mapping[str, Any]) -> str:
    path, expected = directory / name, files[name]["bytes"]
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().st_size
    return "" if size == expected else f"{name} has {size} bytes, not {expected}"


def _require_equal(directory: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Nothing, where the directory has these files, byte for byte; PackError otherwise."""
    different = [name for name, file in files.items() if _file_hash(directory / name) != file["sha256"]]
    if different:
        raise PackError(
            explain(
                "something else is already where the backbone pack is to be written",
                where=directory,
                got=f"other or no {', '.join(sorted(different))}",
                fix="give another path, or remove that directory if nothing uses it",
            )
        )


def _file_hash(path: Path) -> str:
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
