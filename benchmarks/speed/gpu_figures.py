"""The figures of `speed gpu`: a line for the terminal, the result file, the README's table."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prompttune.base.tensor_files import write_bytes

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Figure:
    """One line: which part, of what, milliseconds by path, and how far from equal."""

    part: str
    of: str
    precision: str
    milliseconds: dict[str, float]
    megabytes: dict[str, float]
    error: float | None = None

    def line(self) -> str:
        """For the terminal."""
        times = ", ".join(f"{name} {value:.3g} ms" for name, value in self.milliseconds.items())
        error = "" if self.error is None else f"; differs by {self.error:.1e}"
        return f"{self.part:<7} {self.of:<34} {self.precision}  {times}{error}"


def machine() -> dict[str, str]:
    """Card, driver and versions."""
    import torch

    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split("\n")[0].strip()
    except (OSError, subprocess.CalledProcessError):
        driver = "unknown"
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    versions = {"torch": torch.__version__, "cuda": str(torch.version.cuda), "python": platform.python_version()}
    return {"card": card, "driver": driver, **versions}


def write(out: Path, setting: dict[str, Any], found: Sequence[Figure]) -> None:
    """The result file, with the README's table; a run that is killed meanwhile leaves the file that was there."""
    on = machine()
    rows = [
        [
            one.part,
            one.of,
            one.precision,
            "; ".join(f"{name}: {value:.3g}" for name, value in one.milliseconds.items()),
            "; ".join(f"{name}: {value:.0f}" for name, value in one.megabytes.items()),
            "" if one.error is None else f"{one.error:.0e}",
        ]
        for one in found
    ]
    note = (
        f"One {on['card']}, driver {on['driver']}, PyTorch {on['torch']}; medians of {setting['n_rounds']}. `text` and "
        "`visual` are a tower forward and backward, `step` a whole training step, `extract` a frame, the faster of two "
        "rounds; differences are relative, of float32 values and gradients from open_clip's, and of parameters after "
        "steps as a graph from those without."
    )
    table = {
        "columns": ["part", "of", "precision", "ms", "MB at the peak", "differs by"],
        "rows": rows,
        "note": note,
        "command": f"python -m benchmarks speed gpu --rounds {setting['n_rounds']}",
    }
    document = {
        "schema_version": SCHEMA_VERSION,
        "machine": on,
        "setting": setting,
        "figures": [asdict(one) for one in found],
        "readme": table,
    }
    write_bytes(out, (json.dumps(document, indent=2) + "\n").encode())


def put_into_readme(readme: Path) -> None:
    """Gives the README its block behind that of the text step, if it has none; `benchmarks readme` fills it."""
    begin, behind = "<!-- begin: speed_gpu -->", "<!-- end: speed_text -->\n"
    text = readme.read_text("utf-8")
    if begin not in text:
        block = f"{behind}\nOn a GPU:\n\n{begin}\n<!-- end: speed_gpu -->\n"
        readme.write_text(text.replace(behind, block, 1), encoding="utf-8")
