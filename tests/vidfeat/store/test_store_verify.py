"""verify: silent about sound stores, and not a single flipped bit escapes it."""

from __future__ import annotations

import random

import pytest
from small_store import SmallStore, tree

from vidfeat.errors import StoreCorruptError, StoreNotFoundError
from vidfeat.store import StoreWriter, open_store, verify

KINDS = {
    "fixed": SmallStore(),
    "variable-int8": SmallStore(n_frames=None, dtype="int8"),
    "zstd": SmallStore(compressor="zstd"),
}
N_FLIPS = 100  # per kind of store, beside one in every file
SHARDS = ("pooled/c", "tokens/02/c")


def damageable(world, path):
    """Files by name; of a compressed store its shards alone, as nothing else is compressed."""
    files = {name: content for name, content in sorted(tree(path).items()) if name != "commits/.lock"}
    return {name: content for name, content in files.items() if not world.compressor or name.startswith(SHARDS)}


def extract_with_pack(world, path):
    world.extract(path)
    (path / "pack").mkdir()
    (path / "pack/config.json").write_text('{"width": 768}')
    (path / "pack/text.safetensors").write_bytes(random.Random(0).randbytes(2000))
    StoreWriter.open(path).finalize()
    return path


@pytest.mark.parametrize("world", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("level", ["fast", "full"])
def test_a_sound_store_has_no_problems(world, level, tmp_path):
    path = extract_with_pack(world, tmp_path / "X.zarr")
    report = verify(path, level=level)
    assert report.problems == ()
    assert report.notes == ()
    assert report.bad_units == ()
    assert not report.needs_rebuild
    report.require_sound()
    files = {name: content for name, content in tree(path).items() if name != "commits/.lock"}
    assert report.n_files == len(files)


@pytest.mark.parametrize("world", KINDS.values(), ids=KINDS)
def test_full_finds_every_flipped_bit(world, tmp_path):
    path = extract_with_pack(world, tmp_path / "X.zarr")
    sound, rng = damageable(world, path), random.Random(7)
    targets = sorted(sound) + rng.choices(sorted(sound), k=N_FLIPS)
    for name in targets:
        content = bytearray(sound[name])
        bit = rng.randrange(8 * len(content))
        content[bit // 8] ^= 1 << (bit % 8)
        (path / name).write_bytes(content)
        found = {problem.path for problem in verify(path, level="full").problems}
        assert name in found or (name.startswith("plan/") and "plan" in found), f"bit {bit} of {name}: {found}"
        (path / name).write_bytes(sound[name])
    assert verify(path, level="full").problems == ()


@pytest.mark.parametrize("world", KINDS.values(), ids=KINDS)
def test_fast_finds_what_is_missing_truncated_or_has_a_damaged_index(world, tmp_path):
    path = extract_with_pack(world, tmp_path / "X.zarr")
    for name, content in damageable(world, path).items():
        damages = [None, content[:-1], b""]
        if name.startswith(SHARDS):
            damages.append(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
        for damage in damages:
            (path / name).unlink()
            if damage is not None:
                (path / name).write_bytes(damage)
            if (name == "plan/spec.json" and damage is None) or (name.startswith("plan/pass") and damage is None):
                with pytest.raises(StoreCorruptError, match="half copied"):
                    verify(path)
            else:
                found = {problem.path for problem in verify(path).problems}
                assert name in found or (name.startswith("plan/") and "plan" in found), (name, damage, found)
            (path / name).write_bytes(content)


@pytest.mark.parametrize("world", KINDS.values(), ids=KINDS)
def test_what_is_bad_is_redone_and_the_store_is_as_before(world, tmp_path):
    path = extract_with_pack(world, tmp_path / "X.zarr")
    sound = tree(path)
    rng = random.Random(3)
    for name in sorted(sound):
        other_index = name.startswith("index/") and not name.startswith(("index/row_start/", "index/id_utf8/"))
        if name.startswith(("plan/", "pack/")) or name == "commits/.lock" or other_index:
            continue
        content = bytearray(sound[name])
        content[rng.randrange(len(content))] ^= 4
        (path / name).write_bytes(content)
        report = verify(path, level="full")
        assert len(report.bad_units) <= 1
        writer = StoreWriter.open(path)
        redo = writer.repair(report)
        assert tuple(unit.index for unit in redo) == report.bad_units, "only the bad unit is extracted again"
        for unit in redo:
            world.commit(writer, unit)
        writer.finalize()
        assert tree(path) == sound, name


def test_a_damaged_pack_or_plan_is_named_and_not_papered_over(tmp_path):
    path = extract_with_pack(SmallStore(), tmp_path / "X.zarr")
    (path / "pack/text.safetensors").write_bytes(b"x" * 2000)
    report = verify(path, level="full")
    assert [problem.path for problem in report.problems] == ["pack/text.safetensors"]
    with pytest.raises(StoreCorruptError, match=r"pack/text\.safetensors"):
        StoreWriter.open(path).repair(report)
    with pytest.raises(StoreCorruptError, match="1 problems"):
        report.require_sound()


def test_an_unfinished_store_names_what_is_missing(tmp_path):
    world = SmallStore()
    writer = StoreWriter.create(tmp_path / "X.zarr", world.spec, world.videos)
    world.commit(writer, writer.plan_units()[1])
    report = verify(tmp_path / "X.zarr", level="full")
    assert report.bad_units == (0, 2, 3)
    assert "manifest.json: missing: the extraction has not finished" in map(str, report.problems)


def test_strange_files_are_noted_and_are_no_problem(tmp_path):
    SmallStore().extract(tmp_path / "X.zarr")
    (tmp_path / "X.zarr/notes.txt").write_text("hello")
    report = verify(tmp_path / "X.zarr", level="full")
    assert report.problems == ()
    assert report.notes == ("notes.txt is not part of the store",)


def test_files_of_another_store_are_refused(tmp_path):
    SmallStore().extract(tmp_path / "X.zarr")
    SmallStore(fields={"model": "another"}).extract(tmp_path / "Y.zarr")
    for name in ("commits/unit-0000001.json", "pooled/c.1.0", "tokens/02/c.1.0.0"):
        (tmp_path / "X.zarr" / name).write_bytes((tmp_path / "Y.zarr" / name).read_bytes())
    (problem,) = [one for one in verify(tmp_path / "X.zarr").problems if one.path.startswith("commits")]
    assert "another plan" in problem.what


def test_a_value_that_is_not_finite_is_found_even_when_all_checksums_are_right(tmp_path, monkeypatch):
    import numpy as np

    monkeypatch.setattr("vidfeat.store.commits.storage_problem", lambda values, dtype: None)

    class Poisoned(SmallStore):
        def rows(self, tap, index, view):
            rows = super().rows(tap, index, view)
            return np.where(rows == rows.max(), np.inf, rows) if (tap, index, view) == ("pooled", 5, 1) else rows

    Poisoned().extract(tmp_path / "X.zarr")
    assert verify(tmp_path / "X.zarr").problems == ()
    (problem,) = verify(tmp_path / "X.zarr", level="full").problems
    assert (problem.path, problem.unit) == ("pooled/c.1.0", 1)
    assert "NaN or infinity" in problem.what
    open_store(tmp_path / "X.zarr")


def test_an_unknown_level_and_an_absent_store_are_refused(tmp_path):
    with pytest.raises(ValueError, match="fast"):
        verify(tmp_path, level="deep")  # type: ignore[arg-type]
    with pytest.raises(StoreNotFoundError):
        verify(tmp_path / "X.zarr")
