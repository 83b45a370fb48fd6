"""The certificate: the pruned graph computes what the masked original computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import onnx_ir as ir

from graphprune.certify.graphs import all_graphs, downstream
from graphprune.certify.numeric import Binding, Findings, compare_graphs
from graphprune.certify.structural import Structure, check_structure
from graphprune.certify.twin import TwinError
from graphprune.errors import CertificateError
from graphprune.onnx.shapes import default_bindings
from graphprune.plan import Plan

Status = Literal["exact", "statistics", "failed"]
Level = Literal["full", "structural", "layerwise"]

LAYERWISE_BYTES = 1 << 30
"""Weights above which `full` becomes `layerwise`: both graphs would not fit beside each other."""
_LITTLE = 0.01
_NAMED = 3


@dataclass(frozen=True)
class Certificate:
    """What was proven, how well, and what remains weak.

    Attributes:
        status: `exact`: equal to the original with the removed channels' contributions zeroed.
            `statistics`: the same, with the statistics of `statistics_nodes` over what is kept.
            `failed`: it is not.
        max_abs_error: Largest absolute error of a graph output.
        max_rel_error: The same relative to the output's largest magnitude.
        bindings: Sizes of dynamic dimensions that were run.
        statistics_nodes: Nodes whose mean or variance is taken over what is kept.
        weak: What the certificate does not or hardly prove, one sentence each.
        checked_tensors: Tensors that were compared and whose values vary (others prove nothing).
        first_difference: The first node that differs, where the status is `failed`.
        tensor_max_abs_error: Largest absolute error of any tensor.
        tensor_max_rel_error: Largest relative error of any tensor.
        checked_structure: Initializer uses and nodes that were checked without running the graphs.
        level: How much was checked: `full`, `layerwise` or `structural`.
        copy_max_rel_error: Largest relative error of an output of the unmasked original, in its
            canonical form, against the model as it was given; None where that was not run.
        layers_max_rel_error: The same of the model without the layers that left, against the original
            with what came into them in place of what went out; None: none left, or nothing was run.
    """

    status: Status
    max_abs_error: float = 0.0
    max_rel_error: float = 0.0
    bindings: tuple[Mapping[str, int], ...] = ()
    statistics_nodes: tuple[str, ...] = ()
    weak: tuple[str, ...] = ()
    checked_tensors: int = 0
    first_difference: str = ""
    tensor_max_abs_error: float = 0.0
    tensor_max_rel_error: float = 0.0
    checked_structure: int = 0
    level: Level = "full"
    copy_max_rel_error: float | None = None
    layers_max_rel_error: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The report's `certificate`."""
        return {
            "status": self.status,
            "level": self.level,
            "max_abs_error": self.max_abs_error,
            "max_rel_error": self.max_rel_error,
            "tensor_max_abs_error": self.tensor_max_abs_error,
            "tensor_max_rel_error": self.tensor_max_rel_error,
            "copy_max_rel_error": self.copy_max_rel_error,
            "layers_max_rel_error": self.layers_max_rel_error,
            "bindings": [dict(sorted(b.items())) for b in self.bindings],
            "statistics_nodes": list(self.statistics_nodes),
            "checked_tensors": self.checked_tensors,
            "checked_structure": self.checked_structure,
            "weak": list(self.weak),
            "first_difference": self.first_difference or None,
        }


def certify(
    original: ir.Model,
    pruned: ir.Model,
    plan: Plan,
    bindings: Sequence[Binding] | None = None,
    seed: int = 0,
    level: Level = "full",
    progress: Callable[[float], None] | None = None,
) -> Certificate:
    """Prove that `pruned` computes what the masked `original` computes.

    Args:
        original: The graph the plan was made for, as loaded.
        pruned: The smaller graph.
        plan: What was removed, in the original's numbering. Nothing else of what made `pruned` is
            consulted.
        bindings: Sizes of dynamic dimensions to run at; the first must be the plan's where the plan
            has cuts along dynamic axes. None: the plan's binding, and another one at which the
            original runs.
        seed: Of the random inputs.
        level: `structural` runs nothing. `full` also runs both graphs and compares every tensor;
            over 1 GiB of weights it becomes `layerwise`, which checks each node on the original's
            values and holds few weights at a time.
        progress: Told the share of the work that is done, from 0 to 1.

    Raises:
        UnsupportedModelError: The original itself does not run, or its opset is under 11.
    """
    if level == "full" and _weights(original) > LAYERWISE_BYTES:
        level = "layerwise"
    sizes = list(bindings) if bindings is not None else _default_bindings(original, plan)
    structure = check_structure(original, pruned, plan, sizes)
    nodes = tuple(sorted(plan.statistics_nodes))
    if structure.failures:
        return Certificate(
            "failed",
            statistics_nodes=nodes,
            first_difference=structure.failures[0],
            checked_structure=structure.checked,
            level=level,
        )
    passed: Status = "statistics" if nodes else "exact"
    if level == "structural":
        return Certificate(
            passed,
            statistics_nodes=nodes,
            weak=("structure only: neither graph was run", *_structural_weak(structure)),
            checked_structure=structure.checked,
            level=level,
        )
    try:
        findings = compare_graphs(
            original,
            pruned,
            plan,
            bindings=bindings,
            seed=seed,
            layerwise=level == "layerwise",
            renamed=structure.renamed,
            stand_ins=structure.stand_ins,
            progress=progress,
        )
    except TwinError as error:
        return Certificate(
            "failed",
            statistics_nodes=nodes,
            first_difference=f"the plan does not fit the original: {error}",
            checked_structure=structure.checked,
            level=level,
        )
    outputs = findings.tally.outputs.values()
    return Certificate(
        status="failed" if findings.difference else passed,
        max_abs_error=max((d.max_abs for d in outputs), default=0.0),
        max_rel_error=max((d.max_rel for d in outputs), default=0.0),
        bindings=tuple(dict(b) for b in findings.bindings),
        statistics_nodes=nodes,
        weak=_weak(original, plan, findings),
        checked_tensors=len(findings.tally.alive),
        first_difference=findings.difference,
        tensor_max_abs_error=findings.tally.worst[0],
        tensor_max_rel_error=findings.tally.worst[1],
        checked_structure=structure.checked,
        level=level,
    )


