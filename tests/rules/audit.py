"""Brute force against onnxruntime: is what a rule says of an op true?

Each example is analysed in both modes (whole blocks leave, or channels inside them), its groups are
compared with what the case expects, and random legal removals are carried out: plan, rewrite, then
*every* tensor of the pruned graph is compared with the kept entries of the masked original.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from audit_net import CASES, Case, Example, Rng
from removals import random_removal

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.planning import plan_from_removed
from graphprune.certify.masks import zeroed
from graphprune.certify.twin import masked_twin
from graphprune.cut import take
from graphprune.onnx.analyse import analyse_graph
from graphprune.onnx.canonical import canonicalise
from graphprune.onnx.feeds import random_feeds
from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session
from graphprune.onnx.shapes import Shapes, default_bindings, infer_shapes
from graphprune.passes.prune import PrunePass
from graphprune.plan import Plan

Array = np.ndarray[Any, Any]

_DEAD = 1e-4
"""A tensor whose kept entries are all smaller than this proves nothing."""


class AuditError(AssertionError):
    """What a rule says of an op is not true (or not what the case expects)."""


@dataclass
class Tally:
    """What an audit did."""

    removals: int = 0
    tensors: int = 0
    worst: float = 0.0
    changed: int = 0
    statistics: set[str] = field(default_factory=set)


def all_cases() -> dict[str, Case]:
    """Import every `cases_*.py` beside this file; cases by name."""
    folder = str(Path(__file__).parent)
    for module in sorted(m.name for m in pkgutil.iter_modules([folder])):
        if module.startswith("cases_"):
            importlib.import_module(module)
    return CASES


def rng_for(name: str, seed: int) -> Rng:
    """The same stream for the same case and seed, on every machine."""
    return np.random.default_rng([seed, *name.encode()])


def audit(case: Case, seed: int, removals: int = 3) -> Tally:
    """Build one example and audit it in both modes. Raises AuditError."""
    rng = rng_for(case.name, seed)
    example = case.build(rng)
    subject = Subject(example)
    tally = Tally()
    for blocks in (True, False):
        mode = "blocks" if blocks else "inside blocks"
        graph = subject.analyse(blocks=blocks)
        _expectations(example, graph, blocks=blocks, mode=mode)
        if not graph.groups:
            continue
        for number in range(removals):
            removed = random_removal(graph, rng, number / max(1, removals - 1))
            if not removed.any():
                if example.expected(blocks=blocks) is not None:
                    raise AuditError(f"{mode}: no group has a legal choice of widths")
                continue
            try:
                subject.compare(graph, removed, tally, seed)
            except AuditError as error:
                raise AuditError(f"{mode}, removal {number}: {error}") from None
    if tally.removals and not tally.changed and example.units is not None:
        raise AuditError("no removal changed any output: the example proves nothing")
    if example.statistics is not None and bool(tally.statistics) != example.statistics:
        raise AuditError(f"statistics nodes are {sorted(tally.statistics)}")
    return tally


def _expectations(example: Example, graph: DependencyGraph, *, blocks: bool, mode: str) -> None:
    found = tuple(sorted(g.size for g in graph.groups))
    expected = example.expected(blocks=blocks)
    reasons = [u.reason for u in graph.unpruned]
    if expected is not None and found != expected:
        raise AuditError(f"{mode}: groups of {found}, expected {expected}; reasons: {reasons}")
    if example.reason and not any(example.reason in r for r in reasons):
        raise AuditError(f"{mode}: nobody says '{example.reason}', only {reasons}")


class Subject:
    """One example on the way through the pipeline."""

    def __init__(self, example: Example) -> None:
        self.example = example
        self.model = canonicalise(load(example.model).model)
        first, second = default_bindings(self.model)
        self.bindings = [first] if first == second else [first, second]
        self.shapes = [infer_shapes(self.model, b) for b in self.bindings]
        self.skip = set(self.shapes[0].values)  # sizes: they change, what they size is compared
        self._plain: dict[int, Mapping[str, Array]] = {}

    def analyse(self, *, blocks: bool) -> DependencyGraph:
        return analyse_graph(self.model, self.shapes[0], self.shapes[-1], blocks=blocks)

    def compare(self, graph: DependencyGraph, removed: Array, tally: Tally, seed: int) -> None:
        plan = plan_from_removed(graph, removed, binding=self.bindings[0])
        tally.statistics.update(plan.statistics_nodes)
        pruned = self.model.clone()
        PrunePass(plan)(pruned)
        _same_interface(self.model, pruned)
        for number, shapes in enumerate(self.shapes):
            feeds = self.feeds(shapes, seed)
            names = self._observed(pruned)
            if self.model.opset_imports[""] < 11:  # too old for the certificate
                masked_model, skipped = _plain_twin(self.model, plan, shapes), set[str]()
            else:
                twin = masked_twin(self.model, plan, shapes)
                masked_model, skipped = twin.model, set(twin.skipped)
            masked = self._run(masked_model, feeds, names, "the masked original")
            result = self._run(pruned, feeds, names, "the pruned graph")
            for name in names:
                if name not in skipped:
                    self._compare_one(name, masked[name], result[name], plan, tally)
            if number not in self._plain:
                self._plain[number] = self._run(self.model, feeds, (), "the original")
            for name, before in self._plain[number].items():
                tally.changed += bool(_differ(before, result[name]))
        tally.removals += 1

    def feeds(self, shapes: Shapes, seed: int) -> dict[str, Array]:
        feeds = random_feeds(self.model, shapes, seed)
        for name, make in (self.example.feeds or {}).items():
            rng = rng_for(name, seed)
            feeds[name] = make(rng, feeds[name].shape)
        return feeds

    def _observed(self, pruned: ir.Model) -> list[str]:
        """Activations of the top graph that both graphs have and that are no sizes."""
        there = {v.name for node in pruned.graph for v in node.outputs}
        return [
            v.name
            for node in self.model.graph
            for v in node.outputs
            if v.name and v.name in there and v not in self.skip and _is_tensor(v)
        ]

    def _run(
        self, model: ir.Model, feeds: Mapping[str, Array], names: Any, what: str
    ) -> Mapping[str, Array]:
        try:
            if self.example.reference:
                return _reference(model, feeds, names)
            with Session(model, optimize=False, outputs=list(names)) as session:
                return session.run(feeds)
        except Exception as error:
            raise AuditError(f"{what} does not run: {error}") from error

    def _compare_one(
        self, name: str, masked: Array, result: Array, plan: Plan, tally: Tally
    ) -> None:
        kept = take(np.asarray(masked), plan.tensors.get(name, ()))
        result = np.asarray(result)
        if kept.shape != result.shape:
            raise AuditError(f"'{name}' has shape {result.shape}, should have {kept.shape}")
        if kept.dtype != result.dtype:
            raise AuditError(f"'{name}' has type {result.dtype}, should have {kept.dtype}")
        tally.tensors += 1
        if not kept.size:
            return
        if kept.dtype.kind != "f":
            wrong = float((kept != result).mean())
            if wrong > 0 and not _rounding(kept, result):
                raise AuditError(f"'{name}': {wrong:.0%} of its entries differ")
            return
        a, b = kept.astype(np.float64), result.astype(np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(invalid="ignore"):
            error = np.where(same, 0.0, np.abs(a - b))
        finite = np.abs(a[np.isfinite(a)])
        scale = max(float(finite.max(initial=0.0)), 1e-2)  # below is rounding
        worst = float(np.nan_to_num(error, nan=np.inf).max()) / scale
        tally.worst = max(tally.worst, worst)
        if worst > self.example.tolerance:
            raise AuditError(f"'{name}' is off by {worst:.2g} of its magnitude {scale:.2g}")


def _plain_twin(model: ir.Model, plan: Plan, shapes: Shapes) -> ir.Model:
    """The masked original by products with 0 and 1, in the spelling of any opset."""
    assert not plan.statistics_nodes
    copy = model.clone()
    dims = {v.name: d for v, d in shapes.dims.items()}
    for node in list(copy.graph):
        for value in node.outputs:
            cuts = plan.tensors.get(value.name or "")
            if not cuts:
                continue
            mask = ir.tensor(zeroed(np.ones(dims[value.name], np.float32), cuts))
            constant = ir.node("Constant", [], {"value": mask})
            product = ir.node("Mul", [value, constant.outputs[0]])
            constant.outputs[0].name, product.outputs[0].name = f"{value.name}_m", f"{value.name}_p"
            for use in list(value.uses()):
                if use.node is not product:
                    use.node.replace_input_with(use.idx, product.outputs[0])
            copy.graph.insert_after(node, [constant, product])
    return copy


def _rounding(a: Array, b: Array) -> bool:
    """Quantised values on the edge between two steps: a step or two apart, at few places."""
    if a.dtype.kind not in "iu":
        return False
    off = np.abs(a.astype(np.int64) - b.astype(np.int64))
    allowed = 3 if a.dtype.itemsize == 1 else 0.01 * float(np.abs(a.astype(np.int64)).max())
    return bool(off.max() <= allowed and (off > 0).mean() < 0.02)


def _differ(a: Array, b: Array) -> bool:
    if np.shape(a) != np.shape(b):
        return True
    if np.asarray(a).dtype.kind != "f":
        return bool((np.asarray(a) != np.asarray(b)).any())
    scale = float(np.abs(a).max(initial=0.0))
    if scale < _DEAD:
        return False
    return bool(np.abs(a - b).max(initial=0.0) > 1e-3 * scale)


def _is_tensor(value: ir.Value) -> bool:
    return value.type is None or isinstance(value.type, ir.TensorType)


def _same_interface(model: ir.Model, pruned: ir.Model) -> None:
    for what in ("inputs", "outputs"):
        before = [(v.name, str(v.shape)) for v in getattr(model.graph, what)]
        after = [(v.name, str(v.shape)) for v in getattr(pruned.graph, what)]
        if before != after:
            raise AuditError(f"{what} changed from {before} to {after}")


def _reference(model: ir.Model, feeds: Mapping[str, Array], names: Any) -> Mapping[str, Array]:
    from onnx.reference import ReferenceEvaluator
    from reference_ops import OPS

    from graphprune.onnx.runtime import _extended

    with _extended(model, list(names)):
        proto = ir.to_proto(model)
    outputs = [o.name for o in proto.graph.output]
    with np.errstate(all="ignore"):
        results = ReferenceEvaluator(proto, new_ops=OPS).run(None, dict(feeds))
    return dict(zip(outputs, results, strict=True))


def sweep(
    seeds: range, pattern: str = "", removals: int = 4
) -> Iterator[tuple[str, int, str, Tally]]:
    """Audit all cases whose name contains `pattern`; yields case, seed, "" or what is wrong, and
    what was done."""
    for name, item in all_cases().items():
        if pattern not in name:
            continue
        for seed in seeds:
            try:
                yield name, seed, "", audit(item, seed, removals)
            except Exception as error:
                yield name, seed, f"{type(error).__name__}: {error}", Tally()
