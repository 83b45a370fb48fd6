"""Plans in terms of tensors: which axes of which parameter are cut, and cutting a tensor."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from graphprune.cut import Cut
from graphprune.errors import GraphpruneError
from graphprune.plan import Plan


def parameter_cuts(plan: Plan) -> dict[str, tuple[Cut, ...]]:
    """Parameter or buffer name -> its cuts. All uses of a tensor keep the same."""
    found: dict[str, tuple[Cut, ...]] = {}
    for use in plan.initializers:
        known = found.setdefault(use.initializer, use.cuts)
        if not same(known, use.cuts):
            raise GraphpruneError(
                f"two uses of '{use.initializer}' keep different indices: the plan is not for a "
                "torch module, whose weights are one tensor each"
            )
    return found


def same(a: Iterable[Cut], b: Iterable[Cut]) -> bool:
    """Whether two lists of cuts are equal."""
    one, two = list(a), list(b)
    return len(one) == len(two) and all(
        (x.axis, x.size, x.blocks) == (y.axis, y.size, y.blocks) and np.array_equal(x.kept, y.kept)
        for x, y in zip(one, two, strict=True)
    )


def slice_tensor(tensor: torch.Tensor, cuts: Iterable[Cut]) -> torch.Tensor:
    """`tensor` after `cuts`: plain ones first, then those indexed by blocks."""
    for cut in sorted(cuts, key=lambda c: (len(c.blocks), c.axis)):
        kept = torch.from_numpy(np.ascontiguousarray(cut.kept)).to(tensor.device)
        if not cut.blocks:
            tensor = tensor.index_select(cut.axis, kept)
            continue
        shape = [1] * tensor.ndim
        for position, axis in enumerate(cut.blocks):
            shape[axis] = cut.kept.shape[position]
        shape[cut.axis] = cut.count
        order = np.argsort([*cut.blocks, cut.axis])
        index = torch.from_numpy(np.ascontiguousarray(np.transpose(cut.kept, order).reshape(shape)))
        target = list(tensor.shape)
        target[cut.axis] = cut.count
        tensor = tensor.gather(cut.axis, index.to(tensor.device).expand(target))
    return tensor
