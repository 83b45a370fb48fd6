"""Scores from calibration inputs: what the layers that read a unit would lose, after a refit.

Residual energy: `(S^-1)_jj^-1 |W_:j|^2`, the part of channel j that the other channels that are
still there do not explain, as it comes out of each layer that reads it. Units are taken away one by
one, the cheapest first (optimal brain surgeon, as in OBC and ZipLM), so that of two alike channels
only the first to leave is cheap. Relative to the energy of that layer's output, so that layers and
groups compare. Groups that no such layer reads, and recurrent ones, whose loops amplify errors, are
scored by the L2 norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.groups import Group, Member
from graphprune.compensation.targets import chosen_rows
from graphprune.onnx.operands import attribute
from graphprune.onnx.runtime import Session
from graphprune.rules.context import node_name
from graphprune.selection.criteria import WeightOf, scores, units_at

Array = np.ndarray[Any, Any]

ROWS = 8192
"""Vectors of each activation that are looked at."""

_WIDEST = 2048
"""Channels up to which the greedy elimination runs; wider groups are scored in one go."""

_RECURRENT = ("LSTM", "GRU", "RNN")
_SHRINK = 1e-3


@dataclass(frozen=True, eq=False)
class _Reader:
    """A linear layer that reads a group: its input, the axis of channels, and norms of columns."""

    value: str
    axis: int
    energy: Array
    units: Array


def energy_scores(
    model: ir.Model,
    graph: DependencyGraph,
    names: Sequence[str],
    weight: WeightOf,
    feeds: Sequence[Mapping[str, Array]],
    *,
    threads: int = 1,
    seed: int = 0,
) -> dict[str, Array]:
    """Group name -> score of each unit (larger stays).

    Args:
        model: Canonical.
        graph: Its analysis.
        names: Groups to score.
        weight: Contents of initializers.
        feeds: Batches of inputs.
        threads: Of onnxruntime.
        seed: Of the choice of positions.

    Raises:
        UnsupportedModelError: The model does not run on the inputs.
    """
    nodes = {node_name(node): node for node in model.graph}
    groups = [graph.by_name[name] for name in names]
    readers = {g.name: _readers(g, nodes, weight) for g in groups}
    wanted = {r.value: r.axis for found in readers.values() for r in found}
    moments = covariances(model, wanted, feeds, threads=threads, seed=seed)
    result = scores(groups, weight, "l2", seed)
    for group in groups:
        found = [(r, moments[r.value]) for r in readers[group.name]]
        if found:
            values = _eliminate(group.size, found)
            result[group.name] = values / (values.mean() or 1.0)
    return result


def _readers(group: Group, nodes: Mapping[str, ir.Node], weight: WeightOf) -> list[_Reader]:
    if any(m.site.op in _RECURRENT for m in group.members):
        return []
    found = []
    for member in group.members:
        node = nodes.get(member.site.node)
        if node is None or not member.site.is_weight or len(member.resolved.axes) != 1:
            continue
        reader = _reader(group, member, node, weight)
        if reader is not None:
            found.append(reader)
    return found


def _reader(group: Group, member: Member, node: ir.Node, weight: WeightOf) -> _Reader | None:
    source = node.inputs[0]
    if member.site.input != 1 or source is None or source.producer() is None:
        return None
    shape = member.site.shape
    if node.op_type == "Conv" and attribute(node, "group", 1) == 1:
        axis, channels = 1, 1
    elif node.op_type == "Gemm" and len(shape) == 2:
        axis, channels = (1 if attribute(node, "transB") else 0), -1
    elif node.op_type == "MatMul" and len(shape) == 2:
        axis, channels = 0, -1
    else:
        return None
    if member.axis != axis:
        return None
    array = weight(member.site.name).astype(np.float64)
    norms = (array**2).sum(axis=tuple(a for a in range(array.ndim) if a != axis))
    return _Reader(source.name or "", channels, norms, units_at(group, member))


def covariances(
    model: ir.Model,
    wanted: Mapping[str, int],
    feeds: Sequence[Mapping[str, Array]],
    *,
    threads: int = 1,
    seed: int = 0,
) -> dict[str, Array]:
    """Covariance of the channels of some values, `(channels, channels)` in float64, streamed.

    Args:
        model: A graph in memory.
        wanted: Value name -> its channel axis.
        feeds: Batches of inputs.
        threads: Of onnxruntime.
        seed: Of the choice of positions.
    """
    sums: dict[str, list[Any]] = {}
    with Session(model, threads=threads, outputs=list(wanted)) as session:
        for b, feed in enumerate(feeds):
            values = session.run(feed)
            for i, (name, axis) in enumerate(wanted.items()):
                flat = np.moveaxis(values[name], axis, -1)
                flat = flat.reshape(-1, flat.shape[-1])
                chosen = chosen_rows(len(flat), max(1, ROWS // len(feeds)), (seed, i, b))
                rows = flat[chosen].astype(np.float64)
                known = sums.setdefault(name, [0, 0.0, 0.0])
                known[0] += len(rows)
                known[1] = known[1] + rows.sum(0)
                known[2] = known[2] + rows.T @ rows
    found = {}
    for name, (count, first, second) in sums.items():
        mean = first / count
        found[name] = second / count - mean[:, None] * mean[None]
    return found


def _eliminate(size: int, readers: Sequence[tuple[_Reader, Array]]) -> Array:
    """Units taken away one by one, the cheapest first: what each cost, never less than before."""
    inverses, columns, weights, floors = [], [], [], []
    for reader, moments in readers:
        diagonal = np.diagonal(moments)
        scale = diagonal.mean() or 1.0
        total = float((diagonal * reader.energy).sum()) or 1.0
        wide = len(moments) > _WIDEST
        base = np.diag(diagonal) if wide else moments
        floors.append(_SHRINK * scale)
        inverses.append(np.linalg.inv(base + floors[-1] * np.eye(len(base))))
        columns.append([np.flatnonzero(reader.units == u) for u in range(size)])
        weights.append(reader.energy / total)
    left = np.ones(size, bool)
    result = np.zeros(size)
    highest = 0.0
    for _ in range(size):
        cost = np.zeros(size)
        for (reader, _), inverse, share, floor in zip(
            readers, inverses, weights, floors, strict=True
        ):
            energy = 1 / np.maximum(np.diagonal(inverse), 1e-30) - floor
            own = share * np.where(np.isinf(np.diagonal(inverse)), 0, np.maximum(energy, 0))
            here = reader.units >= 0
            cost += np.bincount(reader.units[here], weights=own[here], minlength=size)
        unit = int(np.where(left, cost, np.inf).argmin())
        left[unit] = False
        highest = max(highest, float(cost[unit]))
        result[unit] = highest * (1 + 1e-9 * (size - left.sum()))  # later ones stay first
        for inverse, of in zip(inverses, columns, strict=True):
            for j in of[unit]:
                pivot = inverse[j, j]
                if pivot > 0:
                    inverse -= np.outer(inverse[:, j], inverse[j] / pivot)
                inverse[:, j] = inverse[j] = 0.0
                inverse[j, j] = np.inf  # costs nothing any more
    return result
