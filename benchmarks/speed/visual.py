"""What a training step with visual prompts costs from block k, beside its share of the blocks and the plain path.

`python -m benchmarks speed visual` builds a vision tower of a given size with random weights (speed does not depend on
them), and times forward + backward of the prompts for every first block in turn, round after round, so that a slow
moment of the machine hits all of them. Ratios compare the fastest rounds within one run: other work only adds time.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

RESULT = Path(__file__).parents[1] / "results" / "speed_visual.json"
GOAL = 1.1


@dataclass(frozen=True)
class Setting:
    """What is timed.

    Attributes:
        model: a name of SIZES.
        n_frames: frames per step (N), the same for all runs.
        n_prompts, depth: rows per prompted block (M), prompted blocks at most (J; fewer where the tower ends).
        n_runs: R.
        n_rounds: how often each step is timed.
        n_threads: torch's threads.
    """

    model: str
    n_frames: int
    n_prompts: int
    depth: int
    n_runs: int
    n_rounds: int
    n_threads: int


# image, patch, width, layers, heads, joint width. Source: open_clip's model configs of these names.
SIZES = {
    "ViT-B-16": (224, 16, 768, 12, 12, 512),
    "ViT-B-32": (224, 32, 768, 12, 12, 512),
    "ViT-L-14": (224, 14, 1024, 24, 16, 768),
    "ViT-S-16": (224, 16, 384, 12, 6, 384),
}


def random_tower(model: str) -> Any:
    """A frozen VisionTower of that size with random weights."""
    import torch

    from vidfeat.backbone import VisionConfig, VisionTower

    image_size, patch_size, width, layers, heads, embed_dim = SIZES[model]
    config = VisionConfig(
        image_size=image_size, patch_size=patch_size, width=width, layers=layers, heads=heads, activation="quick_gelu"
    )
    tower = VisionTower(config, embed_dim=embed_dim).requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(0)
    # A tower is built without values: every one of them is set here.
    for name, value in tower.named_parameters():
        if ".ln_" not in name and not name.startswith("ln_"):
            value.normal_(std=width**-0.5, generator=generator)
        else:
            value.fill_(1.0 if name.endswith("weight") else 0.0)
    return tower


def plain_step(tower: Any, tokens: Any, prompts: Any) -> Any:
    """[R N E] with every row of every block computed, one run after the other: what the published code does."""
    import torch

    n_tokens, features = tokens.shape[1], []
    for run in range(prompts.n_runs):
        x = tokens
        for index in range(prompts.first_block, tower.n_layers):
            if index <= prompts.last_block:
                rows = prompts.rows[index - prompts.first_block][run]
                rows = tower.ln_pre(rows) if index == 0 else rows
                x = torch.cat([x[:, :n_tokens], rows.expand(len(x), -1, -1)], dim=1)
            x = tower.blocks[index](x)
        features.append(tower.pool(x))
    return torch.stack(features)


def timed_steps(
    setting: Setting, first_blocks: tuple[int, ...], *, device: str = "cpu", precision: str = "fp32"
) -> dict[str, Callable[[], None]]:
    """One forward and backward per name: `plain` and `block k`."""
    import torch

    from prompttune.base.devices import autocast
    from prompttune.config.sections import VisualConfig
    from prompttune.parts.visual_prompts import VisualContext, prompted_forward

    tower = random_tower(setting.model).to(device)
    shape = (setting.n_frames, tower.config.n_tokens, tower.config.width)
    tokens = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)

    def step(forward: Callable[..., Any], first_block: int) -> Callable[[], None]:
        depth = min(setting.depth, tower.n_layers - first_block)
        config = VisualConfig(n_prompts=setting.n_prompts, depth=depth, first_block=first_block)
        context = VisualContext(tower, config=config, seeds=range(setting.n_runs)).to(device)

        def run() -> None:
            context.zero_grad()
            with autocast(tokens.device, precision):
                features = forward(tower, tokens, prompts=context())
            features.float().square().mean().backward()

        return run

    steps = {f"block {k}": step(prompted_forward, k) for k in first_blocks}
    return {"plain": step(plain_step, 0)} | steps


def measure(setting: Setting, first_blocks: tuple[int, ...]) -> dict[str, dict[str, list[float]]]:
    """{step: {"wall" and "cpu": seconds of each round}}; one round of warming up is thrown away."""
    import torch

    torch.set_num_threads(setting.n_threads)
    steps = timed_steps(setting, first_blocks)
    seconds: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in steps}
    for round_index in range(setting.n_rounds + 1):
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            if round_index:
                seconds[name]["wall"].append(time.perf_counter() - wall)
                seconds[name]["cpu"].append(time.process_time() - cpu)
    return seconds


def summary(setting: Setting, seconds: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """The result file: setting, seconds, ratios, versions, and the README's table."""
    import torch

    fastest = {name: min(values["wall"]) for name, values in seconds.items()}
    n_layers = SIZES[setting.model][3]
    whole = fastest["block 0"]
    steps = []
    for name, best in fastest.items():
        if name == "plain":
            continue
        first_block = int(name.removeprefix("block "))
        share = (n_layers - first_block) / n_layers
        steps.append(
            {
                "first_block": first_block,
                "seconds_per_step": best,
                "share_of_blocks": share,
                "share_of_time": best / whole,
                "ratio_to_share": best / whole / share,
                "cpu_ratio_to_share": min(seconds[name]["cpu"]) / min(seconds["block 0"]["cpu"]) / share,
            }
        )
    return {
        "schema_version": 1,
        "setting": vars(setting),
        "goal": {"ratio_to_share_at_most": GOAL, "met": all(step["ratio_to_share"] <= GOAL for step in steps)},
        "plain_over_block_0": fastest["plain"] / whole,
        "steps": steps,
        "seconds": seconds,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "cpus": os.cpu_count()},
        "readme": _readme(setting, steps, fastest["plain"] / whole),
    }


