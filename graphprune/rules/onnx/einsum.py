"""Einsum: a meet over all letters, summed over those that the result does not have."""

from __future__ import annotations

from collections.abc import Sequence

from graphprune.labels import Labels
from graphprune.rules.context import OpContext, from_weights
from graphprune.rules.onnx._macs import einsum_macs, einsum_terms
from graphprune.rules.registry import op_rule
from graphprune.rules.shared.matmul import hint_heads, place, taken

_DIAGONAL = "a diagonal is taken of it"


def creating(terms: Sequence[Sequence[str]], output: Sequence[str]) -> list[list[str]]:
    """Letters along which weights make labels: index letters, then the one that is removed.

    Letters that one operand alone brings into the result belong together, outermost first
    (`bsi,ihd->bshd`: dims d by head h, as a projection and a Reshape would make them); letters that
    several operands share (a batch of matrices) index them. A letter that is summed between weights
    (`bi,ir,ro->bo`) is a width too.
    """
    shared = [x for x in output if sum(x in term for term in terms) > 1]
    result: list[list[str]] = []
    for term in terms:
        own = [x for x in output if x in term and x not in shared]
        if own:
            result.append([*(x for x in shared if x in term), *own])
    result.extend([x] for x in shared)
    summed = dict.fromkeys(x for term in terms for x in term if x not in output)
    result.extend([x] for x in summed if sum(x in term for term in terms) > 1)
    return result


@op_rule("", "Einsum", macs=einsum_macs)
def einsum(ctx: OpContext) -> None:
    """Any number of operands, letters in any order, ellipses, diagonals."""
    alg = ctx.alg
    count = len(ctx.node.inputs)
    shapes = [ctx.shape(i) for i in range(count)]
    terms, output = einsum_terms(str(ctx.attr("equation")), shapes)
    letters = list(dict.fromkeys([*output, *(x for term in terms for x in term)]))
    axis = {x: i for i, x in enumerate(letters)}
    rank = len(letters)

    sizes = [zip(term, shape, strict=True) for term, shape in zip(terms, shapes, strict=True)]
    wide = {x for pairs in sizes for x, n in pairs if n > 1}
    create = creating([[x for x in term if x in wide] for term in terms], output)

    operands: list[Labels] = []
    places: list[tuple[int, ...]] = []
    for i, term in enumerate(terms):
        t = ctx.labels(i)
        if len(set(term)) < len(term):
            t = _diagonal(ctx, i, term)
            names = {a: axis[x] for a, x in enumerate(term)}
            space = [1] * rank
            for size, x in zip(t.shape, term, strict=True):
                space[axis[x]] = size
            operands.append(Labels(tuple(space), tuple(f.renamed(names) for f in t.factors)))
            places.append(())
            continue
        places.append(tuple(axis[x] for x in term))
        operands.append(place(t, places[-1], rank))
    contracted = [axis[x] for x in letters if x not in output]
    met = alg.meet(
        operands,
        contracted=contracted,
        create=[tuple(axis[x] for x in group) for group in create],
    )
    for i, operand in enumerate(operands):
        if operand.weight:
            ctx.adopt(i, taken(met.operands[i], places[i]))
    if not any(from_weights(value) for value in ctx.node.inputs):
        shared = (axis[x] for x in output if all(x in term for term in terms))
        hint_heads(ctx, met.factors, tuple(shared))
    factors = alg.reduce(met.factors, contracted)
    shape = tuple(met.shape[axis[x]] for x in output)
    names = {axis[x]: i for i, x in enumerate(output)}
    ctx.set(alg.rename(Labels(met.shape, factors), names, shape).factors)


def _diagonal(ctx: OpContext, i: int, term: Sequence[str]) -> Labels:
    """Input i, whose repeated letters stay."""
    repeated = [a for a, x in enumerate(term) if list(term).count(x) > 1]
    t = ctx.moved(i)
    return ctx.alg.tie_across(t, repeated, _DIAGONAL)
