"""Every coupling variant against torch.nn layers applied run by run; float32, tolerance 1e-6 (order of sums)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prompttune.base.run_axis import n_parameters_per_run, parameters_of_run
from prompttune.config.sections import CouplingConfig
from prompttune.parts.coupling import Coupling, ModalityCoupling

SEEDS, M, W, C = (3, 1, 4), 5, 16, 4
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def hard_prompts(count: int = 1, length: int = M) -> list[Tensor]:
    return [torch.randn(length, W, generator=torch.Generator().manual_seed(50 + i)) for i in range(count)]


def soft_context(seed: int = 0) -> Tensor:
    return torch.randn(len(SEEDS), M, W, generator=torch.Generator().manual_seed(seed))


def make(config: CouplingConfig, *, hard: list[Tensor] | None = None, seeds: tuple[int, ...] = SEEDS) -> Coupling:
    return Coupling(hard if hard is not None else hard_prompts(), config=config, seeds=seeds, width=W)


def plain_mapping(coupling: Coupling, run: int, block: int) -> nn.Sequential:
    """The mapping of one run as torch layers holding its parameters."""
    own = parameters_of_run(coupling.mappings[block], run)
    first = nn.Linear(own["first.weight"].shape[1], W)
    first.load_state_dict({"weight": own["first.weight"], "bias": own["first.bias"]})
    layers: list[nn.Module] = [first]
    if coupling.variant != "linear":
        layers.append(nn.ReLU())
    if coupling.variant == "two-layer":
        second = nn.Linear(W, W)
        second.load_state_dict({"weight": own["second.weight"], "bias": own["second.bias"]})
        layers.append(second)
    return nn.Sequential(*layers)


CHANNEL = ["released", "linear", "two-layer", "residual"]


@pytest.mark.parametrize("n_hard", [1, 3])
@pytest.mark.parametrize("variant", CHANNEL)
def test_channel_variants_are_their_equation(variant: str, n_hard: int) -> None:
    hard, soft = hard_prompts(n_hard), soft_context()
    coupling = make(CouplingConfig(variant=variant), hard=hard).eval()
    mixed = coupling(soft)
    for run in range(len(SEEDS)):
        wanted = plain_mapping(coupling, run, 0)(torch.cat([*hard, soft[run]], dim=-1))
        if variant == "residual":
            wanted = soft[run] + wanted
        torch.testing.assert_close(mixed[run], wanted, **CLOSE)


def test_released_is_the_authors_module_with_their_parameter_count() -> None:
    """Linear(2W, W), ReLU, Dropout: 524,800 parameters at W = 512, the mapping's share of the method's 709,120."""
    coupling = Coupling([torch.zeros(16, 512)], config=CouplingConfig(variant="released"), seeds=(1, 2), width=512)
    assert n_parameters_per_run(coupling) == sum(p.numel() for p in nn.Linear(1024, 512).parameters()) == 524_800
    assert not any(buffer.requires_grad for buffer in coupling.buffers())
    assert coupling.dropout == 0.5


def test_token_axis_keeps_soft_tokens_first_and_trains_nothing_of_its_own() -> None:
    hard, soft = [*hard_prompts(1, length=3), *hard_prompts(1, length=2)], soft_context()
    coupling = make(CouplingConfig(variant="token"), hard=hard)
    mixed = coupling(soft)
    assert mixed.shape[1] == coupling.n_ctx(M) == M + 5
    for run in range(len(SEEDS)):
        assert torch.equal(mixed[run], torch.cat([soft[run], *hard]))
    assert n_parameters_per_run(coupling) == 0


@pytest.mark.parametrize("mask", ["shared", "per-class"])
@pytest.mark.parametrize("variant", CHANNEL)
def test_runs_together_are_runs_alone_dropout_included(variant: str, mask: str) -> None:
    config = CouplingConfig(variant=variant, dropout_mask=mask)
    soft = soft_context()
    together = make(config)
    for _ in range(3):
        mixed = together(soft, n_classes=C)
    for run, seed in enumerate(SEEDS):
        alone = make(config, seeds=(seed,))
        for _ in range(3):
            own = alone(soft[run : run + 1], n_classes=C)
        torch.testing.assert_close(own[0], mixed[run], **CLOSE)


def test_gradients_of_one_run_do_not_touch_another() -> None:
    coupling = make(CouplingConfig(variant="released"))
    coupling(soft_context())[1].square().sum().backward()
    for run in range(len(SEEDS)):
        norms = [p.grad[run].norm() for p in coupling.parameters()]
        assert all(norm > 0 for norm in norms) if run == 1 else all(norm == 0 for norm in norms)


def test_dropout_draws_one_mask_or_one_per_class_and_none_in_evaluation() -> None:
    soft = soft_context()
    shared = make(CouplingConfig(variant="linear", dropout_mask="shared"))
    mixed = shared(soft, n_classes=C)
    assert mixed.shape == (len(SEEDS), M, W)
    assert 0.35 < (mixed == 0).float().mean() < 0.65  # p = 0.5 of 240 values: five standard deviations is 0.16

    classwise = make(CouplingConfig(variant="linear", dropout_mask="per-class"))
    assert classwise.masks_per_class()
    mixed = classwise(soft, n_classes=C)
    assert mixed.shape == (len(SEEDS), C, M, W)
    assert not torch.equal(mixed[:, 0] == 0, mixed[:, 1] == 0)
    kept = mixed != 0
    whole = classwise.eval()(soft, n_classes=C)
    assert whole.shape == (len(SEEDS), M, W)
    assert not classwise.masks_per_class()
    torch.testing.assert_close(mixed[kept], (2.0 * whole.unsqueeze(1).expand_as(mixed))[kept], **CLOSE)

    none = make(CouplingConfig(variant="linear", dropout=0))
    assert torch.equal(none(soft), none.eval()(soft))
    with pytest.raises(ValueError, match="n_classes"):
        make(CouplingConfig(variant="released", dropout_mask="per-class"))(soft)


def test_shared_mask_covers_all_classes_of_a_context_that_differs_between_them() -> None:
    per_class = soft_context().unsqueeze(1).expand(-1, C, -1, -1) + torch.randn(1, C, 1, 1)
    shared = make(CouplingConfig(variant="linear", dropout_mask="shared"))(per_class)
    assert shared.shape == (len(SEEDS), C, M, W)
    assert torch.equal((shared == 0)[:, 0], (shared == 0)[:, 1])
    own = make(CouplingConfig(variant="linear", dropout_mask="per-class"))(per_class, n_classes=C)
    assert not torch.equal((own == 0)[:, 0], (own == 0)[:, 1])


def test_residual_per_class_adds_the_soft_prompt_to_every_class() -> None:
    soft = soft_context()
    coupling = make(CouplingConfig(variant="two-layer", residual=True, dropout_mask="per-class", init="soft"))
    torch.testing.assert_close(coupling(soft, n_classes=C), soft.unsqueeze(1).expand(-1, C, -1, -1), **CLOSE)


def test_deep_coupling_mixes_each_prompted_block_with_its_own_hard_prompt() -> None:
    deep_hard = torch.randn(2, M, W)  # a source prompted in two blocks; its last serves the deeper ones
    soft = [soft_context(seed) for seed in range(4)]
    coupling = make(CouplingConfig(variant="released", depth=3), hard=[deep_hard]).eval()
    assert [coupling.couples(block) for block in range(4)] == [True, True, True, False]
    for block in range(3):
        hard = deep_hard[min(block, 1)]
        mixed = coupling(soft[block], block=block)
        for run in range(len(SEEDS)):
            wanted = plain_mapping(coupling, run, block)(torch.cat([hard, soft[block][run]], dim=-1))
            torch.testing.assert_close(mixed[run], wanted, **CLOSE)
    assert coupling(soft[3], block=3) is soft[3]
    single = make(CouplingConfig(variant="released", depth=3, shared_mapping=True), hard=[deep_hard])
    assert n_parameters_per_run(single) * 3 == n_parameters_per_run(coupling)


@pytest.mark.parametrize(
    "changes",
    [{"variant": "linear"}, {"variant": "linear", "residual": True}, {"variant": "two-layer", "residual": True}],
)
def test_soft_start_is_the_method_without_coupling(changes: dict) -> None:
    soft = soft_context()
    coupling = make(CouplingConfig(init="soft", **changes)).eval()
    torch.testing.assert_close(coupling(soft), soft, **CLOSE)
    trained = make(CouplingConfig(init="soft", **changes))
    trained(soft).sum().backward()
    assert any(p.grad[0].norm() > 0 for p in trained.parameters())


def test_start_is_torch_linear_and_depends_on_the_seed_alone() -> None:
    coupling = Coupling([torch.zeros(M, 256)], config=CouplingConfig(variant="released"), seeds=(7, 8, 7), width=256)
    weight, bound = coupling.mappings[0].first.weight(), 1 / 512**0.5
    assert torch.equal(weight[0], weight[2])
    assert not torch.equal(weight[0], weight[1])
    assert weight.abs().max() <= bound
    torch.testing.assert_close(weight.var(), torch.tensor(bound**2 / 3), rtol=0.02, atol=0)


def test_resumed_masks_are_those_of_an_uninterrupted_run() -> None:
    soft = soft_context()
    uninterrupted = make(CouplingConfig(variant="released"))
    uninterrupted(soft)
    saved = uninterrupted.state_dict()
    wanted = [uninterrupted(soft) for _ in range(2)]
    resumed = make(CouplingConfig(variant="released"))
    resumed.load_state_dict(saved)
    for output in wanted:
        assert torch.equal(resumed(soft), output)


def test_problems_are_explained() -> None:
    with pytest.raises(ValueError, match=r"--set context\.n_ctx=3"):
        make(CouplingConfig(variant="released"), hard=hard_prompts(length=3))(soft_context())
    with pytest.raises(ValueError, match=r"\[M 16\]"):
        make(CouplingConfig(variant="released"), hard=[torch.zeros(M, W + 1)])
    with pytest.raises(ValueError, match="at least one hard prompt"):
        make(CouplingConfig(variant="released"), hard=[])
    for given in ({"variant": "off"}, {"dropout": 1.0}, {"depth": 0}, {"init": "soft"}, {"drop": 0.1}):
        with pytest.raises(ValueError, match=next(iter(given))):
            CouplingConfig(**given)


@pytest.mark.parametrize(("n_in", "n_out"), [(W, 24), (24, W)])
def test_modality_coupling_is_one_linear_per_block(n_in: int, n_out: int) -> None:
    coupling = ModalityCoupling(depth=3, n_in=n_in, n_out=n_out, seeds=SEEDS)
    prompts = [torch.randn(len(SEEDS), M, n_in, requires_grad=True) for _ in range(3)]
    visual = coupling(prompts)
    for block in range(3):
        for run in range(len(SEEDS)):
            own = parameters_of_run(coupling.maps[block], run)
            wanted = nn.functional.linear(prompts[block][run], own["weight"], own["bias"])
            torch.testing.assert_close(visual[block][run], wanted, **CLOSE)
    visual[1].sum().backward()
    assert prompts[1].grad is not None
    assert prompts[0].grad is None
    with pytest.raises(ValueError, match="equally deep"):
        coupling(prompts[:2])
