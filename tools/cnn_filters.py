"""What `tools/cnn_study.py` reads off weights: costs of layers, norms and zeros of filters.

A filter is what one output channel of a layer is computed by: its slice of the weight. Pruned
together with it, and not looked at here, are the slices that read the channel; where an addition
joins channels of several layers, a unit has a filter in each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

import graphprune
from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.groups import Group
from graphprune.measure.cost import count_macs
from graphprune.onnx.canonical import canonicalise
from graphprune.onnx.load import load
from graphprune.onnx.operands import attribute
from graphprune.onnx.shapes import default_bindings, infer_shapes
from graphprune.rules.context import node_name
from graphprune.selection.criteria import unit_rows
from graphprune.sparse.weights import prunable

Array = np.ndarray[Any, Any]
Record = dict[str, Any]
Scores = Callable[[DependencyGraph, Sequence[str]], Mapping[str, Array]]

SMALL = 0.1
"""A weight is near zero below this part of its layer's root mean square."""

SPARSE = 0.5
"""A filter is sparse below this part of its layer's mean L1 norm."""


@dataclass(frozen=True, eq=False)
class Filters:
    """The filters of a model.

    Attributes:
        path: The ONNX file.
        model: Its canonical copy.
        graph: The analysis.
    """

    path: Path
    model: ir.Model
    graph: DependencyGraph

    @classmethod
    def of(cls, path: Path) -> Filters:
        """Of an ONNX file."""
        return cls(path, canonicalise(load(path).model), graphprune.analyse(path))

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """Weight -> contents."""
        return {w.name: w.array() for w in prunable(self.model)}

    @cached_property
    def pruned(self) -> dict[str, dict[str, Array]]:
        """Scope -> weight -> contents when half of the model's weights, the smallest, are zero.

        `local`: half of each layer's; `global`: those below one threshold.
        """
        found = {}
        for scope in ("local", "global"):
            sparse = graphprune.sparsify(self.path, sparsity=0.5, scope=scope, bench=False)
            weights = sparse.model.graph.initializers
            found[scope] = {n: weights[n].const_value.numpy() for n in self.arrays}
        return found

    def rows(self, group: Group, arrays: Mapping[str, Array]) -> Iterator[tuple[Array, Array]]:
        """Of each layer that computes a group: filters `(units, weights)` and numbers of units."""
        outputs = {w.name: w.role.output for w in prunable(self.model)}
        for member in group.members:
            name = member.site.name
            if member.site.is_weight and member.resolved.axes == (outputs.get(name),):
                yield unit_rows(group, member, arrays[name])

    def scores(self, kind: str) -> Scores:
        """A criterion that looks at filters alone, for `graphprune.compile`.

        Args:
            kind: `filter L1`, `filter L1, largest leave`, or `filter zeros`: its share of weights
                that stay when half of the layer's weights are zero.
        """
        arrays = self.pruned["local"] if kind == "filter zeros" else self.arrays

        def one(group: Group) -> Array:
            total = np.zeros(group.size)
            for rows, units in self.rows(group, arrays):
                values = (rows != 0).mean(1) if kind == "filter zeros" else np.abs(rows).mean(1)
                total[units] += values / values.mean()
            return -total if kind == "filter L1, largest leave" else total

        return lambda graph, names: {n: one(graph.by_name[n]) for n in names}

    def shares(self, group: Group) -> Record:
        """How sparse the filters of a group are, by three measures."""
        layers = [rows for rows, _ in self.rows(group, self.arrays)]
        common = [rows for rows, _ in self.rows(group, self.pruned["global"])]
        small = [np.abs(r) < SMALL * np.sqrt((r**2).mean()) for r in layers]
        norms = [np.abs(r).sum(1) for r in layers]
        sparse = [n < SPARSE * n.mean() for n in norms]
        return {
            "near-zero weights": _share(small),
            "below a common threshold": _share([r == 0 for r in common]),
            "sparse filters": _share(sparse),
        }

    def read_smaller(self, group: Group) -> bool:
        """Whether what reads a group first makes it smaller: a stride, or a pooling window."""
        own = {m.site.name for m in group.members if not m.site.is_weight}
        for node in self.model.graph:
            strides = attribute(node, "strides") or ()
            if max(strides, default=1) > 1 and own & {v.name for v in node.inputs if v is not None}:
                return True
        return False

    def convolutional(self) -> tuple[str, ...]:
        """Names of the groups that convolutions compute."""
        return tuple(g.name for g in self.graph.groups if g.kind != "neuron")


def _share(parts: Sequence[Array]) -> float:
    return float(np.concatenate([p.reshape(-1) for p in parts]).mean())


def costs(model: Any) -> list[Record]:
    """Parameters and MACs, for one sample, of each layer: a file, or an `onnx.ModelProto`."""
    graph = canonicalise(load(model).model)
    open_dims = {
        str(d): 1
        for v in graph.graph.inputs
        for d in v.shape or ()
        if isinstance(d, ir.SymbolicDim)
    }
    macs = count_macs(graph, infer_shapes(graph, default_bindings(graph, open_dims)[0])).by_node
    found = []
    for node in graph.graph:
        if node_name(node) in macs:
            tensors = [
                v.const_value for v in node.inputs if v is not None and v.const_value is not None
            ]
            weight = max(tensors, key=lambda t: t.size)
            found.append(
                {
                    "layer": (weight.name or node_name(node)).removesuffix(".weight"),
                    "convolution": node.op_type == "Conv",
                    "shape": list(weight.shape.numpy()),
                    "params": sum(prod(t.shape.numpy()) for t in tensors),
                    "macs": macs[node_name(node)],
                }
            )
    return found
