"""An ONNX graph as a torch module: an interpreter whose parameters are the graph's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from graphprune.distill.ops import Call, Op, find, refusal
from graphprune.errors import UnsupportedModelError, first_line
from graphprune.rules.context import node_name

__all__ = ["OnnxModule", "Use"]

Use = tuple[str, int]
"""An operand: name of the node (or of its first output), and which of its inputs."""

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

_MASK = 1e4
"""A table with numbers as large as this is a mask, not a weight."""


@dataclass(frozen=True, eq=False)
class _Step:
    """One node, what runs it, and the values that nobody reads after it."""

    node: ir.Node
    name: str
    op: Op | None
    version: int
    done: tuple[ir.Value, ...]
    branches: Mapping[str, tuple[_Step, ...]]


class OnnxModule(nn.Module):
    """Runs the graph of `model` in torch.

    Parameters are the floating-point initializers of one dimension or more that the graph uses as
    weights, each once however often it is used. Constants stay: statistics of batch norms,
    exponents and limits, masks, single numbers that are not the weight or bias of a layer, and
    tables that are looked up. Batch norms run in inference form. Sizes are int64 tensors on the
    CPU. An If runs the branch that its condition says.

    Args:
        model: Canonical, with single-precision (or double-precision) weights. Not changed, and not
            to be changed: its nodes are read as they run. Weights are copied.

    Raises:
        UnsupportedModelError: An op that has no function in `graphprune/distill/ops`, a Loop or
            Scan, or half-precision weights; the message names the node or initializer.
    """

    def __init__(self, model: ir.Model) -> None:
        super().__init__()
        graph = model.graph
        self._opsets = dict(model.opset_imports)
        self._inputs = {v.name or "": v for v in graph.inputs if v.name not in graph.initializers}
        self._outputs = list(graph.outputs)
        self._steps = self._compiled(graph, set(graph.outputs))
        self._values = {v.name: v for s in self._steps for v in s.node.outputs if v.name}
        self._values.update({v.name: v for v in self._inputs.values() if v.name})
        self._uses = {
            (s.name, i): v
            for s in _all(self._steps)
            for i, v in enumerate(s.node.inputs)
            if v is not None
        }
        self._weights: dict[str, int] = {}
        self._constants: dict[ir.Value, Tensor] = {}
        self._buffers_of: dict[ir.Value, str] = {}
        self._parameters_of: dict[ir.Value, int] = {}
        self._held = nn.ParameterList()
        roles = _roles(self._steps)
        for owner in _graphs(self._steps, graph):
            for name, value in owner.initializers.items():
                if value.uses() or value.is_graph_output():
                    self._hold(name, value, roles.get(value, False))

    def _hold(self, name: str, value: ir.Value, weight: bool) -> None:
        tensor = value.const_value
        if tensor is None or tensor.dtype == ir.DataType.STRING:
            return
        if tensor.dtype in _HALVES and weight and len(tensor.shape):
            raise UnsupportedModelError(
                f"initializer '{name}' is {tensor.dtype.name}: gradients need a model in single "
                "precision"
            )
        array = np.array(tensor.numpy())
        if tensor.dtype == ir.DataType.BFLOAT16:
            array = array.astype(np.float32)
        data = torch.from_numpy(array)
        data = data.to(torch.bfloat16) if tensor.dtype == ir.DataType.BFLOAT16 else data
        if tensor.dtype not in _FLOATS:
            self._constants[value] = data
        elif weight and array.ndim and array.size and not _is_mask(array):
            self._weights[name] = self._parameters_of[value] = len(self._held)
            self._held.append(nn.Parameter(data))
        else:
            self._buffers_of[value] = f"constant_{len(self._buffers_of)}"
            self.register_buffer(self._buffers_of[value], data, persistent=False)

    # -- weights ----------------------------------------------------------------------------------

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """Initializer name -> parameter."""
        return {name: self._held[i] for name, i in self._weights.items()}

    def write_back(self, model: ir.Model, weights: Mapping[str, Tensor] | None = None) -> None:
        """Put the parameters (or tensors like them) into the initializers of `model`, in place."""
        for name, tensor in (self.weights if weights is None else weights).items():
            array = tensor.detach().cpu().numpy().copy()
            model.graph.initializers[name].const_value = ir.tensor(array, name=name)

    def operand(self, use: Use) -> Tensor:
        """The floating-point initializer that a use reads. Raises KeyError where it reads none."""
        found = self.operand_or_none(use)
        if found is None:
            raise KeyError(use)
        return found

    def operand_or_none(self, use: Use) -> Tensor | None:
        """The same, None where the use reads something else."""
        value = self._uses.get(use)
        if value is None:
            return None
        if value in self._parameters_of:
            held: Tensor = self._held[self._parameters_of[value]]
            return held
        key = self._buffers_of.get(value)
        return None if key is None else self.get_buffer(key)

    # -- running ----------------------------------------------------------------------------------

    def forward(
        self,
        feeds: Mapping[str, Tensor],
        names: Sequence[str] | None = None,
        operands: Mapping[Use, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Values by name.

        Args:
            feeds: Every input of the graph by name.
            names: Values of the top graph to return; None for the outputs.
            operands: What some uses of values read in place of them, by use.

        Raises:
            UnsupportedModelError: A node fails on these inputs, or needs something that its
                function does not do; the message names it.
        """
        wanted = self._outputs if names is None else [self._values[n] for n in names]
        scope: dict[ir.Value, Tensor] = {}
        for name, value in self._inputs.items():
            scope[value] = feeds[name]
        for value, key in self._buffers_of.items():
            scope[value] = self.get_buffer(key)
        for value, i in self._parameters_of.items():
            scope[value] = self._held[i]
        scope.update(self._constants)
        keep = set(wanted)
        last = 0 if names is not None else len(self._steps) - 1
        if names is not None:  # nothing behind the last value that is asked for
            makers = {v: i for i, s in enumerate(self._steps) for v in s.node.outputs}
            last = max((makers.get(v, -1) for v in wanted), default=-1)
        self._run(self._steps[: last + 1], scope, keep, operands or {})
        return {v.name or "": scope[v] for v in wanted}

    def _run(
        self,
        steps: Sequence[_Step],
        scope: dict[ir.Value, Tensor],
        keep: set[ir.Value],
        operands: Mapping[Use, Tensor],
    ) -> None:
        for step in steps:
            if step.branches:
                self._branch(step, scope, operands)
            else:
                inputs = tuple(None if v is None else scope.get(v) for v in step.node.inputs)
                if operands:
                    inputs = tuple(operands.get((step.name, i), x) for i, x in enumerate(inputs))
                self._node(step, inputs, scope)
            for value in step.done:
                if value not in keep:
                    scope.pop(value, None)

    def _node(
        self, step: _Step, inputs: tuple[Tensor | None, ...], scope: dict[ir.Value, Tensor]
    ) -> None:
        assert step.op is not None
        try:
            found = step.op.run(Call(step.node, step.version, inputs))
        except UnsupportedModelError:
            raise
        except (RuntimeError, ValueError, IndexError, TypeError, KeyError) as error:
            raise refusal(step.node, first_line(error)) from error
        results = found if isinstance(found, tuple) else (found,)
        for value, result in zip(step.node.outputs, results, strict=False):
            if result is not None:
                scope[value] = result

    def _branch(
        self, step: _Step, scope: dict[ir.Value, Tensor], operands: Mapping[Use, Tensor]
    ) -> None:
        condition = step.node.inputs[0]
        assert condition is not None
        taken = "then_branch" if bool(scope[condition].item()) else "else_branch"
        body = step.node.attributes[taken].as_graph()
        self._run(step.branches[taken], scope, set(body.outputs), operands)
        for value, result in zip(step.node.outputs, body.outputs, strict=True):
            scope[value] = scope[result]

    # -- reading the graph ------------------------------------------------------------------------

    def _compiled(self, graph: ir.Graph, keep: set[ir.Value]) -> tuple[_Step, ...]:
        nodes = list(graph)
        last: dict[ir.Value, int] = {}
        for i, node in enumerate(nodes):
            for value in (*_reads(node), *node.outputs):
                last[value] = i
        done: dict[int, list[ir.Value]] = {}
        own = {v for node in nodes for v in node.outputs}
        for value, i in last.items():
            if value in own and value not in keep:
                done.setdefault(i, []).append(value)
        return tuple(self._step(n, tuple(done.get(i, ()))) for i, n in enumerate(nodes))

    def _step(self, node: ir.Node, done: tuple[ir.Value, ...]) -> _Step:
        branches: dict[str, tuple[_Step, ...]] = {}
        op = find(node)
        if node.op_type == "If" and node.domain in ("", "ai.onnx"):
            for key in ("then_branch", "else_branch"):
                body = node.attributes[key].as_graph()
                branches[key] = self._compiled(body, set(body.outputs))
        elif op is None:
            raise refusal(node, "its op has no gradient here")
        version = node.version or self._opsets.get(node.domain, 1)
        return _Step(node, node_name(node), op, version, done, branches)


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """Everything that a node reads, its bodies included."""
    yield from (v for v in node.inputs if v is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            body = attribute.as_graph()
            yield from body.outputs
            for inner in body:
                yield from _reads(inner)


def _all(steps: Sequence[_Step]) -> Iterator[_Step]:
    for step in steps:
        yield step
        for body in step.branches.values():
            yield from _all(body)


def _graphs(steps: Sequence[_Step], top: ir.Graph) -> list[ir.Graph]:
    bodies = [step.node.attributes[k].as_graph() for step in _all(steps) for k in step.branches]
    return [top, *bodies]


def _roles(steps: Sequence[_Step]) -> dict[ir.Value, bool]:
    """Value -> whether it is a weight wherever it is used."""
    found: dict[ir.Value, bool] = {}
    single: dict[ir.Value, bool] = {}
    for step in _all(steps):
        for i, value in enumerate(step.node.inputs):
            if value is None or step.op is None:
                continue
            found[value] = found.get(value, True) and i not in step.op.fixed
            single[value] = single.get(value, False) or i in step.op.weights
    for value, weight in found.items():
        shape = value.shape
        size = None if shape is None or not shape.is_static() else int(np.prod(shape.numpy()))
        found[value] = weight and (size != 1 or single[value])
    return found


def _is_mask(array: np.ndarray) -> bool:
    return bool((~np.isfinite(array)).any() or np.abs(array).max(initial=0.0) >= _MASK)
