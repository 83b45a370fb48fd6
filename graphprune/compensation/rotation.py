"""Mixing the dims inside heads so that what leaves is what matters least.

For the scores of a head, the best `R` (kept dims of `x Wq`) and `T` (of `x Wk`) make
`q R (k T)'` nearest to `q k'` over the q and k that calibration inputs give, each with each: the
leading singular vectors of `Sq^1/2 Sk^1/2`, S being second moments (whitened low rank, as in CORP).
For what a head gives, `c R T' Wo` is nearest to `c Wo`: those of `Sc^1/2 Wo`, S being a covariance
where `Wo` has a bias that takes the mean. All in closed form, from one pass over the original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.compensation.frontier import Frontier
from graphprune.compensation.heads import HeadPair, find_head_pairs, made_cut, read_cut
from graphprune.compensation.linear import Linear, linear_of, output_rows, write_back
from graphprune.cut import Cut
from graphprune.onnx.names import FreshNames
from graphprune.plan import Plan
from graphprune.rules.context import node_name
from graphprune.scoring.statistics import LEAST_ROWS, chosen_rows

Array = np.ndarray[Any, Any]
Dims = Mapping[str, tuple[int, ...]]
Moments = tuple[Array, Array]
"""Mean `(heads, dims)` and second moments about zero `(heads, dims, dims)`."""

_DAMP = 1e-6
"""Of the mean second moment, added so that directions that never vary do no harm."""


def rotate(
    model: ir.Model,
    plan: Plan,
    original: ir.Model,
    dims: Dims,
    feeds: Sequence[Mapping[str, Array]],
    *,
    threads: int = 1,
    seed: int = 0,
) -> dict[str, Array]:
    """Write the best mixtures of dims into heads of which dims were cut.

    Args:
        model: The pruned graph, whose weights change.
        plan: What was cut.
        original: What the plan was applied to.
        dims: Shapes of the original's values, at any binding.
        feeds: Inputs.
        threads: Of onnxruntime.
        seed: Of the choice of rows.

    Returns:
        Node of each layer that makes mixed dims -> what it makes now as a function of what it makes
        in the original, `(channels, channels that are kept)`.
    """
    nodes = {node_name(n): n for n in model.graph}
    pairs = [
        p
        for p in find_head_pairs(original, plan, dims)
        if all(_fits(layer, nodes, plan) for layer in (p.first, p.second))
    ]
    making = {node_name(p.first.node) for p in pairs}
    pairs = [p for p in pairs if not p.reads or node_name(p.second.node) not in making]
    if not pairs:
        return {}
    moments = _moments(original, pairs, feeds, threads, seed)
    names = FreshNames(model)
    through: dict[str, Array] = {}
    makers: dict[str, Linear] = {}
    for pair in pairs:
        for layer in (pair.first,) if pair.reads else (pair.first, pair.second):
            cut = made_cut(layer, plan, dims)
            assert cut is not None
            makers[node_name(layer.node)] = layer
            through.setdefault(node_name(layer.node), np.eye(cut.size)[:, cut.kept])
        if pair.reads:
            _mix_read(pair, plan, dims, moments, through, nodes, names)
        else:
            _mix_scores(pair, plan, dims, moments, through)
    for name, layer in makers.items():
        node = nodes[name]
        smaller = linear_of(node)
        assert smaller is not None
        read = read_cut(layer, plan)
        weights = layer.weights[0] if read is None else layer.weights[0][read.kept]
        write_back(smaller, (weights @ through[name])[None], layer.bias @ through[name], names)
    return through


def _fits(layer: Linear, nodes: Mapping[str, ir.Node], plan: Plan) -> bool:
    """Whether a layer of the original is there in the pruned graph with weights of one tap."""
    node = nodes.get(node_name(layer.node))
    smaller = None if node is None else linear_of(node)
    if smaller is None or len(layer.weights) != 1:
        return False
    read = read_cut(layer, plan)
    inputs = layer.weights.shape[1] if read is None else read.count
    return bool(smaller.weights.shape[1] == inputs)


# -- which mixture --------------------------------------------------------------------------------


def score_factors(q: Array, k: Array, rank: int) -> tuple[Array, Array]:
    """R and T, `(dims, rank)` each, for second moments of one head's two sides, `(dims, dims)`."""
    (root_q, back_q), (root_k, back_k) = _root(q), _root(k)
    left, values, right = np.linalg.svd(root_q @ root_k)
    size = np.sqrt(values[:rank])
    return back_q @ left[:, :rank] * size, back_k @ right[:rank].T * size


