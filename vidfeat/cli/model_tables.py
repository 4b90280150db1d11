"""What `vidfeat models` prints: one line per model, or all about one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vidfeat.cli.tables import print_parts, table_of

if TYPE_CHECKING:
    from vidfeat.clip.verdicts import Can, Verdict


def print_models(verdicts: Sequence[Verdict]) -> None:
    """`vidfeat models`."""
    table = table_of(f"{len(verdicts)} models", "model", "tokens, visual prompts", "text prompts", "zero-shot")
    for verdict in verdicts:
        text = verdict.text_prompts
        table.add_row(
            verdict.name,
            verdict.tokens.how.partition(",")[0] if verdict.tokens.yes else "no",
            text.how if text.yes else "no",
            "yes" if verdict.zero_shot.yes else "no",
        )
    n_tokens = sum(verdict.tokens.yes for verdict in verdicts)
    n_pooled = sum(verdict.pooled.yes for verdict in verdicts)
    print_parts(
        table,
        f"{n_pooled} of {len(verdicts)} can be extracted, {n_tokens} of them with tokens and visual prompts",
        "why not, and more: vidfeat models NAME",
    )


def print_model(verdict: Verdict) -> None:
    """`vidfeat models NAME`."""
    table = table_of(verdict.name, "", "")
    height, width = verdict.image_size
    table.add_row("picture", f"{height} x {width}")
    table.add_row("joint space", f"{verdict.embed_dim} wide")
    table.add_row("pooled features", _said(verdict.pooled))
    table.add_row("tokens@L", _said(verdict.tokens))
    table.add_row("visual prompts", _said(verdict.visual_prompts))
    table.add_row("text prompts", _text_path(verdict.text_prompts))
    table.add_row("zero-shot", _said(verdict.zero_shot))
    table.add_row("tokenizer", verdict.tokenizer)
    table.add_row("weights", ", ".join(verdict.weights) or "none in open_clip's list; give a file")
    for other in dict.fromkeys(verdict.other_weights.values()):
        tags = [tag for tag, model in verdict.other_weights.items() if model == other]
        table.add_row(f"of {other}", f"{', '.join(tags)} (another activation)")
    print_parts(table)
    if verdict.pooled.yes:
        tag = verdict.weights[0] if verdict.weights else "FILE"
        print_parts(f"vidfeat extract SOURCE --out STORE.zarr --model {verdict.name} --pretrained {tag}")


def _said(can: Can) -> str:
    return f"yes: {can.how}" if can.yes else f"no: {can.reason}"


def _text_path(can: Can) -> str:
    from vidfeat.clip.verdicts import PATHS

    return f"yes, {PATHS[can.how]}" if can.yes else f"no: {can.reason}"
