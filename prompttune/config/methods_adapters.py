"""Methods over fixed features: a probe, a cache, a small network; classes are hand-written prompts or none."""

from __future__ import annotations

from prompttune.config.method import DASSL_OPTIM, Method

_TIP_RELEASE = "gaopengcuhk/Tip-Adapter@327763e main.py, utils.py; configs/*.yaml"
_TIP_DIFFERS = (
    "alpha 1.17, searched up to 3, and beta 1 up to 7: ImageNet's; theirs for each data set (recipe = 'ucf101', 'dtd', "
    "'eurosat')",
    "keys from the centre crop; theirs the mean of 10 augmented passes (head.tip_keys = 'views' with a store of 11 "
    "views: vidfeat extract --views 11)",
    "adds nothing for classes without training videos, which theirs has none of",
    "where --val is not given nothing is searched; theirs searches on the data set's validation videos",
    "float32; theirs float16",
)
_TIP_RECIPES = {
    "ucf101": {"head": {"tip_alpha": 3.0}},
    "dtd": {"head": {"tip_alpha": 2.0, "tip_largest_alpha": 13.0, "tip_largest_beta": 13.0}},
    "eurosat": {"head": {"tip_alpha": 2.0, "tip_largest_alpha": 10.0, "tip_largest_beta": 12.0}},
}

ROWS = (
    Method(
        name="linear-probe",
        summary="logistic regression on the pooled features; its strength chosen on validation shots",
        source="Radford et al. 2021, appendix A.3: L-BFGS, C over 1e-6 ... 1e6, then 8 halvings; min(shots, 4) "
        "validation shots. It has no logits for new classes",
        release="KaiyangZhou/CoOp@61a9cd3 lpclip/linear_probe.py",
        differs=(
            "validation shots are taken from the training shots (protocol.val_shots); theirs are drawn beside them",
            "one draw per seed; theirs the mean of 10 runs",
        ),
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
        source="Zhang et al. 2022 (Tip-Adapter): alpha 1.17, beta 1; with validation shots (--val) both are searched "
        "on them, 20 x 200 values",
        release=_TIP_RELEASE,
        differs=_TIP_DIFFERS,
        defaults={
            "context": {"kind": "none"},
            "losses": {},
            "head": {"adapter": "tip-adapter"},
            "optim": {"epochs": 0},
        },
        recipes=_TIP_RECIPES,
        fit="closed-form",
        text="frozen: encoded once",
    ),
    Method(
        name="tip-adapter-f",
        summary="Tip-Adapter whose cache keys train",
        source="Zhang et al. 2022 (Tip-Adapter-F): AdamW 1e-3, eps 1e-4, 20 epochs, batch 256, cosine",
        release=_TIP_RELEASE,
        differs=(
            "the keys of the last epoch, or the best on --val; theirs of the epoch that is best on the test set",
            "queries from the centre crop; theirs augmented (frames.views = 'random')",
            *_TIP_DIFFERS,
        ),
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
        recipes={**_TIP_RECIPES, "eurosat": _TIP_RECIPES["eurosat"] | {"optim": {"epochs": 100}}},
        text="frozen: encoded once",
    ),
    Method(
        name="clip-adapter",
        summary="a small bottleneck network beside the pooled feature, classes as hand-written prompts",
        source="Gao et al. 2021 (CLIP-Adapter): ratio 0.2, reduction 4, no biases",
        release="gaopengcuhk/CLIP-Adapter@9ac913a clip_adapter.py",
        differs=(
            "the release has no optimiser settings: CoOp's are taken, with the 200 epochs of Tip-Adapter's Table 1",
            "float32; theirs float16",
        ),
        defaults={
            "context": {"kind": "none"},
            "head": {"adapter": "clip-adapter"},
            "optim": {**DASSL_OPTIM, "epochs": 200},
        },
        text="frozen: encoded once",
    ),
)
