"""Small nets, data and pruning steps for the tests of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from graphprune.analysis.dependency import DependencyGraph
from graphprune.cut import Cut
from graphprune.decide import Measured, Scores, decide
from graphprune.options import Options
from graphprune.plan import Plan
from graphprune.torch.capture import Captured, capture
from graphprune.torch.rewrite import rewrite
from graphprune.torch.slicing import parameter_cuts
from graphprune.torch.subject import TorchSubject


class Residual(nn.Module):
    """Inverted residual: expand, depthwise, project."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = 2 * width
        self.expand, self.n1 = nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.depth, self.n2 = (
            nn.Conv2d(inner, inner, 3, 1, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
        )
        self.project, self.n3 = nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.n1(self.expand(x)))
        return x + self.n3(self.project(torch.relu(self.n2(self.depth(y)))))


class ConvNet(nn.Module):
    """Stem, two residual blocks, a head of two dense layers; five classes."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(Residual(width), Residual(width))
        self.last = nn.Conv2d(width, 24, 3, padding=1)
        self.hidden, self.out = nn.Linear(24, 32), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(torch.relu(self.norm(self.stem(x))))
        x = torch.relu(self.last(x)).mean((2, 3))
        return self.out(torch.relu(self.hidden(x)))


class SmallNet(nn.Module):
    """Two convolutions and two dense layers with dropout between; five classes."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, bias=False), nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, 20, 3)
        self.hidden, self.out = nn.Linear(20, 32), nn.Linear(32, 5)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.last(torch.relu(self.norm(self.stem(x))))).mean((2, 3))
        return self.out(self.drop(torch.relu(self.hidden(x))))


def images(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 3, 8, 8) of five classes, each a noisy version of its pattern; labels (n,)."""
    patterns = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(77))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (n,), generator=generator)
    return 0.6 * patterns[labels] + torch.randn(n, 3, 8, 8, generator=generator), labels


def loss_of(module: nn.Module, seed: int, n: int = 16) -> torch.Tensor:
    """Cross entropy on one batch, in the module's own dtype."""
    x, y = images(n, seed)
    return nn.functional.cross_entropy(module(x.to(next(module.parameters()).dtype)), y)


def train(module: nn.Module, optimizer: torch.optim.Optimizer, seeds: Sequence[int]) -> None:
    """A step a seed."""
    for seed in seeds:
        optimizer.zero_grad()
        loss_of(module, seed).backward()
        optimizer.step()


def trained(
    width: int = 16,
    steps: int = 30,
    dtype: torch.dtype = torch.float32,
    kind: type[nn.Module] = ConvNet,
) -> nn.Module:
    """A net that has learned a little."""
    torch.manual_seed(0)
    net = kind(width).to(dtype)
    train(net, torch.optim.Adam(net.parameters(), 3e-3), range(steps))
    return net


@dataclass(frozen=True)
class Smaller:
    """What one pruning step gave."""

    captured: Captured
    plan: Plan
    graph: DependencyGraph
    module: fx.GraphModule
    pairs: Mapping[nn.Parameter, tuple[nn.Parameter, tuple[Cut, ...]]]


def smaller(
    net: nn.Module, x: torch.Tensor, scores: Scores | None = None, training: bool = True, **options
) -> Smaller:
    """Prune without the front door: a graph, and what became of each parameter."""
    captured = capture(net, (x,), training=training)
    subject, chosen = TorchSubject(captured), Options(**(options or {"channels": 0.5}))
    plan, graph = decide(subject, chosen, lambda *_: None, measured=Measured(scores))
    plan, _, made, _ = rewrite(captured, plan, graph, lambda more: (plan, graph))
    cuts = parameter_cuts(plan)
    new = dict(made.named_parameters())
    pairs = {p: (new[n], cuts.get(n, ())) for n, p in net.named_parameters()}
    return Smaller(captured, plan, graph, made, pairs)
