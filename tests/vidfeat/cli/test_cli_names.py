"""Names of videos, classes and folders are printed as they are: nothing in them is markup, an emoji or a colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from vidfeat.cli import main
from vidfeat.store import Fingerprint, StoreSpec, StoreWriter, TapSpec, VideoRow

# What rich takes for markup, for the end of markup (an error when nothing was opened), for a colour, for an emoji.
NAMES = ("[x]", "[/x]", "[red]", "[/]", ":cat:", "[link=http://a]b", "a\\[b]")


def write_store(path: Path, rows: list[VideoRow]) -> Path:
    """A store of rows of one tap [4] of one frame; every failed row has none."""
    classes = tuple(dict.fromkeys(row.label for row in rows))
    spec = StoreSpec((TapSpec("pooled", (4,)),), 1, 1, classes, Fingerprint({"model": "[bold]m[/bold]"}))
    writer = StoreWriter.create(path, spec, rows)
    for unit in writer.pending_units():
        chosen = [rows[index] for index in unit.video_indices]
        writer.commit(unit, {"pooled": np.ones((sum(row.ok for row in chosen), 4))}, chosen)
    writer.finalize()
    return path


def printed(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_as_they_are(tmp_path: Path, name: str) -> None:
    good = VideoRow("good.mp4", name, n_frames=1)
    bad = VideoRow(f"{name}.mp4", name, name, status="failed", reason="invalid_data", detail=f"{name} is bad")
    folder = tmp_path / name.replace("/", "_")
    folder.mkdir()
    store = write_store(folder / "X.zarr", [good, bad])

    failures = printed("failures", store)
    info = printed("info", store)

    assert f"{name}.mp4" in failures
    assert f"{name} is bad" in failures
    assert f"{name} 1" in info
    assert "[bold]m[/bold]" in info
    for text in (failures, info, printed("verify", store)):
        assert folder.name in text.replace("\n", "")
