"""What the extraction pipeline costs beside its two bare halves: the encoder on ready pixels, and decoding alone.

`python -m benchmarks speed extract` writes clips, then times in turn, round after round:

    encoder-bound   a ViT on one core, decoding on the others: pipeline / bare encoder on pixels that lie in memory
    decode-bound    a tiny ViT, the same decoding processes: pipeline / decoding and preprocessing alone
    transfer        pixels from one process to another: shared-memory ring / pipe

Ratios compare the fastest rounds within one run: other work on the machine only adds time.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from benchmarks.speed.transfer import transfer_rates

if TYPE_CHECKING:
    from vidfeat.clip.encode import Encoder
    from vidfeat.extraction.recipe import Recipe

RESULT = Path(__file__).parents[1] / "results" / "speed_extract.json"
ENCODER_GOAL, DECODE_GOAL = 0.95, 1.0
FRAMES = 8
# image, patch, width, layers, joint width, as open_clip configures them; the tiny one only has to be fast.
SIZES = {
    "ViT-B-32": (224, 32, 768, 12, 512),
    "ViT-L-14-336": (336, 14, 1024, 24, 768),
    "tiny": (224, 56, 64, 1, 32),
}
LARGE, TINY = "ViT-B-32", "tiny"


@dataclass(frozen=True)
class Setting:
    """What is timed: n_videos clips of clip_seconds seconds, n_rounds times, encoded on `device`; `resize` as in
    `vidfeat extract`."""

    n_videos: int
    clip_seconds: float
    batch_frames: int
    n_rounds: int
    n_workers: int
    device: str = "cpu"
    resize: str = "workers"


def write_clips(folder: Path, setting: Setting) -> list[Path]:
    """Clips of 340 x 256 H.264 at 25 frames/s, of drifting noise: about the size and bit rate of Kinetics clips."""
    import av

    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 255, (40, 60, 3), dtype=np.uint8)
    paths = []
    for number in range(setting.n_videos):
        path = folder / "all" / f"{number:04d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
            for index in range(int(setting.clip_seconds * 25)):
                picture = np.roll(coarse, (index // 2 + number, index), axis=(0, 1)).repeat(7, 0).repeat(6, 1)
                picture = np.ascontiguousarray(picture[:256, :340])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        paths.append(path)
    return paths


class RandomPack:
    """Enough of a backbone pack for an Encoder: a tower of a given size with random weights."""

    def __init__(self, name: str) -> None:
        import torch

        from vidfeat.backbone import BackboneConfig, TextConfig, VisionConfig
        from vidfeat.backbone.vision import VisionTower
        from vidfeat.clip.openclip import OPENAI_MEAN, OPENAI_STD

        image_size, patch_size, width, layers, embed_dim = SIZES[name]
        vision = VisionConfig(image_size, patch_size, width, layers, heads=max(1, width // 64))
        text = TextConfig(context_length=77, vocab_size=49408, width=64, layers=1, heads=1)
        preprocessing = {"image_mean": OPENAI_MEAN, "image_std": OPENAI_STD, "interpolation": "bicubic"}
        self.config = BackboneConfig(name, "random", embed_dim, vision, text, logit_scale=1.0, **preprocessing)  # type: ignore[arg-type]
        torch.manual_seed(0)
        self._tower = VisionTower(vision, embed_dim=embed_dim).eval().requires_grad_(False)
        for parameter in self._tower.parameters():
            torch.nn.init.normal_(parameter, std=0.02)

    def vision_tower(self) -> Any:
        """The tower."""
        return self._tower


@contextmanager
def decoding_apart(cores: list[int]) -> Iterator[Callable[[], None]]:
    """Processes started inside run on all cores but the first; calling what is yielded moves this thread to the first.

    With one core there is nothing to keep apart; with no `cores` nothing is moved, as where a GPU encodes.
    """
    if not cores:
        yield lambda: None
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(cores[1:]) or set(cores))
    try:
        yield lambda: os.sched_setaffinity(0, {cores[0]})
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class Speed:
    """Frames per second of wall clock, and CPU seconds of the encoder's process (all its threads) per frame."""

    frames_per_second: float
    cpu_seconds: float


