"""The files in tars of clip-video-encode's webdataset format, read where they lie: nothing is unpacked by its name."""

from __future__ import annotations

import csv
import gzip
import os
import shutil
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

from vidfeat.errors import StoreError, explain
from vidfeat.tools.features.npy import Entry
from vidfeat.video.source.rows import split_name

TARS = (".tar", ".tar.gz", ".tgz")
SPLITS = "splits.csv"


def entries_of(tars: Sequence[Path]) -> tuple[list[Entry], list[str]]:
    """Every file in the tars, and what a person should know. Names that tars share get the tar's name in front."""
    members = [(path, member) for path in tars for member in _members(path)]
    twice = any(count > 1 for count in Counter(member.name for _, member in members).values())
    if not twice:
        return [member for _, member in members], []
    note = "the tars hold the same names: each video's id begins with its tar's name"
    return [replace(member, name=f"{_stem(path)}/{member.name}") for path, member in members], [note]


def split_folders(tars: Sequence[Path]) -> dict[str, str]:
    """Split by the tar's name without its ending, out of the `splits.csv` (`tar_file,split`) beside the tars.

    Source: clip-video-encode, dataset/create_shards.py.
    """
    listed = tars[0].parent / SPLITS
    if not listed.is_file():
        return {}
    with open(listed, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if len(row) == 2]
    return {_stem(Path(name)): split_name(split) or "" for name, split in rows}


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


def _members(path: Path) -> Iterator[Entry]:
    """The files of one tar; a compressed one is unpacked into a nameless temporary file first."""
    with ExitStack() as undo:
        file: IO[bytes] = undo.enter_context(open(path, "rb"))
        try:
            if file.read(2) == b"\x1f\x8b":
                file = undo.enter_context(_unpacked(path))
            file.seek(0)
            tar = undo.enter_context(tarfile.open(fileobj=file, mode="r:"))
            members = [member for member in tar.getmembers() if member.isfile()]
        except (tarfile.TarError, OSError, EOFError) as error:
            raise _bad(path, error) from error
        undo.pop_all()  # stays open for as long as an entry may be read
    size = file.seek(0, os.SEEK_END)
    for member in members:
        if member.offset_data + member.size > size:
            raise _bad(path, f"{member.name} reaches beyond the end of the file")
        source = _stem(path)
        yield Entry(member.name.removeprefix("./"), member.size, partial(_open, tar, member), source=source)


def _unpacked(path: Path) -> IO[bytes]:
    plain = tempfile.TemporaryFile()  # noqa: SIM115 -- its reader closes it
    with gzip.open(path) as packed:
        shutil.copyfileobj(packed, plain)
    return plain


def _open(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    assert file is not None, "only plain files are listed"
    return file


def _bad(path: Path, problem: object) -> StoreError:
    return StoreError(explain("this tar is damaged, or is none", where=path, got=problem, fix="copy or write it again"))
