"""Refit the layers behind a cut to what the original computes, from calibration inputs.

Error feedback: layer by layer, in the order of the graph, each linear layer reads what the already
refitted pruned model gives it and is fitted by ridge regression to what the original makes of the
same inputs (He et al. 2017, asymmetric form). Convolutions are fitted over whole patches, the
padding's zeros included. Only contents of initializers change, and a bias that an op may have is
added where it helps: no node, so nothing gets slower.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.compensation.frontier import Frontier
from graphprune.compensation.least_squares import FIRST, refit
from graphprune.compensation.linear import input_rows, output_rows, write_back
from graphprune.compensation.moments import Moments
from graphprune.compensation.targets import Target, find_targets, mixed_target
from graphprune.compensation.wanted import Reference, Wanted, made_outputs
from graphprune.freed import give_back
from graphprune.onnx.names import FreshNames
from graphprune.plan import Plan
from graphprune.rules.context import node_name
from graphprune.threads import ahead, at_once

__all__ = ["CompensatePass", "LayerFit"]

Array = np.ndarray[Any, Any]
Feeds = Sequence[Mapping[str, Array]]

BLOCK = 1024
"""Rows whose products are summed at a time: of fewer, adding them up takes longer than they do."""


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

    After the call `layers` says what happened to each layer, `left` names linear or recurrent
    layers behind a cut that are not of a kind that is refitted, and `outputs` are those of the
    original and of the refitted model on the inputs to choose by.
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
        self.outputs: tuple[list[dict[str, Array]], list[dict[str, Array]]] = [], []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Refit in place. Raises UnsupportedModelError where a model does not run on the inputs."""
        targets, left = find_targets(model, self.plan, self.dims, self.original)
        self.left = tuple(left)
        targets = [mixed_target(t, self.mixed.get(node_name(t.layer.node))) for t in targets]
        sources = [[t.source, *([t.skip] if t.skip else [])] for t in targets]
        names = FreshNames(model)
        done: list[LayerFit] = []
        first = FIRST
        stops = [*sources, made_outputs(model)]
        with (
            Frontier(model, self.feeds, stops, threads=self.threads) as pruned,
            Reference(
                self.original,
                targets,
                self.feeds,
                self.sizes,
                self.dims,
                threads=self.threads,
                seed=self.seed,
            ) as reference,
        ):
            for i, (target, rows) in enumerate(zip(targets, reference.layers, strict=True)):
                pairs = _pairs(target, pruned.advance(i), rows)
                with ahead(_blocks(pairs, self.fitting)) as blocks:
                    fit, choose = _moments(target, blocks)
                done.append(_refit(target, fit, choose, names, first, at_once(self.threads)))
                first = found if (found := done[-1].lam) and math.isfinite(found) else first
                give_back()
                self.progress((i + 1) / len(targets))
            own = list(pruned.advance(len(targets), self.fitting))
            self.outputs = reference.outputs(self.fitting), own
        self.layers = tuple(done)
        return ir.passes.PassResult(model, modified=any(d.lam is not None for d in done))


def _pairs(
    target: Target, batches: Iterable[Mapping[str, Array]], wanted: Sequence[Wanted]
) -> Iterator[tuple[Array, Array]]:
    """What the layer reads and what its product should be: `(groups, rows, inputs or outputs)`."""
    layer = target.layer
    groups, _, outputs = layer.weights.shape
    for given, want in zip(batches, wanted, strict=True):
        x = input_rows(layer, given[target.source], want.shape, want.chosen)
        y = want.rows.astype(np.float64)
        if target.through is not None and target.constant is not None:
            y = y @ target.through + target.constant
        if target.skip:
            y -= output_rows(layer, given[target.skip], want.chosen)
        y -= target.shift
        y /= _scale(target)
        yield x, y.reshape(len(y), groups, outputs).transpose(1, 0, 2)


def _blocks(
    pairs: Iterable[tuple[Array, Array]], fitting: int
) -> Iterator[tuple[bool, Array, Array]]:
    """The same rows, at least `BLOCK` at a time, and whether they are of the first `fitting` pairs."""
    each = iter(pairs)
    for fits, batches in ((True, islice(each, fitting)), (False, each)):
        held: list[tuple[Array, Array]] = []
        for pair in batches:
            held.append(pair)
            if sum(x.shape[1] for x, _ in held) >= BLOCK:
                yield fits, *_joined(held)
                held = []
        if held:
            yield fits, *_joined(held)


def _joined(pairs: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    if len(pairs) == 1:
        return pairs[0]
    x, y = (np.concatenate(arrays, axis=1) for arrays in zip(*pairs, strict=True))
    return x, y


def _moments(
    target: Target, blocks: Iterable[tuple[bool, Array, Array]]
) -> tuple[Moments, Moments]:
    """Sums over the rows to fit to, and over those to choose by."""
    fit, choose = (Moments(*target.layer.weights.shape) for _ in range(2))
    for fits, x, y in blocks:
        (fit if fits else choose).add(x, y)
    return fit, choose


def _refit(
    target: Target, fit: Moments, choose: Moments, names: FreshNames, first: float, jobs: int
) -> LayerFit:
    layer = target.layer
    groups, _, outputs = layer.weights.shape
    name = layer.node.name or layer.output.name or ""
    importance = np.where(target.live, _scale(target) ** 2, 0.0).reshape(groups, outputs)
    found = refit(
        fit,
        choose,
        layer.weights,
        layer.bias,
        biased=layer.biased,
        importance=importance / (importance.max() or 1.0),
        first=first,
        jobs=jobs,
    )
    if found is None:
        return LayerFit(name)
    write_back(layer, found.weights, found.bias, names)
    return LayerFit(name, found.lam, found.before, found.after)


def _scale(target: Target) -> Array:
    """Of each channel; 1 where nothing comes through."""
    return np.where(target.live, target.scale, 1.0)


def _samples(feed: Mapping[str, Array]) -> int:
    return max((a.shape[0] for a in feed.values() if a.ndim), default=1)