def pipeline_speed(encoder: Encoder, recipe: Recipe, paths: list[Path], setting: Setting, cores: list[int]) -> Speed:
    """The speed of a whole extraction into a real store, from its first batch to its last."""
    from vidfeat.extraction.meter import Meter
    from vidfeat.extraction.options import Machine
    from vidfeat.extraction.plan import BatchClock
    from vidfeat.extraction.unit_runner import UnitRunner, pixel_stream
    from vidfeat.store import POOLED, StoreSpec, StoreWriter, TapSpec
    from vidfeat.video.manifest import VideoItem

    items = [VideoItem(id=path.name, path=str(path), label="all") for path in paths]
    taps = (TapSpec(POOLED, (encoder.config.embed_dim,)),)
    clock, begin = BatchClock(), encoder.begin
    with tempfile.TemporaryDirectory() as folder:
        writer = StoreWriter.create(Path(folder, "X.zarr"), StoreSpec(taps, FRAMES), items)
        runner = UnitRunner(
            writer,
            recipe=recipe,
            encoder=clock.watch(encoder),
            batch_frames=setting.batch_frames,
            paths={item.id: item.path for item in items},
        )
        machine = Machine(setting.n_workers, resize=setting.resize)  # type: ignore[arg-type]
        sizes = {"batch_frames": setting.batch_frames, "n_videos": len(items)}
        with (
            decoding_apart(cores) as move_here,
            pixel_stream(recipe, machine, device=encoder.device, **sizes) as pixels,
        ):
            move_here()
            runner.run(writer.pending_units(), pixels, Meter())
    encoder.begin = begin  # type: ignore[method-assign]
    return Speed(clock.rate(), clock.cpu_seconds())


def encoder_speed(encoder: Encoder, setting: Setting, n_batches: int, cores: list[int]) -> Speed:
    """The speed of the encoder alone on pixels that lie in memory, on the core the pipeline gives it."""
    from vidfeat.extraction.recipe import ROW_DTYPE

    pixels = encoder.staging((setting.batch_frames, 3, *encoder.config.vision.image_hw), ROW_DTYPE)
    pixels[:] = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    with decoding_apart(cores) as move_here:
        move_here()
        encoder.encode(pixels)
        start, cpu_start, n_frames = time.monotonic(), time.process_time(), n_batches * setting.batch_frames
        finish = encoder.begin(pixels)
        for _ in range(n_batches - 1):  # two under way, as in the pipeline
            coming = encoder.begin(pixels)
            finish()
            finish = coming
        finish()
        return Speed(n_frames / (time.monotonic() - start), (time.process_time() - cpu_start) / n_frames)


def decoding_rate(recipe: Recipe, paths: list[Path], setting: Setting, cores: list[int]) -> float:
    """Frames/s of the same decoding processes when their rows are dropped on arrival; counted from the first row.

    They make pictures, whoever does in the pipeline.
    """
    import torch

    from vidfeat.extraction.options import Machine
    from vidfeat.extraction.unit_runner import pixel_stream
    from vidfeat.extraction.worker import PixelRows, VideoTask

    tasks = [VideoTask(index, index, path.name, str(path), (0, 1)) for index, path in enumerate(paths)]
    machine, here = Machine(workers=setting.n_workers), torch.device("cpu")
    sizes = {"batch_frames": setting.batch_frames, "n_videos": len(tasks)}
    n_rows, first = 0, 0.0
    with (
        decoding_apart(cores) as move_here,
        pixel_stream(recipe, machine, device=here, **sizes) as pixels,
    ):
        move_here()
        for event in pixels.stream(tasks, threading.Event()):
            if isinstance(event, PixelRows):
                first = first or time.monotonic()
                n_rows += len(event.pixels)
        return (n_rows - FRAMES) / (time.monotonic() - first)


