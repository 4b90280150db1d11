"""What installing weighs: the files of this environment that the package, and each of its extras, bring.

    python -m benchmarks install-size

An extra's share is what it adds to the plain install; counted are the files that an installer wrote down.
CUDA's part is that of the distributions named nvidia-*, triton and cuda-*, and of torch's own files that hold kernels
for a GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from prompttune.base.tensor_files import write_bytes
from prompttune.report.markdown import markdown_table

COMMAND = "python -m benchmarks install-size"
RESULT = Path(__file__).parent / "results" / "install_size.json"
EXTRAS = ("extract", "sklearn", "report", "ray", "s3")
OF_CUDA = ("nvidia-", "triton", "cuda-")
OF_CUDA_IN_TORCH = ("cuda", "cudnn", "cublas", "nvrtc", "cupti", "nccl")


def distributions(name: str, extras: Iterable[str] = ()) -> set[str]:
    """Names of a distribution and of everything it needs here, those of the extras included.

    Raises:
        PackageNotFoundError: one of them is not installed.
    """
    found: set[str] = set()
    open_ends = [(canonicalize_name(name), frozenset(extras))]
    seen = set()
    while open_ends:
        one = open_ends.pop()
        if one in seen:
            continue
        seen.add(one)
        found.add(one[0])
        for line in metadata.requires(one[0]) or ():
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in one[1] or {""}):
                open_ends.append((canonicalize_name(needed.name), frozenset(needed.extras)))
    return found


def sizes(names: Iterable[str]) -> dict[str, int]:
    """Bytes of each distribution's files on disk."""
    return {name: sum(path.stat().st_size for path in _files(name)) for name in names}


def _files(name: str) -> list[Path]:
    paths = (Path(str(file.locate())) for file in metadata.files(name) or ())
    return [path for path in paths if path.is_file()]


def measure() -> dict[str, Any]:
    """The result file: bytes by part, versions, and the README's table."""
    plain = distributions("prompttune")
    of_plain = sizes(plain)
    of_cuda = sum(size for name, size in of_plain.items() if name.startswith(OF_CUDA))
    in_torch = sum(
        path.stat().st_size
        for path in _files("torch")
        if path.suffix in (".so", ".a") and any(word in path.name for word in OF_CUDA_IN_TORCH)
    )
    parts = {
        "prompttune": sum(of_plain.values()),
        "of it CUDA's packages": of_cuda,
        "of it torch's own kernels for a GPU": in_torch,
        "without both": sum(of_plain.values()) - of_cuda - in_torch,
    }
    for extra in EXTRAS:
        parts[f"[{extra}] adds"] = sum(sizes(distributions("prompttune", [extra]) - plain).values())
    system = f"{platform.system()}, Python {platform.python_version()}, torch {metadata.version('torch')}"
    return {
        "bytes": parts,
        "system": system,
        "readme": {
            "columns": ["what", "GB"],
            "rows": [[what, f"{size / 1e9:.2f}"] for what, size in parts.items()],
            "note": f"Files on disk. {system}.",
            "command": COMMAND,
        },
    }


def main(arguments: list[str]) -> int:
    """Measures, prints the table and writes it to benchmarks/results/install_size.json."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULT, help="result file (default: that of the README)")
    options = parser.parse_args(arguments)
    result = measure()
    write_bytes(options.out, (json.dumps(result, indent=1) + "\n").encode())
    print(markdown_table(result["readme"]["columns"], result["readme"]["rows"]))
    print(f"\n{result['readme']['note']}\nNext: python -m benchmarks readme")
    return 0
