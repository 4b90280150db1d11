"""The encoder gives the tower's taps as arrays, on any device and precision it says it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from openclip_models import TINY, random_clip

from vidfeat.backbone.device import choose_device
from vidfeat.clip.encode import Encoder, choose_precision
from vidfeat.clip.in_flight import InStreams
from vidfeat.clip.openclip import from_state_dict
from vidfeat.video.preprocess import Preprocess


@pytest.fixture(scope="module")
def clip():
    return random_clip(TINY)


@pytest.fixture(scope="module")
def pack(clip, tmp_path_factory):
    return from_state_dict(clip.state_dict(), model_config=TINY).write_pack(tmp_path_factory.mktemp("p") / "pack")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((5, 3, 32, 32), dtype=np.float32)


def test_taps_are_the_models_own(pack, clip, pixels) -> None:
    taps = Encoder(pack, layers=[4, 0, 2, 2], device="cpu", precision="fp32").encode(pixels)
    with torch.no_grad():
        expected = clip.encode_image(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(taps.pooled, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert list(taps.tokens) == [0, 2, 4]
    assert {(tokens.shape, tokens.dtype) for tokens in taps.tokens.values()} == {((5, 17, 48), np.dtype("float32"))}


def test_bytes_are_normalised_to_the_bit_as_preprocessing_does(pack) -> None:
    """Every level of every channel: features are those of pixels that were normalised before they came."""
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(3, axis=1)
    pictures = np.tile(levels, (2, 1, 2, 2))
    config = pack.config
    preprocess = Preprocess(32, mean=config.image_mean, std=config.image_std)
    frames = np.ascontiguousarray(pictures.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(preprocess.pictures(frames)[0], pictures)
    encoder = Encoder(pack, layers=[0], device="cpu", precision="fp32")
    normalised = preprocess.apply(frames)[0]
    np.testing.assert_array_equal(encoder._normalised(torch.from_numpy(pictures)).numpy(), normalised)
    by_bytes, by_floats = encoder.encode(pictures), encoder.encode(normalised)
    np.testing.assert_array_equal(by_bytes.pooled, by_floats.pooled)
    np.testing.assert_array_equal(by_bytes.tokens[0], by_floats.tokens[0])


def test_torch_and_numpy_pixels_give_the_same(pack, pixels) -> None:
    encoder = Encoder(pack, device="cpu", precision="fp32")
    np.testing.assert_array_equal(encoder.encode(pixels).pooled, encoder.encode(torch.from_numpy(pixels)).pooled)


# Half precision keeps 11 bits (fp16) or 8 (bf16); over four blocks the largest error stays within about 10 roundings.
@pytest.mark.parametrize(
    ("precision", "tolerance", "token_dtype"), [("fp16", 5e-3, "float16"), ("bf16", 4e-2, "float32")]
)
def test_half_precisions_stay_close(pack, pixels, precision, tolerance, token_dtype) -> None:
    exact = Encoder(pack, layers=[2], device="cpu", precision="fp32").encode(pixels)
    taps = Encoder(pack, layers=[2], device="cpu", precision=precision).encode(pixels)
    assert taps.pooled.dtype == np.float32
    assert taps.tokens[2].dtype == token_dtype
    for found, expected in ((taps.pooled, exact.pooled), (taps.tokens[2], exact.tokens[2])):
        assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()


def test_the_packs_own_tower_stays_as_it_is(pack, pixels) -> None:
    Encoder(pack, device="cpu", precision="bf16").encode(pixels)
    assert {value.dtype for value in pack.vision_tower().parameters()} == {torch.float32}


def test_without_layers_only_pooled_features_come_back(pack, pixels) -> None:
    assert Encoder(pack, device="cpu").encode(pixels).tokens == {}


def test_an_empty_batch_gives_empty_taps(pack, pixels) -> None:
    taps = Encoder(pack, layers=[1], device="cpu").encode(pixels[:0])
    assert taps.pooled.shape == (0, 24)
    assert taps.tokens[1].shape == (0, 17, 48)


@pytest.mark.parametrize(
    ("batch", "hint"),
    [
        (np.zeros((2, 32, 32, 3), dtype=np.float32), "like frames"),
        (np.zeros((2, 3, 32, 32), dtype=np.int64), "like frames"),
        (np.zeros((2, 3, 64, 64), dtype=np.float32), "got torch.float32"),
        (np.zeros((3, 32, 32), dtype=np.float32), "got torch.float32"),
        (np.zeros((2, 1, 32, 32), dtype=np.float32), "got torch.float32"),
    ],
)
def test_wrong_pixels_are_refused(pack, batch, hint) -> None:
    with pytest.raises(ValueError, match=r"\[n 3 32 32\]") as raised:
        Encoder(pack, device="cpu").encode(batch)
    assert hint in str(raised.value)


def test_wrong_choices_are_refused(pack) -> None:
    with pytest.raises(ValueError, match=r"layers \[5, 9\] are not in \[0, 4\]"):
        Encoder(pack, layers=[9, 1, 5], device="cpu")
    with pytest.raises(ValueError, match="precision must be one of"):
        Encoder(pack, device="cpu", precision="fp8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is not available here"):
        choose_device("cuda:99")


def test_automatic_choices(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"
    assert choose_precision("auto", torch.device("cuda")) == "fp16"
    assert choose_precision("auto", torch.device("cpu")) == "fp32"
    assert choose_precision("bf16", torch.device("cpu")) == "bf16"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("fp16", 5e-3), ("bf16", 4e-2)])
def test_cuda_gives_what_the_cpu_gives(pack, pixels, precision, tolerance) -> None:
    exact = Encoder(pack, device="cpu", precision="fp32").encode(pixels).pooled
    found = Encoder(pack, device="cuda", precision=precision).encode(pixels).pooled
    assert np.abs(found - exact).max() < tolerance * np.abs(exact).max()


class Stream:
    """A stream that does everything at once, and writes down in which order it was asked for."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: Stream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")

    def record_event(self) -> Stream:
        return self

    def synchronize(self) -> None:
        self.log.append(f"host waits for {self.name}")


