"""The `vidfeat extract` command behind an error: what would make a store serve what was asked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from vidfeat.backbone import BackboneConfig
from vidfeat.store import StoreReader, tap_flags


def extract_command(
    out: str | Path, reader: StoreReader, *, taps: Sequence[str], n_views: int = 1, model: BackboneConfig | None = None
) -> str:
    """The `vidfeat extract` that gives a store these taps and views; everything else as the fingerprint has it.

    SOURCE and FOLDER stand for what a store does not hold: where the videos and a model's own files lie on a machine.

    Args:
        out: the store; an existing one of the same fingerprint is extended. One of imported features cannot be, so the
            command writes a new one.
        reader: the store whose videos they are.
        taps: by their names in the store.
        model: the backbone; None for what the store's fingerprint says of its own.
    """
    fields: Mapping[str, Any] = reader.fingerprint.fields
    if is_imported(reader):
        out = "NEW.zarr"
    known = fields.get("model", {})
    name = model.name if model is not None else known.get("name", "MODEL")
    pretrained = model.pretrained if model is not None else known.get("pretrained", "PRETRAINED")
    flags = [f"--model {name} --pretrained {pretrained}"]
    if PurePath(pretrained).suffix in (".safetensors", ".pt", ".bin", ".pth"):
        flags = [f"--model-config FOLDER/{name}.json --weights FOLDER/{pretrained}"]
        if model is not None and model.text.tokenizer is not None:
            flags.append("--tokenizer FOLDER/tokenizer.json")
    flags += _sampling_flags(fields.get("sampling", {"n_frames": reader.n_frames}))
    if n_views > 1:
        flags.append(f"--views {n_views}")
    flags.append(f"--taps {tap_flags(taps)}")
    if fields.get("dtype", "float16") != "float16":
        flags.append(f"--dtype {fields['dtype']}")
    return f"vidfeat extract SOURCE --out {out} {' '.join(flags)}"


def is_imported(reader: StoreReader) -> bool:
    """Whether the features were another program's: how the videos were read is then not known."""
    return "imported" in reader.fingerprint.fields


def _sampling_flags(sampling: Mapping[str, Any]) -> list[str]:
    names = {"kind": "sampling", "n_frames": "frames", "rate": "rate", "stride": "stride", "n_clips": "clips"}
    given = {names[key]: value for key, value in sampling.items() if key in names and value is not None}
    if given.get("sampling") == "uniform":
        del given["sampling"]
    return [f"--{name} {value}" for name, value in given.items()]
