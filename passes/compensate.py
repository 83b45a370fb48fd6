"""Refit the layers behind a cut to what the original computes, from calibration inputs.

Error feedback: layer by layer, in the order of the graph, each linear layer reads what the already
refitted pruned model gives it and is fitted by ridge regression to what the original makes of the
same inputs (He et al. 2017, asymmetric form). Convolutions are fitted over whole patches, the
padding's zeros included. Only contents of initializers change, and a bias that an op may have is
added where it helps: no node, so nothing gets slower.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.compensation.frontier import Frontier
from graphprune.compensation.least_squares import FIRST, Moments, refit
from graphprune.compensation.linear import input_rows, output_rows, write_back
from graphprune.compensation.targets import Target, find_targets, mixed_target, rows_per_sample
from graphprune.freed import give_back
from graphprune.onnx.names import FreshNames
from graphprune.plan import Plan, take
from graphprune.rules.context import node_name
from graphprune.scoring.statistics import chosen_rows
from graphprune.threads import ahead

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
        mixed: Layers whose dims inside heads were mixed (`graphprune.compensation.rotation`).

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
        mixed: Mapping[str, Array] | None = None,
    ) -> None:
        self.plan = plan
        self.original = original
        self.dims = dims
        self.feeds = [*fit, *choose]
        self.sizes = [_samples(feed) for feed in self.feeds]
        self.fitting = len(fit)
        self.threads = threads
        self.seed = seed
        self.progress = progress or (lambda share: None)
        self.mixed = mixed or {}
        self.layers: tuple[LayerFit, ...] = ()
        self.left: tuple[str, ...] = ()

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Refit in place. Raises UnsupportedModelError where a model does not run on the inputs."""
        targets, left = find_targets(model, self.plan, self.dims, self.original)
        self.left = tuple(left)
        targets = [mixed_target(t, self.mixed.get(node_name(t.layer.node))) for t in targets]
        sources = [[t.source, *([t.skip] if t.skip else [])] for t in targets]
        values = [[t.value] for t in targets]
        names = FreshNames(model)
        done: list[LayerFit] = []
        first = FIRST
        with (
            Frontier(model, self.feeds, sources, threads=self.threads) as pruned,
            Frontier(self.original, self.feeds, values, threads=self.threads) as original,
        ):
            for i, target in enumerate(targets):
                batches = zip(ahead(original.advance(i)), ahead(pruned.advance(i)), strict=True)
                done.append(self._refit(i, target, batches, names, first))
                first = found if (found := done[-1].lam) and math.isfinite(found) else first
                give_back()
                self.progress((i + 1) / len(targets))
        self.layers = tuple(done)
        return ir.passes.PassResult(model, modified=any(d.lam is not None for d in done))

    def _refit(
        self,
        index: int,
        target: Target,
        batches: Iterable[tuple[Mapping[str, Array], Mapping[str, Array]]],
        names: FreshNames,
        first: float,
    ) -> LayerFit:
        layer = target.layer
        name = layer.node.name or layer.output.name or ""
        groups, inputs, outputs = layer.weights.shape
        fit, choose = (Moments(groups, inputs, outputs) for _ in range(2))
        per_sample = rows_per_sample(target, sum(self.sizes))
        scale = np.where(target.live, target.scale, 1.0)
        for b, (wanted, given) in enumerate(batches):
            y = take(wanted[target.value], target.cuts)
            count = y.size // math.prod(y.shape[a] for a in layer.axes)
            chosen = chosen_rows(count, per_sample * self.sizes[b], (self.seed, index, b))
            x = input_rows(layer, given[target.source], y.shape, chosen)
            rows = output_rows(layer, y, chosen).astype(np.float64)
            if target.through is not None and target.constant is not None:
                rows = rows @ target.through + target.constant
            if target.skip:
                rows -= output_rows(layer, given[target.skip], chosen)
            rows = (rows - target.shift) / scale
            rows = rows.reshape(len(chosen), groups, outputs).transpose(1, 0, 2)
            (fit if b < self.fitting else choose).add(x, rows)
        importance = np.where(target.live, scale**2, 0.0).reshape(groups, outputs)
        found = refit(
            fit,
            choose,
            layer.weights,
            layer.bias,
            biased=layer.biased,
            importance=importance / (importance.max() or 1.0),
            first=first,
        )
        if found is None:
            return LayerFit(name)
        write_back(layer, found.weights, found.bias, names)
        return LayerFit(name, found.lam, found.before, found.after)


def _samples(feed: Mapping[str, Array]) -> int:
    return max((a.shape[0] for a in feed.values() if a.ndim), default=1)
