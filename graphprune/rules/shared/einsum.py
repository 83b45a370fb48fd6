"""Einsum: a meet over all letters, summed over those that the result does not have."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from graphprune.labels import Labels
from graphprune.rules.base import RuleContext
from graphprune.rules.shared.matmul import hint_heads, place, taken

_DIAGONAL = "a diagonal is taken of it"


def einsum_terms(
    equation: str, operands: Sequence[tuple[int, ...]]
) -> tuple[list[list[str]], list[str]]:
    """The index labels of each operand and of the output; an ellipsis becomes `...2`, `...1`."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    rank = 0

    def split(term: str, ellipsis_rank: int) -> list[str]:
        before, dots, after = term.partition("...")
        # Right-aligned, as broadcasting is: the last ellipsis axis has the same label everywhere.
        hidden = [f"...{i}" for i in range(ellipsis_rank, 0, -1)] if dots else []
        return [*before, *hidden, *after]

    terms = []
    for term, shape in zip(left.split(","), operands, strict=True):
        ellipsis_rank = len(shape) - len(term.replace("...", ""))
        rank = max(rank, ellipsis_rank if "..." in term else 0)
        terms.append(split(term, ellipsis_rank))
    if arrow:
        return terms, split(right, rank)
    letters = [label for term in terms for label in term if not label.startswith("...")]
    once = sorted(label for label in letters if letters.count(label) == 1)
    return terms, [*split("...", rank), *once]


def contraction_macs(equation: str, operands: Sequence[tuple[int, ...]]) -> int:
    """Multiply-adds, operands contracted pairwise from left to right.

    A step in which no shared index is summed (an outer or elementwise product) counts 0 like any
    other elementwise op; an index that only one operand has is summed before the product.
    """
    terms, output = einsum_terms(equation, operands)
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, operands, strict=True):
        for label, size in zip(term, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    total = 0
    left = set(terms[0])
    for position, term in enumerate(terms[1:], start=2):
        needed = set(output).union(*terms[position:])
        right = set(term)
        summed = (left & right) - needed
        left = {label for label in left if label in needed or label in right}
        right = {label for label in right if label in needed or label in left}
        if summed:
            total += prod(sizes[label] for label in left | right)
        left = (left | right) & needed
    return total


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


def contraction(ctx: RuleContext, equation: str) -> None:
    """Any number of operands, letters in any order, ellipses, diagonals; sets the result."""
    alg = ctx.alg
    count = ctx.operands()
    shapes = [ctx.shape(i) for i in range(count)]
    terms, output = einsum_terms(equation, shapes)
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
    if not any(ctx.from_weights(i) for i in range(count)):
        shared = (axis[x] for x in output if all(x in term for term in terms))
        hint_heads(ctx, met.factors, tuple(shared))
    factors = alg.reduce(met.factors, contracted)
    shape = tuple(met.shape[axis[x]] for x in output)
    names = {axis[x]: i for i, x in enumerate(output)}
    ctx.set(alg.rename(Labels(met.shape, factors), names, shape).factors)


def _diagonal(ctx: RuleContext, i: int, term: Sequence[str]) -> Labels:
    """Input i, whose repeated letters stay."""
    repeated = [a for a, x in enumerate(term) if list(term).count(x) > 1]
    t = ctx.moved(i)
    return ctx.alg.tie_across(t, repeated, _DIAGONAL)
