"""What an extraction is asked to do, checked before anything is opened; every problem is reported at once."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vidfeat.errors import VidfeatError, explain
from vidfeat.store import POOLED, Tap
from vidfeat.video.decode import DECODER_NAMES
from vidfeat.video.preprocess import ViewSpec
from vidfeat.video.sampling import SamplingPolicy

DEFAULT_FRAMES = 8
# Bounds one video of a store without a fixed number of frames: a shard has room for one whole video.
DEFAULT_MAX_FRAMES = 512
DTYPES = ("float16", "float32", "int8")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
BATCH_FRAMES = {"cpu": 32, "mps": 64, "cuda": 256}


class OptionsError(VidfeatError, ValueError):
    """Options that make no extraction; the message names every problem."""


@dataclass(frozen=True)
class ModelChoice:
    """Which CLIP: `model` with `pretrained` (open_clip's names), or `model_config` with `weights` (local files).

    `base_weights` gives the tensors that a fine-tuned checkpoint left out, `tokenizer` the file of a tokenizer that is
    on the hub (see `vidfeat.clip.openclip.load_open_clip`).
    """

    model: str | None = None
    pretrained: str | None = None
    model_config: Path | None = None
    weights: Path | None = None
    base_weights: Path | None = None
    tokenizer: Path | None = None

    def problems(self) -> list[str]:
        """What is wrong with the choice."""
        if self.model is not None and self.model_config is not None:
            return ["--model and --model-config are two ways to say the same; give one of them"]
        if self.model is None and self.model_config is None:
            return ["no model: give --model and --pretrained, or --model-config and --weights"]
        if self.model is not None and self.weights is not None:
            return ["--weights belongs to --model-config; a --model takes its weights from --pretrained"]
        if self.model_config is not None and (self.weights is None or self.pretrained is not None):
            return ["--model-config needs --weights FILE, and no --pretrained"]
        return []


@dataclass(frozen=True)
class Machine:
    """How this machine is used; nothing here changes which numbers are meant.

    The number of workers does not move a bit. Another batch size, device or number of torch threads may move the last
    bits of float32 arithmetic, which float16 storage mostly rounds away.

    Attributes:
        workers: decoding processes; 0 decodes in this one; None: one per core, one core left for the encoder.
        device, precision: see `vidfeat.clip.encode.Encoder`.
        batch_frames: frames per batch; None: by device.
        timeout_seconds: without a frame, until a video is recorded as failed.
        resize: who resizes frames, to the same bytes: the decoding "workers", or the encoder's "device".
    """

    workers: int | None = None
    device: str = "auto"
    precision: str = "auto"
    batch_frames: int | None = None
    timeout_seconds: float = 300.0
    resize: Literal["workers", "device"] = "workers"

    @property
    def n_workers(self) -> int:
        """Decoding processes to start."""
        return self.workers if self.workers is not None else max(1, n_cores() - 1)

    def batch_size(self, device_type: str) -> int:
        """Frames per batch on that device."""
        return self.batch_frames or BATCH_FRAMES.get(device_type, BATCH_FRAMES["cpu"])


def n_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class ExtractOptions:
    """One extraction.

    Attributes:
        source, root, classes: see `vidfeat.video.manifest.load_manifest`.
        out: the store.
        taps: "pooled" and "tokens@L", L = number of blocks applied.
        seed: of `segments-random` sampling; the views have their own in `views`.
        decoder: see `vidfeat.video.decode.decode`.
        max_frames: bound of one video's frames where the policy does not fix their number.
        shard_bytes: size of the unit of work.
        strict: a source of which something would be left out is an error.
        limit: only the first videos of the source.
        allow_failures: failed videos that are no error.
        retry: a failure reason, or "all".
        refresh: files that changed since they were extracted are extracted anew.
        prune: videos whose files are gone, or moved, are dropped from the store.
        keep_labels: videos that the store has keep their label, split and group of there (`vidfeat relabel`).
        units: (i, n): only share i of n, 1 <= i <= n.
        check: how closely an existing store is verified first; what is found bad is extracted again.

    Raises:
        OptionsError: with every problem.
    """

    source: Path
    out: str | Path
    model: ModelChoice
    root: Path | None = None
    classes: Path | None = None
    sampling: SamplingPolicy = field(default_factory=lambda: SamplingPolicy("uniform", n_frames=DEFAULT_FRAMES))
    views: ViewSpec = field(default_factory=ViewSpec)
    taps: tuple[str, ...] = (POOLED,)
    dtype: str = "float16"
    seed: int = 0
    decoder: str = "auto"
    max_frames: int = DEFAULT_MAX_FRAMES
    shard_bytes: int = 128 * 2**20
    limit: int | None = None
    strict: bool = False
    allow_failures: int = 0
    retry: str | None = None
    refresh: bool = False
    prune: bool = False
    keep_labels: bool = False
    units: tuple[int, int] | None = None
    check: Literal["fast", "full"] = "fast"
    machine: Machine = Machine()

    def __post_init__(self) -> None:
        problems = self.model.problems()
        if self.dtype not in DTYPES:
            problems.append(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        if self.machine.precision not in PRECISIONS:
            problems.append(f"precision {self.machine.precision!r} is not one of {', '.join(PRECISIONS)}")
        if self.decoder not in DECODER_NAMES:
            problems.append(f"decoder {self.decoder!r} is not one of {', '.join(DECODER_NAMES)}")
        problems += tap_problems(self.taps)
        if self.units is not None and not 1 <= self.units[0] <= self.units[1]:
            problems.append(f"units {self.units[0]}/{self.units[1]}: I/N with 1 <= I <= N")
        _raise_any(problems)

    @classmethod
    def from_flags(cls, **flags: Any) -> ExtractOptions:
        """The options of a command line's flags, named as there.

        Raises:
            OptionsError: with every problem.
        """
        problems: list[str] = []
        sampling = _attempt(problems, lambda: _sampling(flags))
        views = _attempt(problems, lambda: ViewSpec(n_views=flags["views"], seed=flags["seed"]))
        units = _attempt(problems, lambda: _units(flags.get("units")))
        model = ModelChoice(
            *(flags[name] for name in ("model", "pretrained", "model_config", "weights", "base_weights", "tokenizer"))
        )
        taps = tuple(name.strip() for name in flags["taps"].split(",") if name.strip())
        if problems:
            _raise_any(problems + model.problems() + tap_problems(taps))
        machine = Machine(
            *(flags[name] for name in ("workers", "device", "precision", "batch_frames", "timeout", "resize"))
        )
        return cls(
            model=model,
            sampling=sampling,
            views=views,
            taps=taps,
            units=units,
            machine=machine,
            max_frames=flags["max_frames"] or DEFAULT_MAX_FRAMES,
            shard_bytes=max(1, int(flags["shard_mb"] * 2**20)),
            strict=flags.get("strict", False),
            refresh=flags.get("refresh", False),
            prune=flags.get("prune", False),
            keep_labels=flags.get("keep_labels", False),
            allow_failures=flags.get("allow_failures", 0),
            retry=flags.get("retry"),
            check=flags.get("check", "fast"),
            **{name: flags[name] for name in ("source", "out", "root", "classes", "dtype", "seed", "decoder", "limit")},
        )


def _attempt(problems: list[str], make: Any) -> Any:
    try:
        return make()
    except ValueError as error:
        problems.append(str(error))
        return None


def _raise_any(problems: list[str]) -> None:
    if problems:
        raise OptionsError(
            explain("these options cannot be used", got="; ".join(problems), fix="vidfeat extract --help")
        )


def _sampling(flags: dict[str, Any]) -> SamplingPolicy:
    kind, frames = flags["sampling"], flags["frames"]
    counts_itself = kind in ("fps", "every-nth")
    return SamplingPolicy(
        kind,
        n_frames=frames if frames is not None or counts_itself else DEFAULT_FRAMES,
        rate=flags["rate"],
        stride=flags["stride"],
        n_clips=flags["clips"],
    )


def _units(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise ValueError(f"--units {text!r} is not I/N, such as 3/16")
    return int(match[1]), int(match[2])


def tap_problems(taps: tuple[str, ...]) -> list[str]:
    """What is wrong with tap names, before the number of blocks is known."""
    problems = [f"tap {tap!r} is neither pooled nor tokens@L" for tap in taps if Tap.of(tap) is None]
    if len(set(map(Tap.of, taps))) != len(taps) or not taps:
        problems.append(f"taps {', '.join(taps) or '(none)'}: at least one, none twice")
    return problems
