"""Views, frames and tokens of a step: the right ones, drawn per run, resumable, pooled features of the very same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from visual_store import VisualRecipe, write_visual_store

from prompttune.config.sections import FramesConfig
from prompttune.data.features import FeatureSource, open_source, read_features
from prompttune.data.frames import FrameSampler, TokenReader, VideoReader, make_sampler
from prompttune.errors import FeatureError
from prompttune.splits.split import VideoTable


@pytest.fixture(scope="module")
def source(visual_target: str) -> FeatureSource:
    return open_source(visual_target)


@pytest.mark.parametrize(("n_frames", "n_used"), [(8, 3), (8, 8), (5, 4), (7, 1), (32, 16)])
def test_one_frame_of_every_segment(n_frames: int, n_used: int) -> None:
    sampler = FrameSampler(FramesConfig(used=n_used), n_views=1, n_frames=n_frames, seeds=[1, 2])
    drawn = torch.stack([sampler.draw(50).frames for _ in range(20)])
    assert drawn.shape == (20, 2, 50, n_used)
    for segment in range(n_used):
        low, high = segment * n_frames // n_used, (segment + 1) * n_frames // n_used
        assert set(drawn[..., segment].flatten().tolist()) == set(range(low, high)), (
            "each frame of its segment is drawn"
        )


def test_views_are_drawn_only_when_asked_and_every_one_of_them() -> None:
    first = FrameSampler(FramesConfig(), n_views=3, n_frames=4, seeds=[1])
    assert first.draw(9).views.sum() == 0
    drawn = FrameSampler(FramesConfig(views="random"), n_views=3, n_frames=4, seeds=[1, 2]).draw(60)
    assert set(drawn.views.flatten().tolist()) == {0, 1, 2}
    assert not torch.equal(drawn.views[0], drawn.views[1])
    assert torch.equal(drawn.frames[0, 0], torch.arange(4))


def test_a_run_draws_what_it_draws_alone_and_goes_on_from_its_state() -> None:
    config = FramesConfig(used=2, views="random")
    sizes = {"n_views": 3, "n_frames": 8}
    together = FrameSampler(config, seeds=[1, 2], **sizes)
    alone = FrameSampler(config, seeds=[2], **sizes)
    for _ in range(3):
        one, other = together.draw(5), alone.draw(5)
        assert torch.equal(one.views[1:], other.views)
        assert torch.equal(one.frames[1:], other.frames)
    state = together.state()
    expected = together.draw(4)
    fresh = FrameSampler(config, seeds=[5, 6], **sizes)
    fresh.draw(1)
    fresh.load_state(state)
    found = fresh.draw(4)
    assert torch.equal(found.frames, expected.frames)
    assert torch.equal(found.views, expected.views)


def test_tokens_of_any_rows_views_and_frames(source: FeatureSource) -> None:
    reader = source.reader
    rows = np.array([[3, 0, 3], [7, 3, 1]])
    views = np.array([[0, 1, 1], [1, 0, 0]])
    frames = np.array([[[0, 2], [1, 3], [0, 1]], [[2, 3], [0, 3], [1, 2]]])
    found = TokenReader(source, 2).read(rows, views=views, frames=frames)
    assert found.shape == (2, 3, 2, 5, 32)
    for place in np.ndindex(rows.shape):
        whole = reader.rows("tokens/02", [rows[place]], view=int(views[place])).stacked()[0]
        assert torch.equal(found[place], torch.from_numpy(whole[frames[place]]))
    assert torch.equal(TokenReader(source, 0).read(rows[0])[1], torch.from_numpy(reader.rows("tokens/00", [0])[0]))


def test_tokens_keep_the_stored_dtype(tmp_path: Path) -> None:
    recipe = VisualRecipe(classes=("a", "b"), n_train=1, n_test=1, dtype="float16")
    half = open_source(write_visual_store(tmp_path / "half.zarr", recipe))
    assert TokenReader(half, 0).read(np.array([0, 1])).dtype == torch.float16


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (FramesConfig(), ()),
        (FramesConfig(views="random"), ()),
        (FramesConfig(used=2), (2,)),
        (FramesConfig(used=2, views="random"), (2,)),
    ],
)
def test_frozen_features_are_those_of_the_tokens(source: FeatureSource, config: FramesConfig, shape) -> None:
    """The rest of the frozen tower makes of a step's tokens the step's pooled features: same view, same frames."""
    rows = np.array([0, 2, 5, 9, 11])
    still = read_features(source, rows, reduce="mean")
    sampler = make_sampler(config, source, seeds=[1, 2], purpose="frames")
    reader = VideoReader(source, still, reduce="mean", sampler=sampler, tokens=TokenReader(source, 2))
    tower = source.pack.vision_tower()
    for _ in range(3):
        taken = reader.take(torch.tensor([[4, 1, 0], [2, 2, 3]]))
        assert taken.features.shape == (2, 3, *shape, 24)
        resumed = tower.resume(taken.tokens.flatten(0, 2), layer=2).unflatten(0, taken.tokens.shape[:3])
        expected = resumed if shape else resumed.mean(dim=2)
        torch.testing.assert_close(taken.features, expected, rtol=1e-4, atol=1e-4)


def test_nothing_is_drawn_where_there_is_nothing_to_draw(source: FeatureSource) -> None:
    assert make_sampler(FramesConfig(used=4), source, seeds=[1], purpose="frames") is None
    assert make_sampler(FramesConfig(), source, seeds=[1], purpose="frames") is None


def test_unequal_frames_are_refused(source: FeatureSource) -> None:
    class Ragged:
        n_frames_per_video = np.array([4, 5, 4])

    table = VideoTable(ids=(), labels=(), splits=(), groups=(), classes=(), usable=np.zeros(0, bool))
    ragged = FeatureSource("ragged.zarr", Ragged(), source.pack, table)  # type: ignore[arg-type]
    with pytest.raises(FeatureError, match="equally many"):
        TokenReader(ragged, 0).read(np.array([0, 1]))