def recipe_of(config: Any) -> Recipe:
    """FRAMES frames of a video, as a backbone takes them."""
    from vidfeat.extraction.recipe import Recipe
    from vidfeat.video.preprocess import Preprocess
    from vidfeat.video.sampling import SamplingPolicy

    preprocess = Preprocess(config.vision.image_size, mean=config.image_mean, std=config.image_std)
    return Recipe(preprocess, SamplingPolicy("segments-middle", n_frames=FRAMES))


def n_batches_of(setting: Setting) -> int:
    """Batches of the bare encoder, about as many as the clips fill."""
    return max(3, setting.n_videos * FRAMES // setting.batch_frames - 1)


def fastest_rates(model: str, precision: str, setting: Setting, paths: list[Path]) -> dict[str, float]:
    """Frames/s of one tower's bare encoder, of decoding alone and of the pipeline; nothing is pinned to a core."""
    from vidfeat.clip.encode import Encoder

    encoder = Encoder(RandomPack(model), device=setting.device, precision=precision)  # type: ignore[arg-type]
    recipe, n_batches, resized = recipe_of(encoder.config), n_batches_of(setting), replace(setting, resize="device")
    parts: dict[str, Callable[[], float]] = {
        "bare encoder": lambda: encoder_speed(encoder, setting, n_batches, []).frames_per_second,
        "decoding alone": lambda: decoding_rate(recipe, paths, setting, []),
        "pipeline": lambda: pipeline_speed(encoder, recipe, paths, setting, []).frames_per_second,
        "pipeline, --resize device": lambda: pipeline_speed(encoder, recipe, paths, resized, []).frames_per_second,
    }
    rounds = [{name: part() for name, part in parts.items()} for _ in range(setting.n_rounds)]
    return {name: max(round_[name] for round_ in rounds) for name in parts}


def measure(setting: Setting, paths: list[Path]) -> dict[str, list[float]]:
    """Every part in every round: frames/s, CPU seconds per frame ("cpu, ..."), bytes/s ("transfer, ...")."""
    import torch

    from vidfeat.clip.encode import Encoder

    cores = sorted(os.sched_getaffinity(0)) if setting.device == "cpu" else []
    torch.set_num_threads(1 if len(cores) > 1 else torch.get_num_threads())
    large, tiny = (Encoder(RandomPack(name), device=setting.device) for name in (LARGE, TINY))  # type: ignore[arg-type]
    recipe, n_batches = recipe_of(large.config), n_batches_of(setting)
    rounds: dict[str, list[float]] = {}
    for number in range(setting.n_rounds):
        parts = {
            "encoder": lambda: encoder_speed(large, setting, n_batches, cores),
            "pipeline, encoder-bound": lambda: pipeline_speed(large, recipe, paths, setting, cores),
            "pipeline, decode-bound": lambda: pipeline_speed(tiny, recipe, paths, setting, cores),
        }
        for name, part in parts.items():
            speed = part()
            rounds.setdefault(name, []).append(speed.frames_per_second)
            rounds.setdefault(f"cpu, {name}", []).append(speed.cpu_seconds)
        rounds.setdefault("decoding", []).append(decoding_rate(recipe, paths, setting, cores))
        for name, rate in transfer_rates().items():
            rounds.setdefault(f"transfer, {name}", []).append(rate)
        click.echo(f"round {number + 1}: " + ", ".join(f"{name} {rates[-1]:,.3g}" for name, rates in rounds.items()))
    return rounds


def summary(setting: Setting, rounds: dict[str, list[float]]) -> dict[str, Any]:
    """The document that is written: ratios of the fastest rounds, every round, and a table for the README."""
    best = {name: min(rates) if name.startswith("cpu") else max(rates) for name, rates in rounds.items()}
    ratios = {
        "pipeline / encoder": best["pipeline, encoder-bound"] / best["encoder"],
        "pipeline / decoding": best["pipeline, decode-bound"] / best["decoding"],
        "CPU time, encoder / pipeline": best["cpu, encoder"] / best["cpu, pipeline, encoder-bound"],
        "ring / pipe": best["transfer, ring"] / best["transfer, pipe"],
    }
    pairs = {"pipeline / encoder": ("pipeline, encoder-bound", "encoder")}
    pairs["pipeline / decoding"] = ("pipeline, decode-bound", "decoding")
    of_rounds = {
        name: [a / b for a, b in zip(rounds[over], rounds[under], strict=True)] for name, (over, under) in pairs.items()
    }
    encoder_rounds, decode_rounds = (f"{min(r):.2f} to {max(r):.2f}" for r in of_rounds.values())
    goals = {"pipeline / encoder": ENCODER_GOAL, "pipeline / decoding": DECODE_GOAL}
    n_cores = len(os.sched_getaffinity(0))
    encoder_at = "one CPU core" if setting.device == "cpu" else setting.device
    resized = "" if setting.resize == "workers" else ", frames resized on the encoder's device"
    cpu_ratio = f"{ratios['CPU time, encoder / pipeline']:.2f}"
    rows = [
        ["encoder-bound: pipeline / bare encoder", f"{ratios['pipeline / encoder']:.2f}", f">= {ENCODER_GOAL}"],
        ["decode-bound: pipeline / decoding alone", f"{ratios['pipeline / decoding']:.2f}", f">= {DECODE_GOAL}"],
        ["encoder-bound: CPU time of the bare encoder / of the pipeline", cpu_ratio, ""],
        ["pixels through shared memory / through a pipe", f"{ratios['ring / pipe']:.2f}", ""],
    ]
    return {
        "setting": setting.__dict__,
        "fastest": best,
        "ratio_of_each_round": of_rounds,
        "rounds": rounds,
        "ratios": ratios,
        "goals": {name: {"at_least": goal, "met": ratios[name] >= goal} for name, goal in goals.items()},
        "load_average": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "cpus": n_cores},
        "readme": {
            "columns": ["extraction", "ratio", "goal"],
            "rows": rows,
            "note": f"{setting.n_videos} clips of {setting.clip_seconds:g} s, {FRAMES} frames each, ViT-B-32 on "
            f"{encoder_at}, {setting.n_workers} decoding process(es) on the others{resized}; {n_cores} cores, "
            f"load {os.getloadavg()[0]:.1f}. Fastest of {setting.n_rounds} rounds; the first two ratios within single "
            f"rounds: {encoder_rounds}, and {decode_rounds}.",
            "command": "python -m benchmarks speed extract",
        },
    }


