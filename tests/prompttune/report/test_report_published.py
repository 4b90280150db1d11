"""Published numbers: readable, consistent, shown beside results on the same data set and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from prompttune.errors import ConfigError
from prompttune.report.published import PUBLISHED, matching, read_published
from prompttune.report.tables import published_frame


def test_every_harmonic_mean_follows_from_its_parts() -> None:
    _, lines = read_published()
    checked = [
        line for line in lines if line.base is not None and line.new is not None and line.harmonic_mean is not None
    ]
    assert len(checked) > 60
    for line in checked:
        of_parts = 2 * line.base * line.new / (line.base + line.new)  # type: ignore[operator]
        # Parts rounded to 0.1 move their harmonic mean by up to 0.05, printing it by another 0.05.
        assert line.harmonic_mean == pytest.approx(of_parts, abs=0.11), (line.method, line.dataset)


def test_every_line_names_a_source_and_some_number_in_per_cent() -> None:
    _, lines = read_published()
    for line in lines:
        numbers = [n for n in (line.base, line.new, line.harmonic_mean, line.top1) if n is not None]
        assert line.source
        assert numbers
        assert all(1 < number < 100 for number in numbers)
    assert len({(x.method, x.dataset, x.protocol, x.shots) for x in lines}) == len(lines)


@pytest.mark.parametrize("store", ["hmdb51", "HMDB-51", "hmdb51-vitb16", "hmdb_51"])
def test_a_store_is_matched_by_its_data_set(store: str) -> None:
    found = matching(store, "base-to-new", 16)
    (ours,) = [line for line in found if line.method == "GA2-CLIP"]
    assert (ours.base, ours.new, ours.harmonic_mean, ours.seeds) == (78.3, 58.9, 67.2, 1)
    assert "best epoch on the base test set" in ours.circumstances


def test_what_the_source_does_not_say_is_called_that() -> None:
    (line,) = [x for x in matching("ucf101", "base-to-new", 16) if x.method == "X-CLIP"]
    assert "seeds not stated" in line.circumstances
    assert "selection: not stated" in line.circumstances


def test_initialisation_may_differ_by_data_set() -> None:
    by_dataset = {x.dataset: x.initialisation for x in read_published()[1] if x.method == "GA2-CLIP" and x.base}
    assert by_dataset["k400"] == "CLIP ViT-B/16"
    assert by_dataset["ssv2"] is not None
    assert by_dataset["ssv2"].startswith("Kinetics-400")


def test_few_shot_lines_are_those_of_k() -> None:
    (two,) = [x for x in matching("hmdb51", "few-shot", 2) if x.method == "TC-CLIP (P)"]
    (sixteen,) = [x for x in matching("hmdb51", "few-shot", 16) if x.method == "TC-CLIP (P)"]
    assert (two.top1, sixteen.top1) == (65.3, 73.0)
    assert matching("hmdb51", "few-shot", 3) == []


def test_the_small_world_has_no_published_numbers() -> None:
    assert matching("target", "base-to-new", 16) == []


def test_second_hand_numbers_say_so() -> None:
    frame = published_frame(matching("hmdb51", "base-to-new", 16))
    assert frame[frame["published"] == "VTD-CLIP"]["source"].str.contains("second hand").all()
    assert not frame[frame["published"] == "GA2-CLIP"]["source"].str.contains("second hand").any()


def test_a_wrong_key_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "published.toml"
    wrong.write_text(PUBLISHED.read_text() + "\nbest = 3\n")
    with pytest.raises(ConfigError, match="best"):
        read_published(wrong)
