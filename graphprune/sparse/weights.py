"""Which weights of a model are pruned one by one, and what each of their axes is.

Weights of convolutions, matrix products, recurrent layers and embeddings in floating point, also
behind Identity, Cast and Transpose. Not pruned: biases, norms, whatever has one axis only, integer
weights (whose zero need not be 0), and a tensor that something else reads too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.onnx.operands import attribute
from graphprune.rules.context import is_weight, node_name

Array = np.ndarray[Any, Any]

FLOATS = (
    ir.DataType.FLOAT,
    ir.DataType.FLOAT16,
    ir.DataType.BFLOAT16,
    ir.DataType.DOUBLE,
)


@dataclass(frozen=True)
class Role:
    """What a layer does with the axes of a weight.

    Attributes:
        reduction: The axis that is summed over; of an embedding its width, of which nothing is
            summed.
        output: The axis of outputs.
        source: The input that is multiplied with it, and the axis of that which is summed over;
            None where that is not one of the node's inputs.
        groups: Of a convolution.
    """

    reduction: int
    output: int
    source: tuple[int, int] | None = None
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight that is pruned, in the words of its initializer.

    Attributes:
        name: Of the initializer.
        value: It.
        shape: Of it.
        layers: Names of the nodes that use it.
        role: In the first of these.
        source: Name of the activation that is multiplied with it; None where there is none.
    """

    name: str
    value: ir.Value
    shape: tuple[int, ...]
    layers: tuple[str, ...]
    role: Role
    source: str | None

    @property
    def size(self) -> int:
        """Elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def array(self) -> Array:
        """Its contents."""
        tensor = self.value.const_value
        assert tensor is not None
        return tensor.numpy()


def prunable(model: ir.Model) -> list[Weight]:
    """All weights that are pruned, in the order of the layers that use them."""
    order = {n: i for i, n in enumerate(ir.traversal.RecursiveGraphIterator(model.graph))}
    found = []
    for graph in [model.graph, *model.graph.subgraphs()]:
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if tensor is None or tensor.dtype not in FLOATS or len(tensor.shape) < 2:
                continue
            shape = tuple(int(d) for d in tensor.shape.numpy())
            uses = list(_uses(value, tuple(range(len(shape)))))
            if not uses or value.is_graph_output() or any(u is None for u in uses):
                continue
            known = sorted((u for u in uses if u is not None), key=lambda u: order[u[0]])
            node, role = known[0]
            source = None if role.source is None else node.inputs[role.source[0]]
            layers = tuple(dict.fromkeys(node_name(n) for n, _ in known))
            read = None if source is None else source.name
            found.append((order[node], Weight(name, value, shape, layers, role, read)))
    return [weight for _, weight in sorted(found, key=lambda pair: pair[0])]


def _uses(value: ir.Value, axes: tuple[int, ...]) -> Iterator[tuple[ir.Node, Role] | None]:
    """Layers that use a weight; None for another use. `axes`: where each axis of it comes from."""
    for use in value.uses():
        node = use.node
        own = node.domain in ("", "ai.onnx")
        if own and node.op_type in ("Identity", "Cast", "Transpose"):
            perm = range(len(axes))
            if node.op_type == "Transpose":
                perm = attribute(node, "perm") or range(len(axes))[::-1]
            if node.outputs[0].is_graph_output():
                yield None
            yield from _uses(node.outputs[0], tuple(axes[p] for p in perm))
            continue
        rule = _RULES.get((node.op_type, "" if own else node.domain))
        role = None if rule is None else rule(node, use.idx, len(axes))
        if role is None:
            yield None
        else:
            yield (
                node,
                Role(axes[role.reduction], axes[role.output], role.source, role.groups),
            )


def _conv(node: ir.Node, i: int, rank: int) -> Role | None:
    return Role(1, 0, (0, 1), int(attribute(node, "group", 1))) if i == 1 else None


def _conv_transpose(node: ir.Node, i: int, rank: int) -> Role | None:
    return Role(0, 1, (0, 1) if attribute(node, "group", 1) == 1 else None) if i == 1 else None


def _gemm(node: ir.Node, i: int, rank: int) -> Role | None:
    if i > 1 or rank != 2:
        return None
    turned = [bool(attribute(node, name)) for name in ("transA", "transB")]
    reduction = int(turned[1]) if i == 1 else int(not turned[0])
    other = 1 - i
    across = int(not turned[0]) if i == 1 else int(turned[1])
    return Role(reduction, 1 - reduction, _activation(node, other, across))


def _matmul(node: ir.Node, i: int, rank: int) -> Role | None:
    if i > 1 or rank < 2:
        return None
    turned = bool(attribute(node, "transB" if i else "transA"))
    reduction = rank - 2 if bool(i) != turned else rank - 1
    output = rank - 1 if reduction == rank - 2 else rank - 2
    plain = not attribute(node, "transA") and not attribute(node, "transB")
    source = _activation(node, 1 - i, -1 if i else -2) if plain else None
    return Role(reduction, output, source)


def _activation(node: ir.Node, i: int, axis: int) -> tuple[int, int] | None:
    value = node.inputs[i]
    return None if value is None or is_weight(value) else (i, axis)


def _recurrent(node: ir.Node, i: int, rank: int) -> Role | None:
    if i not in (1, 2) or rank != 3:
        return None
    return Role(2, 1, (0, 2) if i == 1 else None)


def _gather(node: ir.Node, i: int, rank: int) -> Role | None:
    table = i == 0 and rank == 2 and attribute(node, "axis", 0) == 0
    indices = node.inputs[1]
    return Role(1, 0) if table and indices is not None and not is_weight(indices) else None


def _fused_attention(node: ir.Node, i: int, rank: int) -> Role | None:
    return Role(0, 1, (0, -1)) if i == 1 and rank == 2 else None


def _fused_embedding(node: ir.Node, i: int, rank: int) -> Role | None:
    return Role(1, 0) if i in (2, 3, 4) and rank == 2 else None


_RULES: dict[tuple[str, str], Callable[[ir.Node, int, int], Role | None]] = {
    ("Conv", ""): _conv,
    ("FusedConv", "com.microsoft"): _conv,
    ("ConvTranspose", ""): _conv_transpose,
    ("Gemm", ""): _gemm,
    ("FusedGemm", "com.microsoft"): _gemm,
    ("MatMul", ""): _matmul,
    ("FusedMatMul", "com.microsoft"): _matmul,
    ("LSTM", ""): _recurrent,
    ("GRU", ""): _recurrent,
    ("RNN", ""): _recurrent,
    ("Gather", ""): _gather,
    ("Attention", "com.microsoft"): _fused_attention,
    ("EmbedLayerNormalization", "com.microsoft"): _fused_embedding,
}
