"""A pass through the model as kernels of its own (`compile = true`): forward, losses, backward through torch.compile.

A pass is done once and every operation that PyTorch is asked for is noted, of the backward pass too, so that passes
written by hand are part of it like any other. What comes out is a straight line of operations on a step's inputs, the
frozen weights and the parameters, for one kind of step, which torch.compile makes kernels of. Nothing of Python is left
in it, and nothing in it may depend on a tensor's values, as in what a CUDA graph records. On CUDA it is these kernels
that are recorded (`step_graph.py`).

Kernels sum in another order than PyTorch's, so every step goes through them, the first included: a resumed training
then has the bits of an uninterrupted one.

Source: make_fx, https://docs.pytorch.org/docs/stable/fx.experimental.html.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from prompttune.base.compiling import compile_function
from prompttune.base.run_layers import RunDropout
from prompttune.base.shapes import without_values
from prompttune.errors import ConfigError, explain, note
from prompttune.training.micro_batch import MicroBatch
from prompttune.training.step_inputs import kind_of, mapped, tensors_of

SETTING = "compile"
Kernels = Callable[..., list[Tensor]]


class Passed(NamedTuple):
    """What a pass gives: gradients [R P], terms, their sum and accuracy [T + 2, R], terms' gradient norms [T R]."""

    gradients: Tensor
    row: Tensor
    norms: Tensor | None = None


class Pass(Protocol):
    """One micro-batch through the model and back."""

    def __call__(self, micro: MicroBatch, *, with_norms: bool) -> Passed: ...


class CompiledPass:
    """Does what `plain` does, through kernels that are made at the first micro-batch of each kind.

    Args:
        plain: depends on nothing but its inputs, the masks of `dropouts`, and tensors that keep their place.
        dropouts: of the model.
    """

    def __init__(self, plain: Pass, dropouts: Sequence[RunDropout]) -> None:
        self._plain, self._dropouts = plain, dropouts
        self._kernels: dict[Hashable, Kernels] = {}
        self._sizes: set[int] = set()

    def __call__(self, micro: MicroBatch, *, with_norms: bool) -> Passed:
        """The pass.

        Raises:
            ConfigError: no kernels can be made of it, or not here.
        """
        masks = self._masks(micro)
        inputs = tensors_of((micro, masks))
        kind = (with_norms, kind_of((micro, masks)))
        if kind not in self._kernels:
            note("compile = true makes kernels for each kind of batch as it comes: minutes, in which no step is done")
            noted = self._noted(micro, masks, with_norms=with_norms)
            self._kernels[kind] = compile_function(noted, setting=SETTING, fullgraph=True, dynamic=False)
        with torch.no_grad():
            return Passed(*self._kernels[kind](*inputs))

    def _masks(self, micro: MicroBatch) -> list[list[Tensor]]:
        """The masks of this step. With so many videos for the first time, a pass that counts for nothing finds out
        their shapes, makes what is made once, and looks at the values of what it is given."""
        size = micro.batch.labels.shape[1]
        if size not in self._sizes:
            before = [(dropout.get_extra_state(), list(dropout.ahead)) for dropout in self._dropouts]
            self._plain(micro, with_norms=False)
            for dropout, (state, ahead) in zip(self._dropouts, before, strict=True):
                dropout.ahead = ahead
                if not ahead:
                    dropout.set_extra_state(state)
                    dropout.send_ahead(size, micro.batch.labels.device)
            self._sizes.add(size)
        masks = [dropout.ahead for dropout in self._dropouts]
        for dropout in self._dropouts:
            dropout.ahead = []
        return masks

    def _noted(self, micro: MicroBatch, masks: list[list[Tensor]], *, with_norms: bool) -> Kernels:
        """The pass as a module of operations on the tensors of `micro` and `masks`.

        Raises:
            ConfigError: it looks at a value.
        """
        from torch.fx.experimental.proxy_tensor import make_fx

        def of_tensors(*inputs: Tensor) -> list[Tensor]:
            given = iter(inputs)
            own_micro, own_masks = mapped((micro, masks), lambda _: next(given))
            for dropout, own in zip(self._dropouts, own_masks, strict=True):
                dropout.ahead = list(own)
            return [tensor for tensor in self._plain(own_micro, with_norms=with_norms) if tensor is not None]

        with without_values():
            try:
                return make_fx(of_tensors)(*tensors_of((micro, masks)))
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[0]
                fix = f"{SETTING} = false"
                raise ConfigError(explain("this training cannot be compiled", got=reason, fix=fix)) from error
