"""What is computed again is PyTorch's own checkpoint to the bit, and keeps no more."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from prompttune.base.recompute import recomputed

WEIGHT = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))


def layer(x: Tensor, shift: Tensor) -> Tensor:
    return F.gelu(F.layer_norm(x + shift, (6,)) @ WEIGHT)


def layers(x: Tensor, shift: Tensor, again: Callable[..., Tensor] = lambda function, *args: function(*args)) -> Tensor:
    for _ in range(3):
        x = again(layer, x, shift)
    return x


def ours(function: Callable[..., Tensor], *args: object) -> Tensor:
    return recomputed(function, *args, device_type="cpu")


def theirs(function: Callable[..., Tensor], *args: object) -> Tensor:
    return checkpoint(function, *args, use_reentrant=False)


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, shift = torch.randn(5, 6, generator=generator), torch.randn(6, generator=generator)
    return x.requires_grad_(), shift.requires_grad_()


def kept(again: Callable[..., Tensor]) -> int:
    """Numbers that one call keeps for its backward pass, as a call around it would see them."""
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        again(layers, *inputs())
    return sum(sizes)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "run",
    [
        lambda again, x, shift: again(layers, x, shift),
        lambda again, x, shift: layers(x, shift, again),
        lambda again, x, shift: again(layers, x, shift, again),  # a call within a call
    ],
    ids=["whole", "each", "nested"],
)
def test_values_and_gradients_are_those_of_keeping_all(run: Callable[..., Tensor], half: bool) -> None:
    found = []
    for again in (lambda function, *args: function(*args), theirs, ours):
        x, shift = inputs()
        with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
            y = run(again, x, shift)
        # Outside autocast, as in a training; the graph is used twice.
        first = torch.autograd.grad(y.float().square().sum(), (x, shift), retain_graph=True)
        again_of_it = torch.autograd.grad(y.float().sum(), (x, shift))
        found.append((y.detach(), *first, *again_of_it))
    for one in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(one, found[0], strict=True))


def test_nothing_but_the_arguments_is_kept() -> None:
    n_arguments = 5 * 6 + 6
    assert kept(ours) == n_arguments <= kept(theirs)
    assert kept(lambda function, *args: function(*args)) > 3 * n_arguments


def test_a_call_within_a_call_keeps_nothing_of_its_own() -> None:
    """Its arguments are computed again as well: the outer call's are all that is left."""
    assert kept(lambda function, *args: ours(function, *args, ours)) == 5 * 6 + 6


def test_what_is_computed_again_is_kept_no_longer_than_it_is_asked_for() -> None:
    """A graph that stays, as loss terms' gradients want it, holds nothing of what its backward pass computed again."""
    x = torch.randn(7, 13, requires_grad=True)

    def alive() -> int:
        return sum(type(one) is Tensor and one.shape == (7, 13) for one in gc.get_objects())

    y = ours(lambda x: x.exp().tanh().sin().sum(), x)
    before = alive()
    torch.autograd.grad(y, x, retain_graph=True)
    assert alive() == before


def test_each_gradient_may_be_asked_for_alone() -> None:
    """What the first leaves of what was computed again is not all that the second needs."""

    x, shift = inputs()
    y = ours(lambda x, shift: x.sin() + shift.cos(), x, shift).sum()
    for wanted, expected in ((x, x.cos()), (x, x.cos()), (shift, -5 * shift.sin())):
        (found,) = torch.autograd.grad(y, wanted, retain_graph=True)
        torch.testing.assert_close(found, expected)


def test_without_gradients_the_function_just_runs() -> None:
    with torch.no_grad():
        assert torch.equal(ours(layers, *inputs()), layers(*inputs()))


def test_what_remembers_earlier_calls_is_found_out() -> None:
    calls = []

    def forgetful(x: Tensor) -> Tensor:
        calls.append(x)
        return x.exp() if len(calls) == 1 else x

    y = ours(forgetful, inputs()[0])
    with pytest.raises(RuntimeError, match="kept 1 tensors, and 0 when computed again"):
        y.sum().backward()
