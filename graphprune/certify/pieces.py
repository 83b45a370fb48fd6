"""Running a model piece by piece, so that memory stays bounded and every value can be looked at.

A piece is a run of consecutive nodes. It becomes a model of its own whose inputs are the values it
reads and whose outputs are all it defines; each node runs once. A small model is a single piece.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.certify.graphs import constant, reads, subgraphs
from graphprune.errors import UnsupportedModelError
from graphprune.onnx.runtime import Session

Values = Mapping[str, Any]


class RunError(RuntimeError):
    """onnxruntime refused a piece or failed in it; the message is its first line."""


@dataclass(frozen=True, eq=False)
class Piece:
    """Consecutive nodes of a graph.

    Attributes:
        nodes: In topological order.
        inputs: Activations they read from outside, by name (bodies included).
        outputs: What they define, by name.
    """

    nodes: tuple[ir.Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def make_piece(nodes: Sequence[ir.Node], hidden: Callable[[str], bool] = lambda _: False) -> Piece:
    """A piece of `nodes`; values whose name is `hidden` are no outputs of it."""
    made: set[ir.Value] = set()
    needed: dict[str, None] = {}
    for node in nodes:
        for value in reads(node):
            if value not in made and not value.is_initializer():
                needed[value.name or ""] = None
        made.update(node.outputs)
    outputs = [v.name for n in nodes for v in n.outputs if v.name and not hidden(v.name)]
    return Piece(tuple(nodes), tuple(needed), tuple(outputs))


def cut_points(
    nodes: Sequence[ir.Node],
    activation_bytes: Callable[[ir.Value], int],
    activation_limit: int,
    weight_limit: int,
) -> list[int]:
    """Where to cut `nodes` so that no run of them exceeds a limit (one node alone may).

    Returns:
        Index one past the end of each run, increasing, the last being `len(nodes)`.
    """
    ends: list[int] = []
    activations = weights = 0
    for index, node in enumerate(nodes):
        own = sum(activation_bytes(v) for v in node.outputs)
        held = weight_bytes(node)
        begun = index > (ends[-1] if ends else 0)
        if begun and (activations + own > activation_limit or weights + held > weight_limit):
            ends.append(index)
            activations = weights = 0
        activations += own
        weights += held
    return [*ends, len(nodes)]


def weight_bytes(node: ir.Node) -> int:
    """Bytes of the initializers a node reads, those of its bodies included."""
    total = 0
    for value in node.inputs:
        tensor = constant(value)
        total += tensor.nbytes if tensor is not None else 0
    for body in subgraphs(node):
        total += sum(weight_bytes(inner) for inner in body)
        total += sum(t.nbytes for t in map(constant, body.initializers.values()) if t is not None)
    return total


_T = ir.DataType
_PORTABLE = {
    *(_T.FLOAT, _T.DOUBLE, _T.FLOAT16, _T.BOOL, _T.STRING),
    *(_T.INT8, _T.INT16, _T.INT32, _T.INT64, _T.UINT8, _T.UINT16, _T.UINT32, _T.UINT64),
}
"""Element types that onnxruntime exchanges with numpy; others travel as float32, without loss."""


_FED_BYTES = 16 << 20
_FED = {_T.FLOAT, _T.DOUBLE, _T.FLOAT16}


def large_weights(piece: Piece) -> list[ir.Value]:
    """Initializers that are better fed than put into a model, where they would be copied four
    times (into protobuf, its bytes, onnxruntime's own memory, its packed form)."""
    found = {v: None for node in piece.nodes for v in reads(node) if v.is_initializer()}
    tensors = [(v, v.const_value) for v in found]
    return [v for v, t in tensors if t is not None and t.nbytes >= _FED_BYTES and t.dtype in _FED]


def piece_model(
    model: ir.Model,
    piece: Piece,
    values: Values,
    dtypes: Mapping[str, ir.DataType],
    fed: Sequence[ir.Value] = (),
) -> ir.Model:
    """A model of the piece alone, sharing the tensors of `model`.

    Args:
        model: What the piece is part of.
        piece: The nodes.
        values: Something for each of `piece.inputs`: tells element types that nothing else does.
        dtypes: Element types by name, where known.
        fed: Initializers that become inputs.
    """
    by_name: dict[str, ir.Value] = {}
    initializers: dict[ir.Value, None] = {}
    for node in piece.nodes:
        for value in (*reads(node), *node.outputs):
            if value.is_initializer():
                initializers[value] = None
            elif value.name:
                by_name.setdefault(value.name, value)
    view = ir.GraphView(
        [*(by_name[name] for name in piece.inputs), *fed],
        [by_name[name] for name in piece.outputs],
        nodes=piece.nodes,
        initializers=tuple(v for v in initializers if v not in set(fed)),
        opset_imports=dict(model.opset_imports),
        name=model.graph.name or "piece",
    )
    graph = view.clone()
    given = {v.name for v in model.graph.inputs}
    for value in graph.inputs:
        value.const_value = None
        array = values.get(value.name or "")
        if isinstance(array, np.ndarray):
            value.type = ir.TensorType(dtypes.get(value.name or "") or _element_type(array))
            if value.name not in given:  # some ops must know how long an operand of sizes is
                value.shape = ir.Shape(array.shape)
        elif isinstance(array, list) and array and isinstance(array[0], np.ndarray):
            value.type = ir.SequenceType(ir.TensorType(_element_type(array[0])))
    _make_portable(graph, dtypes)
    return ir.Model(graph, ir_version=model.ir_version)


def _make_portable(graph: ir.Graph, dtypes: Mapping[str, ir.DataType]) -> None:
    """Let values that numpy has no type for enter and leave as float32, under their names."""
    for index, value in enumerate(graph.inputs):
        dtype = value.dtype
        if dtype is None or dtype in _PORTABLE:
            continue
        entry = ir.Value(name=value.name, shape=value.shape, type=ir.TensorType(_T.FLOAT))
        graph.inputs[index] = entry
        cast = ir.node("Cast", [entry], {"to": dtype.value}, num_outputs=1)
        value.replace_all_uses_with(cast.outputs[0], replace_graph_outputs=True)
        cast.outputs[0].name = f"{entry.name}__narrow"
        graph.insert_before(graph[0], cast)
    for index, value in enumerate(graph.outputs):
        dtype = dtypes.get(value.name or "") or value.dtype
        if dtype is None or dtype in _PORTABLE or value.producer() is None:
            continue
        cast = ir.node("Cast", [value], {"to": _T.FLOAT.value}, num_outputs=1)
        name, value.name = value.name, f"{value.name}__narrow"
        cast.outputs[0].name = name
        graph.append(cast)
        graph.outputs[index] = cast.outputs[0]


def _element_type(array: np.ndarray[Any, Any]) -> ir.DataType:
    if array.dtype.kind in "OUS":
        return _T.STRING
    return _T.from_numpy(array.dtype)


def portable(array: Any) -> Any:
    """An array as onnxruntime takes it: types numpy does not know become float32."""
    if isinstance(array, np.ndarray) and _element_type(array) not in _PORTABLE:
        return array.astype(np.float32)
    return array


class Runner:
    """Runs pieces of one model.

    Args:
        model: The model.
        dtypes: Element types of its values by name, where known.
        keep: Whether sessions may be kept for the next inputs.
    """

    def __init__(self, model: ir.Model, dtypes: Mapping[str, ir.DataType], keep: bool) -> None:
        self.model = model
        self._dtypes = dtypes
        self._keep = keep
        self._sessions: dict[tuple[int, tuple[tuple[int, ...], ...]], tuple[Piece, Session]] = {}

    def run(self, piece: Piece, values: Values, keep: bool = True) -> dict[str, Any]:
        """Everything the piece defines, by name.

        Raises:
            RunError: onnxruntime cannot load or run it.
        """
        if not piece.outputs:
            return {}
        given = {v.name for v in self.model.graph.inputs}
        shapes = tuple(getattr(values[n], "shape", ()) for n in piece.inputs if n not in given)
        held = self._sessions.get((id(piece), shapes))
        inputs = {name: values[name] for name in piece.inputs}
        try:
            if held is not None:
                return dict(held[1].run(inputs))
            keep = keep and self._keep
            fed = [] if keep else large_weights(piece)
            part = piece_model(self.model, piece, values, self._dtypes, fed)
            session = Session(part, optimize=False)
            for value in fed:
                assert value.const_value is not None
                inputs[value.name or ""] = value.const_value.numpy()
            results = session.run(inputs)
        except UnsupportedModelError as error:
            raise RunError(str(error)) from error
        if keep:
            self._sessions[id(piece), shapes] = (piece, session)
        else:
            session.close()
        return dict(results)
