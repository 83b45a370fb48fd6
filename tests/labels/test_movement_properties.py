"""Property-based: movement primitives treat labels exactly as numpy treats the elements.

A tensor of indices goes through a random chain of movement ops beside its labels. After each op:

1. an element carries the classes of the element it came from (what stays for good aside);
2. what is kept of the result is the op on what is kept of the input: gather(op(i)) == op(gather(i)),
   for random removals that keep equally many in every row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphprune.cut import Cut, take
from graphprune.labels import Algebra, Factor, Labels
from graphprune.rules.onnx.slice import moved_bounds

NEW = -1
"""Index of an element that an op made up (padding)."""

Array = np.ndarray


@dataclass
class Step:
    """A tensor: its labels, where its elements come from, and how the pruned graph makes it."""

    labels: Labels
    index: Array
    apply: Callable[[Array, tuple[Cut, ...], tuple[Cut, ...]], Array] | None


class Walk:
    """A chain of movement ops; every `do_*` draws its parameters."""

    def __init__(self, draw: Callable[..., int]) -> None:
        self.draw = draw
        self.alg = Algebra(blocks=False)
        shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
        self.steps = [Step(self._source(shape), np.arange(np.prod(shape)).reshape(shape), None)]

    def _source(self, shape: tuple[int, ...]) -> Labels:
        """Labels on some axes; by chance each row of an axis has its own."""
        wide = [a for a, n in enumerate(shape) if n > 1]
        chosen = [a for a in wide if self.draw(st.booleans())] or wide[:1]
        factors = []
        for axis in chosen:
            others = [a for a in wide if a not in chosen]
            index = tuple(a for a in others if self.draw(st.integers(0, 3)) == 0)
            sizes = tuple(shape[a] for a in (*index, axis))
            factors.append(Factor((*index, axis), self.alg.space.fresh(sizes)))
        return Labels(shape, self.alg.settle(factors))

    @property
    def now(self) -> Step:
        return self.steps[-1]

    def put(self, labels: Labels, index: Array, apply: object) -> None:
        assert labels.shape == index.shape
        labels = labels.with_factors(self.alg.settle(labels.factors))
        self.steps.append(Step(labels, index, apply))  # type: ignore[arg-type]

    def axis(self, least: int = 1) -> int | None:
        fitting = [a for a, n in enumerate(self.now.index.shape) if n >= least]
        return self.draw(st.sampled_from(fitting)) if fitting else None

    # -- ops --------------------------------------------------------------------------------------

    def do_reshape(self) -> None:
        total = self.now.index.size
        sizes: list[int] = []
        while total > 1 and len(sizes) < 3:
            divisors = [d for d in range(2, total + 1) if total % d == 0]
            sizes.append(self.draw(st.sampled_from(divisors)))
            total //= sizes[-1]
        sizes += [total] if total > 1 or not sizes else []
        sizes = list(self.draw(st.permutations(sizes)))
        if self.draw(st.integers(0, 4)) == 0:
            sizes.insert(self.draw(st.integers(0, len(sizes))), 1)
        self._reshape(tuple(sizes))

    def do_merge(self) -> None:
        shape = self.now.index.shape
        if len(shape) > 1:
            a = self.draw(st.integers(0, len(shape) - 2))
            self._reshape((*shape[:a], shape[a] * shape[a + 1], *shape[a + 2 :]))

    def do_split(self) -> None:
        shape = self.now.index.shape
        ways = [(a, d) for a, n in enumerate(shape) for d in range(1, n + 1) if n % d == 0]
        a, d = self.draw(st.sampled_from(ways))
        self._reshape((*shape[:a], d, shape[a] // d, *shape[a + 1 :]))

    def _reshape(self, shape: tuple[int, ...]) -> None:
        labels = self.alg.reshape(self.now.labels, shape)

        def apply(x: Array, before: tuple[Cut, ...], after: tuple[Cut, ...]) -> Array:
            kept = list(shape)
            for cut in after:
                kept[cut.axis] = cut.count
            return x.reshape(kept)

        self.put(labels, self.now.index.reshape(shape), apply)

    def do_transpose(self) -> None:
        order = self.draw(st.permutations(range(self.now.index.ndim)))
        labels = self.alg.transpose(self.now.labels, order)
        self.put(labels, self.now.index.transpose(order), lambda x, b, a: x.transpose(order))

    def do_slice(self) -> None:
        axis = self.axis()
        if axis is None:
            return
        n = self.now.index.shape[axis]
        step = self.draw(st.sampled_from([1, 1, 2, 3, -1, -2]))
        low = self.draw(st.integers(0, n - 1))
        high = self.draw(st.integers(low + 1, n))
        start, stop = (low, high) if step > 0 else (high - 1, low - 1)
        labels = self.alg.slice(self.now.labels, axis, start, stop, step)
        picked = np.arange(start, stop, step)

        def apply(x: Array, before: tuple[Cut, ...], after: tuple[Cut, ...]) -> Array:
            cut = next((c for c in before if c.axis == axis), None)
            if cut is None:
                return np.take(x, picked, axis)
            end = stop if stop >= 0 else -n - 1  # as ONNX spells "down to the first"
            first, last = moved_bounds(cut, start, end, step)
            last_or_none = None if step < 0 and last < 0 else last
            return np.take(x, range(x.shape[axis])[slice(first, last_or_none, step)], axis)

        self.put(labels, np.take(self.now.index, picked, axis), apply)

    def do_gather(self) -> None:
        axis = self.axis()
        if axis is None:
            return
        n = self.now.index.shape[axis]
        indices = np.array(self.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=6)))
        labels = self.alg.gather(self.now.labels, axis, indices)

        def apply(x: Array, before: tuple[Cut, ...], after: tuple[Cut, ...]) -> Array:
            cut = next((c for c in before if c.axis == axis), None)
            if cut is None:
                return np.take(x, indices, axis)
            assert not cut.blocks, "one list of indices serves all rows"
            place = {int(k): i for i, k in enumerate(cut.kept)}
            return np.take(x, [place[int(i)] for i in indices if int(i) in place], axis)

        self.put(labels, np.take(self.now.index, indices, axis), apply)

    def do_pad(self) -> None:
        axis = self.axis()
        if axis is None:
            return
        before, after = self.draw(st.integers(0, 2)), self.draw(st.integers(0, 2))
        labels = self.alg.pad(self.now.labels, axis, before, after, zeros=True)
        widths = [(0, 0)] * self.now.index.ndim
        widths[axis] = (before, after)
        self.put(labels, np.pad(self.now.index, widths, constant_values=NEW), None)

    def do_tile(self) -> None:
        axis = self.axis()
        if axis is None or self.now.index.size > 150:
            return
        repeats = [2 if a == axis else 1 for a in range(self.now.index.ndim)]
        labels = self.alg.tile(self.now.labels, repeats)
        # A repeated axis of one element has labels of its own: sizes, not elements.
        same = self.now.index.shape[axis] > 1
        self.put(
            labels,
            np.tile(self.now.index, repeats),
            (lambda x, b, a: np.tile(x, repeats)) if same else None,
        )

    def do_twice(self) -> None:
        """Beside itself."""
        axis = self.axis()
        if axis is None or self.now.index.size > 150:
            return
        labels, _ = self.alg.concat([self.now.labels] * 2, axis)
        joined = np.concatenate([self.now.index] * 2, axis)
        self.put(labels, joined, lambda x, b, a: np.concatenate([x, x], axis))


@st.composite
def walks(draw: Callable[..., object]) -> Walk:
    walk = Walk(draw)  # type: ignore[arg-type]
    names = sorted(n for n in dir(Walk) if n.startswith("do_"))
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=6)):  # type: ignore[attr-defined]
        if walk.now.index.size <= 400:
            getattr(walk, name)()
    return walk


def carried(step: Step, of: Array, free: Array) -> list[frozenset[int]]:
    """For each element the classes it carries, without those that stay for good."""
    found: list[set[int]] = [set() for _ in range(step.index.size)]
    for factor in step.labels.factors:
        axes = tuple(range(step.index.ndim))
        classes = np.broadcast_to(of[factor.over(axes)], step.index.shape).reshape(-1)
        for place, number in enumerate(classes.tolist()):
            if free[number]:
                found[place].add(number)
    return [frozenset(f) for f in found]


_SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@_SETTINGS
@given(walks())
def test_labels_travel_with_their_elements(walk: Walk) -> None:
    classes = walk.alg.space.solve()
    first = walk.steps[0]
    source = carried(first, classes.of, ~classes.pinned)
    born = set(
        classes.of[
            np.concatenate(
                [f.labels.reshape(-1) for f in first.labels.factors] or [np.zeros(0, int)]
            )
        ].tolist()
    )
    for step in walk.steps[1:]:
        for element, found in zip(
            step.index.reshape(-1).tolist(), carried(step, classes.of, ~classes.pinned), strict=True
        ):
            if element != NEW:
                assert found & born == source[element]


@_SETTINGS
@given(walks(), st.integers(0, 2**32 - 1))
def test_kept_of_the_result_is_the_op_on_what_is_kept(walk: Walk, seed: int) -> None:
    classes = walk.alg.space.solve()
    rng = np.random.default_rng(seed)
    arrays = [f.labels for s in walk.steps for f in s.labels.factors] + walk.alg.balances
    for _ in range(12):
        removed = (rng.random(classes.count) < rng.choice([0.15, 0.4])) & ~classes.pinned
        if not removed.any() or not all(_even(removed[classes.of[a]]) for a in arrays):
            continue
        cuts = [_cuts(s.labels, removed[classes.of]) for s in walk.steps]
        for step, previous, after, before in zip(
            walk.steps[1:], walk.steps, cuts[1:], cuts, strict=False
        ):
            if step.apply is None:
                continue
            result = step.apply(take(previous.index, before), before, after)
            np.testing.assert_array_equal(result, take(step.index, after))


def _even(leaving: Array) -> bool:
    """Every row loses equally many, and something is left."""
    rows = leaving.reshape(-1, leaving.shape[-1]) if leaving.ndim else leaving.reshape(1, 1)
    lost = rows.sum(axis=1)
    return bool((lost == lost[0]).all()) and int(lost[0]) < rows.shape[1]


def _cuts(labels: Labels, leaving: Array) -> tuple[Cut, ...]:
    cuts = []
    whole = {f.removal: ~leaving[f.labels] for f in labels.factors if not f.index}
    for factor in labels.factors:
        stays = ~leaving[factor.labels]
        for position, axis in enumerate(factor.index):
            if axis in whole:
                stays = np.compress(whole[axis], stays, axis=position)
        if stays.all():
            continue
        rows = stays.reshape(-1, stays.shape[-1])
        if (rows == rows[0]).all():
            cuts.append(Cut(factor.removal, stays.shape[-1], np.flatnonzero(rows[0])))
            continue
        kept = np.nonzero(rows)[1].reshape(*stays.shape[:-1], -1)
        cuts.append(Cut(factor.removal, stays.shape[-1], kept, factor.index))
    return tuple(cuts)
