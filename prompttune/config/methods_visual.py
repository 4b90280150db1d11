"""Methods that learn in the vision tower, too: they train on the tokens that enter their first prompted block."""

from __future__ import annotations

from prompttune.config.method import (
    DASSL_OPTIM,
    GA2_DIFFERS,
    GA2_OPTIM,
    GA2_RECIPES,
    HALF,
    IMAGES,
    IVLP_OPTIM,
    NO_AUGMENTATION,
    Method,
)

_MAPLE = "muzairkhattak/multimodal-prompt-learning@904dbd7"
_PROMPTSRC = "muzairkhattak/PromptSRC@8be7dcf"
_VPT_RELEASE = f"{_MAPLE} trainers/vpt.py; configs/trainers/VPT/vit_b16_c2_ep5_batch4_4.yaml"
_VPT_DIFFERS = ("classes in templates.zero_shot; theirs 'a photo of a {}.'", NO_AUGMENTATION, HALF)
_VPT_DEFAULTS = {"context": {"kind": "none"}, "optim": {**IVLP_OPTIM, "epochs": 5}}

ROWS = (
    Method(
        name="vpt",
        summary="visual prompts at the first block alone, classes as hand-written prompts",
        source="Jia et al. 2022 (VPT shallow): 8 tokens, SGD 2.5e-3, batch 4, 5 epochs, one at 1e-5",
        release=_VPT_RELEASE,
        differs=("one block; the release's configuration prompts all 12 (method vpt-deep)", *_VPT_DIFFERS),
        defaults={**_VPT_DEFAULTS, "visual": {"n_prompts": 8, "depth": 1}},
        text="frozen: encoded once",
    ),
    Method(
        name="vpt-deep",
        summary="visual prompts of their own at every block, classes as hand-written prompts",
        source="Jia et al. 2022 (VPT deep): 8 tokens, 12 blocks, SGD 2.5e-3, batch 4, 5 epochs. A tower of fewer "
        "blocks needs a visual.depth of its own",
        release=_VPT_RELEASE,
        differs=_VPT_DIFFERS,
        defaults={**_VPT_DEFAULTS, "visual": {"n_prompts": 8, "depth": 12}},
        text="frozen: encoded once",
    ),
    Method(
        name="ivlp",
        summary="deep text prompts and deep visual prompts, independent of each other",
        source="Rasheed et al. 2023: 4 + 4 tokens, 9 blocks, context from words, SGD 2.5e-3, 20 epochs, batch 4; "
        "recipe 'maple-repository' is the MaPLe repository's: 2 + 2 tokens, 12 blocks, 3.5e-3, 5 epochs",
        release=f"{_PROMPTSRC} trainers/independentVL.py; configs/trainers/IVLP/vit_b16_c2_ep20_batch4_4+4ctx.yaml",
        differs=(IMAGES, NO_AUGMENTATION, HALF),
        defaults={
            "context": {"kind": "shared", "n_ctx": 4, "init": "a video of a", "prompt_depth": 9},
            "visual": {"n_prompts": 4, "depth": 9},
            "optim": IVLP_OPTIM,
        },
        recipes={
            "maple-repository": {
                "context": {"n_ctx": 2, "init": "a video", "words_behind": "of a", "prompt_depth": 12},
                "visual": {"n_prompts": 2, "depth": 12},
                "optim": {"lr": 3.5e-3, "epochs": 5},
            }
        },
    ),
    Method(
        name="maple",
        summary="deep text prompts, and visual prompts that are a linear map of them at every block",
        source="Khattak et al. 2023 (MaPLe): 2 tokens, 9 blocks, the first 2 of 4 words and the other 2 frozen behind "
        "them, SGD 3.5e-3, 5 epochs, batch 4; cross-dataset 3 blocks, 2.6e-3, 2 epochs",
        release=f"{_MAPLE} trainers/maple.py; configs/trainers/MaPLe/vit_b16_c2_ep5_batch4_2ctx.yaml",
        differs=(
            IMAGES,
            "the maps of the deeper blocks start each as drawn for itself; theirs as copies of one another",
            NO_AUGMENTATION,
            HALF,
        ),
        defaults={
            "context": {
                "kind": "shared",
                "n_ctx": 2,
                "init": "a video",
                "words_behind": "of a",
                "prompt_depth": 9,
            },
            "visual": {"n_prompts": 2, "depth": 9, "source": "from-text"},
            "optim": {**DASSL_OPTIM, "lr": 3.5e-3, "epochs": 5, "batch_size": 4},
        },
        recipes={
            "cross-dataset": {
                "context": {"prompt_depth": 3},
                "visual": {"depth": 3},
                "optim": {"lr": 2.6e-3, "epochs": 2},
            }
        },
    ),
    Method(
        name="promptsrc",
        summary="IVLP held near frozen CLIP's classes, videos and predictions, averaged over epochs",
        source="Khattak et al. 2023 (PromptSRC): 4 + 4 tokens, 9 blocks, text L1 25, image L1 10, logit KL 1, SGD "
        "2.5e-3, 20 epochs, batch 4, aggregation N(15, 1); few-shot 50 epochs, N(30, 30); cross-dataset 3 blocks, "
        "N(6, 10)",
        release=f"{_PROMPTSRC} trainers/promptsrc.py; configs/trainers/PromptSRC/*.yaml",
        differs=(
            "one template for its text teacher; theirs averages 60 for images (templates.ensemble = '@promptsrc')",
            "its image teacher is the pooled tap of the same view and frames",
            IMAGES,
            NO_AUGMENTATION,
            HALF,
        ),
        defaults={
            "context": {"kind": "shared", "n_ctx": 4, "init": "a video of a", "prompt_depth": 9},
            "visual": {"n_prompts": 4, "depth": 9},
            "losses": {"cross-entropy": 1.0, "text-l1": 25.0, "image-l1": 10.0, "logit-kl": 1.0},
            "aggregation": {"mean": 15.0, "std": 1.0},
            "optim": IVLP_OPTIM,
            "templates": {"average": "raw"},
        },
        recipes={
            "few-shot": {"optim": {"epochs": 50}, "aggregation": {"mean": 30.0, "std": 30.0}},
            "cross-dataset": {
                "context": {"prompt_depth": 3},
                "visual": {"depth": 3},
                "aggregation": {"mean": 6.0, "std": 10.0},
            },
        },
    ),
    Method(
        name="vifi-vl",
        summary="IVLP on the frames of videos: 16 + 16 tokens, frames averaged before they are normalised",
        source="Rasheed et al. 2023 (ViFi-CLIP): 16 + 16 tokens, 9 blocks, AdamW 4e-2, 11 epochs of which 5 warm-up, "
        "betas (0.9, 0.98), weight decay 1e-3, total batch 64, label smoothing 0.1; few-shot 10 + 10, 12 blocks, "
        "8e-3, 50 epochs",
        release="muzairkhattak/ViFi-CLIP@dea0d7e trainers/vificlip.py, utils/optimizer.py; "
        "configs/base2novel/prompting_base2novel",
        differs=(
            "starts from the CLIP of the store; theirs from a CLIP tuned on Kinetics-400",
            "no mixing; theirs mixes pixels (mixup 0.8, cutmix 1), which no cache can (targets.mixup_alpha mixes "
            "features)",
            "a batch at once; theirs two halves, which moves its schedule by half a step (optim.accumulate = 2)",
            "all stored frames; theirs 32, and 4 x 3 views where multi-view testing is on",
            "float32; theirs mixed float16",
        ),
        defaults={
            "context": {"kind": "shared", "n_ctx": 16, "prompt_depth": 9},
            "visual": {"n_prompts": 16, "depth": 9},
            "targets": {"label_smoothing": 0.1},
            "optim": {
                **GA2_OPTIM,
                "lr": 4e-2,
                "epochs": 11,
                "betas": (0.9, 0.98),
                "schedule": "vifi",
                "warmup_epochs": 5.0,
            },
        },
        recipes={
            "few-shot": {
                "context": {"n_ctx": 10, "prompt_depth": 12},
                "visual": {"n_prompts": 10, "depth": 12},
                "optim": {"lr": 8e-3, "epochs": 50},
            }
        },
    ),
    Method(
        name="ga2",
        summary="GA2-CLIP whole: IVLP whose text input is coupled with frozen hard prompts of another data set",
        source="GA2-CLIP (arXiv 2511.22125): 16 + 16 tokens, 9 blocks, text input [hard; soft] on the channel axis -> "
        "Linear -> ReLU -> Dropout 0.5, deep prompts plain; AdamW, 12 epochs of which 2 warm-up, weight decay 1e-3, "
        "batch 64; lr 4e-3 (HMDB-51, SSv2), 4e-2 (K400, UCF-101)",
        release="BBYL9413/GA2-CLIP@ef49d5a modules/video_clip.py, clip/model.py; configs/base2novel, logs",
        differs=GA2_DIFFERS,
        defaults={
            "context": {"kind": "shared", "n_ctx": 16, "prompt_depth": 9},
            "visual": {"n_prompts": 16, "depth": 9},
            "coupling": {"variant": "released", "dropout": 0.5},
            "optim": GA2_OPTIM,
        },
        recipes=GA2_RECIPES,
        requires={"coupling": {"hard_prompts": ["PROMPT.safetensors"]}},
        text="shared prefix; with a dropout mask per class: packed",
    ),
    Method(
        name="ga2-plus",
        summary="deep text and visual prompts held by three anchor losses that follow the task's gradient, averaged "
        "over epochs",
        source="ours: benchmarks/ga2_plus.toml searched it, docs/findings.md compares it. GA2-CLIP's optimiser, random "
        "context and anchors, nothing coupled; distill, text-anchor and feature at 0.3, 0.3 and 0.1 of the task's "
        "gradient; PromptSRC's average, N(12, 1) of 16 epochs. Found with 4 + 4 tokens in every block of a small CLIP; "
        "9 blocks here, as PromptSRC has of 12",
        defaults={
            "context": {"kind": "shared", "n_ctx": 4, "prompt_depth": 9},
            "visual": {"n_prompts": 4, "depth": 9},
            "anchors": {
                "loss": "distill",
                "weighting": "balanced",
                "weight": 0.3,
                "also": {"text-anchor": 0.3, "feature": 0.1},
            },
            "aggregation": {"mean": 12.0, "std": 1.0},
            "optim": {**GA2_OPTIM, "lr": 1e-2, "epochs": 16, "batch_size": 32, "drop_last": False},
        },
        requires={"anchors": {"store": "IRRELEVANT.zarr"}},
    ),
)
