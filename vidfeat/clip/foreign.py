"""An image tower that open_clip runs: rebuilt from a pack, for pooled features alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vidfeat.backbone import BackbonePack, ForeignVision, VisionTaps
from vidfeat.clip import door
from vidfeat.errors import UnsupportedModelError, explain


class ForeignTower(nn.Module):
    """open_clip's tower behind what an encoder asks of a VisionTower; it has no blocks to stop at."""

    n_layers = 0

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels: Tensor) -> Tensor:
        """[N E] features of pixels [N 3 H W], not normalised; open_clip's `encode_image`."""
        found = self.module(pixels)
        # A tower with `output_tokens` gives its tokens too.
        features: Tensor = found[0] if isinstance(found, tuple) else found
        return features

    def taps(self, pixels: Tensor, layers: Sequence[int] = ()) -> VisionTaps:
        """The pooled features; `layers` must be empty."""
        if layers:
            raise ValueError(f"a tower that open_clip runs has no tokens before blocks {list(layers)}")
        return VisionTaps(pooled=self(pixels), tokens={})


def foreign_tower(pack: BackbonePack) -> ForeignTower:
    """The tower of a pack whose image tower is open_clip's; frozen, eval, float32.

    Raises:
        UnsupportedModelError: open_clip (or timm) is not installed, or builds another tower than the pack was written
            from.
        PackError: damaged weights.
    """
    vision = pack.config.vision
    assert isinstance(vision, ForeignVision)
    name = f"{pack.config.name}, {pack.config.pretrained}"
    module = built(vision, name=name)
    state = pack.visual_state()
    if problems := state_problems(module, state):
        raise _another_tower(vision, name=name, got="; ".join(problems))
    for key, value in module.state_dict().items():
        if key not in state:
            state[key] = torch.zeros_like(value)
    module.load_state_dict(state, strict=True)
    return ForeignTower(module)


def built(vision: ForeignVision, *, name: str, device: str = "cpu") -> nn.Module:
    """open_clip's tower with initial weights.

    Raises:
        UnsupportedModelError: it cannot be built here.
    """
    try:
        return door.vision_module(vision.model, device=device)
    except ImportError as error:
        raise UnsupportedModelError(
            explain(
                "open_clip is not installed, and runs this image tower",
                where=name,
                got=error,
                fix='install the video side: pip install "prompttune[extract]"',
            )
        ) from None
    except Exception as error:
        # timm raises RuntimeError for a name it does not know, both raise others for settings they do not.
        raise _another_tower(vision, name=name, got=f"{type(error).__name__}: {error}") from error


def state_problems(module: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """What keeps a state from filling a tower, in words; counters of training steps are not asked for."""
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    expected = {name: shape for name, shape in expected.items() if not name.endswith("num_batches_tracked")}
    problems = [f"missing {name} {list(shape)}" for name, shape in expected.items() if name not in state]
    problems += [f"left over {name} {list(value.shape)}" for name, value in state.items() if name not in expected]
    problems += [
        f"{name} is {list(state[name].shape)}, not {list(shape)}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    hidden = len(problems) - 12
    return problems[:12] + ([f"and {hidden} more"] if hidden > 0 else [])


def _another_tower(vision: ForeignVision, *, name: str, got: str) -> UnsupportedModelError:
    def listed(versions: Mapping[str, str]) -> str:
        return ", ".join(f"{package} {version}" for package, version in versions.items()) or "none"

    return UnsupportedModelError(
        explain(
            f"the installed open_clip cannot run the image tower of {name}",
            where=f"installed: {listed(door.versions())}",
            expected=f"what its pack was written with: {listed(vision.versions)}",
            got=got,
            fix="install those versions; the store's features need no open_clip, new videos do",
        )
    )
