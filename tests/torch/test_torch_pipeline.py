"""`prune`: what it gives, what it leaves alone, and what it says of bad input."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch_nets import Fused, cnn, literal, transformer  # noqa: E402

import graphprune.torch as gpt  # noqa: E402
from graphprune.errors import (  # noqa: E402
    NothingGainedError,
    UnreachableTargetError,
    UnsupportedModelError,
    UsageError,
)


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in module.state_dict().items()}


def unchanged(module: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    after = module.state_dict()
    return list(after) == list(before) and all(torch.equal(after[n], t) for n, t in before.items())


def test_the_users_class_is_kept_and_smaller() -> None:
    module, args = cnn()
    before = state(module)
    result = gpt.prune(module, args, channels=0.5, align=1)
    assert result.kind == "module"
    assert type(result.module) is type(module)
    assert unchanged(module, before)
    report = result.report
    assert report.pruned.params < 0.4 * report.original.params
    assert report.pruned.macs < 0.4 * report.original.macs
    assert report.certificate is not None
    assert report.certificate["status"] == "exact"
    assert 0 < report.certificate["gradient_max_rel_error"] < 1e-9
    assert list(result.module.state_dict()) == list(before)
    assert result.module.wide.out_channels == result.module.wide.weight.shape[0] == 16
    assert result.module.deep.groups == 16


def test_tied_weights_stay_tied() -> None:
    module, args = transformer()
    result = gpt.prune(module, args, channels=0.5, residual=True, align=1)
    assert result.kind == "module"
    assert result.module.head.weight is result.module.table.weight
    assert result.module.table.weight.shape == (40, 16)
    assert result.report.certificate["status"] == "statistics"


def test_heads_and_their_dims() -> None:
    module, args = transformer()
    result = gpt.prune(module, args, heads=0.5, head_dims=0.5, align=1)
    assert result.module.attention.qkv.weight.shape == (3 * 2 * 4, 32)
    assert (result.module.attention.num_heads, result.module.attention.head_dim) == (2, 4)
    assert result.module.attention.scale == 8**-0.5
    assert result.report.certificate["status"] == "exact"


def test_a_scale_that_forward_computes_is_folded() -> None:
    """Of the new head size, so the queries take the factor up; not where momentum is to follow."""
    module, args = transformer(Fused)
    before = state(module)
    result = gpt.prune(module, args, head_dims=0.5, align=1)
    assert result.kind == "module"
    assert "folded" in result.why
    assert result.report.certificate["status"] == "exact"
    assert result.report.certificate["max_rel_error"] < 1e-6
    assert unchanged(module, before)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    assert gpt.prune(module, args, head_dims=0.5, align=1, optimizer=optimizer).kind == "graph"


def test_a_graph_trains_and_switches() -> None:
    module, args = cnn()
    result = gpt.prune(module, args, channels=0.5, own=False)
    graph = copy.deepcopy(result.module)
    assert result.kind == "graph"
    assert result.why == "a graph was asked for"
    graph.eval()
    assert torch.equal(graph(*args), graph(*args))
    graph.train()
    assert not torch.equal(graph(*args), graph(*args))  # dropout
    before = graph.get_buffer("stem.1.running_mean").clone()
    graph(*args)
    assert not torch.equal(graph.get_buffer("stem.1.running_mean"), before)
    optimizer = torch.optim.SGD(graph.parameters(), lr=0.01)
    graph.eval()
    loss = graph(*args).square().mean()
    loss.backward()
    optimizer.step()
    assert float(graph(*args).square().mean().detach()) < float(loss.detach())


def test_sizes_that_are_written_into_forward() -> None:
    """Whatever form it takes, it is the same function, and `why` says which form it is."""
    module, args = literal()
    result = gpt.prune(module, args, channels=0.5, align=1)
    assert result.why
    assert result.report.certificate["status"] == "exact"
    assert sum(p.numel() for p in result.module.parameters()) < 250


def test_in_place() -> None:
    module, args = cnn()
    seen = []
    module.hidden.register_forward_hook(lambda *_: seen.append(1))
    parts = dict(module.named_modules())
    result = gpt.prune(module, args, channels=0.5, inplace=True)
    assert result.module is module
    assert dict(module.named_modules()) == parts
    module(*args)
    assert seen
    assert module.wide.weight.shape[0] == 16
    with pytest.raises(UsageError, match="own=False"):
        gpt.prune(module, args, channels=0.5, inplace=True, own=False)


def test_the_optimizer_goes_on() -> None:
    module, args = cnn()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    module(*args).square().mean().backward()
    optimizer.step()
    result = gpt.prune(module, args, channels=0.5, optimizer=optimizer)
    own = set(result.module.parameters())
    assert {p for g in optimizer.param_groups for p in g["params"]} == own
    for parameter in own:
        assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape
    optimizer.zero_grad()
    result.module(*args).square().mean().backward()
    optimizer.step()


def test_a_given_plan_makes_the_same_module() -> None:
    module, args = transformer()
    first = gpt.prune(module, args, channels=0.5)
    second = gpt.prune(module, args, plan=first.plan)
    for (n, a), (m, b) in zip(
        first.module.state_dict().items(), second.module.state_dict().items(), strict=True
    ):
        assert n == m
        assert torch.equal(a, b)


def test_a_budget() -> None:
    module, args = cnn()
    result = gpt.prune(module, args, macs=0.5, align=1)
    share = result.report.pruned.macs / result.report.original.macs
    assert 0.4 < share <= 0.5
    with pytest.raises(UnreachableTargetError):
        gpt.prune(module, args, params=0.001)


@pytest.mark.parametrize("train", [False, True])
def test_programs_are_taken_too(train: bool) -> None:
    module, args = cnn()
    program = torch.export.export(module.train(train), args)
    result = gpt.prune(program, channels=0.5, align=1)
    assert result.kind == "graph"
    assert result.report.pruned.params < 0.4 * result.report.original.params
    result.module.eval()
    assert torch.equal(result.module(*args), result.module(*args))


def test_onnx_programs_are_taken_too() -> None:
    pytest.importorskip("onnxscript")
    from graphprune.torch.onnx_export import onnx_program

    module, args = cnn()
    result = gpt.prune(onnx_program(module, args), channels=0.5, align=1)
    assert result.report.pruned.params < 0.4 * result.report.original.params


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x) if x.sum() > 0 else x


def test_bad_input_is_one_clear_line_and_changes_nothing() -> None:
    module, args = cnn()
    before = state(module)
    optimizer = torch.optim.SGD(transformer()[0].parameters(), lr=0.1, momentum=0.9)
    cases = [
        (lambda: gpt.prune(Branching(), torch.randn(2, 4), channels=0.5), UnsupportedModelError),
        (lambda: gpt.prune(module, torch.randn(2, 5, 8, 8), channels=0.5), UnsupportedModelError),
        (lambda: gpt.prune(module, channels=0.5), UsageError),
        (lambda: gpt.prune(module, args), UsageError),
        (lambda: gpt.prune(module, args, channels=1.5), UsageError),
        (lambda: gpt.prune("model.onnx", args, channels=0.5), UsageError),
        (lambda: gpt.prune(module, args, channels=0.5, only="nothing*"), UsageError),
        (lambda: gpt.prune(module, args, channels=0.5, optimizer=optimizer), UsageError),
        (lambda: gpt.prune(module, args, channels=1.0), NothingGainedError),
        (
            lambda: gpt.prune(module, args, plan=gpt.prune(*transformer(), channels=0.5).plan),
            UsageError,
        ),
    ]
    for call, kind in cases:
        with pytest.raises(kind) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) > 20
    assert unchanged(module, before)


def test_weights_that_cannot_be_compared() -> None:
    module, args = cnn()
    with torch.no_grad():
        module.wide.weight[0, 0] = float("nan")
    with pytest.raises(UsageError, match=r"wide\.weight.*NaN"):
        gpt.prune(module, args, channels=0.5)


def test_analyse_tells_groups_and_reasons() -> None:
    graph = gpt.analyse(*cnn())
    assert {g.name: g.kind for g in graph.groups}["hidden"] == "neuron"
    assert any("output" in u.reason for u in graph.unpruned)
    assert graph.explain("wide.weight")
