"""An ONNX model as `decide` sees it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from graphprune.analysis.dependency import DependencyGraph
from graphprune.decide import Again, Measured, Progress, decide
from graphprune.measure.size import NOT_WEIGHTS, count_parameters
from graphprune.onnx.analyse import analyse_graph
from graphprune.onnx.costs import mac_function, whole_uses
from graphprune.onnx.shapes import Shapes, infer_shapes
from graphprune.options import Options
from graphprune.passes.fold_initializers import ORIGIN
from graphprune.plan import Plan, Unpruned
from graphprune.rewrite import rewrite
from graphprune.rules.context import node_name
from graphprune.selection.cost import CostModel

_EXPORTER_ORIGIN = "pkg.onnxscript.optimizer.folded_from"


@dataclass(frozen=True, eq=False)
class OnnxSubject:
    """A canonical model and its sizes at two bindings."""

    model: ir.Model
    shapes: Sequence[Shapes]
    sha256: str

    @property
    def binding(self) -> Mapping[str, int]:
        """The first binding."""
        return self.shapes[0].binding

    @cached_property
    def _initializers(self) -> dict[str, ir.Value]:
        return initializers_of(self.model)

    def analyse(self, *, blocks: bool = True, grid: int = 16) -> DependencyGraph:
        """Groups of the model."""
        return analyse_graph(self.model, self.shapes[0], self.shapes[1], blocks=blocks, grid=grid)

    def weight(self, name: str) -> np.ndarray:
        """Contents of an initializer."""
        tensor = self._initializers[name].const_value
        assert tensor is not None
        return tensor.numpy()

    def cost(self, graph: DependencyGraph) -> CostModel:
        """Parameters and MACs of an allocation."""
        return CostModel(
            graph,
            mac_function(self.model, self.shapes[0]),
            count_parameters(self.model),
            whole=whole_uses(self.model, graph.sites),
            uncounted={n for n, v in self._initializers.items() if v.dtype in NOT_WEIGHTS},
        )

    def origins(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """Initializers that are transposed weights of the exported module."""
        return origins_of(self.model)

    def names(self) -> set[str]:
        """Every node, tensor and initializer."""
        known = set()
        for node in ir.traversal.RecursiveGraphIterator(self.model.graph):
            known.add(node_name(node))
            known.update(v.name or "" for v in (*node.inputs, *node.outputs) if v is not None)
        return known

    def smaller(
        self, plan: Plan, graph: DependencyGraph, again: Again
    ) -> tuple[Plan, DependencyGraph | None, OnnxSubject]:
        """The model after `plan`."""
        bindings = [s.binding for s in self.shapes]
        plan, found, model = rewrite(self.model, bindings, plan, graph, again)
        shapes = [infer_shapes(model, b) for b in bindings]
        return plan, found, OnnxSubject(model, shapes, self.sha256)


def decide_model(
    model: ir.Model,
    shapes: Sequence[Shapes],
    options: Options,
    source_sha256: str,
    progress: Progress,
    refused: Sequence[Unpruned] = (),
    measured: Measured | None = None,
) -> tuple[Plan, DependencyGraph]:
    """`decide` for a canonical model, its sizes at two bindings and the hash of its file."""
    return decide(OnnxSubject(model, shapes, source_sha256), options, progress, refused, measured)


def origins_of(model: ir.Model) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What transposed initializers were called, where graphprune or the exporter folded them."""
    found = {}
    for name, value in initializers_of(model).items():
        note = value.metadata_props.get(ORIGIN, "")
        source, *axes = note.rsplit(" ", note.count(" ")) if note else ("",)
        if source:
            found[name] = source, tuple(int(a) for a in axes)
            continue
        names = re.findall(r"'([^']*)'", value.metadata_props.get(_EXPORTER_ORIGIN, ""))
        if len(names) == 1 and value.shape is not None and len(value.shape) == 2:
            found[name] = names[0], (1, 0)  # a Linear's weight, transposed for MatMul
    return found


def initializers_of(model: ir.Model) -> dict[str, ir.Value]:
    """Every initializer by name, those of bodies included."""
    found = dict(model.graph.initializers)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                found.update(attribute.as_graph().initializers)
    return found
