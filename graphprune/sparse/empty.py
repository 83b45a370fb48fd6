"""Units of an ONNX model of which pruning of single weights left nothing: they can leave physically.

The plan of all empty units (`graphprune.selection.empty`) goes through the compile pipeline like
any other, which proves that the smaller graph is the masked one; that the mask changes nothing is
seen by running both, and a group of which that is not true is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.analysis.groups import Member
from graphprune.analysis.ops import BATCH_NORMS
from graphprune.errors import UnsupportedModelError
from graphprune.onnx.analyse import analyse_graph
from graphprune.onnx.canonical import canonicalise
from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session, find_trials
from graphprune.onnx.shapes import default_bindings, shape_pair
from graphprune.passes.drop_empty import DropEmptyPass, emptied
from graphprune.passes.prune import PrunePass
from graphprune.plan import Plan
from graphprune.selection.empty import Empty, find_empty
from graphprune.sparse.weights import prunable

Array = np.ndarray[Any, Any]

_EQUAL = 1e-5
"""Largest difference of outputs, relative to the largest output, that counts as float error."""


def empty_units(model: Any, dims: Mapping[str, int] | None = None, seed: int = 0) -> Empty:
    """Find what pruning of single weights left empty.

    Args:
        model: A path or a model in memory.
        dims: Sizes of dynamic dimensions.
        seed: Of random inputs.

    Raises:
        UnsupportedModelError: The model cannot be analysed or run.
    """
    loaded = load(model)
    canonical = canonicalise(loaded.model)
    bindings = default_bindings(canonical, dims)
    graph = analyse_graph(canonical, *shape_pair(canonical, *bindings))
    values = {
        n: v
        for g in [canonical.graph, *canonical.graph.subgraphs()]
        for n, v in g.initializers.items()
        if v.const_value is not None and v.const_value.dtype != ir.DataType.STRING
    }
    readers = {(layer, w.name): w.role.reduction for w in prunable(canonical) for layer in w.layers}

    def held(member: Member) -> bool:
        site = member.site
        # Of a BatchNorm what scale and shift do not let through.
        return site.name in values and not (site.op in BATCH_NORMS and site.input > 2)

    return find_empty(
        graph,
        lambda name: _array(values[name]),
        held=held,
        reads=lambda m: readers.get((m.site.node, m.site.name)) == m.axis,
        same=lambda plan: _same(canonical, bindings, plan, dims, seed),
        sha256=loaded.sha256,
        binding=bindings[0],
    )


def _array(value: ir.Value) -> Array:
    tensor = value.const_value
    assert tensor is not None
    return tensor.numpy()


def _same(
    model: ir.Model,
    bindings: Sequence[Mapping[str, int]],
    plan: Plan,
    dims: Mapping[str, int] | None,
    seed: int,
) -> bool:
    """Whether the model without these units computes what it computes with them."""
    smaller = model.clone()
    try:
        PrunePass(plan, bindings)(smaller)
        if emptied(plan):
            DropEmptyPass(plan, model, bindings)(smaller)
        with Session(model) as before, Session(smaller) as after:
            for trial in find_trials(model, dims, seed, before):
                outputs = after.run(trial.feeds)
                for name, array in trial.outputs.items():
                    if not _close(array, outputs[name]):
                        return False
    except (ir.passes.PassError, UnsupportedModelError):
        return False
    return True


def _close(a: Array, b: Array) -> bool:
    """Equal to float error."""
    if a.shape != b.shape or a.dtype.kind not in "f":
        return a.shape == b.shape and bool((a == b).all())
    scale = float(np.abs(a[np.isfinite(a)]).max(initial=0)) or 1.0
    return bool(np.allclose(a, b, rtol=0, atol=_EQUAL * scale, equal_nan=True))
