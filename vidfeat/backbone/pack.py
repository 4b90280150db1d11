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
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vidfeat.errors import PackError, explain

from .config import BackboneConfig, ForeignText, VisionConfig
from .config_json import uses_later
from .foreign_text import ForeignTextTower
from .hub_tokenizer import HubTokenizer
from .text import TextTower
from .tokenizer import Tokenizer
from .vision import VisionTower
from .weights import decode_state, encode_state, weights_sha256
from .whole_directory import write_directory

FORMAT = "vidfeat-backbone-pack"
FORMAT_VERSIONS = (1, 2)
CONFIG, TEXT, VISUAL, TOKENIZER = "config.json", "text.safetensors", "visual.safetensors", "tokenizer.json"
PAYLOADS = (TEXT, VISUAL, TOKENIZER)
_REWRITE = "copy the pack again from where it is whole, or write it again with `vidfeat extract`"

Tower = TypeVar("Tower", bound=nn.Module)
AnyTokenizer = Tokenizer | HubTokenizer


class BackbonePack:
    """A pack on disk, with its config read and the rest checked when it is first used.

    Attributes:
        path: the directory.
        config: sizes, preprocessing constants, logit scale, weights hash.
        hash: sha256 over the names and hashes of the four files; what a store or a prompt file names its pack by.
    """

    def __init__(self, path: Path, *, config: BackboneConfig, config_sha256: str, files: Mapping[str, Any]) -> None:
        self.path = path
        self.config = config
        self._files = dict(files)
        hashes = {CONFIG: config_sha256} | {name: files[name]["sha256"] for name in PAYLOADS}
        listing = "".join(f"{name} {hashes[name]}\n" for name in sorted(hashes))
        self.hash = hashlib.sha256(listing.encode()).hexdigest()

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
        raw, values = _read_config(directory)
        problems = [problem for name in PAYLOADS if (problem := _size_problem(directory, name, values["files"]))]
        if problems:
            raise PackError(
                explain("the backbone pack is not whole", where=directory, got="; ".join(problems), fix=_REWRITE)
            )
        try:
            config = BackboneConfig.from_json(values["config"])
        except (ValueError, TypeError) as error:
            raise PackError(
                explain("the pack's config cannot be used", where=directory / CONFIG, got=error, fix=_REWRITE)
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
        directory = Path(path)
        config = _checked(config, text_state=text_state, visual_state=visual_state, tokenizer=tokenizer)
        payloads = {
            TEXT: encode_state(text_state),
            VISUAL: encode_state(visual_state),
            TOKENIZER: tokenizer.to_bytes(),
        }
        contents = payloads | {CONFIG: _config_bytes(config, payloads)}
        try:
            if directory.exists() or not write_directory(directory, contents):
                return _kept_if_equal(directory, contents)
        except OSError as error:
            raise PackError(
                explain(
                    "the backbone pack cannot be written",
                    where=directory,
                    expected=f"{sum(map(len, contents.values()))} free bytes, and the right to write there",
                    got=error.strerror or error,
                    fix="free some space, or give another place to write to, and run the same command again",
                )
            ) from error
        return cls.load(directory)

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
            raise _damaged(self.path, "the weights", expected=self.config.weights_sha256, got=found)

    @cached_property
    def _text_tower(self) -> TextTower | ForeignTextTower:
        tower = _build_text(self.config)
        return self._filled(tower, TEXT)

    @cached_property
    def _vision_tower(self) -> VisionTower:
        tower = _build_vision(self.config)
        return self._filled(tower, VISUAL)

    @cached_property
    def _tokenizer(self) -> AnyTokenizer:
        data, text = self._read(TOKENIZER), self.config.text
        if text.tokenizer is None:
            return Tokenizer.from_json(json.loads(data), where=self.path / TOKENIZER)
        return HubTokenizer(data, text.tokenizer, context_length=text.context_length, vocab_size=text.vocab_size)

    def _filled(self, tower: Tower, name: str) -> Tower:
        state = self._state(name)
        if problems := _state_problems(tower, state):
            raise PackError(
                explain("the pack's tensors do not fit its config", where=self.path / name, got=problems, fix=_REWRITE)
            )
        tower.load_state_dict(state, strict=True, assign=True)
        return tower.requires_grad_(False).eval()

    def _state(self, name: str) -> dict[str, Tensor]:
        return decode_state(self._read(name), vocab_size=self.config.text.vocab_size)

    def _read(self, name: str) -> bytes:
        path = self.path / name
        data = path.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != self._files[name]["sha256"]:
            raise _damaged(path, f"the pack's {name}", expected=self._files[name]["sha256"], got=found)
        return data


def _damaged(where: Path, what: str, *, expected: str, got: str) -> PackError:
    return PackError(explain(f"{what} is damaged", where=where, expected=f"sha256 {expected}", got=got, fix=_REWRITE))


def _build_text(config: BackboneConfig) -> TextTower | ForeignTextTower:
    if isinstance(config.text, ForeignText):
        return ForeignTextTower(config.text, embed_dim=config.embed_dim, name=config.name)
    with torch.device("meta"):
        return TextTower(config.text, embed_dim=config.embed_dim)


def _build_vision(config: BackboneConfig) -> VisionTower:
    with torch.device("meta"):
        return VisionTower(config.vit, embed_dim=config.embed_dim)


def _is_finite(value: Tensor) -> bool:
    return value.is_floating_point() and bool(torch.isfinite(value).all())


def _state_problems(tower: nn.Module, state: Mapping[str, Tensor]) -> str:
    """What keeps a state from filling a tower, in words; empty when nothing does."""
    expected = {name: tuple(value.shape) for name, value in tower.state_dict().items()}
    problems = [f"missing {name} {list(shape)}" for name, shape in expected.items() if name not in state]
    problems += [f"left over {name} {list(value.shape)}" for name, value in state.items() if name not in expected]
    for name, shape in expected.items():
        if name not in state:
            continue
        value = state[name]
        if tuple(value.shape) != shape:
            problems.append(f"{name} is {list(value.shape)}, not {list(shape)}")
        elif not _is_finite(value):
            problems.append(f"{name} ({value.dtype}) holds values that are no finite floats")
    hidden = len(problems) - 12
    return "; ".join(problems[:12]) + (f"; and {hidden} more" if hidden > 0 else "")


def tower_problems(
    config: BackboneConfig, *, text_state: Mapping[str, Tensor], visual_state: Mapping[str, Tensor]
) -> list[str]:
    """What keeps two states from being the towers a config describes, in words; empty when they are."""
    text = _state_problems(_build_text(config), text_state)
    if isinstance(config.vision, VisionConfig):
        vision = _state_problems(_build_vision(config), visual_state)
    else:
        vision = "; ".join(f"{name} is not finite" for name, value in visual_state.items() if not _is_finite(value))
    return [f"text tower: {text}"] * bool(text) + [f"vision tower: {vision}"] * bool(vision)


def _checked(
    config: BackboneConfig,
    *,
    text_state: Mapping[str, Tensor],
    visual_state: Mapping[str, Tensor],
    tokenizer: AnyTokenizer,
) -> BackboneConfig:
    """The config with the hash of its weights, once tensors, tokenizer and config agree."""
    problems = tower_problems(config, text_state=text_state, visual_state=visual_state)
    if (tokenizer.vocab_size, tokenizer.context_length) != (config.text.vocab_size, config.text.context_length):
        problems.append(
            f"tokenizer: vocabulary {tokenizer.vocab_size} and context length {tokenizer.context_length}, "
            f"text tower: {config.text.vocab_size} and {config.text.context_length}"
        )
    settings = tokenizer.settings if isinstance(tokenizer, HubTokenizer) else None
    if settings != config.text.tokenizer:
        problems.append(f"tokenizer: {settings}, text tower: {config.text.tokenizer}")
    found = weights_sha256(text_state=text_state, visual_state=visual_state) if not problems else ""
    if config.weights_sha256 and found and found != config.weights_sha256:
        problems.append(f"the weights' sha256 is {found}, the config names {config.weights_sha256}")
    if problems:
        raise PackError(
            explain(
                "these weights do not make the backbone that the config describes",
                where=f"{config.name}, {config.pretrained}",
                got="; ".join(problems),
                fix="give the model config these weights were trained with",
            )
        )
    return dataclasses.replace(config, weights_sha256=found)


def _config_bytes(config: BackboneConfig, payloads: Mapping[str, bytes]) -> bytes:
    files = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in sorted(payloads.items())
    }
    # A pack that uses nothing new stays one that older versions read, under the hash they know.
    version = FORMAT_VERSIONS[uses_later(config)]
    values = {"format": FORMAT, "version": version, "config": config.to_json(), "files": files}
    return (json.dumps(values | {"checksum": _checksum(values)}, indent=2) + "\n").encode()


