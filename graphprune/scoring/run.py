"""Scores of all groups by one data-driven criterion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.analysis.dependency import DependencyGraph
from graphprune.data.room import batch_sizes
from graphprune.errors import UsageError
from graphprune.onnx.states import states_of, with_states
from graphprune.options import BEST_WITH_DATA
from graphprune.scoring.energy import residual_energy
from graphprune.scoring.moments import activation, apoz, flap, wanda
from graphprune.scoring.products import Product, product_energy, products_of
from graphprune.scoring.readers import Reader, is_recurrent, readers_of, uses_of, values_read
from graphprune.scoring.statistics import Axes, Known, collect
from graphprune.selection.criteria import WeightOf, scores
from graphprune.threads import in_order

Array = np.ndarray[Any, Any]

_CRITERIA: dict[str, Callable[..., Array | None]] = {
    "energy": residual_energy,
    "activation": activation,
    "wanda": wanda,
    "flap": flap,
    "apoz": apoz,
}


CRITERIA = tuple(_CRITERIA)
"""What `data_scores` knows, beside `auto`."""


def data_scores(
    model: ir.Model,
    graph: DependencyGraph,
    names: Sequence[str],
    weight: WeightOf,
    feeds: Sequence[Mapping[str, Array]],
    criterion: str = "auto",
    *,
    dims: Mapping[str, Sequence[int]] | None = None,
    threads: int = 1,
    jobs: int = 1,
    seed: int = 0,
    known: Known | None = None,
    progress: Callable[[float], None] | None = None,
) -> Mapping[str, Array]:
    """Group name -> score of each unit (larger stays), with mean 1; computed when it is asked for.

    Dims of which two activations are multiplied are scored by their energy there. Groups that nothing
    of this reads, and hidden widths of recurrent layers, are scored by the L2 norm; so are, with
    `apoz`, groups whose activations are never exactly zero.

    Args:
        model: Canonical.
        graph: Its analysis.
        names: Groups to score.
        weight: Contents of initializers.
        feeds: Batches of inputs.
        criterion: One of `CRITERIA`, or `auto`: what was best when measured.
        dims: Shapes of the model's values at some binding, to bound memory.
        threads: Of onnxruntime.
        jobs: Threads of this process (see `collect`).
        seed: Of the choice of positions.
        known: Statistics of before (see `collect`).
        progress: Called with the share that is done.

    Raises:
        UnsupportedModelError: The model does not run on the inputs.
        UsageError: No such criterion, or activations that are not finite.
    """
    if criterion not in (*_CRITERIA, "auto"):
        raise UsageError(
            f"criterion '{criterion}' does not use data: choose one of {', '.join(CRITERIA)}"
        )
    groups = [graph.by_name[name] for name in names]
    if criterion == "auto":
        criterion = BEST_WITH_DATA
    uses, states = uses_of(model), states_of(model)
    readers: dict[str, list[Reader]] = {g.name: readers_of(g, uses, states) for g in groups}
    products: dict[str, list[Product]] = {
        g.name: [] if readers[g.name] or is_recurrent(g) else products_of(g, uses) for g in groups
    }
    wanted: dict[str, Axes] = {
        s.value: s.axes for of in products.values() for p in of for s in p.sides
    }
    wanted.update(values_read(readers))
    statistics = collect(
        with_states(model),
        wanted.items(),
        feeds,
        full=criterion == "energy",
        sizes=batch_sizes(model, feeds, dims or {}),
        threads=threads,
        jobs=jobs,
        seed=seed,
        known=known,
        progress=progress,
    )
    norms = scores(groups, weight, "l2", seed)

    def of(name: str) -> Array:
        pairs = [(r, statistics[r.value]) for r in readers[name]]
        found = [(r, s) for r, s in pairs if r.units.size == s.mean.size]  # of the same axes
        values = _CRITERIA[criterion](len(norms[name]), found) if found else None
        if criterion != "apoz" and products[name]:
            both = [
                (p, statistics[p.sides[0].value], statistics[p.sides[1].value])
                for p in products[name]
                if all(wanted[s.value] == s.axes for s in p.sides)
            ]
            values = product_energy(len(norms[name]), both)
        return norms[name] if values is None else values / (values.mean() or 1.0)

    return _OnDemand(norms, of, jobs)


class _OnDemand(Mapping[str, Array]):
    """Scores that are computed when they are asked for, once: some are of use before all are.

    Args:
        names: In the order in which they are asked for, mostly: those of all before one are made first.
        of: Makes the scores of one name, in any thread.
        jobs: Threads; with several, the next ones are made meanwhile.
    """

    def __init__(self, names: Iterable[str], of: Callable[[str], Array], jobs: int) -> None:
        self._names = tuple(names)
        self._known: dict[str, Array] = {}
        self._coming: Iterator[tuple[str, Array]] = zip(
            self._names, in_order(of, self._names, jobs), strict=True
        )

    def __getitem__(self, name: str) -> Array:
        while name not in self._known:
            each, found = next(self._coming, (None, None))
            if each is None or found is None:
                raise KeyError(name)
            self._known[each] = found
            if len(self._known) == len(self._names):
                self._coming = iter(())  # and the statistics that it held
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