def test_streams_give_what_one_thread_gives_and_wait_for_each_other(pack, pixels, monkeypatch) -> None:
    """The order of what a GPU is told, without one: the streams' own doing is not simulated."""
    log: list[str] = []
    names = iter(("there", "back"))

    @contextmanager
    def inside(stream: Stream) -> Iterator[None]:
        log.append(f"{stream.name}:")
        yield

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(next(names), log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("between", log))
    monkeypatch.setattr(torch.cuda, "stream", inside)
    plain, encoder = (Encoder(pack, layers=[0, 2], device="cpu", precision="fp32") for _ in range(2))
    encoder._carrier = InStreams(torch.device("cpu"))
    batches = [pixels, pixels[::-1].copy()]
    for batch, finish in [(batch, encoder.begin(batch)) for batch in batches]:  # both under way
        found, expected = finish(), plain.encode(batch)
        np.testing.assert_array_equal(found.pooled, expected.pooled)
        assert list(found.tokens) == list(expected.tokens)
        assert all(np.array_equal(found.tokens[layer], expected.tokens[layer]) for layer in found.tokens)
    begun = ["there:", "between waits for there", "back waits for between", "back:"]
    assert log == [*begun, *begun, "host waits for back", "host waits for back"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_two_batches_under_way_on_a_gpu_are_each_their_own(pack, pixels) -> None:
    encoder = Encoder(pack, layers=[0, 2], device="cuda", precision="fp32")
    staged = []
    for scale in range(1, 9):
        staging = encoder.staging(pixels.shape, "float32")
        staging[:] = pixels * scale
        staged.append(staging)
    alone = [encoder.encode(staging) for staging in staged]
    together = [finish() for finish in [encoder.begin(staging) for staging in staged]]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.pooled, other.pooled)
        np.testing.assert_array_equal(one.tokens[2], other.tokens[2])
