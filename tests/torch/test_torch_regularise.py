"""Penalties against their formulas, gradients against autograd, and what training with them does."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from training_nets import ConvNet, images, loss_of, smaller, trained  # noqa: E402

from graphprune.analysis.dependency import DependencyGraph  # noqa: E402
from graphprune.errors import UsageError  # noqa: E402
from graphprune.torch.capture import capture  # noqa: E402
from graphprune.torch.regularise import GroupSparsity, Removal, penalty  # noqa: E402
from graphprune.torch.slicing import parameter_cuts, slice_tensor  # noqa: E402
from graphprune.torch.subject import TorchSubject  # noqa: E402


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return trained(width=8, steps=20, dtype=torch.float64)


@pytest.fixture(scope="module")
def graph(net: nn.Module) -> DependencyGraph:
    return TorchSubject(capture(net, (images(4, 0)[0].double(),))).analyse()


def unit_squares(net: nn.Module, graph: DependencyGraph) -> dict[str, list[torch.Tensor]]:
    """Group -> squared norm of each unit, slice by slice. Each group has plain axes here."""
    found: dict[str, list[torch.Tensor]] = {}
    for group in graph.groups:
        members = {(m.site.name, m.axis) for m in group.members if m.site.is_weight}
        weights = [(net.get_parameter(n), a) for n, a in members if "running" not in n]
        found[group.name] = [
            sum(w.select(a, unit).square().sum() for w, a in weights) for unit in range(group.size)
        ]
    return found


def weights_of_a_unit(net: nn.Module, graph: DependencyGraph, name: str) -> float:
    members = {m.site.name for m in graph.by_name[name].members if m.site.is_weight}
    total = sum(net.get_parameter(n).numel() for n in members if "running" not in n)
    return total / graph.by_name[name].size


def test_lasso_is_its_formula(net, graph) -> None:
    expected = 0.0
    for name, squares in unit_squares(net, graph).items():
        alpha = weights_of_a_unit(net, graph, name) ** 0.5
        expected += alpha * sum(float(s.detach().sqrt()) for s in squares)
    assert penalty(net, graph, 0.01).item() == pytest.approx(0.01 * expected, rel=1e-6)


def test_ranked_is_its_formula(net, graph) -> None:
    expected = 0.0
    for squares in unit_squares(net, graph).values():
        sizes = torch.stack(squares).sqrt()
        press = 2 ** (4 * (sizes.max() - sizes) / (sizes.max() - sizes.min()))
        assert press.max().item() == pytest.approx(16)
        expected += (press * sizes**2).sum().item()
    assert penalty(net, graph, 0.1, "ranked").item() == pytest.approx(0.1 * expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["lasso", "ranked"])
def test_gradients_in_place_are_those_of_the_penalty(net, graph, kind: str) -> None:
    one, two = copy.deepcopy(net), copy.deepcopy(net)
    loss = loss_of(one, 3) + GroupSparsity(one, graph, 0.02, kind).penalty()
    loss.backward()
    loss_of(two, 3).backward()
    plain = [p.grad.clone() for p in two.parameters()]
    GroupSparsity(two, graph, 0.02, kind).add_gradients()
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12)
    changed = [not torch.equal(p.grad, b) for p, b in zip(two.parameters(), plain, strict=True)]
    assert sum(changed) > 15


def test_gradients_where_there_were_none(net, graph) -> None:
    copied = copy.deepcopy(net)
    copied.zero_grad()
    GroupSparsity(copied, graph).add_gradients()
    assert copied.stem.weight.grad is not None


def test_only_some_groups(net, graph) -> None:
    copied = copy.deepcopy(net)
    copied.zero_grad()
    GroupSparsity(copied, graph, only=("hidden",)).add_gradients()
    touched = {n for n, p in copied.named_parameters() if p.grad is not None}
    assert touched == {"hidden.weight", "hidden.bias", "out.weight"}


@pytest.mark.parametrize(("kind", "strength"), [("lasso", 2e-3), ("ranked", 4e-3)])
def test_training_separates_units(net, graph, kind: str, strength: float) -> None:
    """Units fall apart into those that stay and those near zero."""
    spread = {}
    for press in (False, True):
        trained_on = copy.deepcopy(net)
        sparsity = GroupSparsity(trained_on, graph, strength, kind)
        optimizer = torch.optim.SGD(trained_on.parameters(), 0.05, momentum=0.9)
        for seed in range(60):
            optimizer.zero_grad()
            loss_of(trained_on, seed).backward()
            if press:
                sparsity.add_gradients()
            optimizer.step()
        norms = sparsity.norms()["hidden"]
        spread[press] = float(norms.median() / norms.max())
    assert spread[True] < 0.5 * spread[False]


def test_removal_presses_what_the_plan_cuts_and_nothing_else(net) -> None:
    x = images(4, 0)[0].double()
    result = smaller(net, x, channels=0.5, align=1)
    cuts = parameter_cuts(result.plan)
    copied = copy.deepcopy(net)
    removal = Removal(copied, result.plan, 0.5)
    expected = sum(
        float(p.square().sum() - slice_tensor(p, cuts[n]).square().sum())
        for n, p in copied.named_parameters()
        if n in cuts
    )
    assert expected > 1
    assert removal.penalty().item() == pytest.approx(0.5 * expected, rel=1e-6)
    assert penalty(copied, result.plan, 0.5).item() == pytest.approx(0.5 * expected, rel=1e-6)
    assert removal.size() == pytest.approx(expected**0.5, rel=1e-6)
    removal.penalty().backward()
    by_autograd = {n: p.grad.clone() for n, p in copied.named_parameters() if p.grad is not None}
    copied.zero_grad()
    removal.add_gradients()
    for name, parameter in copied.named_parameters():
        if name not in cuts:
            assert parameter.grad is None
            continue
        torch.testing.assert_close(parameter.grad, by_autograd[name])
        assert not slice_tensor(parameter.grad, cuts[name]).any()


def test_growing_removal_makes_the_cut_harmless(net) -> None:
    x = images(64, 500)[0].double()
    result = smaller(net, x, channels=0.5, align=1)
    copied = copy.deepcopy(net)
    removal = Removal(copied, result.plan)
    optimizer = torch.optim.SGD(copied.parameters(), 0.02)
    before = removal.size()
    for seed in range(80):
        optimizer.zero_grad()
        loss_of(copied, seed).backward()
        removal.add_gradients()
        optimizer.step()
        removal.grow(0.2, most=8.0)
    assert removal.strength == 8.0
    assert removal.size() < 0.02 * before

    def damage(module: nn.Module) -> float:
        captured = capture(module, (x,), training=False)
        from graphprune.torch.rewrite import pruned_graph

        made, _ = pruned_graph(captured, result.plan)
        module.eval()
        with torch.no_grad():
            wanted = module(x)
            return float((made(x) - wanted).abs().max() / wanted.abs().max())

    assert damage(copied) < 0.1 * damage(copy.deepcopy(net))


class TestErrors:
    def test_kind_and_groups(self, net, graph) -> None:
        with pytest.raises(UsageError, match="unknown penalty 'l0'"):
            GroupSparsity(net, graph, kind="l0")
        with pytest.raises(UsageError, match="'nothing' is no group"):
            GroupSparsity(net, graph, only=("nothing",))

    def test_frozen_module(self, net, graph) -> None:
        frozen = copy.deepcopy(net).requires_grad_(False)
        with pytest.raises(UsageError, match="none takes gradients"):
            GroupSparsity(frozen, graph)

    def test_plan_of_another_module(self, net) -> None:
        plan = smaller(net, images(4, 0)[0].double(), channels=0.5, align=1).plan
        with pytest.raises(UsageError, match="otherwise than this module has it"):
            Removal(ConvNet(width=4), plan)
        with pytest.raises(UsageError, match="otherwise than this module has it"):
            Removal(nn.Linear(2, 2), plan)
