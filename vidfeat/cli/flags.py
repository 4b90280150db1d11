"""Options that several commands take, and the types of their arguments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

FOLDER_OR_FILE = click.Path(path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def together(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """One decorator of several, in their order."""

    def decorate(command: Any) -> Any:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


MODEL_OPTIONS = together(
    click.option("--model", help="open_clip's name of the model, e.g. ViT-B-16-quickgelu."),
    click.option("--pretrained", help="open_clip's tag of the weights, e.g. openai, or a local checkpoint."),
    click.option("--model-config", type=FILE, help="A model config in open_clip's JSON, with --weights."),
    click.option("--weights", type=FILE, help="The weights of --model-config (safetensors, or a torch file)."),
    click.option("--base-weights", type=FILE, help="The CLIP that partial --weights started from."),
    click.option("--tokenizer", type=FOLDER_OR_FILE, help="tokenizer.json of a model whose tokenizer is on the hub."),
)
