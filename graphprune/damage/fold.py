"""Compensation in closed form for one group alone, from the original's statistics.

What leaves is estimated from what stays, `x_R = A x_K + b` with A by ridge regression, and the
layers that read it take that in: `W_K + W_R A`, and `W_R b` into the bias. It needs one pass of
statistics for all groups and widths and no run of the pruned model. Where a convolution pads, the
bias is wrong at the border; the refit of a whole model (`graphprune.passes.compensate`) is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.analysis.groups import Group
from graphprune.compensation.linear import constant_add
from graphprune.onnx.names import FreshNames
from graphprune.onnx.operands import attribute
from graphprune.plan import InitializerCut, Plan, take
from graphprune.rules.context import is_weight, node_name
from graphprune.scoring.run import batch_sizes
from graphprune.scoring.statistics import WIDEST, Statistics, collect

Array = np.ndarray[Any, Any]

_RIDGE = 1e-3
"""Relative to the mean variance of what stays."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer, the axis of its weight that reads, and the activation that it reads."""

    node: ir.Node
    axis: int
    value: str


class Folder:
    """Folds single groups, see above.

    Args:
        layers: Of the original, by node (see `layers_of`).
        statistics: Of what they read, by value (see `statistics_of`).
    """

    def __init__(self, layers: Mapping[str, Layer], statistics: Mapping[str, Statistics]) -> None:
        self._layers = layers
        self._statistics = statistics

    def __call__(self, pruned: ir.Model, plan: Plan) -> None:
        """Change the weights of the layers of `pruned` that read what left."""
        nodes = {node_name(n): n for n in pruned.graph}
        names = FreshNames(pruned)
        for cut, layer in self._cuts(plan):
            node = nodes.get(cut.node)
            if node is not None:
                self._fold(node, cut, layer, names)

    def _cuts(self, plan: Plan) -> Iterator[tuple[InitializerCut, Layer]]:
        for cut in plan.initializers:
            layer = self._layers.get(cut.node)
            if layer is None or cut.input != 1:
                continue
            if any(c.axis == layer.axis and not c.blocks for c in cut.cuts):
                yield cut, layer

    def _fold(self, node: ir.Node, cut: InitializerCut, layer: Layer, names: FreshNames) -> None:
        known = self._statistics[layer.value]
        held = layer.node.inputs[1]
        assert held is not None
        assert held.const_value is not None
        weight = np.moveaxis(held.const_value.numpy().astype(np.float64), layer.axis, 0)
        (reading,) = (c for c in cut.cuts if c.axis == layer.axis)
        kept = np.asarray(reading.kept).reshape(-1)
        gone = np.setdiff1d(np.arange(len(weight)), kept)
        if known.covariance is None or known.mean.size != len(weight) or not kept.size:
            return
        others = tuple(c for c in cut.cuts if c is not reading)
        new = node.inputs[1]
        assert new is not None
        assert new.shape is not None
        width = int(np.prod(new.shape.numpy())) // len(kept)
        if node.op_type == "Conv":
            width = int(new.shape.numpy()[0])
        holder = _bias_of(node, width)
        matrix, constant = _estimate(known, kept, gone, centred=holder is not None)
        lost = np.tensordot(matrix, weight[gone], axes=(0, 0))
        folded = np.moveaxis(weight[kept] + lost, 0, layer.axis)
        _replace(node, 1, take(folded, others), names)
        if holder is not None:
            shift = np.tensordot(constant, weight[gone], axes=(0, 0))
            shift = np.expand_dims(shift, layer.axis)  # with the axes of the weight
            shift = take(shift, others).squeeze(layer.axis)
            if node.op_type == "Conv":
                shift = shift.reshape(len(shift), -1).sum(1)  # of the taps
            _shift(*holder, shift, names)


def layers_of(model: ir.Model, groups: Sequence[Group]) -> dict[str, Layer]:
    """Linear layers that read one of the groups, by node name."""
    nodes = {node_name(n): n for n in model.graph}
    found: dict[str, Layer] = {}
    for member in (m for g in groups for m in g.members):
        node = nodes.get(member.site.node)
        layer = None if node is None else _layer(node)
        if layer is not None and member.site.input == 1 and member.axis == layer.axis:
            found[member.site.node] = layer
    return found


