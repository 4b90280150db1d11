"""README tables are what the committed result files say; `python -m benchmarks readme` writes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.readme import BLOCK, PAGES, RESULTS, markdown_table, render, stale_blocks
from benchmarks.result_page import PAGE, render_page

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"


@pytest.mark.parametrize("page", PAGES)
def test_no_table_of_a_page_is_out_of_date(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert len(list(BLOCK.finditer(text))) >= 1
    assert stale_blocks(text) == [], "python -m benchmarks readme writes them anew"


def test_the_page_on_results_says_what_the_fields_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == render_page(), "python -m benchmarks readme writes it anew"
    for key in ("schema_version", "split_sha256", "calibration_error", "runs_together", "videos_sha256"):
        assert f"| `{key}` |" in render_page(), key


def test_a_number_that_somebody_typed_is_found_and_written_over(tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8")
    name = next(BLOCK.finditer(text))["name"]
    table = json.loads((RESULTS / f"{name}.json").read_text())["readme"]
    shown = markdown_table(table["columns"], table["rows"])
    typed = text.replace(shown, shown.replace(str(table["rows"][0][1]), "99.9", 1))
    assert typed != text
    assert stale_blocks(typed) == [name]
    assert render(typed) == text
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        Path("README.md").write_text(typed)
        checked = CliRunner().invoke(main, ["readme", "--check"])
        assert (checked.exit_code, checked.output) == (1, f"out of date: {name}\n")
        assert Path("README.md").read_text() == typed
        assert CliRunner().invoke(main, ["readme"]).exit_code == 0
        assert Path("README.md").read_text() == text
        assert CliRunner().invoke(main, ["readme", "--check"]).exit_code == 0


def test_a_block_that_was_never_measured_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    for path in RESULTS.glob("*.json"):
        shutil.copy(path, tmp_path)
    text = "<!-- begin: nothing-here -->\n<!-- end: nothing-here -->\n"
    with pytest.raises(FileNotFoundError, match=r"nothing-here\.json"):
        stale_blocks(text, tmp_path)
