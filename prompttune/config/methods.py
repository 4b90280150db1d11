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


# Loss terms any method may weigh in its `losses` table, and where the class of each is. What a class takes is set in
# `loss_options`; anchors have a section of their own.
LOSS_TERMS = {
    "cross-entropy": "prompttune.losses.terms:CrossEntropy",
    "knowledge-guided": "prompttune.losses.terms:KnowledgeGuided",
    "zero-shot-consistency": "prompttune.losses.terms:ZeroShotConsistency",
    "text-l1": "prompttune.losses.terms:TextL1",
    "image-l1": "prompttune.losses.terms:ImageL1",
    "logit-kl": "prompttune.losses.terms:LogitKL",
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

_IVLP_OPTIM = {**_COOP_OPTIM, "lr": 2.5e-3, "epochs": 20, "batch_size": 4}
_GA2_OPTIM = {
    "name": "adamw",
    "lr": 4e-3,
    "epochs": 12,
    "batch_size": 64,
    "weight_decay": 1e-3,
    "warmup_epochs": 2.0,
    "warmup_lr": 0.0,
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
        name="cocoop",
        summary="CoOp whose context is shifted by each video's feature",
        source="Zhou et al. 2022 (CoCoOp), KaiyangZhou/CoOp: M=4 from words, hidden E/16, SGD 2e-3, 10 epochs, batch 1",
        defaults={
            "context": {"kind": "image", "n_ctx": 4, "init": "a video of a"},
            "optim": {**_COOP_OPTIM, "epochs": 10, "batch_size": 1},
        },
        text="shared prefix per video: every video encodes all classes again",
    ),
    Method(
        name="tcp",
        summary="KgCoOp with tokens made of each class's hand-written feature, entering at block 8",
        source="Yao et al. 2024 (TCP), htyao89/Textual-based_Class-aware_prompt_tuning: lambda 8, M=4, hidden 128, "
        "Adam 2e-3, 50 epochs, batch 32. eps is 1e-3 there for half precision, 1e-8 here. A tower of fewer than 9 "
        "blocks needs a context.class_tokens_block of its own",
        defaults={
            "context": {"kind": "shared", "n_ctx": 4, "init": "a video of a", "class_tokens_block": 8},
            "losses": {"cross-entropy": 1.0, "knowledge-guided": 8.0},
            "optim": {**_COOP_OPTIM, "name": "adam"},
        },
        text="shared prefix up to the block where class tokens enter, packed from there",
    ),
    Method(
        name="prograd",
        summary="CoOp whose steps never go against the zero-shot prediction: conflicting gradients are projected",
        source="Zhu et al. 2023 (ProGrad), trainers/prograd.py: lambda 1, T 1, SGD 2e-3, batch 32; theirs runs 50, 100 "
        "or 200 epochs for 1, 2-4, 8-16 shots; the default here is 50. Two backward passes through the text tower",
        defaults={
            "context": {"kind": "shared", "n_ctx": 16},
            "losses": {"cross-entropy": 1.0, "zero-shot-consistency": 1.0},
            "optim": {**_COOP_OPTIM, "gradient": "prograd"},
        },
    ),
    Method(
        name="promptsrc-text",
        summary="PromptSRC's text half: deep context held near hand-written prompts, averaged over epochs",
        source="Khattak et al. 2023 (PromptSRC), muzairkhattak/PromptSRC@8be7dcf: M=4 from words, depth 9, text L1 25, "
        "logit KL 1, SGD 2.5e-3, 20 epochs, batch 4, aggregation N(15, 1). Its image term (10) needs visual prompts; "
        "its text teacher is a mean over 60 templates (templates.ensemble)",
        defaults={
            "context": {"kind": "shared", "n_ctx": 4, "init": "a video of a", "prompt_depth": 9},
            "losses": {"cross-entropy": 1.0, "text-l1": 25.0, "logit-kl": 1.0},
            "aggregation": {"mean": 15.0, "std": 1.0},
            "optim": {**_COOP_OPTIM, "lr": 2.5e-3, "epochs": 20, "batch_size": 4},
        },
    ),
    Method(
        name="a5",
        summary="context before and behind the class name, and a temporal transformer over frames",
        source="Ju et al. 2022 (A5), ju-chen/Efficient-Prompt@93852c4: 16 prefix and 16 postfix vectors N(0, 0.01^2), "
        "temperature 0.07, AdamW 1e-4, weight decay 0.01, batch 64. Theirs counts iterations (1e5, a restarting cosine "
        "down to a hundredth); here 50 epochs of one cosine. Theirs contrasts at most 400 class names at a time",
        defaults={
            "context": {"kind": "shared", "n_ctx": 32, "position": "middle", "init_std": 0.01},
            "head": {"temporal": "transformer", "logit_scale": 1.0 / 0.07},
            "optim": {
                "name": "adamw",
                "lr": 1e-4,
                "epochs": 50,
                "batch_size": 64,
                "weight_decay": 1e-2,
                "warmup_epochs": 0.0,
            },
        },
        text="shared prefix for the vectors before the name; those behind it run per class",
    ),
    Method(
        name="linear-probe",
        summary="logistic regression on the pooled features; its strength chosen on validation shots",
        source="Radford et al. 2021, appendix A.3; KaiyangZhou/CoOp@61a9cd3 lpclip/linear_probe.py: L-BFGS, C over "
        "1e-6 ... 1e6, then 8 halvings; min(shots, 4) validation shots. It has no logits for new classes",
        defaults={
            "context": {"kind": "none"},
            "losses": {},
            "head": {"adapter": "linear-probe"},
            "protocol": {"name": "few-shot", "val_shots": 4},
            "optim": {"epochs": 0},
        },
        fit="closed-form",
        text="none: the text tower plays no part",
    ),
    Method(
        name="tip-adapter",
        summary="zero-shot logits plus a cache of the training videos; nothing trains",
        source="Zhang et al. 2022 (Tip-Adapter), gaopengcuhk/Tip-Adapter@327763e: alpha 1.17, beta 1; with validation "
        "shots (--val) both are searched on them, 20 x 200 values. Adds nothing for new classes",
        defaults={
            "context": {"kind": "none"},
            "losses": {},
            "head": {"adapter": "tip-adapter"},
            "optim": {"epochs": 0},
        },
        fit="closed-form",
        text="frozen: encoded once",
    ),
    Method(
        name="tip-adapter-f",
        summary="Tip-Adapter whose cache keys train",
        source="Zhang et al. 2022 (Tip-Adapter-F), gaopengcuhk/Tip-Adapter@327763e: AdamW 1e-3, eps 1e-4, 20 epochs, "
        "batch 256, cosine. Theirs keeps the epoch that is best on the test set; here the last, or --val",
        defaults={
            "context": {"kind": "none"},
            "head": {"adapter": "tip-adapter", "train_keys": True},
            "optim": {
                "name": "adamw",
                "lr": 1e-3,
                "eps": 1e-4,
                "epochs": 20,
                "batch_size": 256,
                "weight_decay": 1e-2,
                "warmup_epochs": 0.0,
            },
        },
        text="frozen: encoded once",
    ),
    Method(
        name="clip-adapter",
        summary="a small bottleneck network beside the pooled feature, classes as hand-written prompts",
        source="Gao et al. 2021 (CLIP-Adapter), gaopengcuhk/CLIP-Adapter@9ac913a: ratio 0.2, reduction 4, no biases. "
        "Its repository has no optimiser settings; CoOp's are taken, with the 200 epochs of Tip-Adapter's Table 1",
        defaults={
            "context": {"kind": "none"},
            "head": {"adapter": "clip-adapter"},
            "optim": {**_COOP_OPTIM, "epochs": 200},
        },
        text="frozen: encoded once",
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
            "optim": _GA2_OPTIM,
        },
        requires=("coupling.hard_prompts",),
        text="shared prefix; with a dropout mask per class: packed",
    ),
    Method(
        name="vpt",
        summary="visual prompts at the first block alone, classes as hand-written prompts",
        source="Jia et al. 2022 (VPT shallow); muzairkhattak/multimodal-prompt-learning trainers/vpt.py and its "
        "config: 8 tokens, SGD 2.5e-3, batch 4, 5 epochs, 1 warm-up epoch at 1e-5",
        defaults={
            "context": {"kind": "none"},
            "visual": {"n_prompts": 8, "depth": 1},
            "optim": {**_IVLP_OPTIM, "epochs": 5},
        },
        text="frozen: encoded once",
    ),
    Method(
        name="vpt-deep",
        summary="visual prompts of their own at every block, classes as hand-written prompts",
        source="Jia et al. 2022 (VPT deep); muzairkhattak/multimodal-prompt-learning trainers/vpt.py, "
        "configs/trainers/VPT: 8 tokens, 12 blocks, SGD 2.5e-3, batch 4, 5 epochs. A tower of fewer blocks "
        "needs a visual.depth of its own",
        defaults={
            "context": {"kind": "none"},
            "visual": {"n_prompts": 8, "depth": 12},
            "optim": {**_IVLP_OPTIM, "epochs": 5},
        },
        text="frozen: encoded once",
    ),
    Method(
        name="ivlp",
        summary="deep text prompts and deep visual prompts, independent of each other",
        source="Rasheed et al. 2023; muzairkhattak/PromptSRC@8be7dcf trainers/independentVL.py, "
        "configs/trainers/IVLP: 4 + 4 tokens, 9 blocks, context from words, SGD 2.5e-3, 20 epochs, batch 4 "
        "(the MaPLe repository's IVLP: 2 + 2 tokens, 12 blocks, 3.5e-3, 5 epochs)",
        defaults={
            "context": {"kind": "shared", "n_ctx": 4, "init": "a video of a", "prompt_depth": 9},
            "visual": {"n_prompts": 4, "depth": 9},
            "optim": _IVLP_OPTIM,
        },
    ),
    Method(
        name="maple",
        summary="deep text prompts, and visual prompts that are a linear map of them at every block",
        source="Khattak et al. 2023 (MaPLe), muzairkhattak/multimodal-prompt-learning trainers/maple.py, "
        "configs/trainers/MaPLe/vit_b16_c2_ep5_batch4_2ctx.yaml: 2 tokens, 9 blocks, SGD 3.5e-3, 5 epochs, "
        "batch 4; cross-dataset 3 blocks, 2.6e-3, 2 epochs. Theirs starts from the first 2 words of 'a "
        "photo of a' and keeps 'of a' behind them as frozen words; here the 2 learned tokens stand alone",
        defaults={
            "context": {"kind": "shared", "n_ctx": 2, "init": "a video", "prompt_depth": 9},
            "visual": {"n_prompts": 2, "depth": 9, "source": "from-text"},
            "optim": {**_IVLP_OPTIM, "lr": 3.5e-3, "epochs": 5},
        },
    ),
    Method(
        name="promptsrc",
        summary="IVLP held near frozen CLIP's classes, videos and predictions, averaged over epochs",
        source="Khattak et al. 2023 (PromptSRC), muzairkhattak/PromptSRC@8be7dcf trainers/promptsrc.py: 4 + 4 "
        "tokens, 9 blocks, text L1 25, image L1 10, logit KL 1, SGD 2.5e-3, 20 epochs, batch 4, aggregation"
        " N(15, 1); few-shot 50 epochs, N(30, 30); cross-dataset 3 blocks, N(6, 10). Its text teacher is a "
        "mean over 60 templates (templates.ensemble); its image teacher is here the pooled tap of the same "
        "view and frames",
        defaults={
            "context": {"kind": "shared", "n_ctx": 4, "init": "a video of a", "prompt_depth": 9},
            "visual": {"n_prompts": 4, "depth": 9},
            "losses": {"cross-entropy": 1.0, "text-l1": 25.0, "image-l1": 10.0, "logit-kl": 1.0},
            "aggregation": {"mean": 15.0, "std": 1.0},
            "optim": _IVLP_OPTIM,
        },
    ),
    Method(
        name="vifi-vl",
        summary="IVLP on the frames of videos: 16 + 16 tokens, frames averaged before they are normalised",
        source="Rasheed et al. 2023 (ViFi-CLIP), muzairkhattak/ViFi-CLIP@e2d1948 "
        "configs/base2novel/prompting_base2novel: 16 + 16 tokens, 9 blocks, AdamW 4e-2, 11 epochs of which "
        "5 warm-up, betas (0.9, 0.98), weight decay 1e-3, total batch 64, label smoothing 0.1; few-shot 10 "
        "+ 10, 12 blocks, 8e-3, 50 epochs. Theirs starts from a CLIP tuned on Kinetics-400 and mixes pixels"
        " (mixup 0.8, cutmix 1), which no cache can; targets.mixup_alpha mixes features",
        defaults={
            "context": {"kind": "shared", "n_ctx": 16, "prompt_depth": 9},
            "visual": {"n_prompts": 16, "depth": 9},
            "targets": {"label_smoothing": 0.1},
            "optim": {
                **_GA2_OPTIM,
                "lr": 4e-2,
                "epochs": 11,
                "betas": (0.9, 0.98),
                "warmup_epochs": 5.0,
            },
        },
    ),
    Method(
        name="ga2",
        summary="GA2-CLIP whole: IVLP whose text input is coupled with frozen hard prompts of another data set",
        source="GA2-CLIP (arXiv 2511.22125), BBYL9413/GA2-CLIP@ef49d5a modules/video_clip.py, clip/model.py: 16 + "
        "16 tokens, 9 blocks, text input [hard; soft] on the channel axis -> Linear -> ReLU -> Dropout 0.5,"
        " deep prompts plain; AdamW, 12 epochs of which 2 warm-up, weight decay 1e-3, batch 64; lr 4e-3 "
        "(HMDB-51, SSv2) here, 4e-2 (K400, UCF-101) there. Theirs draws a dropout mask per class "
        '(coupling.dropout_mask) and adds an anchor without effect ([anchors] with loss = "additive", '
        'negatives = "released", n_anchors = 1, allow_inert = true)',
        defaults={
            "context": {"kind": "shared", "n_ctx": 16, "prompt_depth": 9},
            "visual": {"n_prompts": 16, "depth": 9},
            "coupling": {"variant": "released", "dropout": 0.5},
            "optim": _GA2_OPTIM,
        },
        requires=("coupling.hard_prompts",),
        text="shared prefix; with a dropout mask per class: packed",
    ),
)

METHODS: dict[str, Method] = {method.name: method for method in _ROWS}
