"""Two plans one after the other are one: heads first, then dims inside the heads that stayed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphprune.cut import Cut
from graphprune.errors import GraphpruneError
from graphprune.plan import InitializerCut, Plan


def compose(first: Plan, second: Plan) -> Plan:
    """The plan that does `first` on the original, then `second` on its result.

    Every index of the result is in the numbering of the original.
    """
    tensors = {
        name: compose_cuts(first.tensors.get(name, ()), second.tensors.get(name, ()))
        for name in sorted({*first.tensors, *second.tensors})
    }
    uses = {(u.node, u.input): u for u in first.initializers}
    later = {(u.node, u.input): u for u in second.initializers}
    initializers = []
    for key in [*uses, *(k for k in later if k not in uses)]:
        one, two = uses.get(key), later.get(key)
        name = one.initializer if one is not None else two.initializer if two is not None else ""
        cuts = compose_cuts(one.cuts if one else (), two.cuts if two else ())
        initializers.append(InitializerCut(name, key[0], key[1], cuts))
    return Plan(
        source_sha256=first.source_sha256,
        groups=(*first.groups, *second.groups),
        tensors=tensors,
        initializers=tuple(initializers),
        statistics_nodes={**first.statistics_nodes, **second.statistics_nodes},
        unpruned=(*first.unpruned, *second.unpruned),
        binding=first.binding,
        origins={**second.origins, **first.origins},
    )


def compose_cuts(first: Sequence[Cut], second: Sequence[Cut]) -> tuple[Cut, ...]:
    """Cuts of one tensor, axis by axis."""
    before = {c.axis: c for c in first}
    after = {c.axis: c for c in second}
    result = []
    for axis in sorted({*before, *after}):
        if axis not in after:
            result.append(_rows_left(before[axis], after))
        elif axis not in before:
            result.append(after[axis])
        else:
            result.append(_both(_rows_left(before[axis], after), after[axis]))
    return tuple(result)


def _rows_left(cut: Cut, later: dict[int, Cut]) -> Cut:
    """A first cut with blocks, when the later plan drops some of the blocks."""
    kept = cut.kept
    for position, axis in enumerate(cut.blocks):
        if axis in later:
            if later[axis].blocks:
                raise GraphpruneError("nested blocks cannot be composed: this is a bug")
            kept = np.take(kept, later[axis].kept, axis=position)
    return Cut(cut.axis, cut.size, kept, cut.blocks, cut.dynamic)


def _both(one: Cut, two: Cut) -> Cut:
    dynamic = one.dynamic or two.dynamic
    if not one.blocks:
        return Cut(one.axis, one.size, one.kept[two.kept], two.blocks, dynamic)
    if not two.blocks:
        return Cut(one.axis, one.size, one.kept[..., two.kept], one.blocks, dynamic)
    if one.blocks != two.blocks:
        raise GraphpruneError("cuts with different blocks cannot be composed: this is a bug")
    kept = np.take_along_axis(one.kept, two.kept, axis=-1)
    return Cut(one.axis, one.size, kept, one.blocks, dynamic)
