"""Gradient scores against brute force: units removed one by one, samples run one by one."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from scipy.stats import pearsonr, spearmanr  # noqa: E402
from torch import nn  # noqa: E402
from training_nets import ConvNet, images, smaller, trained  # noqa: E402

from graphprune.analysis.dependency import DependencyGraph  # noqa: E402
from graphprune.analysis.planning import plan_from_removed  # noqa: E402
from graphprune.errors import UsageError  # noqa: E402
from graphprune.plan import Plan  # noqa: E402
from graphprune.torch.capture import Captured, capture  # noqa: E402
from graphprune.torch.scores import CRITERIA, GradientScores, scores_from  # noqa: E402
from graphprune.torch.slicing import parameter_cuts  # noqa: E402
from graphprune.torch.subject import TorchSubject  # noqa: E402
from graphprune.torch.twin import Twin, mask_of  # noqa: E402

X, Y = images(48, 900)


def losses_of(module, reduction: str = "mean") -> torch.Tensor:
    dtype = next(module.parameters()).dtype if isinstance(module, nn.Module) else torch.float64
    return nn.functional.cross_entropy(module(X.to(dtype)), Y, reduction=reduction)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return trained(width=8, steps=40, dtype=torch.float64).eval()


@pytest.fixture(scope="module")
def captured(net: nn.Module) -> Captured:
    return capture(net, (X.double(),), training=False)


@pytest.fixture(scope="module")
def graph(captured: Captured) -> DependencyGraph:
    return TorchSubject(captured).analyse()


@pytest.fixture(scope="module")
def single(graph: DependencyGraph) -> dict[tuple[str, int], Plan]:
    """Plans that remove one unit each."""
    plans = {}
    for group in graph.groups:
        assert len(group.cells) == 1
        for unit in range(group.size):
            removed = np.zeros(graph.resolver.classes.count, bool)
            removed[group.units[unit]] = True
            plans[group.name, unit] = plan_from_removed(graph, removed)
    return plans


@pytest.fixture(scope="module")
def change(captured: Captured, single: dict[tuple[str, int], Plan]) -> dict[str, np.ndarray]:
    """Group -> what removing each unit alone does to the loss."""
    with torch.no_grad():
        whole = losses_of(captured.module)
        found: dict[str, list[float]] = {}
        for (group, _), plan in single.items():
            found.setdefault(group, []).append(float(losses_of(Twin(captured, plan)) - whole))
    return {g: np.array(v) for g, v in found.items()}


def collected(net: nn.Module, graph: DependencyGraph, criterion: str, **options) -> GradientScores:
    scores = GradientScores(net, graph, criterion, **options)
    scores.accumulate(losses_of(net, "none" if criterion in ("fisher", "hessian") else "mean"))
    return scores


def test_taylor_foresees_the_change_of_the_loss(net, graph, change) -> None:
    scores = collected(net, graph, "taylor")
    names = [g.name for g in graph.groups]
    assert len(names) == 5
    mine = scores(graph, names)
    for name in names:  # of the residual width a unit is much: first order sees it less well
        assert spearmanr(mine[name], abs(change[name]))[0] > 0.5, name
    together = np.concatenate([mine[n] for n in names])
    true = np.concatenate([abs(change[n]) for n in names])
    assert pearsonr(together, true)[0] > 0.8
    assert spearmanr(together, true)[0] > 0.9
    assert 0.5 < together.sum() / true.sum() < 2  # in units of the loss, so comparable globally


def test_counting_every_layer_is_worse_between_groups(net, graph, change) -> None:
    """Why readers are the default."""
    names = [g.name for g in graph.groups]
    true = np.concatenate([abs(change[n]) for n in names])
    sums = {}
    for over in ("readers", "all"):
        found = collected(net, graph, "taylor", over=over)
        sums[over] = np.concatenate([found.of(n) for n in names])
    assert pearsonr(sums["readers"], true)[0] > pearsonr(sums["all"], true)[0] + 0.02
    assert sums["all"].sum() > 2 * sums["readers"].sum()


def entry_sums(net, captured, single, gradients: dict[str, torch.Tensor], over: str, power: int):
    """Group -> sum over the entries that a plan cuts of (w g)^power, plainly."""
    readers = {"out.weight", "hidden.weight", "last.weight"}
    readers |= {f"blocks.{i}.{n}.weight" for i in (0, 1) for n in ("expand", "project")}
    found: dict[str, list[float]] = {}
    for (group, _), plan in single.items():
        total = 0.0
        for name, cuts in parameter_cuts(plan).items():
            if name not in gradients:
                continue
            if over == "readers" and (name not in readers or all(c.axis == 0 for c in cuts)):
                continue
            entries = (net.get_parameter(name).detach() * gradients[name]) ** power
            total += float(entries[~mask_of(entries, cuts)].sum())
        found.setdefault(group, []).append(total)
    return {g: np.array(v) for g, v in found.items()}


def gradients_of(net: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    names = [n for n, _ in net.named_parameters()]
    return dict(zip(names, torch.autograd.grad(loss, list(net.parameters())), strict=True))


@pytest.mark.parametrize("over", ["readers", "all"])
def test_definitions_sample_by_sample(net, captured, graph, single, over: str) -> None:
    samples = range(6)
    per_sample = [
        gradients_of(net, nn.functional.cross_entropy(net(X[i : i + 1].double()), Y[i : i + 1]))
        for i in samples
    ]
    s = [entry_sums(net, captured, single, g, over, 1) for g in per_sample]
    squares = [entry_sums(net, captured, single, g, over, 2) for g in per_sample]
    losses = nn.functional.cross_entropy(net(X[:6].double()), Y[:6], reduction="none")
    for group in graph.groups:
        mine = np.stack([v[group.name] for v in s])
        expected = {
            "taylor": abs(mine.mean(0)),
            "taylor-abs": abs(mine).mean(0),
            "fisher": (mine**2).mean(0) / 2,
            "hessian": np.stack([v[group.name] for v in squares]).mean(0) / 2,
            "movement": -mine.sum(0),
        }
        assert set(expected) == set(CRITERIA)
        for criterion, values in expected.items():
            scores = GradientScores(net, graph, criterion, over=over)
            scores.accumulate(losses if criterion == "taylor" else losses_of_six(net))
            assert scores.calls == 6
            assert abs(values).max() > 1e-9
            np.testing.assert_allclose(scores.of(group.name), values, rtol=1e-7, atol=1e-15)
            losses = losses_of_six(net)


def losses_of_six(net: nn.Module) -> torch.Tensor:
    return nn.functional.cross_entropy(net(X[:6].double()), Y[:6], reduction="none")


def test_gradients_of_the_users_loop(net, graph) -> None:
    """`.grad` after backward() and losses that are handed over are the same."""
    one, two = GradientScores(net, graph, "taylor"), GradientScores(net, graph, "taylor")
    for part in (slice(0, 24), slice(24, 48)):
        net.zero_grad()
        loss = nn.functional.cross_entropy(net(X[part].double()), Y[part])
        two.accumulate(loss)  # leaves .grad alone
        assert net.stem.weight.grad is None
        loss = nn.functional.cross_entropy(net(X[part].double()), Y[part])
        loss.backward()
        one.accumulate()
    net.zero_grad()
    for group in graph.groups:
        np.testing.assert_allclose(one.of(group.name), two.of(group.name), rtol=1e-10)
    whole = collected(net, graph, "taylor")
    np.testing.assert_allclose(one.of("hidden"), whole.of("hidden"), rtol=1e-6)


def test_movement_keeps_what_grows() -> None:
    """Training decides: the units that a task does not need move towards zero."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 1))
    graph = TorchSubject(capture(net, (torch.randn(4, 6),))).analyse()
    scores = GradientScores(net, graph, "movement")
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    before = net[2].weight.detach().clone()
    for _ in range(30):
        optimizer.zero_grad()
        x = torch.randn(64, 6)
        (net(x)[:, 0] - x[:, 0]).square().mean().backward()
        scores.accumulate()
        optimizer.step()
    # sum of -w g over the steps is, to first order, half the growth of w^2 over the rate
    growth = ((net[2].weight.detach() ** 2 - before**2) / 2 / 0.05)[0].numpy()
    mine = scores.of("0")
    assert (mine < 0).any()
    assert (mine > 0).any()
    assert spearmanr(mine, growth)[0] > 0.95


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_decisions_follow_the_scores(net, scope: str, criterion: str) -> None:
    reduction = "none" if criterion in ("fisher", "hessian") else "mean"
    x = X[:4].double()

    def losses():
        yield nn.functional.cross_entropy(net(x), Y[:4], reduction=reduction)

    scores = scores_from(net, losses, criterion)
    result = smaller(net, x, scores, training=False, channels=0.5, align=1, scope=scope)
    kept = [len(c.kept) / c.size for c in result.plan.groups]
    for choice in result.plan.groups:
        values = np.array(choice.scores)
        gone = np.setdiff1d(np.arange(choice.size), choice.kept)
        assert values[list(choice.kept)].min() >= values[gone].max()
    if scope == "local":
        assert kept == [0.5] * len(result.graph.groups)
    else:
        assert len(set(kept)) > 1  # groups matter differently, and lose differently
        floor = [c for c in result.plan.groups if len(c.kept) <= np.ceil(0.1 * c.size)]
        assert len(floor) < len(kept)


