"""Writes docs/models.md: what every model of the installed open_clip can do, as `vidfeat models --json` judges it.

`python -m benchmarks.models_page` rewrites the page (a minute: every tower is built, without memory); a test says
whether it is out of date for the open_clip that it names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vidfeat.clip import door
from vidfeat.clip.verdicts import Can, Verdict, judge_all

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"


FIELDS = ("pooled", "tokens", "visual_prompts", "text_prompts", "zero_shot")


def page(verdicts: Sequence[Verdict]) -> str:
    """The whole page."""
    packages = door.versions()
    answers = [getattr(verdict, name) for verdict in verdicts for name in FIELDS]
    reasons = list(dict.fromkeys(can.reason for can in answers if not can.yes))
    number = {reason: place for place, reason in enumerate(reasons, start=1)}
    count = {name: sum(getattr(verdict, name).yes for verdict in verdicts) for name in FIELDS}
    return "\n".join(
        [
            "# Models",
            "",
            "Written by `python -m benchmarks.models_page` from the code that loads them, for "
            f"open_clip {packages['open_clip']} with timm {packages['timm']}; do not edit. `vidfeat models NAME` says "
            "the same of one model, with the installed versions.",
            "",
            f"Of {len(verdicts)} model configs, {count['pooled']} can be extracted, {count['tokens']} with tokens at "
            f"every block and visual prompts; {count['text_prompts']} take learned text prompts, {count['zero_shot']} "
            "written ones.",
            "",
            "- **pooled**: who runs the image tower when videos are encoded. Both give `encode_image`'s feature.",
            "- **tokens**: `tokens@L` for these L; visual prompts join at each of them but the last.",
            "- **text prompts**: the exact path of a learned context. `shared-prefix`: what all classes begin with is "
            "encoded once; `full-length`: every position of every class is computed, as each changes the feature.",
            "- **tokenizer**: CLIP's byte pairs come with open_clip; the hub's is taken from its cache, downloaded, or "
            "given as `--tokenizer FILE`.",
            "- **weights**: tags in open_clip's list that have the model's activation.",
            "",
            "| model | picture | pooled | tokens | visual prompts | text prompts | zero-shot | tokenizer | weights |",
            "| :-- | --: | :-- | :-- | :-- | :-- | :-- | :-- | --: |",
            *(_row(verdict, number) for verdict in verdicts),
            "",
            "Why not:",
            "",
            *(f"{place}. {reason}" for reason, place in number.items()),
            "",
        ]
    )


def _row(verdict: Verdict, number: Mapping[str, int]) -> str:
    """The line of one model; a "no" names its reason by number."""

    def cell(can: Can, how: str) -> str:
        return how if can.yes else f"no ({number[can.reason]})"

    tokens = verdict.tokens.how.partition(",")[0].replace("tokens", "").replace(" to ", " – ")
    by = "open_clip" if "open_clip" in verdict.pooled.how else "here"
    cells = (
        f"`{verdict.name}`",
        " x ".join(map(str, verdict.image_size)),
        cell(verdict.pooled, by),
        cell(verdict.tokens, tokens),
        cell(verdict.visual_prompts, "yes"),
        cell(verdict.text_prompts, verdict.text_prompts.how),
        cell(verdict.zero_shot, "yes"),
        "hub" if "hub" in verdict.tokenizer else "CLIP's",
        str(len(verdict.weights)),
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page(list(judge_all())), "utf-8")
