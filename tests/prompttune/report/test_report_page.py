"""The whole page: a suite trained on tiny stores, videos on disk, looked at by headless Chromium where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from report_results import write_entry
from tiny_store import Recipe, write_tiny_store
from video_files import write_video

from benchmarks.__main__ import main
from prompttune.report.comparison import compare
from prompttune.report.entries import read_groups
from prompttune.report.page import render_page
from prompttune.report.svg import PALETTE, colours, markers

CLASSES = ("run", "jump", "swim", "wave_hand", "climb", "throw_ball", "ride", "spin", "walk", "kick")
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
SECTIONS = (
    "Results",
    "Settings",
    "Accuracy and its price",
    "Learning curves",
    "Who gains, who is forgotten",
    "What is taken for what",
    "Where the classes went",
    "What irrelevant videos resemble",
    "Videos gained and lost",
)
VOID = {"meta", "link", "input", "img", "br", "hr"}

needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine")
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a suite of four methods on tiny stores, laid out as the quickstart leaves them, videos included."""
    from rich.console import Console

    from benchmarks.runner import run_suite
    from benchmarks.suite import Suite

    root = tmp_path_factory.mktemp("quickstart")
    write_tiny_store(root / "stores" / "target.zarr", Recipe(classes=CLASSES, n_test=8, noise=0.4))
    write_tiny_store(root / "stores" / "other.zarr", Recipe(classes=("cook", "paint", "dance", "sleep"), seed=1))
    write_tiny_store(root / "stores" / "irrelevant.zarr", Recipe(classes=("sky", "water"), seed=2, n_train=10))
    video = write_video(root / "video.mp4", n_frames=6)
    for name in CLASSES:
        (root / "videos" / "target" / name).mkdir(parents=True)
        for number in range(6, 14):
            shutil.copy(video, root / "videos" / "target" / name / f"{number:03d}.mp4")
    short = {"optim": {"epochs": 10, "batch_size": 16, "lr": 0.02, "warmup_epochs": 1.0}, "log": {"every": 2}}
    ga2 = {"coupling": {"hard_prompts": ["{prompts.other}"]}}
    anchors = {"anchors": {"store": "{stores.irrelevant}", "loss": "distill"}}
    suite = Suite.model_validate(
        {
            "title": "A tiny <comparison>",
            "shows": "what the page needs",
            "cost": "seconds",
            "seeds": [1, 2, 3],
            "baseline": "Zero-shot CLIP",
            "stores": {name: f"{name}.zarr" for name in ("target", "other", "irrelevant")},
            "hard_prompts": [
                {"name": "other", "store": "other", "config": {"method": "coop", "protocol": {"shots": 4}} | short}
            ],
            "methods": [
                {"label": "Zero-shot CLIP", "config": {"method": "zero-shot"}},
                {"label": "CoOp", "config": {"method": "coop"} | short},
                {"label": "GA2-CLIP text", "config": {"method": "ga2-text"} | ga2 | anchors | short},
            ],
            "grid": {"stores": ["target"], "shots": [4]},
        }
    )
    outcome = run_suite(suite, out=root / "results", data=root / "stores", console=Console(quiet=True))
    assert outcome.failures == {}
    return root / "results"


@pytest.fixture(scope="module")
def page(results: Path) -> Path:
    made = CliRunner().invoke(main, ["report", str(results)])
    assert made.exit_code == 0, made.output
    assert str(results / "report.html") in made.output
    return results / "report.html"


