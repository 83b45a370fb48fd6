"""What is known while a module is pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from graphprune.analysis.dependency import DependencyGraph
from graphprune.decide import Scores
from graphprune.measure.latency import Latency
from graphprune.options import Options
from graphprune.plan import LayerCut, Plan
from graphprune.torch.capture import Captured
from graphprune.torch.compare import Oracle
from graphprune.torch.differences import Difference
from graphprune.torch.own import Kept
from graphprune.torch.rewrite import Edit
from graphprune.torch.subject import TorchSubject

Progress = Callable[..., None]


@dataclass(frozen=True, eq=False)
class Work:
    """What is known so far; every stage returns a copy that knows more."""

    subject: TorchSubject
    options: Options
    progress: Progress
    scores: Scores | None = None
    inputs: Iterable[Any] | None = None
    dynamic_shapes: Any = None
    own: bool | None = None
    fold: bool = True
    plan: Plan | None = None
    graph: DependencyGraph | None = None
    made: fx.GraphModule | None = None
    edits: tuple[Edit, ...] = ()
    layers: tuple[LayerCut, ...] = ()
    base: TorchSubject | None = None
    oracle: Oracle | None = None
    kept: Kept | None = None
    difference: Difference | None = None
    latency: Latency | None = None
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def captured(self) -> Captured:
        """The module as it was captured."""
        return self.subject.captured

    @property
    def short(self) -> TorchSubject:
        """The module without the layers that left; the module itself where none did."""
        return self.base or self.subject

    @property
    def known_plan(self) -> Plan:
        """The plan, once it is made."""
        assert self.plan is not None
        return self.plan

    @property
    def graph_result(self) -> fx.GraphModule:
        """The smaller graph, once it is made."""
        assert self.made is not None
        return self.made

    def make_oracle(self) -> Oracle:
        """What the masked original computes."""
        return Oracle(self.short.captured, self.known_plan, self.options.seed, self.captured)

    @property
    def result(self) -> nn.Module:
        """The smaller module: of the user's class, or the graph."""
        kept = self.kept.module if self.kept is not None else None
        return kept if kept is not None else self.graph_result