@click.command()
@click.option("--videos", "n_videos", default=48, show_default=True, help="Clips to extract.")
@click.option("--clip-seconds", default=4.0, show_default=True)
@click.option("--batch-frames", default=16, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--workers", default=1, show_default=True, help="Decoding processes.")
@click.option("--device", default="cpu", show_default=True, help="Of the encoder: cpu, cuda, cuda:1, mps.")
@click.option("--resize", type=click.Choice(["workers", "device"]), default="workers", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=False)
def extract(
    n_videos: int,
    clip_seconds: float,
    batch_frames: int,
    rounds: int,
    workers: int,
    device: str,
    resize: str,
    out: Path,
) -> None:
    """Time the extraction pipeline against the bare encoder and against decoding alone, where frames are resized by
    the workers."""
    from benchmarks.readme import markdown_table

    setting = Setting(n_videos, clip_seconds, batch_frames, rounds, workers, device, resize)
    with tempfile.TemporaryDirectory() as folder:
        result = summary(setting, measure(setting, write_clips(Path(folder), setting)))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    click.echo(markdown_table(result["readme"]["columns"], result["readme"]["rows"]))
    click.echo(f"\n{result['readme']['note']}\nWritten to {out}")


def main(arguments: list[str]) -> int:
    """0 when measured; click's exit code otherwise."""
    return extract.main(args=arguments, prog_name="python -m benchmarks speed extract", standalone_mode=False) or 0


if __name__ == "__main__":
    extract(prog_name="python -m benchmarks.speed.extract")
