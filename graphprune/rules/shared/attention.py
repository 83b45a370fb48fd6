"""What all fused attention ops share: heads, grouped queries, masks, caches, rotary embeddings.

An op with its own layout brings q, k and v to `[batch, heads, length, head size]` and calls
`attend`: two contractions with a softmax between them, as they stand in an unfused graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphprune.cut import Cut
from graphprune.labels import Algebra, Factor, Labels
from graphprune.rules.base import RuleContext
from graphprune.rules.shared.matmul import hint_heads, place, taken

_SOFTMAX = "attention runs over these positions"
_CAUSAL = "a causal mask counts these positions"
_CACHE = "its cached positions stay"
_TURNED = "a rotary embedding turns positions by their number"
_PAIR = "a rotary embedding turns pairs of dims"


@dataclass(frozen=True, eq=False)
class Attended:
    """Factors of the results of an attention.

    Attributes:
        y: `[batch, query heads, length, value head size]`.
        key: The keys, past and present, `[batch, kv heads, keys, head size]`.
        value: The same of the values.
        scores: `[batch, query heads, length, keys]`.
    """

    y: Labels
    key: tuple[Factor, ...]
    value: tuple[Factor, ...]
    scores: Labels


def split_heads(alg: Algebra, t: Labels, heads: int) -> Labels:
    """[batch, length, heads * size] -> [batch, heads, length, size]."""
    batch, length, width = t.shape
    split = alg.reshape(t, (batch, length, heads, width // heads))
    return alg.transpose(split, (0, 2, 1, 3))


def merge_heads(alg: Algebra, t: Labels) -> Labels:
    """[batch, heads, length, size] -> [batch, length, heads * size]."""
    batch, heads, length, size = t.shape
    return alg.reshape(alg.transpose(t, (0, 2, 1, 3)), (batch, length, heads * size))


def part(alg: Algebra, t: Labels, axis: int, index: int) -> Labels:
    """One index of an axis, which disappears."""
    t = alg.slice(t, axis, index, index + 1, 1)
    return alg.reshape(t, (*t.shape[:axis], *t.shape[axis + 1 :]))


def attend(
    ctx: RuleContext,
    q: Labels,
    k: Labels,
    v: Labels,
    *,
    past: tuple[Labels, Labels] | None = None,
    masks: Sequence[int] = (),
    sink: int | None = None,
    causal: bool = False,
    one_size: bool = False,
) -> Attended:
    """Labels of softmax(q k^T + masks) v.

    Args:
        ctx: The node; masks among its inputs adopt.
        q: `[batch, query heads, length, size]`; no weight that has not adopted (see `ctx.moved`).
        k: `[batch, kv heads, keys, size]`; each of its heads serves equally many query heads.
        v: `[batch, kv heads, keys, value size]`.
        past: Cached keys and values, of their own length.
        masks: Inputs that broadcast to `[batch, query heads, length, keys]`.
        sink: An input with one score for each query head.
        causal: Whether the position of a query says which keys it sees.
        one_size: The op has one head size, for keys and values alike.
    """
    alg = ctx.alg
    k = alg.tie_across(k, [2], _SOFTMAX)
    v = alg.tie_across(v, [2], _SOFTMAX)
    if causal:
        q = alg.tie_across(q, [2], _CAUSAL)
    if past is not None:
        k, v = (_with_past(alg, t, p) for t, p in zip((k, v), past, strict=True))
    batch, heads, length, size = q.shape
    kv_heads, keys = k.shape[1:3]
    group = heads // kv_heads

    # Iteration space: batch, kv head, query head of its group, query, key, dim.
    q = alg.reshape(q, (batch, kv_heads, group, length, size))
    met = alg.meet(
        [place(q, (0, 1, 2, 3, 5), 6), place(k, (0, 1, 4, 5), 6)], contracted=[5], create=[]
    )
    _hint(ctx, met.factors)
    scores = Labels((*met.shape[:5], 1), alg.reduce(met.factors, [5]))
    for i in masks:
        if ctx.has(i):
            scores = _mask(ctx, scores, i)
    if sink is not None and ctx.has(sink):
        scores = _sink(ctx, scores, sink)
    scores = alg.tie_across(scores, [4], _SOFTMAX)
    if alg.blocks and kv_heads == 1 and any({1, 2} & set(f.axes) for f in scores.factors):
        v = whole_heads(alg, v, "all query heads share it")
    met = alg.meet([scores, place(v, (0, 1, 4, 5), 6)], contracted=[4], create=[])
    _hint(ctx, met.factors)
    if one_size:
        _balance(alg, k, v)
    y = alg.reduce(met.factors, [4])
    shape = (batch, kv_heads, group, length, v.shape[3])
    y_labels = Labels(shape, taken(y, (0, 1, 2, 3, 5)))
    return Attended(
        y=alg.reshape(y_labels, (batch, heads, length, v.shape[3])),
        key=k.factors,
        value=v.factors,
        scores=alg.reshape(Labels(scores.shape[:5], scores.factors), (batch, heads, length, keys)),
    )


def _hint(ctx: RuleContext, factors: Sequence[Factor]) -> None:
    """Heads leave from axes 1 and 2 of the iteration space, their dims from axis 5."""
    hint_heads(ctx, tuple(f for f in factors if f.removal in (1, 2, 5)), (1, 2))


def _with_past(alg: Algebra, t: Labels, past: Labels) -> Labels:
    """Keys or values together with the cached ones, which lie before them."""
    past = alg.tie_across(past, [2], _CACHE)
    views = [Labels((*x.shape[:2], 1, x.shape[3]), x.factors) for x in (t, past)]
    return Labels(t.shape, alg.meet(views, create=[]).factors)


def _balance(alg: Algebra, k: Labels, v: Labels) -> None:
    """Keys and values lose equally many dims of every head."""
    if alg.blocks and k.shape[1] > 1:
        return
    rows = []
    for t in (k, v):
        factor = t.on(3)
        labels = np.zeros((1, t.shape[3]), np.int32) if factor is None else factor.labels
        rows.append(labels.reshape(-1, t.shape[3]))
    alg.balance(Factor((0, 1), np.concatenate(rows)))


def _mask(ctx: RuleContext, scores: Labels, i: int) -> Labels:
    """Scores after a mask that broadcasts from the right; it may have fewer keys than they."""
    alg = ctx.alg
    mask = ctx.labels(i)
    lead = 4 - mask.rank
    kv_heads, group = scores.shape[1:3]
    whole = [a for a in (mask.rank - 1,) if mask.shape[a] not in (1, scores.shape[4])]
    mask = alg.tie_across(mask, whole, _SOFTMAX)
    shape = [*[1] * lead, *mask.shape]
    if whole:
        shape[3] = 1
    names = {a: a + lead for a in range(mask.rank)}
    view = Labels(tuple(shape), tuple(f.renamed(names) for f in mask.factors))
    per_head = shape[1] > 1
    split = (shape[0], *((kv_heads, group) if per_head else (1, 1)), *shape[2:], 1)
    view = alg.reshape(view, split)
    met = alg.meet([scores, Labels(split, view.factors, mask.weight)], create=[])
    if mask.weight:
        adopted = alg.reshape(Labels(split, met.operands[1]), tuple(shape))
        back = {a: a - lead for a in range(lead, 4)}
        ctx.adopt(i, [f.renamed(back) for f in adopted.factors])
    return Labels(scores.shape, met.factors)


def _sink(ctx: RuleContext, scores: Labels, i: int) -> Labels:
    """One more score for each query head, `[query heads]`."""
    alg = ctx.alg
    kv_heads, group = scores.shape[1:3]
    sink = ctx.labels(i)
    view = alg.reshape(sink, (kv_heads, group))
    placed = place(Labels(view.shape, view.factors, sink.weight), (1, 2), 6)
    met = alg.meet([scores, placed], create=[])
    if sink.weight:
        adopted = alg.reshape(Labels(view.shape, taken(met.operands[1], (1, 2))), sink.shape)
        ctx.adopt(i, adopted.factors)
    return Labels(scores.shape, met.factors)


def whole_heads(alg: Algebra, t: Labels, reason: str) -> Labels:
    """`[batch, heads, length, size]` of an op that cannot lose dims: heads leave, or nothing."""
    return whole_blocks(alg, t, 1, 3, reason)


def whole_blocks(alg: Algebra, t: Labels, outer: int, inner: int, reason: str) -> Labels:
    """Nothing leaves from axis `inner` alone: indices of `outer` leave, or nothing."""
    factors = []
    for factor in t.factors:
        current: Factor | None = factor
        if factor.removal == inner:
            if alg.blocks and outer in factor.index:
                current = alg.tie(factor, inner, reason)
            else:
                alg.pin(factor, reason)
                current = None
        if current is not None:
            factors.append(current)
    return Labels(t.shape, alg.distinct(factors))


def in_runs(alg: Algebra, t: Labels, size: int) -> Labels:
    """Dims leave in runs of `size` neighbours: what an op's kernel asks of its head size."""
    if size == 1 or not t.tracked(3):
        return t
    if t.shape[3] % size:
        return whole_heads(alg, t, f"its head size has to be a multiple of {size}")
    runs = alg.reshape(t, (*t.shape[:3], t.shape[3] // size, size))
    reason = f"its head size has to be a multiple of {size}"
    return alg.reshape(_tie_dims(alg, runs, 4, reason), t.shape)


def _tie_dims(alg: Algebra, t: Labels, axis: int, reason: str) -> Labels:
    """Nothing differs along `axis`, a part of the dims (axes 3 and 4).

    Where that leaves one unit in a head, the head leaves or, inside blocks, nothing.
    """
    factors = []
    for factor in t.factors:
        current: Factor | None = factor
        if axis in factor.axes:
            current = alg.tie(factor, axis, reason)
        if current is None:
            continue
        if factor.removal >= 3 > current.removal and not alg.blocks:
            alg.pin(current, reason)
            continue
        factors.append(current)
    return Labels(t.shape, alg.distinct(factors))


def rotate(
    ctx: RuleContext,
    t: Labels,
    caches: Sequence[int],
    *,
    width: int,
    interleaved: bool,
    run: int = 1,
) -> Labels:
    """Labels after a rotary embedding of the first `width` dims of each head.

    Dims i and i + width / 2 (2 i and 2 i + 1 where interleaved) leave together, and with them
    column i of the tables of cosines and sines, which all heads share.

    Args:
        ctx: The node; tables among its inputs adopt.
        t: `[batch, heads, length, size]`.
        caches: Inputs `[positions, width / 2]` or `[batch, length, width / 2]`.
        width: How many dims of a head are turned.
        interleaved: Which dims make a pair.
        run: Pairs leave in runs of so many neighbours.
    """
    alg = ctx.alg
    t = alg.tie_across(t, [0, 2], _TURNED)
    if alg.blocks:  # the tables are shared by all heads: whole heads leave
        factors = [
            alg.tie(f, 3, _PAIR) if f.removal == 3 and 1 in f.index else f for f in t.factors
        ]
        t = Labels(t.shape, alg.distinct(f for f in factors if f is not None))
    size, half = t.shape[3], width // 2
    turned = alg.slice(t, 3, 0, width, 1)
    lead = t.shape[:3]
    split, pair = ((*lead, half, 2), 4) if interleaved else ((*lead, 2, half), 3)
    pairs = _tie_dims(alg, alg.reshape(turned, split), pair, _PAIR)
    kept = {0: 0, 1: 1, 2: 2, (3 if interleaved else 4): 3}
    pairs = in_runs(alg, alg.rename(pairs, kept, (*lead, half)), run)
    for i in caches:
        table = alg.tie_across(ctx.labels(i), range(len(ctx.shape(i)) - 1), _TURNED)
        last = table.rank - 1
        if pairs.on(3) is None:  # whole heads leave, or nothing: the table stays as it is
            alg.pin(table.factors, _PAIR)
            continue
        view = Labels(
            (1, 1, 1, half), tuple(f.renamed({last: 3}) for f in table.factors), table.weight
        )
        met = alg.meet([pairs, view], create=[])
        if table.weight:
            ctx.adopt(i, [f.renamed({3: last}) for f in met.operands[1]])
        pairs = Labels(pairs.shape, met.factors)
    back = {new: old for old, new in kept.items()}
    again = Labels(split, tuple(f.renamed(back) for f in pairs.factors))
    result = alg.reshape(again, (*lead, width))
    if width < size:
        rest = in_runs(alg, alg.slice(t, 3, width, size, 1), 2 * run if run > 1 else 1)
        result, _ = alg.concat([result, rest], 3)
    return result


# -- sizes -----------------------------------------------------------------------------------------


def kept_of(cut: Cut | None, size: int) -> np.ndarray:
    """The indices of an axis that stay (those of the first block stand for all)."""
    return np.arange(size) if cut is None else cut.kept.reshape(-1, cut.count)[0]


def heads_left(kept: np.ndarray, size: int) -> int:
    """How many heads of `size` dims still have any."""
    return len(np.unique(kept // size))
