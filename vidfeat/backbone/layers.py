"""torch's layers without their initial draw: every tower is filled from a state right after it is built.

The draw would cost seconds for a large CLIP and move the global random state; on the meta device it also makes torch
import its decompositions, about 5 s of CPU in every process that opens a pack.
"""

from __future__ import annotations

from torch import nn


class Linear(nn.Linear):
    """`nn.Linear` whose parameters hold nothing until a state is loaded."""

    def reset_parameters(self) -> None:
        """Leaves the parameters as they are."""


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` whose parameters hold nothing until a state is loaded."""

    def reset_parameters(self) -> None:
        """Leaves the parameters as they are."""


class Embedding(nn.Embedding):
    """`nn.Embedding` whose rows hold nothing until a state is loaded."""

    def reset_parameters(self) -> None:
        """Leaves the parameters as they are."""


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` whose parameters hold nothing until a state is loaded."""

    def reset_parameters(self) -> None:
        """Leaves the parameters as they are."""
