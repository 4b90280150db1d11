"""What every model of the installed open_clip can do here, judged by the code that loads it; towers take no memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from vidfeat.backbone import ForeignVision, VisionConfig
from vidfeat.clip import door
from vidfeat.clip.config import TowerSizes, tower_sizes
from vidfeat.clip.hub import of_another_model, unknown_model
from vidfeat.errors import UnsupportedModelError

PATHS = {
    "shared-prefix": "shared prefix: what all classes begin with is encoded once",
    "full-length": "full length: every position of every class is computed",
}
FROZEN = "its text tower gives features of written prompts alone; no learned context enters it here"


@dataclass(frozen=True)
class Can:
    """Whether something can be done, and how, or why not.

    Attributes:
        yes: it can.
        how: in words; the text path, the tokens there are.
        reason: why not; empty where it can.
    """

    yes: bool
    how: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """One model.

    Attributes:
        name: open_clip's.
        image_size: height and width of its picture.
        embed_dim: E.
        pooled: one feature per frame, as `encode_image` gives it.
        tokens: the tokens entering any block.
        visual_prompts: learned rows beside the tokens.
        text_prompts: learned context in the text tower, by which exact path (a key of PATHS).
        zero_shot: class features of written prompts.
        tokenizer: where it comes from.
        weights: tags that open_clip knows, trained with the activation that the model has.
        other_weights: listed here, too, but trained with another activation: tag -> the model to take.
    """

    name: str
    image_size: tuple[int, int]
    embed_dim: int
    pooled: Can
    tokens: Can
    visual_prompts: Can
    text_prompts: Can
    zero_shot: Can
    tokenizer: str
    weights: tuple[str, ...]
    other_weights: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return asdict(self) | {"image_size": list(self.image_size), "weights": list(self.weights)}


def judge(name: str) -> Verdict:
    """What the model of that name can do here.

    Raises:
        UnsupportedModelError: open_clip has no such model; names the nearest.
    """
    config = door.model_config(name)
    if config is None:
        raise unknown_model(name)
    name = door.listed(name)
    vision = config["vision_cfg"]
    size = vision.get("image_size", 224)
    picture = (int(size), int(size)) if not isinstance(size, (list, tuple)) else (int(size[0]), int(size[1]))
    try:
        can = _of_towers(tower_sizes(config, name=name))
    except UnsupportedModelError as error:
        refused = Can(False, reason=str(error).splitlines()[0].removeprefix(f"{name} has "))
        can = dict.fromkeys(("pooled", "tokens", "visual_prompts", "text_prompts", "zero_shot"), refused)
    taken_by = {
        tag: of_another_model(name, tag, quick_gelu=bool(config.get("quick_gelu"))) for tag in door.weights_tags(name)
    }
    own = tuple(tag for tag, other in taken_by.items() if other is None)
    others = {tag: other for tag, other in taken_by.items() if other is not None}
    on_hub = config["text_cfg"].get("hf_tokenizer_name")
    tokenizer = f"tokenizer.json of the hub's {on_hub}" if on_hub else "CLIP's byte pairs, with open_clip"
    return Verdict(
        name, picture, int(config["embed_dim"]), tokenizer=tokenizer, weights=own, other_weights=others, **can
    )


def judge_all() -> Iterator[Verdict]:
    """One verdict after the other, in open_clip's order."""
    return map(judge, door.model_names())


def _of_towers(sizes: TowerSizes) -> dict[str, Can]:
    vision = sizes.vision
    if isinstance(vision, VisionConfig):
        last, shape = vision.layers, f"[{vision.n_tokens} {vision.width}]"
        pooled, tokens = Can(True, "rerun here"), Can(True, f"tokens@0 to tokens@{last}, {shape} per frame")
        visual = Can(True, f"join at block 0 to {last - 1}")
    else:
        assert isinstance(vision, ForeignVision)
        pooled = Can(True, "run by open_clip when videos are encoded")
        tokens = visual = Can(False, reason=vision.reason)
    path = sizes.text.path
    text = Can(True, path) if path in PATHS else Can(False, reason=FROZEN)
    return {
        "pooled": pooled,
        "tokens": tokens,
        "visual_prompts": visual,
        "text_prompts": text,
        "zero_shot": Can(True, "class features of written prompts" + ", by transformers" * (path == "frozen")),
    }