class Outline(HTMLParser):
    """Checks that elements nest, and collects ids, headings and everything that is loaded from somewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loaded: list[str] = []
        self.headings: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "srcset", "data", "poster"):
                self.loaded.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open[-1] == tag, f"</{tag}> inside <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h3":
            self.headings.append(data)


def outline(text: str) -> Outline:
    parser = Outline()
    parser.feed(text)
    assert parser.open == []
    return parser


def test_page_is_whole_and_loads_nothing(page: Path) -> None:
    text = page.read_text()
    found = outline(text)
    assert tuple(found.headings) == SECTIONS
    assert len(set(found.ids)) == len(found.ids)
    # What is referred to is a part of this page, or is written out in it.
    assert all(address.startswith(("#", "data:")) for address in found.loaded)
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    for reference in re.findall(r'(?:href="|url\()#([\w-]+)', text):
        assert reference in found.ids
    assert len(text) < 4_000_000


def test_every_section_has_something_to_show(page: Path) -> None:
    text = page.read_text()
    assert "Not shown" not in text
    assert "A tiny &lt;comparison&gt;" in text
    assert text.count("data:image/jpeg;base64,") >= 4
    for word in ("HM 50", "anchor-distill", "t-SNE", "cosine of an anchor video", "taken for", "How to read"):
        assert word in text, word
    # Text of the figures is text, in the page's colours.
    assert "#010203" not in text
    assert "currentColor" in text


def test_marks_belong_to_their_method(page: Path) -> None:
    labels = set(re.findall(r'<g data-label="([^"]*)"', page.read_text()))
    assert labels == {"Zero-shot CLIP", "CoOp", "GA2-CLIP text"}


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    write_entry(tmp_path / "coop", "coop", [((20, 10, 4), (10, 8, 10)), ((18, 10, 6), (12, 6, 10))])
    text = render_page([compare(group) for group in read_groups(tmp_path)], title="bare")
    assert tuple(outline(text).headings) == SECTIONS
    for reason in (
        "No training left a log",
        "There is no zero-shot line",
        "coop left no prompt file",
        "used anchor videos",
    ):
        assert reason in text


def test_logs_of_a_training_that_is_still_going_on_are_drawn(tmp_path: Path) -> None:
    write_entry(tmp_path / "coop", "coop", [((20, 10, 4), (10, 8, 10)), ((18, 10, 6), (12, 6, 10))], log=True)
    with (tmp_path / "coop" / "seed1" / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "epo')
    text = render_page([compare(group) for group in read_groups(tmp_path)], title="bare")
    assert "the gradient norm of each loss term" in text
    assert "anchor-distill" in text


def chromium(page: Path, *arguments: str, fragment: str = "", profile: Path) -> subprocess.CompletedProcess[str]:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={profile}", "--enable-logging=stderr"]
    address = f"{page.as_uri()}{fragment}"
    return subprocess.run(
        [CHROMIUM, *flags, *arguments, address], capture_output=True, text=True, timeout=120, check=True
    )


def rows_of(dom: str) -> list[tuple[str, bool]]:
    """Label and whether it is hidden, of the rows of the first table as the browser has it."""
    body = dom[dom.index("<tbody>") : dom.index("</tbody>")]
    return [(label, "hidden" in rest) for label, rest in re.findall(r'<tr data-label="([^"]*)"([^>]*)>', body)]


@needs_chromium
def test_page_loads_without_an_error(page: Path, tmp_path: Path) -> None:
    done = chromium(page, "--dump-dom", profile=tmp_path)
    assert "CONSOLE" not in done.stderr
    assert [label for label, _ in rows_of(done.stdout)] == ["Zero-shot CLIP", "CoOp", "GA2-CLIP text"]
    assert not any(hidden for _, hidden in rows_of(done.stdout))


@needs_chromium
def test_an_error_in_a_page_would_be_seen(tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text("<script>nothing.here()</script>")
    assert "CONSOLE" in chromium(broken, "--dump-dom", profile=tmp_path / "profile").stderr


@needs_chromium
def test_filter_hides_rows_marks_and_figures(page: Path, tmp_path: Path) -> None:
    dom = chromium(page, "--dump-dom", fragment="#filter=coop", profile=tmp_path).stdout
    assert dict(rows_of(dom)) == {"Zero-shot CLIP": True, "CoOp": False, "GA2-CLIP text": True}
    marks = re.findall(r'<(g|figure|div)[^>]*data-label="([^"]*)"([^>]*)>', dom)
    assert len({kind for kind, _, _ in marks}) == 3
    assert all(("hidden" in rest) == (label != "CoOp") for _, label, rest in marks)


@needs_chromium
def test_sorting_is_by_number_and_survives_in_the_address(page: Path, tmp_path: Path) -> None:
    column = 1 + ("base", "new", "harmonic_mean").index("base")
    orders = {}
    for direction in ("ascending", "descending"):
        fragment = f"#sort=0.{column}.{direction}"
        dom = chromium(page, "--dump-dom", fragment=fragment, profile=tmp_path / direction).stdout
        assert f'aria-sort="{direction}"' in dom
        orders[direction] = [label for label, _ in rows_of(dom)]
    means = {entry.label: entry.cell.metrics["base"].mean for entry in read_groups(page.parent)[0].entries}
    assert orders["ascending"] == sorted(means, key=lambda label: means[label])
    assert orders["descending"] == orders["ascending"][::-1]


@needs_chromium
@pytest.mark.parametrize("width", [1400, 390])
def test_screenshot_shows_a_page_that_fits(page: Path, tmp_path: Path, width: int) -> None:
    from PIL import Image

    shot = tmp_path / "shot.png"
    chromium(page, f"--window-size={width},1600", f"--screenshot={shot}", "--hide-scrollbars", profile=tmp_path / "p")
    picture = np.asarray(Image.open(shot).convert("L"))
    assert picture.shape[1] == width
    paper = np.median(picture)
    # Ink all the way down, in the left and in the right half: text and figures, not a blank or broken page.
    for half in np.array_split(picture[:1500], 2, axis=1):
        inked = (np.abs(half.astype(int) - paper) > 60).mean()
        assert 0.005 < inked < 0.5


def test_no_two_methods_look_alike() -> None:
    labels = [f"method {place}" for place in range(3 * len(PALETTE))]
    looks = set(zip(colours(labels, None).values(), markers(labels, None).values(), strict=True))
    assert len(looks) == len(labels)
