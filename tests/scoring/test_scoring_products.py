"""Dims of Q and K are ranked by what their removal does to the scores, pairs of a rotary embedding too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from architectures import NETWORKS
from workbench import Bench, drawn, from_text

from graphprune.onnx.feeds import random_feeds
from graphprune.onnx.runtime import Session
from graphprune.scoring.products import products_of
from graphprune.scoring.readers import uses_of
from graphprune.scoring.run import data_scores
from graphprune.selection.criteria import scores

Array = np.ndarray[Any, Any]
HEADS, DIMS, LENGTH, WIDTH = 2, 8, 6, 12

ROTARY = (
    "qh = MatMul (x, wq) kh = MatMul (x, wk) vh = MatMul (x, wv)"
    " qs = Reshape (qh, split) ks = Reshape (kh, split) vs = Reshape (vh, split)"
    " qt = Transpose <perm = [0, 2, 1, 3]> (qs) kt = Transpose <perm = [0, 2, 1, 3]> (ks)"
    " vt = Transpose <perm = [0, 2, 1, 3]> (vs)"
    " q1, q2 = Split <axis = 3, num_outputs = 2> (qt) qn = Neg (q2) qr = Concat <axis = 3> (qn, q1)"
    " k1, k2 = Split <axis = 3, num_outputs = 2> (kt) kn = Neg (k2) kr = Concat <axis = 3> (kn, k1)"
    " qa = Mul (qt, cos) qb = Mul (qr, sin) q = Add (qa, qb)"
    " ka = Mul (kt, cos) kb = Mul (kr, sin) k = Add (ka, kb)"
    " ku = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul (q, ku) p = Softmax (s)"
    " o = MatMul (p, vt) ot = Transpose <perm = [0, 2, 1, 3]> (o) of = Reshape (ot, joined)"
    " y = MatMul (of, wo)"
)


def attention() -> Bench:
    """One layer with a rotary embedding, whose dims are of very different sizes."""
    angles = np.outer(np.arange(LENGTH), 100.0 ** (-np.arange(DIMS // 2) / (DIMS // 2)))
    both = np.concatenate([angles, angles], 1).astype(np.float32)
    rng = np.random.default_rng(3)
    weights = {n: drawn(WIDTH, HEADS * DIMS, seed=i) for i, n in enumerate(("wq", "wk", "wv"))}
    size = np.exp(rng.normal(0, 1.0, (2, DIMS // 2))).astype(np.float32)
    weights["wq"] *= np.tile(size[0], 2 * HEADS)
    weights["wk"] *= np.tile(size[1], 2 * HEADS)
    weights["wo"] = drawn(HEADS * DIMS, 5, seed=4)
    sizes = {"split": np.array([0, 0, HEADS, DIMS]), "joined": np.array([0, 0, HEADS * DIMS])}
    tables = {"cos": np.cos(both), "sin": np.sin(both)}
    return Bench(
        from_text(
            ROTARY,
            {**weights, **sizes, **tables},
            inputs=f"float[N, {LENGTH}, {WIDTH}] x",
            outputs=f"float[N, {LENGTH}, 5] y",
        )
    )


def feeds() -> list[dict[str, Array]]:
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(WIDTH, WIDTH))  # so that activations say more than weights
    data = rng.normal(size=(24, 16, LENGTH, WIDTH)) @ mixed
    return [{"x": d.astype(np.float32)} for d in data]


def energies(bench: Bench, pairs: int) -> Array:
    """What each pair of dims adds to the scores, measured: mean square over all q and k of a sample."""
    total = np.zeros(pairs)
    with Session(bench.model, outputs=["q", "k"]) as session:
        for feed in feeds():
            found = session.run(feed)
            for unit in range(pairs):
                both = [unit, unit + pairs]
                q, k = (found[n][..., both].astype(np.float64) for n in ("q", "k"))
                total[unit] += float((np.einsum("bhmd,bhnd->bhmn", q, k) ** 2).mean())
    return total


def test_products_are_found_for_pairs_and_for_dims_of_each_head() -> None:
    bench = attention()
    graph = bench.analyse(blocks=False)
    (group,) = (g for g in graph.groups if g.size == DIMS // 2)
    (product,) = products_of(group, uses_of(bench.model))
    assert product.units.shape == (HEADS, DIMS)
    np.testing.assert_array_equal(product.units[0], [0, 1, 2, 3, 0, 1, 2, 3])
    np.testing.assert_array_equal(product.units[0], product.units[1])


def test_pairs_are_ranked_as_their_removal_changes_the_scores() -> None:
    bench = attention()
    graph = bench.analyse(blocks=False)
    (group,) = (g for g in graph.groups if g.size == DIMS // 2)
    weight = bench.weights.__getitem__
    found = data_scores(bench.model, graph, [group.name], weight, feeds())[group.name]
    measured = energies(bench, group.size)
    np.testing.assert_array_equal(found.argsort(), measured.argsort())
    np.testing.assert_allclose(found / found.sum(), measured / measured.sum(), rtol=0.35)
    norm = scores([group], weight, "l2")[group.name]
    assert (norm.argsort() != measured.argsort()).any()  # weights alone would choose others


def test_dims_of_each_head_for_itself() -> None:
    bench = Bench(NETWORKS["encoder"]())
    graph = bench.analyse(blocks=False)
    uses = uses_of(bench.model)
    found = {g.name: products_of(g, uses) for g in graph.groups}
    headed = {name: of for name, of in found.items() if of}
    assert headed
    for name, of in headed.items():
        group = graph.by_name[name]
        for product in of:
            units = product.units
            assert len(np.unique(units[units >= 0])) == units.size == group.size
    data = [random_feeds(bench.model, bench.bindings[0], i) for i in range(4)]
    weight = bench.weights.__getitem__
    for criterion in ("energy", "apoz"):
        scored = data_scores(bench.model, graph, list(headed), weight, data, criterion)
        for name in headed:
            norm = scores([graph.by_name[name]], weight, "l2")[name]
            assert np.array_equal(scored[name], norm) == (criterion == "apoz")
            assert (scored[name] > 0).all()


@pytest.mark.parametrize("turned", [0, 1])
def test_what_is_not_summed_over_is_no_product(turned: int) -> None:
    """The dims of V stay apart in the product: they come out of it."""
    body = (
        "a = MatMul (x, w) b = MatMul (x, v) t = Transpose <perm = [0, 2, 1]> (b)"
        f" s = MatMul (a, {'t' if turned else 'c'}) y = Softmax (s)"
    )
    if not turned:
        body = (
            "a = MatMul (x, w) b = MatMul (x, v) s = MatMul (m, b) r = MatMul (s, u) y = Add (r, a)"
        )
    weights = {"w": drawn(8, 6), "v": drawn(8, 6, seed=1)}
    if not turned:
        weights |= {"u": drawn(6, 6, seed=2)}
    bench = Bench(
        from_text(
            body,
            weights,
            inputs="float[N, 5, 8] x" + ("" if turned else ", float[N, 5, 5] m"),
            outputs="float[N, 5, A] y",
        )
    )
    uses = uses_of(bench.model)
    found = [p for g in bench.graph.groups for p in products_of(g, uses)]
    assert len(found) == turned
