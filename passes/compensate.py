"""Refit the layers behind a cut to what the original computes, from calibration inputs.

Error feedback: layer by layer, in the order of the graph, each linear layer reads what the already
refitted pruned model gives it and is fitted by ridge regression to what the original makes of the
same inputs (He et al. 2017, asymmetric form). Convolutions are fitted over whole patches, the
padding's zeros included. Only contents of initializers change, and a bias that an op may have is
added where it helps: no node, so nothing gets slower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from graphprune.compensation.least_squares import Moments, refit
from graphprune.compensation.linear import input_rows, output_rows, write_back
from graphprune.compensation.targets import (
    Target,
    chosen_rows,
    find_targets,
    original_rows,
    rows_per_sample,
)
from graphprune.onnx.names import FreshNames
from graphprune.onnx.runtime import Session
from graphprune.plan import Plan

__all__ = ["CompensatePass", "LayerFit"]

Array = np.ndarray[Any, Any]
Feeds = Sequence[Mapping[str, Array]]


@dataclass(frozen=True)
class LayerFit:
    """What refitting one layer did.

    Attributes:
        node: The layer.
        lam: The regulariser that was chosen, relative; None where the layer was left as it was.
        before: Relative squared error of its output on the inputs to choose by; None if left.
        after: The same afterwards.
    """

    node: str
    lam: float | None = None
    before: float | None = None
    after: float | None = None


class CompensatePass(ir.passes.InPlacePass):
    """Refit a model that PrunePass made of `original` by `plan`.

    Args:
        plan: What was cut.
        original: Canonical, the model that the plan was applied to.
        dims: Shapes of its values by name, at any binding.
        fit: Batches of inputs to fit to.
        choose: Other batches, by which regularisers are chosen and refits kept.
        threads: Of onnxruntime.
        seed: Of the choice of rows.
        progress: Called with the share that is done.

    After the call `layers` says what happened to each layer and `left` names linear or recurrent
    layers behind a cut that are not of a kind that is refitted.
    """

    def __init__(
        self,
        plan: Plan,
        original: ir.Model,
        dims: Mapping[str, tuple[int, ...]],
        fit: Feeds,
        choose: Feeds,
        *,
        threads: int = 1,
        seed: int = 0,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.plan = plan
        self.original = original
        self.dims = dims
        self.feeds = [*fit, *choose]
        self.fitting = len(fit)
        self.threads = threads
        self.seed = seed
        self.progress = progress or (lambda share: None)
        self.layers: tuple[LayerFit, ...] = ()
        self.left: tuple[str, ...] = ()

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Refit in place. Raises UnsupportedModelError where a model does not run on the inputs."""
        targets, left = find_targets(model, self.plan, self.dims)
        self.left = tuple(left)
        sizes = [_samples(feed) for feed in self.feeds]
        per_sample = rows_per_sample(targets, sum(sizes))
        wanted = [per_sample * size for size in sizes]
        rows = original_rows(
            self.original,
            targets,
            self.feeds,
            wanted,
            self.dims,
            threads=self.threads,
            seed=self.seed,
        )
        names = FreshNames(model)
        done = []
        for i, target in enumerate(targets):
            done.append(self._refit(model, i, target, rows[i], wanted, names))
            rows[i] = []  # not needed any more
            self.progress((i + 1) / len(targets))
        self.layers = tuple(done)
        return ir.passes.PassResult(model, modified=any(d.lam is not None for d in done))

    def _refit(
        self,
        model: ir.Model,
        index: int,
        target: Target,
        rows: Sequence[tuple[tuple[int, ...], Array]],
        wanted: Sequence[int],
        names: FreshNames,
    ) -> LayerFit:
        layer = target.layer
        name = layer.node.name or layer.output.name or ""
        groups, inputs, outputs = layer.weights.shape
        source = layer.node.inputs[0]
        assert source is not None
        fit, choose = (Moments(groups, inputs, outputs) for _ in range(2))
        asked = [source.name or "", *([target.skip] if target.skip else [])]
        with Session(_prefix(model, asked), threads=self.threads) as session:
            for b, feed in enumerate(self.feeds):
                shape, y = rows[b]
                values = {**feed, **session.run({n: feed[n] for n in session.input_names})}
                count = int(np.prod(shape, dtype=np.int64)) // (groups * outputs)
                chosen = chosen_rows(count, wanted[b], (self.seed, index, b))
                x = input_rows(layer, values[source.name or ""], shape, chosen)
                y = y.astype(np.float64)
                if target.skip:
                    y = y - output_rows(layer.node, values[target.skip], chosen)
                y = y.reshape(len(chosen), groups, outputs).transpose(1, 0, 2)
                (fit if b < self.fitting else choose).add(x, y)
        found = refit(fit, choose, layer.weights, layer.bias, biased=layer.biased)
        if found is None:
            return LayerFit(name)
        write_back(layer, found.weights, found.bias, names)
        return LayerFit(name, found.lam, found.before, found.after)


def _samples(feed: Mapping[str, Array]) -> int:
    return max((a.shape[0] for a in feed.values() if a.ndim), default=1)


def _prefix(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """What of a model computes the values called `names`, as a model; inputs it needs not go."""
    copy = model.clone()
    graph = copy.graph
    values = {o.name: o for node in graph for o in node.outputs}
    wanted = [values[n] for n in dict.fromkeys(names) if n in values]
    graph.outputs.clear()
    for value in wanted:
        value.shape = None  # onnxruntime infers it
        graph.outputs.append(value)
    if not wanted:  # the layer reads an input itself
        graph.outputs.append(next(iter(graph)).outputs[0])
        graph.outputs[0].shape = None
    RemoveUnusedNodesPass()(copy)
    for value in [v for v in graph.inputs if not v.uses() and not v.is_graph_output()]:
        graph.inputs.remove(value)
    return copy
