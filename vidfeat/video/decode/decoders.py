"""The decoders there are, which of them work on this machine, and which one may be trusted with a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from vidfeat.errors import VidfeatError, explain
from vidfeat.video.decode.decoder import Decoder
from vidfeat.video.decode.frames import Deadline
from vidfeat.video.decode.probe import Probe
from vidfeat.video.decode.with_decord import Decord
from vidfeat.video.decode.with_pyav import PyAV
from vidfeat.video.decode.with_torchcodec import Torchcodec

# The one list of decoders: a further one is a class that offers what `Decoder` says, and is named here.
PYAV = PyAV()
DECODERS: Mapping[str, Decoder] = {decoder.name: decoder for decoder in (PYAV, Decord(), Torchcodec())}
DECODER_NAMES = ("auto", *DECODERS)


@dataclass(frozen=True)
class Choice:
    """A decoder and the reason for it."""

    decoder: str
    why: str


@dataclass(frozen=True)
class DecoderStatus:
    """Whether one decoder works here: it decoded a small clip made on the spot and showed the right frames.

    Attributes:
        name: one of DECODERS.
        works: the self-test passed.
        version: with its name, and of the FFmpeg inside it where it says; empty when it cannot be imported.
        detail: what went wrong, or what the decoder is used for.
    """

    name: str
    works: bool
    version: str
    detail: str


def choose_decoder(probe: Probe, *, preferred: str = "auto") -> Choice:
    """What is asked for; PyAV where that may leave files to it and something in `probe` is known to mislead it.

    PyAV is the default for every file: it flags the frames it had to patch up, which decord hands on as they are; and
    it is no slower, because it goes straight to the sampled frames (docs/decisions/0002-pyav-by-default.md).

    Raises:
        VidfeatError: what is asked for leaves nothing to PyAV and does not work here.
    """
    asked = DECODERS.get(preferred, PYAV)
    if asked is PYAV:
        return Choice("pyav", "it notices damaged frames")
    status = _status(asked.name)
    if asked.is_alone:
        _require([status])
    doubts = asked.doubts(probe) if status.works else [f"{asked.name} does not work here: {status.detail}"]
    if doubts and not asked.is_alone:
        return Choice("pyav", "; ".join(doubts))
    return Choice(asked.name, "; ".join(doubts) or "nothing in the file is known to mislead it")


def available_decoders() -> list[DecoderStatus]:
    """The status of every decoder this package knows, each by a real decode of a real clip."""
    return [_status(name) for name in DECODERS]


def decoder_versions(decoder: str) -> list[str]:
    """Names and versions of the decoders that `decode(decoder=...)` may use here: what a store's fingerprint holds.

    Raises:
        VidfeatError: none of them works here: no file could be read.
    """
    asked = DECODERS.get(decoder, PYAV)
    statuses = [_status(name) for name in dict.fromkeys(["pyav", asked.name][asked.is_alone :])]
    _require(statuses)
    return [status.version for status in statuses if status.works]


def _require(statuses: list[DecoderStatus]) -> None:
    """Nothing, or VidfeatError when none of them works: no fault of any file."""
    if not any(status.works for status in statuses):
        raise VidfeatError(
            explain(
                f"{statuses[-1].name} does not work here",
                got=statuses[-1].detail,
                fix="`vidfeat doctor` names the decoders that do; give one of them as --decoder",
            )
        )


@cache
def _status(name: str) -> DecoderStatus:
    # Whatever a decoder raises here is the answer, and no reason to stop. Being importable says nothing: torchcodec
    # without its libraries is imported and raises RuntimeError for the first file (0.17), or OSError at import.
    version, stage = "", ""
    try:
        version, stage = DECODERS[name].version(), "self-test: "
        _self_test(DECODERS[name])
    except Exception as error:
        detail = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return DecoderStatus(name, works=False, version=version, detail=stage + detail)
    return DecoderStatus(name, works=True, version=version, detail=DECODERS[name].use)


def _self_test(decoder: Decoder) -> None:
    """Nothing, or an exception: decodes a clip of 12 frames in three shades and compares what it shows."""
    wanted = [0, 5, 11]
    with tempfile.TemporaryDirectory(prefix="vidfeat-") as folder:
        path = os.path.join(folder, "self-test.mp4")
        shades = _write_clip(path)
        pixels = decoder.read_pictures(path, wanted, deadline=Deadline.after(path, None)).pixels
    seen = pixels.reshape(len(wanted), -1).mean(axis=1)
    # Lossy coding of a flat picture moves its level by a few steps; a wrong frame moves it by 18.
    if not np.allclose(seen, [shades[index] for index in wanted], atol=6):
        raise RuntimeError(
            f"frames {wanted} show {np.round(seen, 1).tolist()}, not {[shades[index] for index in wanted]}"
        )


def _write_clip(path: str) -> list[int]:
    """The grey level of each frame of a 12-frame clip written to `path`, in a codec every FFmpeg writes and reads."""
    import av

    shades = [20 + 18 * index for index in range(12)]
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.gop_size = 4
        for shade in shades:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), shade, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return shades
