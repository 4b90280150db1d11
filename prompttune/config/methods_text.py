"""Methods that learn in front of the text tower alone; videos are their frozen features."""

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

_COOP_EPOCHS = {
    "1-shot": {"optim": {"epochs": 50}},
    "2-4-shots": {"optim": {"epochs": 100}},
    "8-16-shots": {"optim": {"epochs": 200}},
}
_COOP_RELEASE = "KaiyangZhou/CoOp@a71dc5d trainers/coop.py; Dassl@27eb2f4 dassl/optim/lr_scheduler.py"
_EPOCHS_DIFFER = "50 epochs whatever the shots; theirs 50, 100 or 200 (recipe = '1-shot', '2-4-shots', '8-16-shots')"

ROWS = (
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
        source="Zhou et al. 2022 (CoOp): M=16 random, end, SGD 2e-3, one epoch at 1e-5, then a cosine, batch 32",
        release=f"{_COOP_RELEASE}; configs/trainers/CoOp/vit_b16*.yaml",
        differs=(
            _EPOCHS_DIFFER,
            "16 random tokens under base-to-new, too, so that they pair with GA2-CLIP's; theirs there 4 tokens from 'a "
            "photo of a' and 200 epochs (recipe = 'base-to-new')",
            "made for images; here a video's feature is the mean over its frames",
            NO_AUGMENTATION,
            HALF,
        ),
        defaults={"context": {"kind": "shared", "n_ctx": 16}, "optim": DASSL_OPTIM},
        recipes={
            **_COOP_EPOCHS,
            "base-to-new": {"context": {"n_ctx": 4, "init": "a video of a"}, "optim": {"epochs": 200}},
        },
    ),
    Method(
        name="coop-csc",
        summary="CoOp with a context of its own for every class; it has none for new classes",
        source="Zhou et al. 2022 (CoOp), TRAINER.COOP.CSC True",
        release=_COOP_RELEASE,
        differs=(_EPOCHS_DIFFER, "made for images; here a video's feature is the mean over its frames", HALF),
        defaults={
            "context": {"kind": "class", "n_ctx": 16},
            "optim": DASSL_OPTIM,
            "protocol": {"name": "few-shot"},
        },
        recipes=_COOP_EPOCHS,
        text="packed: a context per class leaves only the start token to share",
    ),
    Method(
        name="kgcoop",
        summary="CoOp held near the hand-written prompts' class features",
        source="Yao et al. 2023 (KgCoOp): lambda 8, M=4 from words, SGD 2e-3, 100 epochs, batch 128",
        release="htyao89/KgCoOp@ba0793c KgCoOp/trainers/kgcoop.py; configs/trainers/KgCoOp/vit_b16_ep100_ctxv1.yaml",
        differs=(
            IMAGES,
            "one template for all data sets, templates.zero_shot; theirs one each ('a photo of a person doing {}.' on "
            "UCF-101)",
            NO_AUGMENTATION,
            HALF,
        ),
        defaults={
            "context": {"kind": "shared", "n_ctx": 4, "init": "a video of a"},
            "losses": {"cross-entropy": 1.0, "knowledge-guided": 8.0},
            "optim": {**DASSL_OPTIM, "epochs": 100, "batch_size": 128},
        },
    ),
    Method(
        name="cocoop",
        summary="CoOp whose context is shifted by each video's feature",
        source="Zhou et al. 2022 (CoCoOp): M=4 from words, hidden E/16, SGD 2e-3, 10 epochs, batch 1",
        release="KaiyangZhou/CoOp@1fbb1a6 trainers/cocoop.py; "
        "configs/trainers/CoCoOp/vit_b16_c4_ep10_batch1_ctxv1.yaml",
        differs=(IMAGES, NO_AUGMENTATION, HALF),
        defaults={
            "context": {"kind": "image", "n_ctx": 4, "init": "a video of a"},
            "optim": {**DASSL_OPTIM, "epochs": 10, "batch_size": 1},
        },
        text="shared prefix per video: every video encodes all classes again",
    ),
    Method(
        name="tcp",
        summary="KgCoOp with tokens made of each class's hand-written feature, entering at block 8",
        source="Yao et al. 2024 (TCP): lambda 8, M=4 random, hidden E/4, Adam 2e-3, 50 epochs, batch 32. A tower of "
        "fewer than 9 blocks needs a context.class_tokens_block of its own",
        release="htyao89/Textual-based_Class-aware_prompt_tuning@680b736 trainers/tcp.py; "
        "configs/trainers/TCP/vit_b16_ep100_ctxv1.yaml",
        differs=(
            "no words between the learned tokens and the name; theirs a template for each data set whose first 4 "
            "tokens are learned, which leaves 'person doing' on UCF-101 (recipe = 'ucf101', or context.words_behind)",
            "optim.eps 1e-8; theirs 1e-3, for half precision",
            "made for images; here a video's feature is the mean over its frames",
            NO_AUGMENTATION,
            HALF,
        ),
        defaults={
            "context": {"kind": "shared", "n_ctx": 4, "class_tokens_block": 8, "class_tokens_hidden": "none"},
            "losses": {"cross-entropy": 1.0, "knowledge-guided": 8.0},
            "optim": {**DASSL_OPTIM, "name": "adam"},
        },
        recipes={"ucf101": {"context": {"words_behind": "person doing"}}},
        text="shared prefix up to the block where class tokens enter, packed from there",
    ),
    Method(
        name="prograd",
        summary="CoOp whose steps never go against the zero-shot prediction: conflicting gradients are projected",
        source="Zhu et al. 2023 (ProGrad): M=16, zeros before the template's words, lambda 1, T 1, SGD 2e-3, batch "
        "32. Two backward passes through the text tower",
        release="BeierZhu/Prompt-align@27ddd3b ProGrad.public/trainers/prograd.py; configs/trainers/ProGrad/rn50*.yaml",
        differs=(
            _EPOCHS_DIFFER,
            "one template for all data sets, templates.zero_shot; theirs one each",
            "made for images; here a video's feature is the mean over its frames",
            NO_AUGMENTATION,
            HALF,
        ),
        defaults={
            "context": {"kind": "shared", "n_ctx": 16, "init": "template", "init_pad": True},
            "losses": {"cross-entropy": 1.0, "zero-shot-consistency": 1.0},
            "optim": {**DASSL_OPTIM, "gradient": "prograd"},
        },
        recipes=_COOP_EPOCHS,
    ),
    Method(
        name="promptsrc-text",
        summary="PromptSRC's text half: deep context held near hand-written prompts, averaged over epochs",
        source="Khattak et al. 2023 (PromptSRC): M=4 from words, depth 9, text L1 25, logit KL 1, SGD 2.5e-3, 20 "
        "epochs, batch 4, aggregation N(15, 1)",
        release="muzairkhattak/PromptSRC@8be7dcf trainers/promptsrc.py; configs/trainers/PromptSRC/*.yaml",
        differs=(
            "no visual prompts and so no image term: method promptsrc has both",
            "one template for its teacher; theirs averages 60 for images (templates.ensemble = '@promptsrc')",
            IMAGES,
            NO_AUGMENTATION,
            HALF,
        ),
        defaults={
            "context": {"kind": "shared", "n_ctx": 4, "init": "a video of a", "prompt_depth": 9},
            "losses": {"cross-entropy": 1.0, "text-l1": 25.0, "logit-kl": 1.0},
            "aggregation": {"mean": 15.0, "std": 1.0},
            "optim": IVLP_OPTIM,
            "templates": {"average": "raw"},
        },
        recipes={
            "few-shot": {"optim": {"epochs": 50}, "aggregation": {"mean": 30.0, "std": 30.0}},
            "cross-dataset": {"context": {"prompt_depth": 3}, "aggregation": {"mean": 6.0, "std": 10.0}},
        },
    ),
    Method(
        name="a5",
        summary="context before and behind the class name, and a temporal transformer over frames",
        source="Ju et al. 2022 (A5): 16 prefix and 16 postfix vectors N(0, 0.01^2), temperature 0.07, AdamW 1e-4, "
        "weight decay 0.01, batch 64",
        release="ju-chen/Efficient-Prompt@93852c4",
        differs=(
            "50 epochs of one cosine; theirs 1e5 iterations, a restarting cosine down to a hundredth",
            "all class names in every step; theirs contrasts at most 400 at a time (classes.sample)",
            "all stored frames, once; theirs 16, five random samplings averaged at test",
        ),
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
        name="ga2-text",
        summary="GA2-CLIP's text half: soft context coupled with frozen hard prompts of another data set",
        source="GA2-CLIP (arXiv 2511.22125): M=16, [hard; soft] on the channel axis -> Linear -> ReLU -> Dropout 0.5; "
        "AdamW, 12 epochs of which 2 warm-up, weight decay 1e-3, batch 64; lr 4e-3 (HMDB-51, SSv2), 4e-2 (K400, "
        "UCF-101)",
        release="BBYL9413/GA2-CLIP@ef49d5a modules/video_clip.py; configs/base2novel, logs",
        differs=(
            "no deep prompts in blocks 1 to 8 (context.prompt_depth = 9) and no visual prompts: method ga2 has both",
            *GA2_DIFFERS,
        ),
        defaults={
            "context": {"kind": "shared", "n_ctx": 16},
            "coupling": {"variant": "released", "dropout": 0.5},
            "optim": GA2_OPTIM,
        },
        recipes=GA2_RECIPES,
        requires={"coupling": {"hard_prompts": ["PROMPT.safetensors"]}},
        text="shared prefix; with a dropout mask per class: packed",
    ),
)
