"""Layers of R runs: each run has its own weights, and its own random numbers for initial values and dropout."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from prompttune.base.devices import send
from prompttune.base.run_axis import RunGenerators, RunParameter
from prompttune.errors import explain


class RunLinear(nn.Module):
    """R linear layers along the run axis: `y[r] = x[r] @ weight[r].T + bias[r]`.

    Every run starts from `torch.nn.Linear`'s own default, drawn from its own generator: weight and bias uniform in
    `[-1/sqrt(n_in), 1/sqrt(n_in))`.

    Source: torch.nn.Linear.reset_parameters (kaiming_uniform with a = sqrt(5) is that uniform range).
    """

    def __init__(
        self, n_in: int, n_out: int, *, generators: RunGenerators, bias: bool = True, attention: bool = False
    ) -> None:
        """
        Args:
            attention: start like a projection of `torch.nn.MultiheadAttention` instead: bias 0, and, where one layer
                makes query, key and value together (n_out = 3 n_in), weights drawn Xavier-uniform.
        """
        super().__init__()
        bound = 1.0 / math.sqrt(n_in)
        weight_bound = math.sqrt(6.0 / (n_in + n_out)) if attention and n_out == 3 * n_in else bound
        bias_bound = 0.0 if attention else bound
        self.weight = RunParameter((generators.uniform(n_out, n_in) * 2 - 1) * weight_bound)
        self.bias = RunParameter((generators.uniform(n_out) * 2 - 1) * bias_bound) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """`[R ... n_out]` of `x [R ... n_in]`."""
        weight = self.weight()
        flat = x.reshape(x.shape[0], -1, x.shape[-1])
        if self.bias is None:
            y = torch.bmm(flat, weight.transpose(1, 2))
        else:
            y = torch.baddbmm(self.bias().unsqueeze(1), flat, weight.transpose(1, 2))
        return y.reshape(*x.shape[:-1], weight.shape[1])

    @torch.no_grad()
    def fill(self, *, weight: Tensor, bias: Tensor | None = None) -> None:
        """Sets every run's weight `[n_out n_in]` and bias `[n_out]` to the given values (bias: zero when None)."""
        for parameter in self.weight.runs:
            parameter.copy_(weight)
        for parameter in self.bias.runs if self.bias is not None else ():
            parameter.zero_() if bias is None else parameter.copy_(bias)


class RunLayerNorm(nn.Module):
    """R layer norms over the last axis, each starting at weight 1 and bias 0."""

    def __init__(self, width: int, *, n_runs: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = RunParameter(torch.ones(n_runs, width))
        self.bias = RunParameter(torch.zeros(n_runs, width))

    def forward(self, x: Tensor) -> Tensor:
        """`[R ... width]` of `x [R ... width]`."""
        normal = nn.functional.layer_norm(x, x.shape[-1:], eps=self.eps)
        shape = (x.shape[0], *[1] * (x.dim() - 2), x.shape[-1])
        return normal * self.weight().view(shape) + self.bias().view(shape)


class RunDropout(nn.Module):
    """Dropout whose masks come from the runs' own generators.

    The generators are part of `state_dict`: a resumed run draws the masks that an uninterrupted one would have drawn.
    """

    def __init__(self, p: float, *, generators: RunGenerators) -> None:
        """
        Raises:
            ValueError: `p` outside `[0, 1)`.
        """
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(explain("dropout is a probability", expected="0 <= p < 1", got=p))
        self.p = p
        self.generators = generators
        self.ahead: list[Tensor] = []  # masks of the next step, on the device
        self._shapes: dict[int, list[torch.Size]] = {}  # of the masks of a step, by its batch size
        self._noted: list[torch.Size] = []  # where the shapes of a step's masks are noted as they are needed

    def forward(self, x: Tensor) -> Tensor:
        """`x [R ...]`, elements zeroed with probability p, the rest divided by 1 - p; `x` itself in eval mode."""
        if not self.training or self.p == 0.0:
            return x
        if not self.ahead:
            self._noted.append(x.shape[1:])
        mask = self.ahead.pop(0) if self.ahead else self._draw(x.shape[1:], x.device)
        return x * mask.to(x.dtype)

    def send_ahead(self, batch_size: int, device: torch.device) -> None:
        """Draws the masks of the next step and sends them to the device, if a step on as many videos was seen; else it
        draws and sends them itself when it comes to them."""
        self._noted = self._shapes.setdefault(batch_size, [])
        self.ahead = [self._draw(shape, device) for shape in self._noted]

    def _draw(self, shape: torch.Size, device: torch.device) -> Tensor:
        return send((self.generators.uniform(*shape) >= self.p).float() / (1.0 - self.p), device)

    def get_extra_state(self) -> Tensor:
        """The generators' states, uint8 `[R n_bytes]`."""
        return self.generators.state()

    def set_extra_state(self, state: Tensor) -> None:
        """Puts the generators back to a state that `get_extra_state` gave."""
        self.generators.load_state(state)
