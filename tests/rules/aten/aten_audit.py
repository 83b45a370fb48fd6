"""Brute-force audit of the ATen rules: random modules, random legal removals, eager torch.

A module is captured and analysed, random units leave, and the rewritten graph is compared with the
masked original in float64, tensor by tensor, at the size it was captured at and at another batch.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from aten_net import CASES, Case, Example
from audit import AuditError, rng_for
from removals import random_removal
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.planning import plan_from_removed
from graphprune.plan import Plan
from graphprune.torch.capture import Captured, capture
from graphprune.torch.rewrite import pruned_graph
from graphprune.torch.slicing import slice_tensor
from graphprune.torch.trace import analyse_captured
from graphprune.torch.twin import Twin, fitted, flat_inputs

TOLERANCE = 1e-9
_ALIVE = 1e-3
"""An output that varies less proves nothing."""


@dataclass
class Tally:
    """What an audit did."""

    removals: int = 0
    tensors: int = 0
    changed: int = 0
    statistics: set[str] = field(default_factory=set)


def all_cases() -> dict[str, Case]:
    """Import every `aten_cases_*.py` beside this file; cases by name."""
    folder = str(Path(__file__).parent)
    for module in sorted(m.name for m in pkgutil.iter_modules([folder])):
        if module.startswith("aten_cases_"):
            importlib.import_module(module)
    return CASES


def audit(case: Case, seed: int, removals: int = 3) -> Tally:
    """Build one example and audit it in both modes. Raises AuditError."""
    rng = rng_for(case.name, seed)
    example = case.build(rng)
    captured = captured_of(example)
    tally = Tally()
    for blocks in (True, False):
        mode = "blocks" if blocks else "inside blocks"
        graph = analyse_captured(captured, blocks=blocks)
        _expectations(example, graph, blocks=blocks, mode=mode)
        for number in range(removals if graph.groups else 0):
            removed = random_removal(graph, rng, number / max(1, removals - 1))
            if not removed.any():
                if example.expected(blocks=blocks) is not None:
                    raise AuditError(f"{mode}: no group has a legal choice of widths")
                continue
            plan = plan_from_removed(graph, removed)
            if not plan.initializers:
                raise AuditError(f"{mode}, removal {number}: the plan cuts no weight")
            try:
                compare(captured, example, plan, tally)
            except AuditError as error:
                raise AuditError(f"{mode}, removal {number}: {error}") from None
    if tally.removals and not tally.changed and not example.random and example.units is not None:
        raise AuditError("no removal changed any output: the example proves nothing")
    if example.statistics is not None and bool(tally.statistics) != example.statistics:
        raise AuditError(f"statistics nodes are {sorted(tally.statistics)}")
    return tally


def captured_of(example: Example) -> Captured:
    """The module captured in evaluation mode, for any batch."""
    captured = capture(example.module, example.inputs, training=False)
    if not captured.dynamic and not example.one_batch:
        raise AuditError(f"captured for one batch size: {captured.notes}")
    return captured


def _expectations(example: Example, graph: DependencyGraph, *, blocks: bool, mode: str) -> None:
    found = tuple(sorted(g.size for g in graph.groups))
    expected = example.expected(blocks=blocks)
    reasons = sorted({u.reason for u in graph.unpruned})
    if expected is not None and found != expected:
        raise AuditError(f"{mode}: groups of {found}, expected {expected}; reasons: {reasons}")
    if example.reason and not any(example.reason in r for r in reasons):
        raise AuditError(f"{mode}: nobody says '{example.reason}', only {reasons}")


def compare(captured: Captured, example: Example, plan: Plan, tally: Tally) -> None:
    """Pruned against masked, at two batch sizes."""
    tally.statistics.update(plan.statistics_nodes)
    made, _ = pruned_graph(captured, plan)
    for name, tensor in made.named_parameters():
        if not tensor.numel():
            raise AuditError(f"nothing is left of '{name}'")
    twin = Twin(captured, plan)
    batches = [example.inputs, tuple(_one_more(t) for t in example.inputs)]
    for inputs in batches[: 1 if example.one_batch else 2]:
        masked: dict[str, Tensor] = {}
        result: dict[str, Tensor] = {}
        with torch.no_grad():
            try:
                wanted = twin(*inputs, look=lambda n, t, masked=masked: _note(masked, n, t))
            except Exception as error:
                raise AuditError(f"the masked original does not run: {error}") from error
            try:
                got = _Noting(made, result).call(inputs)
            except Exception as error:
                raise AuditError(f"the pruned graph does not run: {error}") from error
            before = example.module(*inputs)
        for name in sorted(set(masked) & set(result)):
            cuts = fitted(plan.tensors.get(name, ()), masked[name].shape)
            _equal(name, slice_tensor(masked[name], cuts), result[name], example, tally)
        leaves = map(pytree.tree_leaves, (wanted, got, before))
        for i, (a, b, c) in enumerate(zip(*leaves, strict=True)):
            _equal(f"output {i}", a, b, example, tally)
            _alive(f"output {i}", b, example)
            tally.changed += bool(b.is_floating_point() and not torch.allclose(b, c, atol=1e-6))
    tally.removals += 1


def _one_more(t: Tensor) -> Tensor:
    return torch.cat([t, t[:1].flip(-1) if t.ndim > 1 else t[:1]])


def _note(into: dict[str, Tensor], name: str, value: Any) -> None:
    if isinstance(value, Tensor):
        into[name] = value.detach().clone()


class _Noting(fx.Interpreter):
    """Runs a graph and notes what every node gives."""

    def __init__(self, module: fx.GraphModule, into: dict[str, Tensor]) -> None:
        super().__init__(module)
        self.graph_module = module
        self.into = into

    def call(self, inputs: tuple[Tensor, ...]) -> Any:
        codegen: Any = self.graph_module.graph._codegen
        flat = flat_inputs(self.graph_module, inputs, {})
        return codegen.process_outputs(self.run(*flat, enable_io_processing=False))

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op != "get_attr":
            _note(self.into, n.name, value)
        return value


def _equal(name: str, wanted: Tensor, got: Tensor, example: Example, tally: Tally) -> None:
    if wanted.shape != got.shape:
        raise AuditError(f"'{name}' is {tuple(got.shape)}, should be {tuple(wanted.shape)}")
    if wanted.dtype != got.dtype:
        raise AuditError(f"'{name}' is of {got.dtype}, should be of {wanted.dtype}")
    tally.tensors += 1
    if example.random or not wanted.numel():
        return
    if wanted.is_complex():
        wanted, got = (
            torch.view_as_real(wanted.resolve_conj()),
            torch.view_as_real(got.resolve_conj()),
        )
    if not wanted.is_floating_point():
        if not torch.equal(wanted, got):
            raise AuditError(f"'{name}': entries differ")
        return
    scale = (
        float(wanted[torch.isfinite(wanted)].abs().max()) if torch.isfinite(wanted).any() else 1.0
    )
    if not torch.allclose(wanted, got, rtol=0, atol=TOLERANCE * max(scale, 1e-2), equal_nan=True):
        worst = float((wanted - got).abs().nan_to_num(torch.inf).max())
        raise AuditError(f"'{name}' is off by {worst:.2g} of its magnitude {scale:.2g}")


def _alive(name: str, t: Tensor, example: Example) -> None:
    if example.random or not t.is_floating_point() or t.numel() < 2:
        return
    if not float(t.std()) > _ALIVE:
        raise AuditError(f"'{name}' hardly varies ({float(t.std()):.1g})")


def ops_of(captured: Captured) -> Mapping[tuple[str, str], int]:
    """(namespace, op) of every node, and how often."""
    from graphprune.torch.call import op_name

    found: dict[tuple[str, str], int] = {}
    for node in captured.nodes:
        if node.op == "call_function":
            found[op_name(node)] = found.get(op_name(node), 0) + 1
    return found
