"""Which units are empty, which of them are tried, in which order, and what passes."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
from workbench import Bench, drawn, from_text

from graphprune.selection.empty import Empty, find_empty
from models_zoo.builders import micrographs

BODY = """
    h = MatMul(x, a) i = Add(h, b) r = Relu(i)
    j = MatMul(r, c) k = Add(j, d) s = Relu(k)
    y = MatMul(s, e)
"""
SHAPES = {"a": (8, 20), "b": (20,), "c": (20, 12), "d": (12,), "e": (12, 6), "f": (6, 5)}
FIRST, SECOND = {"c": [2, 5]}, {"e": [1]}  # nothing reads 2 and 5 of one layer, 1 of the other


def bench(body: str = BODY, **zeros) -> Bench:
    arrays = {n: drawn(*shape) for n, shape in SHAPES.items() if f" {n})" in body}
    for name, units in zeros.items():
        arrays[name][units] = 0
    return Bench(from_text(body, arrays))


class Trials:
    """Says which plans change nothing, by how many units leave in each group; remembers them."""

    def __init__(self, *passing: tuple[int, ...]) -> None:
        self.passing = passing
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, plan) -> bool:
        self.seen.append(tuple(g.size - len(g.kept) for g in plan.groups))
        return self.seen[-1] in self.passing


def find(bench: Bench, trials: Trials, axis: int = 0) -> Empty:
    """Matrices are read along `axis`; each weight is asked for by its name."""
    return find_empty(
        bench.graph,
        bench.weights.__getitem__,
        held=lambda m: m.site.name in bench.weights,
        reads=lambda m: m.axis == axis and bench.weights[m.site.name].ndim > 1,
        same=trials,
        sha256="0" * 64,
    )


def test_what_passes_at_once_is_tried_once() -> None:
    trials = Trials((2, 1))
    found = find(bench(**FIRST, **SECOND), trials)
    assert [(g.units, g.leave, g.why) for g in found.groups] == [
        ((2, 5), True, ""),
        ((1,), True, ""),
    ]
    assert trials.seen == [(2, 1)]
    assert {
        (item.initializer, cut.axis): set(range(cut.size)) - set(cut.kept)
        for item in found.plan.initializers
        for cut in item.cuts
    } == {
        ("a", 1): {2, 5},
        ("b", 0): {2, 5},
        ("c", 0): {2, 5},
        ("c", 1): {1},
        ("d", 0): {1},
        ("e", 0): {1},
    }


def test_a_group_that_fails_alone_is_left() -> None:
    trials = Trials((1,))
    found = find(bench(**FIRST, **SECOND), trials)
    assert [(g.leave, g.why) for g in found.groups] == [(False, "outputs would change"), (True, "")]
    assert [len(g.kept) for g in found.plan.groups] == [11]
    assert trials.seen == [(2, 1), (2,), (1,)]


def test_groups_that_pass_alone_are_tried_together() -> None:
    """Three groups, of which one fails: the other two are seen together before they leave."""
    body = BODY.replace("y =", "l =") + "t = Relu(l) y = MatMul(t, f)"
    three = bench(body, **FIRST, **SECOND, f=[0, 3, 4])
    together = Trials((2,), (1,), (2, 1))
    found = find(three, together)
    assert [g.leave for g in found.groups] == [True, True, False]
    assert [len(g.kept) for g in found.plan.groups] == [18, 11]
    assert together.seen == [(2, 1, 3), (2,), (1,), (3,), (2, 1)]
    alone = Trials((2,), (1,))
    found = find(three, alone)
    assert found.plan is None
    assert [(g.leave, g.why) for g in found.groups] == [(False, "outputs would change")] * 3
    assert alone.seen == together.seen


@pytest.mark.parametrize("zeros", [FIRST, {**FIRST, **SECOND}])
def test_nothing_leaves_that_failed(zeros) -> None:
    """Not even where each group passes alone: together they were seen to fail."""
    trials = Trials((1,)) if len(zeros) == 1 else Trials((2,), (1,))
    found = find(bench(**zeros), trials)
    assert found.plan is None
    assert {g.why for g in found.groups} == {"outputs would change"}
    assert trials.seen == ([(2,)] if len(zeros) == 1 else [(2, 1), (2,), (1,)])


def test_nothing_empty_is_not_tried() -> None:
    trials = Trials()
    found = find(bench(), trials)
    assert (found.groups, found.plan, trials.seen) == ((), None, [])


@pytest.mark.parametrize(
    ("units", "why"),
    [([3], "blocks of it would keep different numbers"), ([3, 9, 18, 31], "")],
)
def test_blocks_lose_equally_many(units, why) -> None:
    """Four blocks of 8 channels: one of a single block cannot leave, one of each can."""
    grouped = Bench(micrographs.build("grouped_conv"))
    for name in ("conv1.weight", "conv1.bias"):
        grouped.weights[name] = grouped.weights[name].copy()
        grouped.weights[name][units] = 0
    trials = Trials((len(units),))
    (group,) = find(grouped, trials, axis=1).groups
    assert (list(group.units), group.leave, group.why) == (units, not why, why)
    assert trials.seen == ([] if why else [(4,)])


def test_one_weight_is_asked_for_at_a_time() -> None:
    """And let go: of large models two may not fit."""
    known: list[weakref.ref[np.ndarray]] = []
    one = bench(**FIRST)

    def weight(name: str) -> np.ndarray:
        assert all(ref() is None for ref in known)
        array = one.weights[name].copy()
        known.append(weakref.ref(array))
        return array

    find_empty(
        one.graph,
        weight,
        held=lambda m: True,
        reads=lambda m: m.axis == 0 and m.site.name in ("c", "e"),
        same=Trials(),
        sha256="",
    )
    assert len(known) == 6