def test_global_taylor_hurts_less_than_magnitude(net) -> None:
    """The point of it all, on the data that the scores saw."""

    def losses():
        yield losses_of(net)

    x = X.double()
    after = {}
    for name, scores in (("taylor", scores_from(net, losses, "taylor")), ("l2", None)):
        result = smaller(net, x, scores, training=False, channels=0.6, align=1, scope="global")
        with torch.no_grad():
            after[name] = float(losses_of(result.module))
    assert after["taylor"] < after["l2"]


def test_tied_weights_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix = nn.Embedding(11, 6), nn.Linear(6, 6)
            self.out = nn.Linear(6, 11, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.tanh(self.mix(self.embed(x))))

    torch.manual_seed(0)
    net, x = Tied(), torch.arange(8).reshape(2, 4)
    graph = TorchSubject(capture(net, (x,))).analyse()
    scores = GradientScores(net, graph, "taylor", over="all")
    net(x).square().sum().backward()
    scores.accumulate()
    product = {n: (p * p.grad).detach() for n, p in net.named_parameters()}
    for group in graph.groups:
        members = {(m.site.name, m.axis) for m in group.members if m.site.is_weight}
        expected = sum(product[n].movedim(axis, 0).reshape(6, -1).sum(1) for n, axis in members)
        np.testing.assert_allclose(scores.of(group.name), expected.abs(), rtol=1e-5)


