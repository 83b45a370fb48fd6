"""The structural half of the certificate: what can be proven without running a weight.

Interface, attributes, every use of every initializer bit by bit, who reads what, shapes,
and where each movement op puts what is kept. The constant parts of both graphs are folded first, so
that a weight behind a Transpose is compared as its layer reads it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphprune.certify.graphs import describe, is_random
from graphprune.certify.match import Match, match
from graphprune.certify.movement import is_movement
from graphprune.certify.operands import Operands
from graphprune.certify.places import Places
from graphprune.certify.record import Record
from graphprune.cut import pruned_shape
from graphprune.onnx.shapes import Shapes, infer_shapes
from graphprune.plan import Plan

_ATTENTION = r"\w*Attention|RotaryEmbedding"
_SIZE_ATTRIBUTES = {
    "group": r"(QLinear|Fused)?Conv(Transpose|Integer)?",
    "hidden_size": "LSTM|GRU|RNN",
    "num_groups": "GroupNormalization",
    "groups": "(Skip)?GroupNorm",
    "split": "Split",
    "num_outputs": "Split",
    "starts": "Slice",
    "ends": "Slice",
    "shape": "Reshape",
    "pads": "Pad",
    "K": "MatMul(NBits|Bnb4)",
    "N": "MatMul(NBits|Bnb4)",
    "num_heads": _ATTENTION,
    "q_num_heads": _ATTENTION,
    "kv_num_heads": _ATTENTION,
    "qkv_hidden_sizes": _ATTENTION,
    "rotary_embedding_dim": _ATTENTION,
}
"""Attribute -> ops (a pattern) in which it holds a size: what it must be follows from shapes and is
seen in the results."""
_DEFAULTED = {"scale"}
"""Attributes whose default depends on a size: pruning makes them explicit."""


@dataclass(frozen=True, eq=False)
class Structure:
    """What the structural check found.

    Attributes:
        failures: In topological order, each naming a node and a reason; empty where all is well.
        renamed: Pruned name -> original names: consumers read it where they read those in the
            original; the numeric check must show that they are equal.
        stand_ins: Original name -> constants that consumers read instead; to be shown likewise.
        notes: What could not be checked without running the graphs.
        checked: Initializer uses and movement ops that were checked.
    """

    failures: tuple[str, ...]
    renamed: Mapping[str, Sequence[str]]
    stand_ins: Mapping[str, Sequence[ir.TensorProtocol]]
    notes: tuple[str, ...]
    checked: int


def check_structure(
    original: ir.Model, pruned: ir.Model, plan: Plan, bindings: Sequence[Mapping[str, int]]
) -> Structure:
    """Compare the two graphs without running them.

    Args:
        original: What the plan was made for.
        pruned: What is to be proven.
        plan: The cuts.
        bindings: Sizes of dynamic dimensions; the plan's first.
    """
    failures = check_interface(original, pruned)
    if failures:
        return Structure(tuple(failures), {}, {}, (), 0)
    before = _folded(original)
    # What could not be folded before (a weight that others read too) may be alone now: it stays.
    after = _folded(pruned, {v.name or "" for node in before.graph for v in node.outputs})
    found = match(before.graph, after.graph)
    record = Record(found.order)
    gone = {n for n, cuts in plan.tensors.items() if any(c.count == 0 for c in cuts)}
    _check_nodes(found, gone, record)
    operands = Operands(before, after, plan, found, record)
    operands.check()
    shapes = [(infer_shapes(before, b), infer_shapes(after, b)) for b in bindings]
    for both in shapes:
        _check_shapes(found, plan, operands.quiet, *both, record)
    if not record.failures:
        Places(plan, found, *shapes[0], operands.renamed, record).check()
    ordered = [text for _, text in sorted(record.failures, key=lambda f: f[0])]
    return Structure(
        tuple(ordered), operands.renamed, operands.stand_ins, tuple(record.notes), record.checked
    )


def _folded(model: ir.Model, leave: Collection[str] = ()) -> ir.Model:
    from graphprune.passes.fold_initializers import FoldInitializersPass

    copy = model.clone()
    FoldInitializersPass(leave=leave)(copy)
    return copy


_OWN_METADATA = "graphprune."  # of a model that was pruned before, and is pruned further


def check_interface(original: ir.Model, pruned: ir.Model) -> list[str]:
    """Inputs, outputs, opsets and metadata must be untouched, except for keys that were added."""
    failures = []
    for kind in ("inputs", "outputs"):
        mine = _signature(original.graph, kind)
        other = _signature(pruned.graph, kind)
        if [n for n, _ in mine] != [n for n, _ in other]:
            failures.append(
                f"the graph's {kind} are {[n for n, _ in other]} instead of {[n for n, _ in mine]}"
            )
            continue
        failures.extend(
            f"{kind[:-1]} '{name}' is {theirs} instead of {ours}"
            for (name, ours), (_, theirs) in zip(mine, other, strict=True)
            if ours != theirs
        )
    if dict(original.opset_imports) != dict(pruned.opset_imports):
        failures.append(
            f"opsets are {dict(pruned.opset_imports)} instead of {dict(original.opset_imports)}"
        )
    if original.ir_version != pruned.ir_version:
        failures.append(f"IR version is {pruned.ir_version} instead of {original.ir_version}")
    failures.extend(
        f"metadata '{key}' was changed"
        for key, value in original.metadata_props.items()
        if pruned.metadata_props.get(key) != value and not key.startswith(_OWN_METADATA)
    )
    return failures


def _signature(graph: ir.Graph, kind: str) -> list[tuple[str, str]]:
    if kind == "inputs":
        values = [v for v in graph.inputs if not v.is_initializer()]
    else:
        values = list(graph.outputs)
    return [
        (v.name or "", f"{v.type} {'of any rank' if v.shape is None else v.shape}") for v in values
    ]


def _check_nodes(found: Match, gone: set[str], record: Record) -> None:
    for node, origin in found.nodes.items():
        if (node.domain, node.op_type, node.overload) != (
            origin.domain,
            origin.op_type,
            origin.overload,
        ):
            # A pass may move entries by another op; that it moves them alike, its results show.
            if is_movement(node) and is_movement(origin):
                record.note(origin, f"is now {describe(node)}")
            else:
                record.fail(origin, f"is now {describe(node)}")
            continue
        for name in {*node.attributes, *origin.attributes}:
            _check_attribute(name, node, origin, record)
        outputs = list(origin.outputs)
        if len(node.outputs) < len(outputs):  # of some nothing is left
            outputs = [v for v in outputs if v.name not in gone]
        for mine, theirs in zip(node.outputs, outputs, strict=False):
            if mine.name and mine.name != theirs.name:
                record.fail(origin, f"defines '{mine.name}' instead of '{theirs.name}'")
    for node in found.added:
        if is_random(node):
            record.failures.append((-1, f"{describe(node)} was added and draws random numbers"))


def _check_attribute(name: str, node: ir.Node, origin: ir.Node, record: Record) -> None:
    mine, theirs = node.attributes.get(name), origin.attributes.get(name)
    is_size = re.fullmatch(_SIZE_ATTRIBUTES.get(name, ""), origin.op_type) is not None
    if is_size or (name in _DEFAULTED and theirs is None):
        return
    if mine is None or theirs is None:
        record.fail(origin, f"attribute '{name}' was {'removed' if mine is None else 'added'}")
    elif mine.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        _check_bodies(mine, theirs, origin, record)
    elif not _equal(mine, theirs):
        record.fail(origin, f"attribute '{name}' is {mine.value} instead of {theirs.value}")


def _check_bodies(mine: ir.Attr, theirs: ir.Attr, origin: ir.Node, record: Record) -> None:
    several = mine.type == ir.AttributeType.GRAPHS
    bodies = (a.as_graphs() if several else [a.as_graph()] for a in (mine, theirs))
    for body, before in zip(*bodies, strict=False):
        for kind in ("inputs", "outputs"):
            names = [v.name for v in getattr(body, kind)]
            wanted = [v.name for v in getattr(before, kind)]
            if names != wanted:
                record.fail(origin, f"the body's {kind} are {names} instead of {wanted}")


def _equal(mine: ir.Attr, theirs: ir.Attr) -> bool:
    if mine.type != theirs.type:
        return False
    if mine.type == ir.AttributeType.TENSOR:
        a, b = mine.as_tensor(), theirs.as_tensor()
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return bool(mine.value == theirs.value)


def _check_shapes(
    found: Match,
    plan: Plan,
    quiet: set[ir.Value],
    before: Shapes,
    after: Shapes,
    record: Record,
) -> None:
    """Shapes inferred on the pruned graph are those of the original, shortened by the plan."""
    producers = {v: n for n in found.nodes.values() for v in n.outputs}
    for value, origin in found.values.items():
        old = before.dims.get(origin)
        if old is None or origin in before.unknown or origin in quiet or value in quiet:
            continue
        node = producers.get(origin)
        try:
            want = pruned_shape(old, plan.tensors.get(origin.name or "", ()))
        except IndexError:
            want = ()
        got = after.dims.get(value)
        if got == want and value not in after.unknown:
            continue
        reason = (
            after.unknown.get(value, "its shape cannot be inferred")
            if got is None or value in after.unknown
            else f"'{value.name}' has shape {list(got)} instead of {list(want)}"
        )
        if node is not None:
            record.fail(node, reason)
        else:
            record.failures.append((-1, f"a body's input: {reason}"))
