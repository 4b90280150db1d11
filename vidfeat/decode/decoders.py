"""Which decoders work on this machine, and which one may be trusted with a file."""

from __future__ import annotations

import importlib
import os
import platform
import tempfile
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from vidfeat.decode.probe import Probe

# Codecs on which decord was found to return PyAV's own pixels for every frame of every test file.
DECORD_CODECS = ("h264", "hevc", "vp9", "mpeg4")
DECORD_CONTAINERS = ("mov", "mp4", "matroska", "webm", "avi")


@dataclass(frozen=True)
class Choice:
    """A decoder and the reason for it."""

    decoder: str
    why: str


@dataclass(frozen=True)
class DecoderStatus:
    """Whether one decoder works here: it decoded a small clip made on the spot, frame by frame the same as PyAV.

    Attributes:
        name: "pyav", "decord" or "torchcodec".
        works: the self-test passed.
        version: of the library and of the FFmpeg inside it where it says; empty when it cannot be imported.
        detail: what went wrong, or what the decoder is used for.
    """

    name: str
    works: bool
    version: str
    detail: str


def choose_decoder(probe: Probe) -> Choice:
    """decord where nothing in `probe` is known to mislead it, else PyAV; with the reason.

    Every condition is a case in which decord 0.6.0 was seen to return other frames or pixels than the file holds.
    """
    if not _status("decord").works:
        return Choice("pyav", f"decord does not work here: {_status('decord').detail}")
    doubts = {
        f"codec {probe.codec} is not among {', '.join(DECORD_CODECS)}": probe.codec not in DECORD_CODECS,
        f"container {probe.container}": not set(probe.container.split(",")) & set(DECORD_CONTAINERS),
        f"pixel format {probe.pixel_format} is not 8-bit 4:2:0": probe.pixel_format not in ("yuv420p", "yuvj420p"),
        f"odd size {probe.width}x{probe.height}": bool(probe.width % 2 or probe.height % 2),
        f"first PTS {probe.first_pts_seconds:g} s < 0": probe.first_pts_seconds < 0,
        f"an edit list cuts {probe.n_discarded} frames": probe.has_edit_list,
        "the picture is rotated or mirrored": probe.has_display_matrix,
        "variable frame rate": probe.is_variable_rate,
        "packets without presentation times": len(probe.pts_seconds) == 0,
        "the first packet is no key frame": not probe.starts_with_key_frame,
        "the file is cut short or damaged": probe.completeness.is_cut or probe.n_corrupt_packets > 0,
        f"{probe.n_packets} packets for {probe.n_frames_declared} frames declared": (
            probe.n_frames_declared not in (None, probe.n_packets)
        ),
    }
    found = [doubt for doubt, holds in doubts.items() if holds]
    return Choice("pyav", "; ".join(found)) if found else Choice("decord", "nothing in the file is known to mislead it")


def available_decoders() -> list[DecoderStatus]:
    """The status of every decoder this package knows, each by a real decode of a real clip."""
    return [_status(name) for name in ("pyav", "decord", "torchcodec")]


@lru_cache(maxsize=None)
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


@lru_cache(maxsize=None)
def _status(name: str) -> DecoderStatus:
    # torchcodec next to a CPU-only torch fails at import with OSError, without FFmpeg's libraries with RuntimeError: whatever a decoder raises
    # here is the answer, and no reason to stop.
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
    "pyav": "decodes from the start; serves every file",
    "decord": "random access; serves the files it can be trusted with",
    "torchcodec": "serves when asked for by name",
}


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def _self_test(name: str) -> None:
    """Nothing, or an exception: decodes a clip of 12 frames in three shades and compares what it shows."""
    from vidfeat.decode.frames import Deadline

    with tempfile.TemporaryDirectory(prefix="vidfeat-") as folder:
        path = os.path.join(folder, "self-test.mp4")
        shades = _write_clip(path)
        wanted = [0, 5, 11]
        if name == "pyav":
            from vidfeat.decode.pyav import pick

            picked = pick(path, set(wanted), fps=25.0, deadline=Deadline.after(path, None))
            pictures = np.stack([picked.pictures[index] for index in wanted])
        else:
            from vidfeat.decode import with_decord, with_torchcodec

            door = with_decord if name == "decord" else with_torchcodec
            pictures = door.read_pictures(path, wanted).pixels
    seen = pictures.reshape(len(wanted), -1).mean(axis=1)
    # Lossy coding of a flat picture moves its level by a few steps; a wrong frame moves it by 18.
    if not np.allclose(seen, [shades[index] for index in wanted], atol=6):
        raise RuntimeError(
            f"frames {wanted} show {np.round(seen, 1).tolist()}, not {[shades[index] for index in wanted]}"
        )


def _write_clip(path: str) -> list[int]:
    """The grey level of each frame of a 12-frame MPEG-4 clip written to `path`: a codec every FFmpeg can both write and read."""
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


@dataclass(frozen=True)
class Doctor:
    """What `vidfeat doctor` prints.

    Attributes:
        decoders: one status each.
        python, platform: of this process.
        default: the decoder most files get.
    """

    decoders: tuple[DecoderStatus, ...]
    python: str
    platform: str
    default: str

    @property
    def healthy(self) -> bool:
        """Whether any video can be decoded here: PyAV works."""
        return next(status.works for status in self.decoders if status.name == "pyav")


def doctor() -> Doctor:
    """Which decoders work here, and which one most files get."""
    statuses = tuple(available_decoders())
    works = {status.name for status in statuses if status.works}
    default = "decord" if "decord" in works else "pyav" if "pyav" in works else ""
    return Doctor(statuses, platform.python_version(), platform.platform(), default)
