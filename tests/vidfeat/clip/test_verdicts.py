"""`vidfeat models`: models of the installed open_clip, judged by the code that loads them; all of them where the page
that lists them is held against it (tests/benchmarks/test_models_page.py)."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from vidfeat.cli import main
from vidfeat.clip.hub import shared_preprocessing
from vidfeat.clip.verdicts import judge
from vidfeat.errors import UnsupportedModelError


def test_one_model_is_judged_as_it_loads() -> None:
    verdict = judge("RN50")
    assert verdict.pooled.yes
    assert not verdict.visual_prompts.yes
    assert "ResNet" in verdict.visual_prompts.reason
    assert "openai" not in verdict.weights  # trained with QuickGELU: RN50-quickgelu's
    assert verdict.other_weights["openai"] == "RN50-quickgelu"
    assert "openai" in judge("RN50-quickgelu").weights
    # Its entry does not mention the activation, and there is no model with another.
    assert judge("roberta-ViT-B-32").weights == ("laion2b_s12b_b32k",)
    plain = judge("ViT-B-16")
    assert plain.tokens.how == "tokens@0 to tokens@12, [197 768] per frame"
    assert (plain.text_prompts.how, plain.zero_shot.yes) == ("shared-prefix", True)


def test_the_command_prints_and_writes_the_same() -> None:
    printed = CliRunner().invoke(main, ["models", "convnext_tiny"])
    assert printed.exit_code == 0, printed.output
    (written,) = json.loads(CliRunner().invoke(main, ["models", "convnext_tiny", "--json"]).output)
    assert written["name"] == "convnext_tiny"
    assert written["tokens"] == {"yes": False, "how": "", "reason": judge("convnext_tiny").tokens.reason}
    assert "no: its image tower (convnext_tiny) has" in printed.output
    assert "of ViT-B-16-quickgelu" in CliRunner().invoke(main, ["models", "ViT-B/16"]).output


def test_an_unknown_name_suggests_the_nearest_whatever_its_case() -> None:
    with pytest.raises(UnsupportedModelError, match="nearest names: PE-Core-B-16"):
        judge("pe-core-b16")
    found = CliRunner().invoke(main, ["models", "vit-b-16-siglip-2"])
    assert found.exit_code == 2
    assert "ViT-B-16-SigLIP2" in found.output


def test_a_file_of_weights_is_given_the_preprocessing_that_its_models_weights_share() -> None:
    perception = shared_preprocessing("PE-Core-B-16")
    assert (perception["mean"], perception["interpolation"], perception["resize_mode"]) == (
        (0.5, 0.5, 0.5),
        "bilinear",
        "squash",
    )
    assert shared_preprocessing("ViT-L-14") == {}  # laion2b's and openai's differ
    assert shared_preprocessing("hf-hub:someone/some-clip") == {}