def test_sparse_gradients_count_like_dense_ones() -> None:
    x, found = torch.arange(24).reshape(6, 4) % 20, []
    for sparse in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Embedding(20, 12, sparse=sparse), nn.ReLU(), nn.Linear(12, 3))
        (group,) = (graph := TorchSubject(capture(net, (x,))).analyse()).groups
        scores = GradientScores(net, graph, "taylor", over="all")
        net(x).square().sum().backward()
        assert net[0].weight.grad.is_sparse == sparse
        scores.accumulate()
        found.append(scores.of(group.name))
    assert found[0].min() > 0
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


class TestErrors:
    def test_criterion(self, net, graph) -> None:
        with pytest.raises(UsageError, match="unknown criterion 'snip': choose one of taylor"):
            GradientScores(net, graph, "snip")
        with pytest.raises(UsageError, match="neither 'readers' nor 'all'"):
            GradientScores(net, graph, over="writers")

    def test_no_gradients(self, net, graph) -> None:
        net.zero_grad(set_to_none=True)  # whatever ran before on the shared net
        scores = GradientScores(net, graph)
        with pytest.raises(UsageError, match=r"after loss.backward\(\)"):
            scores.accumulate()
        with pytest.raises(UsageError, match="no gradients were counted"):
            scores.of("hidden")

    def test_gradients_of_nan(self, net, graph) -> None:
        scores = GradientScores(net, graph)
        with pytest.raises(UsageError, match="NaN or infinity: nothing was counted"):
            scores.accumulate(losses_of(net) * float("nan"))
        assert scores.calls == 0

    def test_another_module(self, graph) -> None:
        with pytest.raises(UsageError, match="analyse the module as it is now"):
            GradientScores(ConvNet(width=4), graph)
        with pytest.raises(UsageError, match="none of the parameters"):
            GradientScores(nn.Linear(3, 3), graph)

    def test_groups_that_were_not_collected(self, net, graph, captured) -> None:
        scores = collected(net, graph, "taylor")
        result = smaller(net, X[:4].double(), training=False, channels=0.5, align=1)
        other = TorchSubject(capture(result.module, (X[:4].double(),), training=False)).analyse()
        with pytest.raises(UsageError, match="no gradients were collected for the 4 units"):
            scores(other, [g.name for g in other.groups])