def _readme(setting: Setting, steps: list[dict[str, Any]], plain_over_block_0: float) -> dict[str, Any]:
    rows = [["0, plain computation", f"{plain_over_block_0:.2f}", "1.00", ""]]
    rows += [
        [
            str(step["first_block"]),
            f"{step['share_of_time']:.2f}",
            f"{step['share_of_blocks']:.2f}",
            f"{step['ratio_to_share']:.2f}",
        ]
        for step in steps
    ]
    return {
        "columns": ["prompts join at block", "time of a step", "share of blocks", "ratio"],
        "rows": rows,
        "note": f"{setting.model}, {setting.n_frames} frames, {setting.n_prompts} rows in up to {setting.depth} "
        f"blocks, {setting.n_runs} run(s), forward and backward, {setting.n_threads} CPU threads; time relative to "
        f"block 0; "
        f"goal: ratio at most {GOAL}.",
        "command": f"python -m benchmarks speed visual --model {setting.model} --frames {setting.n_frames} "
        f"--rounds {setting.n_rounds} --threads {setting.n_threads}",
    }


@click.command()
@click.option("--model", type=click.Choice(list(SIZES)), default="ViT-B-16", show_default=True)
@click.option("--frames", default=4, show_default=True, help="Frames per step.")
@click.option("--prompts", default=16, show_default=True, help="Rows per prompted block.")
@click.option("--depth", default=9, show_default=True, help="Prompted blocks at most.")
@click.option("--runs", default=1, show_default=True, help="Runs trained together.")
@click.option("--rounds", default=6, show_default=True, help="Timed rounds.")
@click.option("--threads", default=os.cpu_count() or 1, help="CPU threads. [default: all]")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=False)
def visual(model: str, frames: int, prompts: int, depth: int, runs: int, rounds: int, threads: int, out: Path) -> None:
    """Time a step with visual prompts from blocks 0, L/4, L/2, 3L/4 and L-1, and the plain computation from block 0."""
    from benchmarks.readme import markdown_table

    setting = Setting(model, frames, prompts, depth, runs, rounds, threads)
    n_layers = SIZES[model][3]
    result = summary(setting, measure(setting, (0, n_layers // 4, n_layers // 2, 3 * n_layers // 4, n_layers - 1)))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    click.echo(markdown_table(result["readme"]["columns"], result["readme"]["rows"]))
    click.echo(f"\n{result['readme']['note']}\nWritten to {out}")


def main(arguments: list[str]) -> int:
    """0 when measured; click's exit code otherwise."""
    return visual.main(args=arguments, prog_name="python -m benchmarks speed visual", standalone_mode=False) or 0


if __name__ == "__main__":
    visual(prog_name="python -m benchmarks.speed.visual")
