"""A pack is whole or refused, is read only as far as needed, and gives back the weights it was written from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from openclip_models import TINY, random_clip

from vidfeat.backbone import BackboneConfig, BackbonePack, weights_sha256, whole_directory
from vidfeat.backbone.state_check import is_finite
from vidfeat.backbone.weights import EncodedState
from vidfeat.clip.openclip import LoadedClip, from_state_dict, load_open_clip
from vidfeat.errors import PackError

FILES = {"config.json", "text.safetensors", "visual.safetensors", "tokenizer.json"}


@pytest.fixture(scope="module")
def loaded() -> LoadedClip:
    return from_state_dict(random_clip(TINY).state_dict(), model_config=TINY, name="tiny", pretrained="random")


@pytest.fixture(scope="module")
def written(loaded: LoadedClip, tmp_path_factory) -> BackbonePack:
    return loaded.write_pack(tmp_path_factory.mktemp("pack") / "pack")


@pytest.fixture
def copy(written: BackbonePack, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written.path, tmp_path / "copy"))


def test_writes_four_files_and_nothing_else(written: BackbonePack) -> None:
    assert {path.name for path in written.path.iterdir()} == FILES
    assert [path.name for path in written.path.parent.iterdir()] == ["pack"]


def test_gives_the_weights_back_bit_for_bit(written: BackbonePack, loaded: LoadedClip) -> None:
    pack = BackbonePack.load(written.path)
    for tower, state in ((pack.text_tower(), loaded.text_state), (pack.vision_tower(), loaded.visual_state)):
        found = tower.state_dict()
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], state[name]) for name in state)
        assert {value.dtype for value in found.values()} == {torch.float32}
    assert pack.config == loaded.config
    pack.verify()


def test_towers_are_made_once(written: BackbonePack) -> None:
    assert written.text_tower() is written.text_tower()
    assert written.vision_tower() is written.vision_tower()
    assert written.tokenizer() is written.tokenizer()


def test_writing_is_deterministic_and_the_hash_is_of_the_contents(written, loaded, tmp_path) -> None:
    again = loaded.write_pack(tmp_path / "elsewhere" / "pack")
    assert again.hash == written.hash
    assert all((again.path / name).read_bytes() == (written.path / name).read_bytes() for name in FILES)
    other = dataclasses.replace(loaded, config=dataclasses.replace(loaded.config, logit_scale=3.0))
    assert other.write_pack(tmp_path / "other").hash != written.hash


def test_writing_the_same_pack_twice_is_fine_another_one_is_not(loaded: LoadedClip, copy: Path) -> None:
    assert loaded.write_pack(copy).path == copy
    other = dataclasses.replace(loaded, config=dataclasses.replace(loaded.config, logit_scale=3.0))
    with pytest.raises(PackError, match="something else is already where the backbone pack is to be written"):
        other.write_pack(copy)


def test_text_alone_never_reads_the_vision_weights(copy: Path) -> None:
    # Same size, other bytes: only reading them could tell.
    path = copy / "visual.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    pack = BackbonePack.load(copy)
    pack.text_tower()
    pack.tokenizer()
    with pytest.raises(PackError, match=r"visual.safetensors is damaged"):
        pack.vision_tower()


def test_every_flipped_bit_is_found(copy: Path, written: BackbonePack) -> None:
    draw = random.Random(0)
    for name in sorted(FILES):
        path = copy / name
        whole = path.read_bytes()
        for _ in range(40):
            position, bit = draw.randrange(len(whole)), draw.randrange(8)
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(PackError):
                BackbonePack.load(copy, expected_hash=written.hash).verify()
        path.write_bytes(whole)
    BackbonePack.load(copy, expected_hash=written.hash).verify()


@pytest.mark.parametrize("name", sorted(FILES - {"config.json"}))
def test_truncated_and_missing_files_are_named_together(copy: Path, name: str) -> None:
    (copy / name).write_bytes((copy / name).read_bytes()[:-1])
    others = sorted(FILES - {"config.json", name})
    (copy / others[0]).unlink()
    with pytest.raises(PackError, match="the backbone pack is not whole") as raised:
        BackbonePack.load(copy)
    assert f"{others[0]} is missing" in str(raised.value)
    assert f"{name} has " in str(raised.value)


def test_a_folder_that_is_no_pack_says_so(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="there is no backbone pack here") as raised:
        BackbonePack.load(tmp_path / "nowhere")
    assert "no such directory" in str(raised.value)
    with pytest.raises(PackError, match=r"no config.json in it"):
        BackbonePack.load(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '"text"'])
def test_a_config_that_cannot_be_read_says_so(copy: Path, content: str) -> None:
    (copy / "config.json").write_text(content)
    with pytest.raises(PackError, match="the pack's config cannot be read"):
        BackbonePack.load(copy)


def test_a_later_format_is_refused(copy: Path) -> None:
    values = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(values | {"version": 3}))
    with pytest.raises(PackError, match="not a backbone pack this version reads"):
        BackbonePack.load(copy)


def test_another_packs_hash_is_refused(written: BackbonePack) -> None:
    assert BackbonePack.load(written.path, expected_hash=written.hash).hash == written.hash
    with pytest.raises(PackError, match="another backbone pack than the one asked for"):
        BackbonePack.load(written.path, expected_hash="0" * 64)


def _write(loaded: LoadedClip, path: Path, **changes) -> BackbonePack:
    return dataclasses.replace(loaded, **changes).write_pack(path)


def test_all_wrong_tensors_are_named_together(loaded: LoadedClip, tmp_path: Path) -> None:
    text = {name: value for name, value in loaded.text_state.items() if name != "ln_final.weight"}
    visual = loaded.visual_state | {"proj": torch.zeros(3, 3), "extra": torch.zeros(2)}
    visual["conv1.weight"] = visual["conv1.weight"] * float("nan")
    with pytest.raises(PackError, match="do not make the backbone") as raised:
        _write(loaded, tmp_path / "pack", text_state=text, visual_state=visual)
    for problem in ("missing ln_final.weight [32]", "left over extra [2]", "proj is [3, 3], not [48, 24]", "no finite"):
        assert problem in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_hash_than_the_config_names_are_refused(loaded: LoadedClip, tmp_path: Path) -> None:
    config = dataclasses.replace(loaded.config, weights_sha256="0" * 64)
    with pytest.raises(PackError, match="the config names 000"):
        _write(loaded, tmp_path / "pack", config=config)


def test_a_failed_write_leaves_nothing_behind(loaded: LoadedClip, tmp_path: Path, monkeypatch) -> None:
    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_directory.os, "fsync", full_disk)
    with pytest.raises(PackError, match="No space left"):
        loaded.write_pack(tmp_path / "pack")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_removed_and_a_living_one_is_waited_for(loaded, tmp_path: Path) -> None:
    half = tmp_path / ".pack.dead.partial"
    half.mkdir()
    (half / "text.safetensors").write_bytes(b"half")
    living = FileLock(tmp_path / ".pack.lock")
    with living, ThreadPoolExecutor(1) as other:
        waiting = other.submit(loaded.write_pack, tmp_path / "pack")
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.3)
        assert half.exists()
        living.release()
        waiting.result(timeout=60)
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


def _write_killed_at(step: int, directory: Path, contents: dict[str, list[bytes]]) -> bool:
    """Whether the child writing the directory was killed at its `step`-th fsync; it runs no torch after the fork."""
    child = os.fork()
    if child == 0:
        calls, fsync = iter(range(1, 100)), os.fsync
        os.fsync = lambda descriptor: os.kill(os.getpid(), 9) if next(calls) == step else fsync(descriptor)
        whole_directory.write_directory(directory, contents)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_a_kill_at_any_step_leaves_a_whole_pack_or_none(loaded: LoadedClip, written, tmp_path: Path) -> None:
    """Fsyncs: of four files, of their directory, and, when it has its name, of the parent."""
    contents = {name: [(written.path / name).read_bytes()] for name in FILES}
    for step in range(1, 8):
        assert _write_killed_at(step, tmp_path / "pack", contents) == (step <= 6)
        assert (tmp_path / "pack").exists() == (step >= 6)
        if step >= 6:
            BackbonePack.load(tmp_path / "pack").verify()
            shutil.rmtree(tmp_path / "pack")
    loaded.write_pack(tmp_path / "pack")
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


def test_two_writers_at_once_give_one_pack_where_there_are_no_locks(loaded, tmp_path: Path, monkeypatch) -> None:
    rename = os.rename
    monkeypatch.setattr(whole_directory, "_alone", lambda directory: nullcontext(False))

    def late(source: Path, target: Path) -> None:
        monkeypatch.setattr(whole_directory.os, "rename", rename)
        loaded.write_pack(target)
        rename(source, target)

    monkeypatch.setattr(whole_directory.os, "rename", late)
    assert loaded.write_pack(tmp_path / "pack").config == loaded.config
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


def test_zero_embedding_rows_take_no_room_and_come_back(loaded: LoadedClip, tmp_path: Path, written) -> None:
    weight = torch.zeros_like(loaded.text_state["token_embedding.weight"])
    weight[[5, 320, 49407]] = 0.1
    config = dataclasses.replace(loaded.config, weights_sha256="")
    pack = _write(
        loaded, tmp_path / "pack", config=config, text_state=loaded.text_state | {"token_embedding.weight": weight}
    )
    assert torch.equal(pack.text_tower().token_embedding.weight, weight)
    pack.verify()
    size = (pack.path / "text.safetensors").stat().st_size
    assert size < (written.path / "text.safetensors").stat().st_size / 10


def test_float16_weights_are_stored_as_such_and_hash_the_same(loaded: LoadedClip, tmp_path: Path, written) -> None:
    halves = {
        "text_state": {name: value.half() for name, value in loaded.text_state.items()},
        "visual_state": {name: value.half() for name, value in loaded.visual_state.items()},
    }
    floats = {key: {name: value.float() for name, value in state.items()} for key, state in halves.items()}
    assert weights_sha256(**halves) == weights_sha256(**floats) != loaded.config.weights_sha256
    config = dataclasses.replace(loaded.config, weights_sha256="")
    pack = _write(loaded, tmp_path / "half", config=config, **halves)
    same = _write(loaded, tmp_path / "float", config=config, **floats)
    assert pack.hash == same.hash
    assert torch.equal(pack.vision_tower().proj, floats["visual_state"]["proj"])
    assert (pack.path / "visual.safetensors").stat().st_size < (
        0.6 * (written.path / "visual.safetensors").stat().st_size
    )


def test_pieces_are_the_bytes_that_safetensors_writes() -> None:
    from safetensors.torch import save

    generator = torch.Generator().manual_seed(0)
    ids, rows = torch.tensor([2, 5]), torch.randn(2, 3, generator=generator)
    embedding = torch.zeros(10, 3)
    embedding[ids] = rows
    halves, floats = torch.randn(70, 70, generator=generator).half(), torch.randn(70, 70, generator=generator)
    late = halves.float().flatten()
    late[-1] = 1 / 3  # no half, behind all that is probed
    state = {"z": floats.T, 'é "name"': halves, "a.late": late, "one": torch.tensor(1.0), "none": torch.zeros(0, 3)}
    stored = {**state, "z": floats.T.contiguous(), "one": torch.tensor(1.0).half(), "none": torch.zeros(0, 3).half()}
    stored |= {"token_embedding.ids": ids, "token_embedding.rows": rows}
    pieces = EncodedState(state | {"token_embedding.weight": embedding})
    assert b"".join(pieces) == b"".join(pieces) == save(stored)


def test_a_pack_to_be_written_has_its_hash_and_its_image_tower_before(loaded, written, tmp_path: Path) -> None:
    pack = loaded.pack_for(tmp_path / "pack")
    assert pack.hash == written.hash
    tower = pack.vision_tower().state_dict()
    assert all(torch.equal(value, loaded.visual_state[name]) for name, value in tower.items())
    assert not list(tmp_path.iterdir())
    pack.save()
    pack.save()
    assert all((pack.path / name).read_bytes() == (written.path / name).read_bytes() for name in FILES)
    assert pack.files_seen.keys() == FILES
    for name, (n_bytes, digest) in pack.files_seen.items():
        content = (pack.path / name).read_bytes()
        assert (n_bytes, digest) == (len(content), hashlib.sha256(content).hexdigest())
    fresh = BackbonePack.load(pack.path)
    fresh.vision_tower()
    assert fresh.files_seen == {"visual.safetensors": pack.files_seen["visual.safetensors"]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_value_that_is_not_finite_is_found_wherever_it_is(dtype: torch.dtype) -> None:
    assert is_finite(torch.full((3, 50), torch.finfo(dtype).max, dtype=dtype))
    assert is_finite(torch.zeros(0, dtype=dtype))
    assert not is_finite(torch.zeros(3, dtype=torch.int64))
    for size in (1, 7, 64, 100_003):
        for at in {0, size // 2, size - 1}:
            for bad in (float("nan"), float("inf"), -float("inf")):
                values = torch.linspace(-1, 1, size).to(dtype)
                values[at] = bad
                assert not is_finite(values), (size, at, bad)


def test_config_survives_json_and_refuses_other_keys(loaded: LoadedClip) -> None:
    values = json.loads(json.dumps(loaded.config.to_json()))
    assert BackboneConfig.from_json(values) == loaded.config
    with pytest.raises(ValueError, match=r"missing keys \['vision'\], unknown keys \['visoin'\]"):
        BackboneConfig.from_json({("visoin" if key == "vision" else key): value for key, value in values.items()})
    with pytest.raises(ValueError, match="activation must be one of"):
        BackboneConfig.from_json(values | {"text": values["text"] | {"activation": "relu"}})
    with pytest.raises(ValueError, match="already exponentiated"):
        BackboneConfig.from_json(values | {"logit_scale": 0.0})


def test_the_shipped_small_clip_keeps_the_pack_it_always_had(tmp_path: Path) -> None:
    """Stores and prompt files in the world name this hash; what packs learn to hold since must not move it."""
    clip = Path(__file__).resolve().parents[3] / "benchmarks/world/clip"
    pack = load_open_clip(model_config=clip / "world-clip.json", weights=clip / "world-clip.safetensors").write_pack(
        tmp_path / "pack"
    )

    assert pack.hash == "d6a58ce49f7811b73b6046c4cad974bc32133721140b27df208ab58e4d42ee89"
    assert json.loads((pack.path / "config.json").read_text())["version"] == 1
