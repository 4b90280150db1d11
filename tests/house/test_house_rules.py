"""The rules of the house that no linter knows: what an import loads, and that the tree stays readable."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(p for package in ("vidfeat", "prompttune", "benchmarks") for p in (ROOT / package).rglob("*.py"))
HEAVY = ("open_clip", "torchvision", "timm", "decord", "av", "ray", "h5py")


def modules_loaded_by(code: str) -> set[str]:
    """Top-level names in `sys.modules` after a fresh interpreter has run `code`."""
    report = "import sys; print('\\n'.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def prompttune_modules() -> list[str]:
    return sorted(
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for p in SOURCES
        if p.is_relative_to(ROOT / "prompttune")
    )


def test_no_module_of_prompttune_loads_the_video_side() -> None:
    imports = "\n".join(f"import {name}" for name in prompttune_modules() if not name.endswith("__main__"))
    assert not modules_loaded_by(imports).intersection(HEAVY)


@pytest.mark.parametrize("module", ["vidfeat.cli", "prompttune.cli", "benchmarks.__main__"])
def test_help_loads_no_tensor_library(module: str) -> None:
    code = (
        f"import sys; sys.argv = ['command', '--help']\nfrom {module} import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code"
    )
    assert not modules_loaded_by(code).intersection({*HEAVY, "torch", "zarr", "pandas", "sklearn"})


def test_no_pickle_is_loaded() -> None:
    offenders = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called == "torch.load" and keywords.get("weights_only") != "True":
                offenders.append(f"{path.relative_to(ROOT)}:{node.lineno}")
            if called in {"pickle.load", "pickle.loads", "joblib.load"} or keywords.get("allow_pickle") == "True":
                offenders.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert offenders == []


def test_what_is_printed_is_never_markup() -> None:
    """Names of files, classes and runs are printed: `[red]` and `:cat:` in one are text, so no console reads markup."""
    makers = {ROOT / "vidfeat/extraction/progress.py", ROOT / "prompttune/base/console.py"}
    offenders = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func).rpartition(".")[2]
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            reads_markup = called == "TextColumn" and keywords.get("markup") != "False"
            if reads_markup or called == "from_markup" or (called == "Console" and path not in makers):
                offenders.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert offenders == []


def imports_of(path: Path, modules: dict[str, Path]) -> set[str]:
    """The project's modules that a file imports anywhere: inside functions and for types alone too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{name.name}" for name in node.names} & set(modules)
            found |= inner or ({node.module} & set(modules))
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names} & set(modules)
    return found


def test_no_files_import_each_other_in_a_circle() -> None:
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES
    }
    graph = {name: imports_of(path, modules) - {name} for name, path in modules.items()}
    circle = []
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = error.args[1]
    assert not circle, " -> ".join(circle)


def test_public_names_stay() -> None:
    """What others have written down: names of the package, commands, and where their entry points are."""
    import prompttune
    from benchmarks.__main__ import main as benchmarks
    from prompttune.cli.commands import cli
    from vidfeat.cli.commands import main as vidfeat

    names = "PromptClassifier __version__ classify_videos evaluate_prompts load_results open_store read_split_file"
    assert {*names.split(), "run_training"} <= set(prompttune.__all__)
    assert all(hasattr(prompttune, name) for name in prompttune.__all__)
    assert {"train", "plan", "eval", "classify", "methods", "prompts", "splits", "report"} <= set(cli.commands)
    commands = "extract plan info failures verify doctor crosscheck export import anchors"
    assert set(commands.split()) <= set(vidfeat.commands)
    assert {"quickstart", "run", "evidence", "report", "readme", "speed", "world"} <= set(benchmarks.commands)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"vidfeat": "vidfeat.cli:main", "prompttune": "prompttune.cli:main"}


@pytest.mark.parametrize(
    "words", ["train --method cop --store x", "train --metod coop", "train --method coop --store x --set optim.lrr=1"]
)
def test_a_mistyped_word_is_told_before_torch_is_imported(words: str) -> None:
    code = (
        f"import sys; sys.argv = ['prompttune', *'{words}'.split()]\nfrom prompttune.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 2"
    )
    assert not modules_loaded_by(code).intersection({*HEAVY, "torch", "numpy", "zarr", "pandas", "sklearn", "rich"})


def test_the_modules_of_a_training_load_neither_pandas_nor_scikit_learn() -> None:
    loaded = modules_loaded_by("import prompttune.training.fit, prompttune.cli.tables, prompttune.api.apply_prompts")
    assert not loaded.intersection({*HEAVY, "pandas", "sklearn", "scipy", "matplotlib", "tensorboard"})


def test_open_clip_has_one_door() -> None:
    """Its next release drops private names: what we use of it is read in one module."""
    root = Path(__file__).resolve().parents[2]
    using = [
        path.relative_to(root).as_posix()
        for package in ("vidfeat", "prompttune")
        for path in sorted((root / package).rglob("*.py"))
        if "import open_clip" in (text := path.read_text("utf-8")) or "from open_clip" in text
    ]
    assert using == ["vidfeat/clip/door.py"]


def test_of_open_clip_its_public_names_alone_are_used() -> None:
    """What `open_clip/__init__.py` exports: modules inside are its own business, private names all the more."""
    inside = {"coca_model", "constants", "factory", "model", "openai", "pretrained", "tokenizer", "transform"}
    inside |= {"hf_model", "modified_resnet", "timm_model", "transformer", "utils"}
    private = re.compile(r"_(?!_version__)")
    offenders = []
    for path in [*SOURCES, *(ROOT / "tests").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{name.name}" for name in node.names]
            elif isinstance(node, ast.Import):
                names = [name.name for name in node.names]
            else:
                names = [ast.unparse(node)] if isinstance(node, ast.Attribute) else []
            used = [name.split(".")[1] for name in names if name.startswith("open_clip.")]
            offenders += [f"{path.relative_to(ROOT)}: {name}" for name in used if name in inside or private.match(name)]
    assert offenders == []