def require(certificate: Certificate) -> None:
    """Raise CertificateError (exit code 4), naming the first node that differs, if it failed."""
    if certificate.status == "failed":
        raise CertificateError(
            "the pruned graph does not compute what the masked original computes: "
            f"{certificate.first_difference or 'no reason given'}"
        )


def _weights(model: ir.Model) -> int:
    return sum(
        v.const_value.nbytes
        for graph in all_graphs(model.graph)
        for v in graph.initializers.values()
        if v.const_value is not None
    )


def _default_bindings(model: ir.Model, plan: Plan) -> list[Binding]:
    first, second = default_bindings(model)
    planned = {**first, **{k: v for k, v in plan.binding.items() if k in first}}
    return [planned, second] if second != planned else [planned]


def _structural_weak(structure: Structure) -> list[str]:
    weak = list(structure.notes)
    if structure.renamed:
        pairs = [
            f"'{new}' for '{old}'" for new, several in structure.renamed.items() for old in several
        ]
        weak.append(f"values stand for others of the original unproven: {_some(pairs)}")
    if structure.stand_ins:
        names = [f"'{n}'" for n in structure.stand_ins]
        weak.append(f"constants stand for values of the original unproven: {_some(names)}")
    return weak


def _weak(original: ir.Model, plan: Plan, findings: Findings) -> tuple[str, ...]:
    """One sentence for everything that agreed without proving much."""
    tally, weak = findings.tally, []
    if not plan.cuts_something:
        weak.append("the plan removes nothing")
    dead = {n: why for n, why in tally.lifeless.items() if n not in tally.alive}
    affected = downstream(original.graph, plan.tensors, {u.node for u in plan.initializers})
    outputs = [v.name or "" for v in original.graph.outputs if v.name in affected]
    weak += [f"output '{name}' is {dead[name]}: no evidence" for name in outputs if name in dead]
    cut = [f"'{n}' ({why})" for n, why in sorted(dead.items()) if n in plan.tensors]
    if cut:
        weak.append(f"{_count(cut)} cut, too constant to prove anything: {_some(cut)}")
    if findings.probe is not None and plan.tensors:
        moved = findings.probe.moved
        small = {n: moved[n] for n in outputs if moved.get(n, 1.0) < _LITTLE}
        weak += [
            f"what was removed changes output '{name}' by {change:.2g} of its largest magnitude "
            "only: the evidence is in the tensors before it"
            for name, change in small.items()
        ]
        silent = [f"'{n}'" for n in sorted(findings.probe.silent)]
        if silent:
            weak.append(f"what was removed of {_count(silent)} was zero already: {_some(silent)}")
    if tally.rounded:
        nodes = [f"{node} ({why})" for node, why in tally.rounded.items()]
        weak.append(f"checked alone, on the original's values: {_some(nodes)}")
    if findings.skipped:
        names = [f"'{n}'" for n in findings.skipped]
        weak.append(
            f"{_count(names)} cut along a dynamic axis, compared at the plan's sizes only: "
            f"{_some(names)}"
        )
    if tally.not_finite:
        names = [f"'{n}'" for n in sorted(tally.not_finite)]
        weak.append(f"{_count(names)} with NaN or Inf, in the original too: {_some(names)}")
    weak += [f"the original does not run at {text}" for text in findings.refused]
    return tuple(weak)


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} tensor{'s' * (len(names) != 1)}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown}, and {len(names) - _NAMED} more"
