"""Threads go where products are large; freed memory stays; both are undone or told where they cannot be."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from training import short_runs, trainer_of

from prompttune.base.machine import (
    SHARED_PRODUCT_FLOP,
    WAIT_VARIABLES,
    choose_threads,
    cpu_threads,
    keep_freed_memory,
    wait_briefly,
)
from prompttune.cost.memory import largest_product_flop
from prompttune.training import fit as fit_module


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_small_products_run_on_one_thread_and_the_user_has_the_last_word() -> None:
    assert choose_threads(SHARED_PRODUCT_FLOP - 1, environment={}) == 1
    assert choose_threads(SHARED_PRODUCT_FLOP, environment={}) == 2
    assert choose_threads(0, environment={"OMP_NUM_THREADS": "2"}) == 2
    assert choose_threads(0, environment={"MKL_NUM_THREADS": "2"}) == 2


@pytest.mark.usefixtures("two_threads")
def test_threads_are_put_back_even_after_an_error() -> None:
    def training() -> None:
        with cpu_threads(1):
            assert torch.get_num_threads() == 1
            raise KeyError

    with pytest.raises(KeyError):
        training()
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_a_training_on_a_small_tower_takes_one_thread(target: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    seen: list[int] = []
    options = fit_module.FitOptions(on_step=lambda *_: seen.append(torch.get_num_threads()))
    fit_module.fit(short_runs({"method": "coop"}, store=target, seeds=[1]), tmp_path / "run", options=options)
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2


def test_a_method_that_trains_nothing_goes_through_too(target: str, tmp_path) -> None:
    assert fit_module.fit(short_runs({"method": "zero-shot"}, store=target), tmp_path / "run").result.runs


def test_the_largest_product_is_the_towers_mlp_on_all_rows(target: str) -> None:
    group, _ = trainer_of(short_runs({"method": "coop"}, store=target, seeds=[1, 2, 3]))
    classes, text = group.splits[0].classes, group.model.pack.config.text
    rows = group.model.text_pass(classes).n_rows
    found = largest_product_flop(group.model, classes, numbers_per_video=1)
    assert found == 3 * 2 * rows * text.width * text.mlp_width
    # A head on many frames outgrows a small tower.
    assert largest_product_flop(group.model, classes, numbers_per_video=10**6) > SHARED_PRODUCT_FLOP
    assert largest_product_flop(group.model, (), numbers_per_video=1) < SHARED_PRODUCT_FLOP
    frozen, _ = trainer_of(short_runs({"method": "clip-adapter"}, store=target, seeds=[1]))
    embed_dim, batch = frozen.model.pack.config.embed_dim, frozen.config.optim.batch_size
    assert largest_product_flop(frozen.model, classes, numbers_per_video=embed_dim) == 2 * batch * embed_dim**2


def test_what_the_environment_says_about_waiting_stands() -> None:
    empty: dict[str, str] = {}
    wait_briefly(empty)
    assert empty == {"GOMP_SPINCOUNT": "10000"}
    for told in ({"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}):
        left = dict(told)
        wait_briefly(left)
        assert left == told


def test_the_command_line_waits_briefly_before_it_imports_torch() -> None:
    """Set later, it would have no effect."""
    program = (
        "import os, sys; sys.argv = ['prompttune', 'methods']\n"
        "from prompttune.cli import commands\n"
        "commands.cli = lambda *_, **__: print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)\n"
        "commands.main()"
    )
    environment = {name: value for name, value in os.environ.items() if name not in WAIT_VARIABLES}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["10000", "False"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_not_asked_for_again_page_by_page() -> None:
    """A block of 24 MB, freed and allocated again: the first time its 6,000 pages are new, then they are there."""
    import resource

    assert keep_freed_memory()

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.empty(6 * 2**20).fill_(1.0)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults()
    assert min(faults() for _ in range(5)) < 600
