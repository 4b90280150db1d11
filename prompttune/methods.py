"""The methods: each a row of data over one training loop, the defaults of its authors with their source.

A method is a set of values for the configuration's tables, nothing else: which context trains, what it is coupled with,
what follows the frame features, which loss terms, which optimiser. So any part of one method can be put into another by
one `--set`, and what a result was made with is in its resolved configuration alone. No torch here: `prompttune methods`
and `--help` stay quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: what `--method` takes.
        summary: one line of plain words.
        source: paper and code its defaults come from.
        defaults: tables of the configuration; what is not named has the configuration's own default.
        requires: dotted keys that have no default and must be given.
        fit: "gradient" for the training loop; "closed-form" for what is computed from the training videos at once;
            "none" for what looks at no training video.
        text: which path of the text engine its training takes, and why.
    """

    name: str
    summary: str
    source: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    fit: Literal["gradient", "closed-form", "none"] = "gradient"
    text: str = "shared prefix: one context before every class name"


# Loss terms any method may weigh in its `losses` table; anchors have a section of their own.
LOSS_TERMS = {
    "cross-entropy": "classification of the training videos",
    "knowledge-guided": "KgCoOp: class features stay near those of the hand-written prompts (their weight: 8)",
    "zero-shot-consistency": "KL to the zero-shot prediction (ProGrad's knowledge loss)",
    "text-l1": "PromptSRC: L1 to the hand-written prompts' class features (their weight: 25)",
    "image-l1": "PromptSRC: L1 to the frozen video features (their weight: 10)",
    "logit-kl": "PromptSRC: KL to the zero-shot prediction, divided by the number of classes (their weight: 1)",
}

_COOP_OPTIM = {
    "name": "sgd",
    "lr": 2e-3,
    "epochs": 50,
    "batch_size": 32,
    "weight_decay": 5e-4,
    "momentum": 0.9,
    "warmup_epochs": 1.0,
    "warmup_lr": 1e-5,
}

_ROWS = (
    Method(
        name="zero-shot",
        summary="frozen CLIP, class names in a hand-written template",
        source="Radford et al. 2021; template of GA2-CLIP and Text4Vis, 'a video of a person {}.'",
        defaults={"context": {"kind": "none"}, "losses": {}, "optim": {"epochs": 0}},
        fit="none",
        text="frozen: encoded once",
    ),
    Method(
        name="coop",
        summary="one learned context for all classes, cross-entropy",
        source="Zhou et al. 2022 (CoOp), KaiyangZhou/CoOp configs/trainers/CoOp: M=16, end, SGD 2e-3, 1 warm-up epoch, "
        "batch 32. Theirs runs 50, 100 or 200 epochs for 1, 2-4, 8-16 shots; the default here is 50",
        defaults={"context": {"kind": "shared", "n_ctx": 16}, "optim": _COOP_OPTIM},
    ),
    Method(
        name="coop-csc",
        summary="CoOp with a context of its own for every class; it has none for new classes",
        source="Zhou et al. 2022 (CoOp), TRAINER.COOP.CSC True",
        defaults={
            "context": {"kind": "class", "n_ctx": 16},
            "optim": _COOP_OPTIM,
            "protocol": {"name": "few-shot"},
        },
        text="packed: a context per class leaves only the start token to share",
    ),
    Method(
        name="kgcoop",
        summary="CoOp held near the hand-written prompts' class features",
        source="Yao et al. 2023 (KgCoOp), htyao89/KgCoOp: lambda 8, M=4 from words, SGD 2e-3, 100 epochs, batch 128",
        defaults={
            "context": {"kind": "shared", "n_ctx": 4, "init": "a video of a"},
            "losses": {"cross-entropy": 1.0, "knowledge-guided": 8.0},
            "optim": {**_COOP_OPTIM, "epochs": 100, "batch_size": 128},
        },
    ),
    Method(
        name="ga2-text",
        summary="GA2-CLIP's text half: soft context coupled with frozen hard prompts of another data set",
        source="GA2-CLIP (arXiv 2511.22125), BBYL9413/GA2-CLIP@ef49d5a modules/video_clip.py: M=16, [hard; soft] on "
        "the channel axis -> Linear -> ReLU -> Dropout 0.5; AdamW, 12 epochs of which 2 warm-up, weight decay 1e-3, "
        "batch 64; lr 4e-2 x clip_ratio: 4e-3 (HMDB-51, SSv2) here, 4e-2 (K400, UCF-101) there. Theirs draws a dropout "
        "mask per class (coupling.dropout_mask) and adds deep prompts in blocks 1-8 (context.prompt_depth = 9)",
        defaults={
            "context": {"kind": "shared", "n_ctx": 16},
            "coupling": {"variant": "released", "dropout": 0.5},
            "optim": {
                "name": "adamw",
                "lr": 4e-3,
                "epochs": 12,
                "batch_size": 64,
                "weight_decay": 1e-3,
                "warmup_epochs": 2.0,
                "warmup_lr": 0.0,
            },
        },
        requires=("coupling.hard_prompts",),
        text="shared prefix; with a dropout mask per class: packed",
    ),
)

METHODS: dict[str, Method] = {method.name: method for method in _ROWS}
