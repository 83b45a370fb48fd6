"""Take whole layers out: what comes into a layer stands for what goes out.

1. Readers of a layer's output read its source; a graph output is handed on by an Identity.
2. Where the cut asks for a linear map, a MatMul with a bias behind it (channels last) or a 1x1 Conv
   (channels second) stands in between, the identity until CompensatePass fits it.
3. What nothing reads any more goes, its weights with it.

Names of all that stays, inputs, outputs, opsets and metadata stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphprune.errors import UsageError
from graphprune.onnx.names import FreshNames
from graphprune.onnx.unread import drop_unread, read_values
from graphprune.plan import LayerCut

__all__ = ["DropLayersPass"]


class DropLayersPass(ir.passes.InPlacePass):
    """Drop layers of a canonical model.

    Args:
        layers: Of the model, in any order (`graphprune.onnx.layers.layers_of` finds them).
    """

    def __init__(self, layers: Sequence[LayerCut]) -> None:
        self.layers = tuple(layers)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Raises UsageError, and changes nothing, where the model does not have the layers."""
        if not self.layers:
            return ir.passes.PassResult(model, modified=False)
        values = {v.name: v for v in model.graph.inputs}
        values.update({v.name: v for node in model.graph for v in node.outputs})
        found = [_found(cut, values) for cut in self.layers]
        order = {node: i for i, node in enumerate(model.graph)}
        found.sort(key=lambda f: order[_maker(f[2])])
        read_before = {*read_values(model), *(output for _, _, output in found)}
        names = FreshNames(model)
        stands: dict[ir.Value, ir.Value] = {}
        for cut, source, output in found:
            source = stands.get(source, source)
            if cut.linear is not None:
                stands[output] = _linear(cut, source, output, model, names)
            else:
                stands[output] = _identity(source, output, model, names)
        drop_unread(model, read_before)
        return ir.passes.PassResult(model, modified=True)


def _found(
    cut: LayerCut, values: dict[str | None, ir.Value]
) -> tuple[LayerCut, ir.Value, ir.Value]:
    source, output = values.get(cut.source), values.get(cut.output)
    if source is None or output is None or output.producer() is None:
        missing = cut.source if source is None else cut.output
        raise UsageError(
            f"the plan drops the layer '{cut.name}', but the model has no value '{missing}'"
        )
    return cut, source, output


def _maker(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def _identity(source: ir.Value, output: ir.Value, model: ir.Model, names: FreshNames) -> ir.Value:
    """Hand `source` on to the readers of `output`."""
    if output.is_graph_output():
        node = ir.node("Identity", [source], name=names.near(f"{output.name}/skip"))
        _put(output, node, model)
        return node.outputs[0]
    output.replace_all_uses_with(source)
    return source


def _linear(
    cut: LayerCut, source: ir.Value, output: ir.Value, model: ir.Model, names: FreshNames
) -> ir.Value:
    """A linear map over the channels, which is the identity."""
    assert cut.linear is not None
    width, spatial = cut.linear.width, cut.linear.spatial
    dtype = ir.DataType.from_numpy(np.dtype(cut.linear.dtype))
    base = f"{cut.name}.linear"
    square = np.eye(width).reshape(width, width, *[1] * (spatial or 0))
    weight = _weight(names.near(f"{base}.weight"), square, dtype, model)
    bias = _weight(names.near(f"{base}.bias"), np.zeros(width), dtype, model)
    if spatial is None:
        product = ir.node("MatMul", [source, weight], name=names.near(f"{base}/MatMul"))
        value = product.outputs[0]
        value.name = names.near(f"{base}/MatMul_output")
        model.graph.insert_before(_maker(output), product)
        node = ir.node("Add", [value, bias], name=names.near(f"{base}/Add"))
    else:
        node = ir.node("Conv", [source, weight, bias], name=names.near(f"{base}/Conv"))
    _put(output, node, model)
    return node.outputs[0]


def _weight(name: str, array: np.ndarray, dtype: ir.DataType, model: ir.Model) -> ir.Value:
    tensor = ir.Tensor(array.astype(dtype.numpy()), dtype=dtype, name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(dtype), const_value=tensor
    )
    model.graph.register_initializer(value)
    return value


def _put(output: ir.Value, node: ir.Node, model: ir.Model) -> None:
    """Let a node make what `output` was, under its name."""
    made = node.outputs[0]
    made.name, made.shape, made.type = output.name, output.shape, output.type
    made.doc_string = output.doc_string
    made.metadata_props.update(output.metadata_props)
    model.graph.insert_before(_maker(output), node)
    output.name = None
    for i, value in enumerate(model.graph.outputs):
        if value is output:
            model.graph.outputs[i] = made
    output.replace_all_uses_with(made)