def statistics_of(
    model: ir.Model,
    layers: Mapping[str, Layer],
    feeds: Sequence[Mapping[str, Array]],
    *,
    dims: Mapping[str, Sequence[int]] | None = None,
    threads: int = 1,
    seed: int = 0,
) -> dict[str, Statistics]:
    """Means and covariances of what the layers read.

    Args:
        model: The original, canonical.
        layers: Of `layers_of`.
        feeds: Inputs, batch by batch.
        dims: Shapes of values, to bound memory; one that is not named is measured in a run of its own.
        threads: Of onnxruntime.
        seed: Of the choice of positions.
    """
    wanted = {layer.value: 1 if layer.node.op_type == "Conv" else -1 for layer in layers.values()}
    sizes = batch_sizes(model, feeds, dims or {})
    return collect(model, wanted.items(), feeds, sizes=sizes, threads=threads, seed=seed)


def _layer(node: ir.Node) -> Layer | None:
    if node.domain not in ("", "ai.onnx") or len(node.inputs) < 2:
        return None
    source, weight = node.inputs[0], node.inputs[1]
    if source is None or source.producer() is None or weight is None or not is_weight(weight):
        return None
    if weight.const_value is None or weight.const_value.dtype != ir.DataType.FLOAT:
        return None
    rank = len(weight.const_value.shape)
    if node.op_type == "Conv" and attribute(node, "group", 1) == 1:
        axis = 1
    elif node.op_type == "Gemm" and attribute(node, "alpha", 1.0) == 1.0 == attribute(
        node, "beta", 1.0
    ):
        if attribute(node, "transA"):
            return None
        axis = 1 if attribute(node, "transB") else 0
    elif node.op_type == "MatMul" and rank == 2:
        axis = 0
    elif node.op_type in ("LSTM", "GRU", "RNN"):
        axis = 2
    else:
        return None
    if int(weight.const_value.shape.numpy()[axis]) > WIDEST:
        return None
    return Layer(node, axis, source.name or "")


def _estimate(known: Statistics, kept: Array, gone: Array, *, centred: bool) -> tuple[Array, Array]:
    """A `(gone, kept)` and b `(gone,)` of `x_R = A x_K + b`; without a bias through the origin."""
    moments = known.covariance
    assert moments is not None
    if not centred:
        moments = moments + np.outer(known.mean, known.mean)
    inner = moments[np.ix_(kept, kept)]
    ridge = _RIDGE * float(np.diagonal(inner).mean()) + 1e-12
    matrix = np.linalg.solve(inner + ridge * np.eye(len(kept)), moments[np.ix_(kept, gone)]).T
    constant = known.mean[gone] - matrix @ known.mean[kept] if centred else np.zeros(len(gone))
    return matrix, constant


def _bias_of(node: ir.Node, width: int) -> tuple[ir.Node, int] | None:
    """Where a bias is that holds a constant vector of so many outputs."""
    if node.op_type == "MatMul":
        return constant_add(node)
    index = 3 if node.op_type in ("LSTM", "GRU", "RNN") else 2
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is None or not is_weight(value) or value.const_value is None:
        return None
    size = int(value.const_value.size)
    return (node, index) if size == (2 * width if index == 3 else width) else None


def _shift(node: ir.Node, index: int, shift: Array, names: FreshNames) -> None:
    value = node.inputs[index]
    assert value is not None
    assert value.const_value is not None
    bias = value.const_value.numpy()
    if bias.size == 2 * shift.size:  # of a recurrent layer: that of its input, that of its state
        shift = np.concatenate([shift, np.zeros_like(shift)], -1)
    _replace(node, index, bias + shift.reshape(bias.shape), names)


def _replace(node: ir.Node, index: int, array: Array, names: FreshNames) -> None:
    """A weight of this node's own in place of one that others may read too."""
    old = node.inputs[index]
    assert old is not None
    assert old.const_value is not None
    data = np.ascontiguousarray(array, old.const_value.dtype.numpy())
    name = names.near(f"{old.name}_folded")
    tensor = ir.Tensor(data, dtype=old.const_value.dtype, name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(data.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    graph.register_initializer(value)
    node.replace_input_with(index, value)