def _checksum(values: Mapping[str, Any]) -> str:
    """sha256 of the config file's values, so that a flipped bit in it is found without a second file."""
    canonical = json.dumps({key: value for key, value in values.items() if key != "checksum"}, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _read_config(directory: Path) -> tuple[bytes, dict[str, Any]]:
    path = directory / CONFIG
    if not path.is_file():
        raise PackError(
            explain(
                "there is no backbone pack here",
                where=directory,
                expected=f"a directory with {', '.join((CONFIG, *PAYLOADS))}",
                got="no such directory" if not directory.exists() else f"no {CONFIG} in it",
                fix="`vidfeat extract` writes the pack; copy it together with the store",
            )
        )
    raw = path.read_bytes()
    try:
        values = json.loads(raw)
        found = (values["format"], values["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise PackError(
            explain("the pack's config cannot be read", where=path, got=repr(error), fix=_REWRITE)
        ) from error
    if found[0] != FORMAT or found[1] not in FORMAT_VERSIONS:
        raise PackError(
            explain(
                "this is not a backbone pack this version reads",
                where=path,
                expected=f"{FORMAT}, version {' or '.join(map(str, FORMAT_VERSIONS))}",
                got=f"{found[0]} version {found[1]}",
                fix="write the pack again with this version of vidfeat",
            )
        )
    if values.get("checksum") != _checksum(values):
        raise _damaged(path, f"the pack's {CONFIG}", expected=str(values.get("checksum")), got=_checksum(values))
    return raw, values


def _size_problem(directory: Path, name: str, files: Mapping[str, Any]) -> str:
    path, expected = directory / name, files[name]["bytes"]
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().st_size
    return "" if size == expected else f"{name} has {size} bytes, not {expected}"


def _kept_if_equal(directory: Path, contents: Mapping[str, bytes]) -> BackbonePack:
    different = [
        name
        for name, data in contents.items()
        if not (directory / name).is_file() or (directory / name).read_bytes() != data
    ]
    if different:
        raise PackError(
            explain(
                "something else is already where the backbone pack is to be written",
                where=directory,
                got=f"other or no {', '.join(sorted(different))}",
                fix="give another path, or remove that directory if nothing uses it",
            )
        )
    return BackbonePack.load(directory)
