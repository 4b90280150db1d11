"""What installing weighs, counted on distributions made here."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import install_size


def write_distribution(folder: Path, name: str, n_bytes: int, *needs: str) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    requires = "".join(f"Requires-Dist: {need}\n" for need in needs)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}")
    (folder / f"{name}.so").write_bytes(bytes(n_bytes))
    (info / "RECORD").write_text(f"{name}.so,,\nnot_there.py,,\n")


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_distribution(tmp_path, "prompttune", 1, "torch", 'av; extra == "extract"', 'never; python_version < "3"')
    write_distribution(tmp_path, "torch", 20, "nvidia_cublas")
    write_distribution(tmp_path, "nvidia_cublas", 300, "torch")  # a circle ends
    write_distribution(tmp_path, "av", 4000, "torch")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(install_size, "EXTRAS", ("extract",))


@pytest.mark.usefixtures("environment")
def test_parts_are_what_each_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert install_size.distributions("prompttune") == {"prompttune", "torch", "nvidia-cublas"}
    assert install_size.distributions("prompttune", ["extract"]) - install_size.distributions("prompttune") == {"av"}
    monkeypatch.setattr(install_size, "OF_CUDA_IN_TORCH", ("torch",))
    assert list(install_size.measure()["bytes"].values()) == [321, 300, 20, 1, 4000]
