"""Which layers are refitted, in which order, and what the original says they should give.

A layer's target is its output in the *original*, restricted to the channels that stay. Where the
output is only added to a skip, the target is the original's sum less what the skip holds in the
*pruned* model: so the layer also makes good what the skip got wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.compensation.linear import Linear, channel_axis, linear_of, output_rows
from graphprune.onnx.operands import op_names
from graphprune.onnx.runtime import Session
from graphprune.plan import Cut, Plan, pruned_shape, take
from graphprune.rules.context import is_weight

Array = np.ndarray[Any, Any]
Dims = Mapping[str, tuple[int, ...]]

ROWS = 32768
"""Rows of each layer that are looked at, spread over all calibration inputs."""

MEMORY = 512 << 20
"""Bytes for the targets of all layers together; with more channels there are fewer rows."""

_LINEAR = op_names(
    "Conv ConvTranspose ConvInteger QLinearConv FusedConv Gemm FusedGemm MatMul FusedMatMul "
    "MatMulInteger QLinearMatMul DynamicQuantizeMatMul MatMulNBits Einsum Attention QAttention LSTM "
    "GRU RNN DynamicQuantizeLSTM"
)

_CHUNK = 256 << 20
"""Bytes of the original's activations that one run hands out."""


@dataclass(frozen=True, eq=False)
class Target:
    """A layer to refit.

    Attributes:
        layer: In the pruned graph, with the weights it has before.
        value: What is compared, a value of both graphs: the layer's output or a sum with it.
        skip: The other operand of that sum, None without one.
        cuts: Of `value`.
    """

    layer: Linear
    value: str
    skip: str | None
    cuts: tuple[Cut, ...]


def find_targets(model: ir.Model, plan: Plan, dims: Dims) -> tuple[list[Target], list[str]]:
    """Layers behind a cut, in order, and the names of linear layers behind one that are left.

    Args:
        model: The pruned graph.
        plan: What was cut.
        dims: Shapes of the original's values, at any binding.
    """
    order = {node: i for i, node in enumerate(model.graph)}
    changed: set[ir.Value] = set()  # cut, or other than in the original
    targets: list[Target] = []
    left: list[str] = []
    for node in model.graph:
        touched = any(
            v is not None and not is_weight(v) and (v in changed or (v.name or "") in plan.tensors)
            for v in node.inputs
        )
        if not touched:
            continue
        changed.update(node.outputs)
        layer = linear_of(node)
        target = None if layer is None else _target(layer, plan, dims, order)
        if target is not None:
            targets.append(target)
        elif node.op_type in _LINEAR and any(map(_is_matrix, node.inputs[1:])):
            left.append(node.name or node.outputs[0].name or node.op_type)
    return targets, left


def _is_matrix(value: ir.Value | None) -> bool:
    if value is None or not is_weight(value) or value.const_value is None:
        return False
    return len(value.const_value.shape) >= 2


def _target(layer: Linear, plan: Plan, dims: Dims, order: Mapping[ir.Node, int]) -> Target | None:
    output = layer.output
    name = output.name or ""
    cuts = plan.tensors.get(name, ())
    if name not in dims or any(c.dynamic for c in cuts):
        return None
    axis = channel_axis(layer.node, len(dims[name]))
    if any(c.axis != axis for c in cuts) or pruned_shape(dims[name], cuts)[axis] != layer.bias.size:
        return None
    uses = list(output.uses())
    if len(uses) == 1 and not output.is_graph_output() and uses[0].node.op_type == "Add":
        add = uses[0].node
        skip, total = add.inputs[1 - uses[0].idx], add.outputs[0].name or ""
        if skip is not None and _is_skip(skip, layer.node, order):
            same = dims.get(skip.name or "") == dims[name] == dims.get(total)
            alike = _same_cuts(plan.tensors.get(total, ()), cuts)
            if same and alike:
                return Target(layer, total, skip.name, cuts)
    return Target(layer, name, None, cuts)


def _is_skip(value: ir.Value, node: ir.Node, order: Mapping[ir.Node, int]) -> bool:
    """An activation that is finished before `node` runs, so that no later refit changes it."""
    maker = value.producer()
    return not is_weight(value) and (maker is None or order.get(maker, len(order)) < order[node])


def _same_cuts(one: Sequence[Cut], other: Sequence[Cut]) -> bool:
    return len(one) == len(other) and all(
        a.axis == b.axis and not a.blocks and not b.blocks and np.array_equal(a.kept, b.kept)
        for a, b in zip(one, other, strict=True)
    )


def chosen_rows(count: int, wanted: int, seed: Sequence[int]) -> Array:
    """`wanted` of `count` rows, the same for the same seed, in order."""
    if wanted >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(list(seed)).choice(count, wanted, replace=False))


def rows_per_sample(targets: Sequence[Target], samples: int) -> int:
    """How many rows of each sample are looked at, so that all targets fit into MEMORY."""
    width = sum(t.layer.bias.size for t in targets) or 1
    return max(1, min(ROWS, MEMORY // (4 * width)) // max(samples, 1))


def original_rows(
    original: ir.Model,
    targets: Sequence[Target],
    feeds: Sequence[Mapping[str, Array]],
    wanted: Sequence[int],
    dims: Dims,
    *,
    threads: int = 1,
    seed: int = 0,
) -> list[list[tuple[tuple[int, ...], Array]]]:
    """The original's values at the rows that are looked at, streamed.

    Args:
        original: Canonical.
        targets: What is asked for.
        feeds: Batches.
        wanted: Rows of each batch.
        dims: Shapes, to know how much one run hands out.
        threads: Of onnxruntime.
        seed: Of the choice of rows.

    Returns:
        For each target and batch: the value's shape in the pruned model, and `(rows, channels)`.
    """
    found: list[list[tuple[tuple[int, ...], Array]]] = [[] for _ in targets]
    for chunk in _chunks(targets, dims):
        with Session(original, threads=threads, outputs=[targets[i].value for i in chunk]) as run:
            for b, feed in enumerate(feeds):
                values = run.run(feed)
                for i in chunk:
                    target = targets[i]
                    array = take(values[target.value], target.cuts)
                    node = target.layer.node
                    count = array.size // max(array.shape[channel_axis(node, array.ndim)], 1)
                    chosen = chosen_rows(count, wanted[b], (seed, i, b))
                    found[i].append((array.shape, output_rows(node, array, chosen)))
    return found


def _chunks(targets: Sequence[Target], dims: Dims) -> Iterator[list[int]]:
    chunk: list[int] = []
    size = 0
    for i, target in enumerate(targets):
        own = 32 * int(np.prod(dims[target.value], dtype=np.int64))  # up to 8 samples, 4 bytes
        if chunk and size + own > _CHUNK:
            yield chunk
            chunk, size = [], 0
        chunk.append(i)
        size += own
    if chunk:
        yield chunk
