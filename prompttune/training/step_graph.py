"""A whole training step as one CUDA graph: its kernels are recorded once and launched together from then on.

A graph reads and writes the same memory every time, so a step's inputs are copied into buffers of its own (`_Buffers`)
first; parameters, moments and what the host reads never move anyway (`device_step.py`). There is one graph for each
kind of step: of the usual batch and of an epoch's last, with and without the terms' gradient norms. The first steps of
each kind run as ever, through the same buffers: they make what is made once.

Which trainings cannot be recorded is known beforehand (`why_eager`). What fails all the same falls back, with its
reason, and the step is done as ever: recording computes nothing, so nothing is done twice.

Source: PyTorch's documentation, "CUDA semantics", section "CUDA Graphs".
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prompttune.base.run_layers import RunDropout
from prompttune.config.train_config import TrainConfig
from prompttune.training.device_step import DeviceStep
from prompttune.training.micro_batch import MicroBatch
from prompttune.training.step_inputs import kind_of, mapped, tensors_of

EAGER_STEPS = 2  # of each kind, before it is recorded
Replay = Callable[[], None]


def why_eager(config: TrainConfig, device: torch.device) -> str | None:
    """Why a training's steps are no graph, in words; None where they are to be recorded."""
    if config.graph == "off":
        return 'graph = "off"'
    if device.type != "cuda":
        return "graphs are CUDA's"
    if config.classes.sample != "all":
        return "every step takes other classes (classes.sample)"
    if config.precision == "fp16":
        return "fp16's loss scale is read from the device at every step"
    if config.optim.accumulate > 1:
        return "a step is several passes (optim.accumulate)"
    return None


def record_on_cuda(work: Callable[[], None]) -> Replay:
    """The kernels of `work` as a graph; nothing is computed yet.

    Raises:
        RuntimeError: something in it cannot be recorded.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


@dataclass
class _Buffers:
    """What one kind of step reads.

    Attributes:
        micro, coefficients: tensors that keep their place.
        masks: of each dropout.
        n_eager: steps done so far without a graph.
        replay: does one step, once it is recorded.
        held: what the graph's kernels read besides, and nobody else may keep.
    """

    micro: MicroBatch
    masks: list[list[Tensor]]
    coefficients: Tensor
    n_eager: int = 0
    replay: Replay | None = None
    held: object = None

    def fill(self, micro: MicroBatch, masks: list[list[Tensor]], coefficients: Tensor) -> None:
        """Copies a step's inputs."""
        new = [*tensors_of((micro, *masks)), coefficients]
        for own, value in zip([*tensors_of((self.micro, *self.masks)), self.coefficients], new, strict=True):
            own.copy_(value)


class GraphedStep:
    """Does `DeviceStep`'s steps, recorded where that can be; see the module.

    Args:
        step: on its device.
        dropouts: of its model; their masks are inputs.
        record: makes a graph.

    Attributes:
        reason: why steps are no graph, or no longer; None while they are.
    """

    def __init__(
        self, step: DeviceStep, dropouts: Sequence[RunDropout], *, record: Callable[..., Replay] = record_on_cuda
    ) -> None:
        self.step, self.dropouts, self.record = step, dropouts, record
        self.reason = why_eager(step.config, step.model.device)
        self._buffers: dict[Hashable, _Buffers] = {}

    def __call__(self, micro: MicroBatch, index: int, *, with_norms: bool) -> None:
        """Step `index` on its one micro-batch."""
        masks = [dropout.ahead for dropout in self.dropouts]
        coefficients = self.step.optimiser.coefficients(index)
        kind = (with_norms, kind_of((micro, *masks)))
        if kind not in self._buffers:
            own_micro, own_masks = mapped((micro, masks), Tensor.clone)
            self._buffers[kind] = _Buffers(own_micro, own_masks, coefficients.clone())
        buffers = self._buffers[kind]
        buffers.fill(micro, masks, coefficients)

        def work() -> None:
            for dropout, own in zip(self.dropouts, buffers.masks, strict=True):
                dropout.ahead = list(own)
            self.step.run([buffers.micro], buffers.coefficients, with_norms=with_norms)

        if buffers.replay is None and buffers.n_eager >= EAGER_STEPS and self.reason is None:
            try:
                buffers.replay = self.record(work)
                buffers.held = self.step.model.text_engine.kept()
            except RuntimeError as error:
                self.reason = f"recording failed: {str(error).strip().splitlines()[0]}"
        if buffers.replay is not None and self.reason is None:
            buffers.replay()
        else:
            buffers.n_eager += 1
            work()
