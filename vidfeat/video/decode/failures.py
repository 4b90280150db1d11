"""Every way a video can fail, as a DecodeError with its reason: one place that knows the decoders' exceptions."""

from __future__ import annotations

import errno

from vidfeat.errors import DecodeError, explain
from vidfeat.video.decode.container import Completeness

_SYSTEM_ERRORS = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.EISDIR, errno.EIO, errno.EMFILE, errno.ENFILE)
# Reason -> what is said of the video, and what to do.
_SAID = {
    "unreadable": ("This video cannot be read.", "Check the path and the permissions."),
    "empty": ("This video file is empty.", "Fetch the file again."),
    "truncated": ("This video is cut short.", "Fetch the file again; part of it never arrived."),
    "no_video_stream": ("There is no video in this file.", "It holds sound or pictures alone; take it out."),
    "no_frames": ("This video has no frames.", "Take it out of the source, or fetch it again."),
    "codec_unsupported": ("This video's codec or format is not supported.", "Re-encode it, for example to H.264."),
    "invalid_data": ("This is no video, or a damaged one.", "Fetch it again, or re-encode it."),
    "out_of_memory": ("This video does not fit into memory.", "Sample fewer frames, or use fewer workers."),
}


def failure(reason: str, path: str, detail: str) -> DecodeError:
    """The DecodeError for `reason`, with what was found and what to do."""
    what, fix = _SAID[reason]
    return DecodeError(explain(what, where=path, got=detail, fix=fix), reason=reason)


def cut_short(error: DecodeError, *, path: str, ending: Completeness) -> DecodeError:
    """The error itself, or "truncated" where the file's missing end explains it."""
    doubtful = ("invalid_data", "no_frames", "no_video_stream", *(("codec_unsupported",) if ending.is_certain else ()))
    if ending.cut and error.reason in doubtful:
        return failure("truncated", path, f"{ending.cut}; {_found(error)}")
    return error


def translate(error: BaseException, *, path: str, ending: Completeness) -> DecodeError:
    """The DecodeError that stands for an exception of a decoder or of the system."""
    import av

    if isinstance(error, DecodeError):
        return cut_short(error, path=path, ending=ending)
    detail = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return failure("out_of_memory", path, detail)
    if isinstance(error, (av.DecoderNotFoundError, av.PatchWelcomeError)):
        return failure("codec_unsupported", path, detail)
    if ending.cut:
        return failure("truncated", path, f"{ending.cut} ({detail})")
    if isinstance(error, EOFError) and ending.kind:
        return failure("no_frames", path, f"the file is whole and holds no frame ({detail})")
    if isinstance(error, EOFError):
        return failure("truncated", path, f"the file ends where its headers should be ({detail})")
    if isinstance(error, OSError) and (not isinstance(error, av.FFmpegError) or error.errno in _SYSTEM_ERRORS):
        return failure("unreadable", path, detail)
    return failure("invalid_data", path, detail)


def _found(error: DecodeError) -> str:
    """What an error of ours found: its `got` line."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line.removeprefix("got:").strip() for line in lines if line.startswith("got:")), lines[0])
