"""If, Loop and Scan: labels go into a body, through its nodes and out again.

What a body captures from outside needs nothing: labels belong to values, wherever they are read.
Everything that goes round a loop must fit what came in: a carried tensor has the same channels in
every step.
"""

from __future__ import annotations

import onnx_ir as ir

from graphprune.labels import Factor, Labels
from graphprune.rules.context import OpContext, positive
from graphprune.rules.registry import boundary_rule, op_rule


def state_of(ctx: OpContext, value: ir.Value) -> Labels | None:
    """Labels of any value, not tracked where there are none; None where its shape is not known."""
    known = ctx.found.states.get(value)
    if known is not None:
        return known
    dims = ctx.sizes(value)
    return None if dims is None else Labels(dims)


def run_body(ctx: OpContext, name: str) -> ir.Graph:
    """Push labels through the body in attribute `name`."""
    graph: ir.Graph = ctx.attr(name)
    ctx.run_graph(graph)
    ctx.alg.space.node = ctx.name
    return graph


def joined(ctx: OpContext, a: ir.Value, b: ir.Value) -> Labels | None:
    """Two values that take the same place: their channels leave together, or stay."""
    first, second = state_of(ctx, a), state_of(ctx, b)
    if first is not None and second is not None and first.shape == second.shape:
        return ctx.alg.meet([first, second], blocks=False).labels
    for state in (first, second):
        if state is not None:
            ctx.alg.pin(state.factors, "its shape differs from branch to branch or step to step")
    return first if first is None else Labels(first.shape)


@op_rule("", "If")
def branches(ctx: OpContext) -> None:
    """Both branches give the same outputs."""
    ctx.pin(0, "the condition of an If")
    then, other = run_body(ctx, "then_branch"), run_body(ctx, "else_branch")
    for k, (a, b) in enumerate(zip(then.outputs, other.outputs, strict=True)):
        labels = joined(ctx, a, b)
        if labels is not None:
            ctx.set(labels.factors, k)


def enter(ctx: OpContext, inner: ir.Value, labels: Labels) -> None:
    """`inner`, an input of a body, starts with `labels`."""
    if ctx.sizes(inner) == labels.shape:
        ctx.found.states[inner] = labels
    else:
        ctx.alg.pin(labels.factors, "its shape changes from step to step")


def scanned(factors: tuple[Factor, ...], axis: int) -> tuple[Factor, ...]:
    """Labels of one step's result when all steps are stacked along a new `axis`."""
    return tuple(f.renamed({a: a + (a >= axis) for a in f.axes}) for f in factors)


@op_rule("", "Loop")
def loop(ctx: OpContext) -> None:
    """Trip count, condition, carried values -> carried values, and results stacked in front."""
    body: ir.Graph = ctx.attr("body")
    carried = len(body.inputs) - 2
    for i in (0, 1):
        ctx.pin(i, "it decides how often a Loop runs")
    for i, inner in enumerate(body.inputs[2:], start=2):
        if ctx.has(i):
            enter(ctx, inner, ctx.moved(i))
    run_body(ctx, "body")
    for k, inner in enumerate(body.outputs[1:]):
        if k < carried:
            labels = joined(ctx, body.inputs[2 + k], inner)
            if labels is not None:
                ctx.set(labels.factors, k)
            continue
        state = state_of(ctx, inner)
        if state is not None:
            ctx.set(scanned(state.factors, 0), k)


@op_rule("", "Scan", since=9)
def scan(ctx: OpContext) -> None:
    """Carried values, then sequences that a body reads step by step."""
    body: ir.Graph = ctx.attr("body")
    sequences = int(ctx.attr("num_scan_inputs"))
    carried = len(ctx.node.inputs) - sequences
    axes = ctx.attr("scan_input_axes") or [0] * sequences
    for i, inner in enumerate(body.inputs):
        labels = ctx.moved(i)
        if i >= carried:
            axis = positive(int(axes[i - carried]), labels.rank)
            left = [a for a in range(labels.rank) if a != axis]
            names = {a: position for position, a in enumerate(left)}
            labels = ctx.alg.tie_across(labels, [axis], "a Scan runs along it")
            shape = tuple(labels.shape[a] for a in left)
            labels = Labels(shape, tuple(f.renamed(names) for f in labels.factors))
        enter(ctx, inner, labels)
    run_body(ctx, "body")
    stacked = ctx.attr("scan_output_axes") or [0] * (len(body.outputs) - carried)
    for k, inner in enumerate(body.outputs):
        if k < carried:
            labels_now = joined(ctx, body.inputs[k], inner)
            if labels_now is not None:
                ctx.set(labels_now.factors, k)
            continue
        state = state_of(ctx, inner)
        if state is not None:
            axis = positive(int(stacked[k - carried]), len(state.shape) + 1)
            ctx.set(scanned(state.factors, axis), k)


# Tensors in a sequence are not followed.
boundary_rule(
    "", "SequenceConstruct", "SequenceInsert", "SplitToSequence", reason="it makes a sequence"
)
boundary_rule("", "SequenceEmpty", "SequenceErase", "SequenceMap", reason="it works on a sequence")
boundary_rule(
    "", "SequenceAt", "SequenceLength", "ConcatFromSequence", reason="it reads a sequence"
)
boundary_rule(
    "", "Optional", "OptionalGetElement", "OptionalHasElement", reason="it may hold nothing"
)
