"""Every way a video can fail, as a DecodeError with its reason: one place that knows the decoders' exceptions.

A verdict on a file is given only for what is known to come from its bytes, or from its path. Whatever else happens, our
own faults included, has the reason `machine`: it says nothing about the file, and is tried again.
"""

from __future__ import annotations

import errno
import traceback

from vidfeat.errors import DecodeError, explain
from vidfeat.video.decode.container import Completeness

# The path names no readable file, whatever the state of the machine.
_PATH_ERRORS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG)
# What FFmpeg returns for bytes it cannot make sense of. EPERM is among them: the file itself could be opened.
_BYTE_ERRORS = (errno.EINVAL, errno.ERANGE, errno.ENOSYS, errno.EPERM)
# Reason -> what is said of the video, and what to do.
_SAID = {
    "unreadable": ("This video cannot be read.", "Check the path and the permissions."),
    "empty": ("This video file is empty.", "Fetch the file again."),
    "truncated": ("This video is cut short.", "Fetch the file again; part of it never arrived."),
    "no_video_stream": ("There is no video in this file.", "It holds sound or pictures alone; take it out."),
    "no_frames": ("This video has no frames.", "Take it out of the source, or fetch it again."),
    "codec_unsupported": ("This video's codec or format is not supported.", "Re-encode it, for example to H.264."),
    "invalid_data": ("This is no video, or a damaged one.", "Fetch it again, or re-encode it."),
    "machine": ("The machine failed while this video was read.", "The same command tries it again."),
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


def translate(error: BaseException, *, path: str, ending: Completeness | None = None) -> DecodeError:
    """The DecodeError that stands for an exception of a decoder, of the system, or of our own."""
    ending = ending or Completeness("")
    if isinstance(error, DecodeError):
        return cut_short(error, path=path, ending=ending)
    detail = f"{type(error).__name__}: {error}"
    if ending.is_certain:
        return failure("truncated", path, f"{ending.cut} ({detail})")
    if not is_about_bytes(error):
        if isinstance(error, OSError) and error.errno in _PATH_ERRORS:
            return failure("unreadable", path, detail)
        return failure("machine", path, machine_detail(error))
    other = what_else_it_is(path)
    if other:
        return failure("invalid_data", path, f"{other} ({detail})")
    if "NotFound" in type(error).__name__ or type(error).__name__ == "PatchWelcomeError":
        return failure("codec_unsupported", path, detail)
    if ending.cut:
        return failure("truncated", path, f"{ending.cut} ({detail})")
    if isinstance(error, EOFError) and ending.kind:
        return failure("no_frames", path, f"the file is whole and holds no frame ({detail})")
    if isinstance(error, EOFError):
        return failure("truncated", path, f"the file ends where its headers should be ({detail})")
    return failure("invalid_data", path, detail)


def what_else_it_is(path: str) -> str:
    """What lies in a video's place: what a download left that fetched a pointer or a message; "" for anything else."""
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError:
        return ""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer, not the file it stands for: git lfs pull fetches it"
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, as a server sends it in a file's place"
    if text.startswith(b"<?xml"):
        return "an XML document, as a server sends it in a file's place"
    if start.startswith((b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf\x27\x1c", b"Rar!")) or start[257:262] == b"ustar":
        return "an archive, not the videos in it: unpack it"
    if text.startswith((b"{", b"[")) and b"\0" not in text:
        return "a JSON document, as a server sends it in a file's place"
    return ""


def is_about_bytes(error: BaseException) -> bool:
    """Whether an exception of PyAV is known to come from the bytes of the file, and not from the machine's state."""
    import av

    if isinstance(error, UnicodeDecodeError):  # a text among the metadata
        return True
    kinds = ("InvalidData", "EOF", "PatchWelcome", "DecoderNotFound", "DemuxerNotFound", "ProtocolNotFound")
    return isinstance(error, av.FFmpegError) and (
        type(error).__name__.removesuffix("Error") in kinds or error.errno in _BYTE_ERRORS
    )


def machine_detail(error: BaseException) -> str:
    """What a row keeps of a fault of the machine: the error and where it was raised."""
    return f"{type(error).__name__}: {error}\n" + "".join(traceback.format_exception(error)[-12:]).strip()


def _found(error: DecodeError) -> str:
    """What an error of ours found: its `got` line."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line.removeprefix("got:").strip() for line in lines if line.startswith("got:")), lines[0])
