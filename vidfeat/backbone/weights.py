"""Tower states as bytes: the canonical hash, and the smallest lossless safetensors form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

EMBEDDING = "token_embedding.weight"
EMBEDDING_IDS, EMBEDDING_ROWS = "token_embedding.ids", "token_embedding.rows"
# Safetensors puts the larger elements first, and names of one dtype in their order.
_DTYPE_NAMES = {torch.int64: "I64", torch.float32: "F32", torch.float16: "F16"}
_LAYOUT_ORDER = list(_DTYPE_NAMES)
_HEADER_ALIGNMENT = 8
_PROBED = 4096  # values that tell of most weights that they are no halves


def weights_sha256(*, text_state: Mapping[str, Tensor], visual_state: Mapping[str, Tensor]) -> str:
    """sha256 (hex) over the canonical full state: every tensor as float32, little endian, in order of its name.

    Names are open_clip's (`visual.` in front of the vision tower's), each followed by its shape; so the hash is that of
    the values, whatever the dtype, the file format or the compaction they came in.
    """
    full = dict(text_state) | {f"visual.{name}": value for name, value in visual_state.items()}
    digest = hashlib.sha256()
    for name in sorted(full):
        value = full[name].detach().to(device="cpu", dtype=torch.float32).contiguous()
        digest.update(f"{name} {list(value.shape)}\n".encode())
        digest.update(value.numpy().astype("<f4", copy=False).data)
    return digest.hexdigest()


def expand_embedding(*, ids: Tensor, rows: Tensor, vocab_size: int) -> Tensor:
    """[vocab_size W] token embedding whose rows `ids` [n] int64 are `rows` [n W], all others zero.

    Raises:
        ValueError: ids that repeat, lie outside the vocabulary, or are not one per row.
    """
    if ids.ndim != 1 or rows.ndim != 2 or len(ids) != len(rows) or ids.dtype != torch.int64:
        raise ValueError(f"compact embedding: ids {ids.dtype} {list(ids.shape)} do not name rows {list(rows.shape)}")
    if len(ids) and (ids.min() < 0 or ids.max() >= vocab_size or len(torch.unique(ids)) != len(ids)):
        raise ValueError(f"compact embedding: ids repeat or lie outside [0, {vocab_size})")
    weight = torch.zeros(vocab_size, rows.shape[1], dtype=rows.dtype)
    weight[ids] = rows
    return weight


class EncodedState:
    """A safetensors file of a state, piece by piece: float16 where exact, else float32; zero embedding rows left out.

    The bytes are those of `safetensors.torch.save`, which would hold them all at once. Can be iterated again and again.
    Source of the order and the padding: huggingface/safetensors, safetensors/src/tensor.rs, prepare.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        tensors = {name: _smallest_exact(value) for name, value in _compact(state).items()}
        names = sorted(tensors, key=lambda name: (_LAYOUT_ORDER.index(tensors[name].dtype), name))
        self._tensors = [tensors[name] for name in names]
        header, start = {}, 0
        for name, tensor in zip(names, self._tensors, strict=True):
            stop = start + tensor.nbytes
            header[name] = {
                "dtype": _DTYPE_NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [start, stop],
            }
            start = stop
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _HEADER_ALIGNMENT)
        self._header = len(text).to_bytes(8, "little") + text

    def __iter__(self) -> Iterator[memoryview]:
        yield memoryview(self._header)
        for tensor in self._tensors:
            yield tensor.reshape(-1).view(torch.uint8).numpy().data


def encoded_bytes(state: Mapping[str, Tensor]) -> int:
    """Bytes of the tensors in an `EncodedState`, without making it; its header (100 bytes a tensor) is left out."""
    tensors = map(_smallest_exact, _compact(state).values())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _compact(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tensors = {name: value.detach().to(device="cpu", dtype=torch.float32) for name, value in state.items()}
    if EMBEDDING in tensors:
        weight = tensors[EMBEDDING]
        used = weight.ne(0).any(dim=1).nonzero().squeeze(1)
        if len(used) * 2 < len(weight):
            del tensors[EMBEDDING]
            tensors |= {EMBEDDING_IDS: used, EMBEDDING_ROWS: weight[used]}
    return tensors


def decode_state(data: bytes, *, vocab_size: int) -> dict[str, Tensor]:
    """The float32 state of such a file.

    Args:
        data: the bytes of an `EncodedState`.
        vocab_size: rows of the token embedding, where it was stored without its zero rows.

    Raises:
        ValueError: bytes that are no safetensors file, or compact rows that do not fit the vocabulary.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ValueError(f"not a safetensors file: {error}") from error
    if EMBEDDING_IDS in tensors and EMBEDDING_ROWS in tensors:
        ids, rows = tensors.pop(EMBEDDING_IDS), tensors.pop(EMBEDDING_ROWS)
        tensors[EMBEDDING] = expand_embedding(ids=ids, rows=rows, vocab_size=vocab_size)
    return {name: value.to(torch.float32) for name, value in tensors.items()}


def _smallest_exact(value: Tensor) -> Tensor:
    if value.dtype != torch.float32:
        return value.contiguous()
    probe = value.reshape(-1)[:_PROBED]
    if not torch.equal(probe.to(torch.float16).to(torch.float32), probe):
        return value.contiguous()
    half = value.to(torch.float16)
    return (half if torch.equal(half.to(torch.float32), value) else value).contiguous()
