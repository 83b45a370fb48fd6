"""The masked original: the graph as it was, with every removed entry forced to zero.

It is the reference that a pruned graph is measured against, and it is built from the plan alone, by
inserting masks: no label, no rule and no slice of the code that prunes takes part in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphprune.certify.emit import Emitter
from graphprune.certify.entries import Entries
from graphprune.certify.graphs import (
    all_graphs,
    constant,
    constants_only,
    describe,
    nodes_by_key,
    values_by_name,
)
from graphprune.certify.masks import MisfitError, fitting, masks, zeroed
from graphprune.certify.statistics import Norm, NoStatisticsError, averaged, write_out
from graphprune.cut import Cut
from graphprune.onnx.shapes import Shapes
from graphprune.plan import InitializerCut, Plan

_T = ir.DataType
# Element types that onnxruntime's Where takes on the CPU, and what others are widened to.
_MASKABLE = {_T.FLOAT, _T.DOUBLE, _T.FLOAT16, _T.INT8, _T.UINT8, _T.INT32, _T.UINT32, _T.INT64}
_WIDER = {
    _T.INT16: _T.INT32,
    _T.UINT16: _T.INT32,
    _T.UINT64: _T.INT64,
    _T.INT4: _T.INT32,
    _T.UINT4: _T.INT32,
}

# Ops whose removed entries show in an input or an output that is masked. Weights of other ops
# (recurrences, packed attention) hide channels inside the op: only zeros in them silence those.
_TRANSPARENT = {"Gather", "MatMul", "Gemm", "Conv", "ConvTranspose", "Add", "Mul"}
_LARGE = 256 << 20


class TwinError(ValueError):
    """The plan cannot be turned into masks; the message names the tensor or node, and why."""


@dataclass(frozen=True, eq=False)
class Twin:
    """A masked original.

    Attributes:
        model: The original's graph under its own names; a tensor that was cut keeps its name and
            is observed before its mask, which changes nothing at entries that stay.
        skipped: Tensors with a cut along a dynamic axis that holds at the plan's binding only:
            they are not masked along it here. What they lose must be masked elsewhere.
    """

    model: ir.Model
    skipped: tuple[str, ...]


def masked_twin(model: ir.Model, plan: Plan, shapes: Shapes) -> Twin:
    """Copy `model` and force to zero all that `plan` removes.

    After every activation of `plan.tensors` stands `Where(mask, x, 0)` (not a product: what is not
    a number at a removed entry must not leak); its consumers, in bodies of If, Loop and Scan too,
    read the masked value. Initializer uses of `plan.initializers` get zeros at what they lose, each
    use its own copy. Nodes of `plan.statistics_nodes` are written out over kept entries.

    Args:
        model: The original; it is not changed. Opset 11 or newer.
        plan: In the numbering of `model`.
        shapes: Of `model`, at the binding that the twin will run at. Where that is not the plan's
            binding, cuts along dynamic axes are left out (see `Twin.skipped`).

    Raises:
        TwinError: The plan names a tensor, use or node that does not fit the model.
        UnsupportedModelError: The opset is too old.
    """
    copy = model.clone()
    origin = dict(zip(_values(copy.graph), _values(model.graph), strict=True))
    builder = _Builder(copy, plan, shapes, origin)
    builder.zero_initializers()
    builder.mask_tensors()
    builder.write_out_statistics()
    return Twin(copy, tuple(sorted(builder.skipped)))


def at_planned_binding(plan: Plan, shapes: Shapes) -> bool:
    """Whether indices along dynamic axes hold at the binding of `shapes`."""
    return all(plan.binding.get(name) == size for name, size in shapes.binding.items())


def _values(graph: ir.Graph) -> list[ir.Value]:
    """Every value in a fixed order: the same for a graph and its clone."""
    found: list[ir.Value] = []
    for inner in all_graphs(graph):
        found.extend(inner.inputs)
        found.extend(inner.initializers.values())
        for node in inner:
            found.extend(node.outputs)
    return found


class _Builder:
    def __init__(
        self, model: ir.Model, plan: Plan, shapes: Shapes, origin: Mapping[ir.Value, ir.Value]
    ) -> None:
        self.model = model
        self.plan = plan
        self.shapes = shapes
        self.origin = origin
        self.planned = at_planned_binding(plan, shapes)
        self.emit = Emitter(model)
        self.nodes = nodes_by_key(model.graph)
        self.constants = constants_only(model.graph)
        self.skipped: set[str] = set()
        # Statistics look up their input after masks were put before it.
        # Under the name it has now: a normalisation in front of another one is replaced before it.
        self.first_inputs = {
            node: (value, value.name or "")
            for key in plan.statistics_nodes
            for node in self.nodes.get(key, ())
            if (value := averaged(node)) is not None
        }

    # --- initializers -----------------------------------------------------------------------------

    def zero_initializers(self) -> None:
        copies: dict[tuple[int, tuple[bytes, ...]], ir.Value] = {}
        for use in self.plan.initializers:
            for node in self._consumers(use):
                value = node.inputs[use.input]
                tensor = constant(value)
                assert value is not None
                self._check_use(use, value)
                if tensor is None:  # computed from weights: masked where it is used
                    self.emit.place_before(node)
                    node.replace_input_with(use.input, self._chain(value, use.cuts))
                    continue
                if tensor.nbytes > _LARGE and node.op_type in _TRANSPARENT:
                    continue  # stays mapped from its file
                key = (id(tensor), tuple(_signature(c) for c in use.cuts))
                if key not in copies:
                    zeros = _lazily_zeroed(tensor, use.cuts)
                    copies[key] = self.emit.initializer("zeroed", zeros)
                node.replace_input_with(use.input, copies[key])

    def _consumers(self, use: InitializerCut) -> list[ir.Node]:
        """The nodes a plan means: those of that name which read the initializer there."""
        found = []
        for node in self.nodes.get(use.node, []):
            value = node.inputs[use.input] if use.input < len(node.inputs) else None
            if value is not None and value.name == use.initializer and value in self.constants:
                found.append(node)
        if not found:
            raise TwinError(
                f"no node '{use.node}' reads a constant '{use.initializer}' as input {use.input}"
            )
        return found

    def _check_use(self, use: InitializerCut, value: ir.Value) -> None:
        shape = self.shapes.dims.get(self.origin[value])
        if shape is None:
            raise TwinError(f"the shape of initializer '{use.initializer}' is not known")
        try:
            fitting(use.cuts, shape, planned=True)
        except MisfitError as error:
            raise TwinError(f"initializer '{use.initializer}': {error}") from None

    def _chain(self, value: ir.Value, cuts: tuple[Cut, ...]) -> ir.Value:
        """`value` behind one Where for each independent mask."""
        origin = self.origin[value]
        dtype = self.shapes.dtypes.get(origin) or value.dtype
        if dtype is None:
            raise TwinError(f"the element type of '{value.name}' is not known")
        for mask in masks(cuts, self.shapes.dims[origin]):
            value = self._where(value, self.emit.constant(mask), dtype)
        return value

    # --- activations ------------------------------------------------------------------------------

    def mask_tensors(self) -> None:
        values = values_by_name(all_graphs(self.model.graph))
        for name, cuts in self.plan.tensors.items():
            if name not in values:
                raise TwinError(f"the plan cuts tensor '{name}', which the model does not have")
            for value in values[name]:
                held = self._fitting(name, value, cuts)
                if held:
                    self._mask(value, held)

    def _fitting(self, name: str, value: ir.Value, cuts: tuple[Cut, ...]) -> tuple[Cut, ...]:
        shape = self.shapes.dims.get(self.origin[value])
        if shape is None:
            raise TwinError(f"the plan cuts tensor '{name}', whose shape is not known")
        try:
            held, dropped = fitting(cuts, shape, self.planned)
        except MisfitError as error:
            raise TwinError(f"tensor '{name}': {error}") from None
        if dropped:
            self.skipped.add(name)
        return held

    def _mask(self, value: ir.Value, cuts: tuple[Cut, ...]) -> None:
        uses = list(value.uses())
        self.emit.place_after(value)
        masked = self._chain(value, cuts)
        for use in uses:
            use.node.replace_input_with(use.idx, masked)
        graph = value.graph
        if graph is not None and graph is not self.model.graph:
            for index, output in enumerate(graph.outputs):
                if output is value:
                    graph.outputs[index] = masked

    def _where(self, value: ir.Value, mask: ir.Value, dtype: ir.DataType) -> ir.Value:
        emit = self.emit
        if dtype == _T.BOOL:
            return emit.op("And", value, mask)
        if dtype == _T.STRING:
            empty = emit.initializer("empty", ir.StringTensor([b""], shape=ir.Shape(())))
            return emit.op("Where", mask, value, empty)
        if dtype in _MASKABLE:
            return emit.op("Where", mask, value, emit.constant(np.zeros((), dtype.numpy())))
        wide = _WIDER.get(dtype, _T.FLOAT)
        cast = emit.op("Cast", value, to=wide.value)
        masked = emit.op("Where", mask, cast, emit.constant(np.zeros((), wide.numpy())))
        return emit.op("Cast", masked, to=dtype.value)

    # --- statistics -------------------------------------------------------------------------------

    def write_out_statistics(self) -> None:
        for key, axes in self.plan.statistics_nodes.items():
            if key not in self.nodes:
                raise TwinError(f"the plan's statistics node '{key}' is not in the model")
            for node in self.nodes[key]:
                self._write_out(node, axes)

    def _write_out(self, node: ir.Node, axes: Sequence[int]) -> None:
        graph = node.graph
        first, name = self.first_inputs.get(node, (None, ""))
        if not isinstance(graph, ir.Graph) or first is None:
            raise TwinError(f"{describe(node)} has no input to take statistics of")
        shape = self.shapes.dims.get(self.origin[first])
        if shape is None:
            raise TwinError(f"the shape of the input of {describe(node)} is not known")
        try:
            held, dropped = fitting(self.plan.tensors.get(name, ()), shape, self.planned)
        except MisfitError as error:
            raise TwinError(f"tensor '{name}': {error}") from None
        self.emit.place_before(node)
        # An input that was replaced by a zeroed copy has no original; no axes stand there.
        origins = [None if v is None else self.origin.get(v) for v in node.inputs]
        norm = Norm(
            self.emit,
            node,
            axes,
            Entries(tuple(shape), held, dropped),
            [self._dtype(v) for v in node.outputs],
            [None if v is None else self.shapes.values.get(v) for v in origins],
        )
        try:
            outputs = write_out(norm)
        except NoStatisticsError as error:
            raise TwinError(f"{describe(node)}: {error}") from None
        if outputs is None:
            return
        for old, new in zip(node.outputs, outputs, strict=False):
            if new is not None and old.name:
                _take_over(old, new)
        if all(not v.uses() and not v.is_graph_output() for v in node.outputs):
            graph.remove(node, safe=True)

    def _dtype(self, value: ir.Value) -> ir.DataType:
        return self.shapes.dtypes.get(self.origin[value]) or value.dtype or _T.FLOAT


def _lazily_zeroed(tensor: ir.TensorProtocol, cuts: tuple[Cut, ...]) -> ir.LazyTensor:
    """Zeros at what the cuts remove, made when read: no second copy of the weights stands."""

    def make() -> ir.TensorProtocol:
        return ir.Tensor(zeroed(tensor.numpy(), cuts), dtype=tensor.dtype)

    shape = ir.Shape(tuple(int(d) for d in tensor.shape.numpy()))
    return ir.LazyTensor(make, dtype=tensor.dtype, shape=shape)


def _take_over(old: ir.Value, new: ir.Value) -> None:
    """Let `new` stand for `old`, under its name, everywhere."""
    name = old.name
    old.name = None if name is None else f"{name}_replaced_by_{new.name}"
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name = name
    new.shape, new.type = old.shape, old.type


def _signature(cut: Cut) -> bytes:
    return repr((cut.axis, cut.size, cut.blocks, cut.kept.shape)).encode() + cut.kept.tobytes()
