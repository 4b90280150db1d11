"""The text tower of every family against open_clip's own, on configs cut in depth and width."""

from __future__ import annotations

import pytest
import torch
from text_families import FAMILIES, VOCAB, Family, family
from torch import Tensor

from vidfeat.backbone import BackboneConfig, TextConfig, VisionConfig


def encode_text(model: torch.nn.Module, ids: Tensor) -> Tensor:
    features = model(ids)
    return features[0] if isinstance(features, tuple) else features


@pytest.fixture(params=FAMILIES, scope="module")
def both(request: pytest.FixtureRequest) -> Family:
    return family(request.param)


def test_features_are_open_clips(both: Family) -> None:
    # float64: rounding is far below any difference that a wrong mask, norm or row would make.
    for ids in (both.texts(), both.texts(4, full=True)):
        torch.testing.assert_close(both.ours(ids), encode_text(both.theirs, ids), rtol=1e-9, atol=1e-9)


def test_features_are_open_clips_in_float32(both: Family) -> None:
    ids = both.texts()
    ours, theirs = both.ours.float(), both.theirs.float()
    expected = encode_text(theirs, ids)
    assert (ours(ids) - expected).norm(dim=1).max() < 1e-5 * expected.norm(dim=1).min()
    both.ours.double()
    both.theirs.double()


def test_what_is_not_needed_never_acts(both: Family) -> None:
    """`n_needed` is exact: another token behind it changes nothing, another one within it does."""
    ids = both.texts(6)
    needed, features = both.ours.n_needed(ids), both.ours(ids)
    for row, n in enumerate(needed.tolist()):
        if n < both.ours.config.context_length:
            changed = ids.clone()
            changed[row, n:] = 5
            torch.testing.assert_close(both.ours(changed)[row], features[row], rtol=0, atol=1e-12)
            torch.testing.assert_close(both.ours(ids[row : row + 1, :n])[0], features[row], rtol=0, atol=1e-12)
        changed = ids.clone()
        changed[row, 1] += 1
        assert not torch.allclose(both.ours(changed)[row], features[row], atol=1e-6)


def test_padding_acts_where_it_is_attended_to() -> None:
    for name in ("mobileclip", "siglip", "clipa"):
        both = family(name)
        ids = both.texts(3)
        with pytest.raises(ValueError, match=r"all .* positions change the feature"):
            both.ours(ids[:, :-1])
        changed = ids.clone()
        changed[:, -1] = 7
        assert not torch.allclose(both.ours(changed), both.ours(ids), atol=1e-6)


def test_cocas_mask_hides_the_row_behind_a_padding_token_within_the_text() -> None:
    both = family("coca")
    ids = both.texts(4)
    ids[:, 1] = 0  # "!" inside a text
    torch.testing.assert_close(both.ours(ids), encode_text(both.theirs, ids), rtol=1e-9, atol=1e-9)


def test_only_what_is_in_use_is_written(tmp_path) -> None:
    """Configs of today's models are byte for byte what they were; others name what they use."""
    vision = VisionConfig(image_size=8, patch_size=4, width=8, layers=1, heads=1)
    rest = {"image_mean": (0.5,) * 3, "image_std": (0.5,) * 3, "interpolation": "bicubic", "logit_scale": 10.0}
    for name in FAMILIES:
        text = family(name).ours.config
        config = BackboneConfig(name="x", pretrained="y", embed_dim=8, vision=vision, text=text, **rest)
        assert BackboneConfig.from_json(config.to_json()) == config
    plain = TextConfig(77, VOCAB, 8, 1, 1)
    config = BackboneConfig(name="x", pretrained="y", embed_dim=8, vision=vision, text=plain, **rest)
    assert list(config.to_json()["text"]) == [
        *("context_length", "vocab_size", "width", "layers", "heads", "mlp_ratio", "activation"),
    ]


@pytest.mark.parametrize(
    "wrong", [{"pooling": "eos"}, {"eos_id": 2}, {"pooling": "first"}, {"pooling": "class", "causal": False}]
)
def test_texts_that_could_not_be_read_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="text tower"):
        TextConfig(77, VOCAB, 8, 1, 1, **wrong)