def read_factors(given: Array, weights: Array, rank: int) -> tuple[Array, Array]:
    """R and T, `(dims, rank)` each, for moments `(dims, dims)` of what `weights` `(dims, outputs)`
    read."""
    root, back = _root(given)
    seen = root @ weights
    left = np.linalg.eigh(seen @ seen.T)[1][:, ::-1][:, :rank]
    return back @ left, root @ left


def _root(moments: Array) -> tuple[Array, Array]:
    """The symmetric root and its inverse."""
    values, vectors = np.linalg.eigh(moments)
    least = _DAMP * (float(values.mean()) or 1.0)
    size = np.sqrt(np.maximum(values, 0) + least)
    return (vectors * size) @ vectors.T, (vectors / size) @ vectors.T


def _mix_scores(
    pair: HeadPair,
    plan: Plan,
    dims: Dims,
    moments: Mapping[tuple[int, bool], Moments],
    through: dict[str, Array],
) -> None:
    first, second = (made_cut(layer, plan, dims) for layer in (pair.first, pair.second))
    assert first is not None
    assert second is not None
    (_, q), (_, k) = moments[id(pair), False], moments[id(pair), True]
    for head, (ours, theirs) in enumerate(zip(pair.ours, pair.theirs, strict=True)):
        stay = np.isin(ours, first.kept)
        r, t = score_factors(q[head], k[head], int(stay.sum()))
        through[node_name(pair.first.node)][np.ix_(ours, _places(first, ours[stay]))] = r
        through[node_name(pair.second.node)][np.ix_(theirs, _places(second, theirs[stay]))] = t


def _mix_read(
    pair: HeadPair,
    plan: Plan,
    dims: Dims,
    moments: Mapping[tuple[int, bool], Moments],
    through: dict[str, Array],
    nodes: Mapping[str, ir.Node],
    names: FreshNames,
) -> None:
    first, second = made_cut(pair.first, plan, dims), read_cut(pair.second, plan)
    smaller = linear_of(nodes[node_name(pair.second.node)])
    assert first is not None
    assert second is not None
    assert smaller is not None
    made = made_cut(pair.second, plan, dims)
    whole = pair.second.weights[0] if made is None else pair.second.weights[0][:, made.kept]
    weights, bias = smaller.weights[0].copy(), smaller.bias[0].copy()
    mean, square = moments[id(pair), True]
    for head, (ours, theirs) in enumerate(zip(pair.ours, pair.theirs, strict=True)):
        stay = np.isin(ours, first.kept)
        about = mean[head] * smaller.biased
        r, t = read_factors(square[head] - np.outer(about, about), whole[theirs], int(stay.sum()))
        through[node_name(pair.first.node)][np.ix_(ours, _places(first, ours[stay]))] = r
        weights[_places(second, theirs[stay])] = t.T @ whole[theirs]
        bias += (about - about @ r @ t.T) @ whole[theirs]
    write_back(smaller, weights[None], bias[None], names)


def _places(cut: Cut, channels: Array) -> Array:
    """Where channels that stay are in what is left."""
    return np.asarray(np.searchsorted(cut.kept, channels))


# -- what the dims are like -----------------------------------------------------------------------


def _moments(
    original: ir.Model,
    pairs: Sequence[HeadPair],
    feeds: Sequence[Mapping[str, Array]],
    threads: int,
    seed: int,
) -> dict[tuple[int, bool], Moments]:
    """By pair and side, of what both make, or of what the second reads."""
    found: dict[tuple[int, bool], Moments] = {}
    each = max(1, LEAST_ROWS // max(len(feeds), 1))
    asked = [[_value(layer, p.reads) for _, layer, _ in _sides(p)] for p in pairs]
    with Frontier(original, feeds, asked, threads=threads) as walk:
        for i, pair in enumerate(pairs):
            rows: dict[bool, list[Array]] = {side: [] for side, _, _ in _sides(pair)}
            for b, values in enumerate(walk.advance(i)):
                for side, layer, channels in _sides(pair):
                    array = values[_value(layer, pair.reads)]
                    count = array.size // array.shape[layer.axes[0]]
                    chosen = chosen_rows(count, each, (seed, b))
                    rows[side].append(output_rows(layer, array, chosen)[:, channels])
            for side, parts in rows.items():
                x = np.concatenate(parts).astype(np.float64).transpose(1, 0, 2)
                found[id(pair), side] = x.mean(1), x.transpose(0, 2, 1) @ x / x.shape[1]
    return found


def _sides(pair: HeadPair) -> list[tuple[bool, Linear, Array]]:
    """What is looked at: whether it is the second's, the layer, its channels."""
    second = [(True, pair.second, pair.theirs)]
    return second if pair.reads else [(False, pair.first, pair.ours), *second]


def _value(layer: Linear, reads: bool) -> str:
    value = layer.node.inputs[0] if reads else layer.output
    assert value is not None
    return value.name or ""
