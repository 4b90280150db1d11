"""Class names as prompts: what stands where, and what is refused."""

from __future__ import annotations

import pytest
from text_towers import CLASS_NAMES, WordTokenizer

from prompttune.errors import ClassPromptError
from prompttune.text.class_prompts import ClassPrompts

TOKENIZER = WordTokenizer()


def spelled(prompts: ClassPrompts, class_index: int) -> list[str]:
    """A prompt's slots in words."""
    words = {TOKENIZER.encode(word)[0]: word for word in ("ride", "bike", "a", "video", "of", "now", ".")}
    words[TOKENIZER.eot_id] = "EOT"
    return [f"ctx{~slot}" if slot < 0 else words[slot] for slot in prompts.slots(class_index)]


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("end", "ctx0 ctx1 ctx2 ride bike . EOT"),
        ("front", "ride bike ctx0 ctx1 ctx2 . EOT"),
        ("middle", "ctx0 ride bike ctx1 ctx2 . EOT"),
    ],
)
def test_context_stands_where_coop_puts_it(position: str, expected: str) -> None:
    prompts = ClassPrompts.build(["ride_bike"], TOKENIZER, n_ctx=3, position=position)  # type: ignore[arg-type]
    assert " ".join(spelled(prompts, 0)) == expected
    assert prompts.n_tokens(0) == 1 + len(expected.split())


def test_a_template_puts_words_around_the_name() -> None:
    prompts = ClassPrompts.build(["ride"], TOKENIZER, n_ctx=2, position="middle", template="a video of {} now.")
    assert " ".join(spelled(prompts, 0)) == "ctx0 a video of ride ctx1 now . EOT"
    bare = ClassPrompts.build(["ride"], TOKENIZER, n_ctx=2, position="middle", template="{}")
    assert " ".join(spelled(bare, 0)) == "ctx0 ride ctx1 EOT"


def test_plain_layout_says_what_stands_at_each_position() -> None:
    layout = ClassPrompts.build(["ride bike", "a"], TOKENIZER, n_ctx=2, position="front").plain_layout()
    assert layout.token_ids.shape == (2, 77)
    assert layout.ctx_index[:, :8].tolist() == [[-1, -1, -1, 0, 1, -1, -1, -1], [-1, -1, 0, 1, -1, -1, -1, -1]]
    assert layout.eot_index.tolist() == [6, 5]
    assert layout.token_ids[0, :7].tolist() == [
        TOKENIZER.sot_id,
        *TOKENIZER.encode("ride bike"),
        0,
        0,
        *TOKENIZER.encode("."),
        TOKENIZER.eot_id,
    ]
    assert layout.token_ids[0, 7:].sum() == 0


class MergingTokenizer(WordTokenizer):
    """Reads `).` as one token, as CLIP's does."""

    def encode(self, text: str) -> list[int]:
        return super().encode(text.replace(").", "@"))


def test_signs_that_merge_with_the_full_stop_belong_to_the_name() -> None:
    """As in CoOp: the name is as many tokens as it has alone, counted in the whole prompt's."""
    tokenizer = MergingTokenizer()
    prompts = ClassPrompts.build(["hurling (sport)"], tokenizer, n_ctx=1, position="front")
    assert prompts.slots(0) == (*tokenizer.encode("hurling (sport)."), ~0, tokenizer.eot_id)


def test_prompts_that_do_not_fit_are_named_with_their_count() -> None:
    names = ["run", "a " * 70 + "bike", "b " * 58]
    with pytest.raises(ClassPromptError) as error:
        ClassPrompts.build(names, TOKENIZER, n_ctx=16)
    message = str(error.value)
    assert "bike' makes a prompt of 90 tokens, 13 more than the text tower's 77" in message
    assert "fewer than 16 context vectors" in message
    assert "'run'" not in message
    assert "b b'" not in message  # 58 + 19 = 77 just fits


def test_all_problems_come_together() -> None:
    with pytest.raises(ClassPromptError) as error:
        ClassPrompts.build(["brush_hair", "run", "brush hair", " ", "x " * 80], TOKENIZER, n_ctx=4)
    message = str(error.value)
    assert "3 problem(s)" in message
    assert "'brush_hair' and 'brush hair' are the same tokens" in message
    assert "class 3 has an empty name (' ')" in message
    assert "86 tokens" in message or "87 tokens" in message


@pytest.mark.parametrize("template", ["a video.", "{} and {}."])
def test_templates_without_one_place_are_refused(template: str) -> None:
    with pytest.raises(ClassPromptError, match="exactly one"):
        ClassPrompts.build(["run"], TOKENIZER, n_ctx=4, template=template)


def test_no_classes_and_no_such_position_are_refused() -> None:
    with pytest.raises(ClassPromptError, match="no class names"):
        ClassPrompts.build([], TOKENIZER, n_ctx=4)
    with pytest.raises(ClassPromptError, match="no such place"):
        ClassPrompts.build(["run"], TOKENIZER, n_ctx=4, position="back")  # type: ignore[arg-type]


def test_a_subset_keeps_names_and_order() -> None:
    prompts = ClassPrompts.build(CLASS_NAMES, TOKENIZER, n_ctx=2)
    some = prompts.subset([4, 1])
    assert some.class_names == (CLASS_NAMES[4], CLASS_NAMES[1])
    assert some.slots(1) == prompts.slots(1)
