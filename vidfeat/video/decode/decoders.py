"""Which decoders work on this machine, and which one may be trusted with a file."""

from __future__ import annotations

import importlib
import os
import tempfile
from dataclasses import dataclass
from functools import cache

import numpy as np

from vidfeat.video.decode.probe import Probe

DECODERS = ("auto", "pyav", "decord", "torchcodec")
# Codecs on which decord was found to return PyAV's own pixels for every frame of every undamaged test file.
DECORD_CODECS = ("h264", "hevc", "vp9", "mpeg4")
DECORD_CONTAINERS = ("mov", "mp4", "matroska", "webm", "avi")


@dataclass(frozen=True)
class Choice:
    """A decoder and the reason for it."""

    decoder: str
    why: str


@dataclass(frozen=True)
class DecoderStatus:
    """Whether one decoder works here: it decoded a small clip made on the spot and showed the right frames.

    Attributes:
        name: "pyav", "decord" or "torchcodec".
        works: the self-test passed.
        version: with its name, and of the FFmpeg inside it where it says; empty when it cannot be imported.
        detail: what went wrong, or what the decoder is used for.
    """

    name: str
    works: bool
    version: str
    detail: str


def choose_decoder(probe: Probe, *, preferred: str = "auto") -> Choice:
    """PyAV, unless decord is preferred and nothing in `probe` is known to mislead it; with the reason.

    PyAV is the default for every file: it flags the frames it had to patch up, which decord hands on as they are; and
    it is no slower, because it goes straight to the sampled frames (docs/decisions/0002-pyav-by-default.md).
    """
    if preferred != "decord":
        return Choice("pyav", "it notices damaged frames")
    status = _status("decord")
    if not status.works:
        return Choice("pyav", f"decord does not work here: {status.detail}")
    doubts = decord_doubts(probe)
    return (
        Choice("pyav", "; ".join(doubts)) if doubts else Choice("decord", "nothing in the file is known to mislead it")
    )


def decord_doubts(probe: Probe) -> list[str]:
    """Why decord cannot be trusted with this file; empty when it can.

    Every line is a case in which decord 0.6.0 was seen to return other frames, pixels or counts than the file holds, or
    is near one.
    """
    doubts = {
        f"codec {probe.codec} is not among {', '.join(DECORD_CODECS)}": probe.codec not in DECORD_CODECS,
        f"container {probe.container}": not set(probe.container.split(",")) & set(DECORD_CONTAINERS),
        f"pixel format {probe.pixel_format} is not 8-bit 4:2:0": probe.pixel_format not in ("yuv420p", "yuvj420p"),
        f"odd size {probe.width}x{probe.height}": bool(probe.width % 2 or probe.height % 2),
        f"first PTS {probe.first_pts_seconds:g} s < 0": probe.first_pts_seconds < 0,
        f"an edit list cuts {probe.n_discarded} frames": probe.has_edit_list,
        "the picture is rotated or mirrored": probe.has_display_matrix,
        "variable frame rate": probe.is_variable_rate,
        "open groups of pictures": probe.has_open_gop,
        "presentation times are not known": not probe.has_pts,
        "the first packet is no key frame": not probe.starts_with_key_frame,
        f"{probe.n_video_streams} video streams": probe.n_video_streams > 1,
        "the file is cut short or damaged": bool(probe.completeness.cut) or probe.n_corrupt_packets > 0,
        f"{probe.n_packets} packets for {probe.n_frames_declared} frames declared": (
            probe.n_frames_declared not in (None, probe.n_packets)
        ),
    }
    return [doubt for doubt, holds in doubts.items() if holds]


def available_decoders() -> list[DecoderStatus]:
    """The status of every decoder this package knows, each by a real decode of a real clip."""
    return [_status(name) for name in ("pyav", "decord", "torchcodec")]


def decoder_versions(decoder: str) -> list[str]:
    """Names and versions of the decoders that `decode(decoder=...)` may use here: what a store's fingerprint holds."""
    names = {"decord": ("pyav", "decord"), "torchcodec": ("torchcodec",)}.get(decoder, ("pyav",))
    return [status.version for status in available_decoders() if status.name in names and status.works]


@cache
def decoder_version(name: str) -> str:
    """Name and version of a decoder, as stores record it: "pyav 18.1.0, libavcodec 62.28.102".

    Raises:
        ImportError, OSError, RuntimeError: it cannot be imported here.
    """
    module = importlib.import_module({"pyav": "av"}.get(name, name))
    version = f"{name} {module.__version__}"
    if name == "pyav":
        version += ", libavcodec " + ".".join(str(part) for part in module.library_versions["libavcodec"])
    return version


@cache
def _status(name: str) -> DecoderStatus:
    # torchcodec next to a CPU-only torch fails at import with OSError, without FFmpeg's libraries with RuntimeError:
    # whatever a decoder raises here is the answer, and no reason to stop.
    try:
        version = decoder_version(name)
    except Exception as error:
        return DecoderStatus(name, works=False, version="", detail=_first_line(error))
    try:
        _self_test(name)
    except Exception as error:
        return DecoderStatus(name, works=False, version=version, detail=f"self-test: {_first_line(error)}")
    return DecoderStatus(name, works=True, version=version, detail=_USES[name])


_USES = {
    "pyav": "the default, for every file",
    "decord": "when preferred, for the files it can be trusted with",
    "torchcodec": "when asked for by name",
}


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def _self_test(name: str) -> None:
    """Nothing, or an exception: decodes a clip of 12 frames in three shades and compares what it shows."""
    from vidfeat.video.decode.frames import Deadline

    with tempfile.TemporaryDirectory(prefix="vidfeat-") as folder:
        path = os.path.join(folder, "self-test.mp4")
        shades = _write_clip(path)
        wanted = [0, 5, 11]
        if name == "pyav":
            from vidfeat.video.decode.pick import pick_through

            picked = pick_through(path, set(wanted), deadline=Deadline.after(path, None))
            pictures = np.stack([picked.pictures[index] for index in wanted])
        else:
            from vidfeat.video.decode import with_decord, with_torchcodec

            door = with_decord if name == "decord" else with_torchcodec
            pictures = door.read_pictures(path, wanted).pixels
    seen = pictures.reshape(len(wanted), -1).mean(axis=1)
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
