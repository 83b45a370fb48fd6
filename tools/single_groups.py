"""Every single group of a model, removed alone: is the result the masked original?

    python -m tools.single_groups --models FOLDER [--names NAME ...] [--json FILE]
        [--out docs/results/single-groups.md]

A wrong coupling can hide where everything is pruned at once. Here one group loses half of its units
at random and nothing else leaves; the pruned graph must equal its masked original on every tensor,
to float error, or with statistics over what is kept where the group runs through a normalisation.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tools._common import Record, Results, environment, model_path, run_child, table, write_page

NAMES = (
    *("resnet18", "mobilenet_v2", "shufflenet_v2_x1_0", "efficientnet_b0", "googlenet"),
    *("squeezenet1_1", "regnet_y_400mf", "bert", "gpt2", "llama", "t5", "swin", "convnextv2"),
    *("segformer", "whisper_encoder", "mamba", "wav2vec2", "clip"),
)


def examine(path: Path, seed: int) -> list[Record]:
    """One record for each group of a model. Raises what loading and analysing it raise."""
    from graphprune.onnx.analyse import analyse_graph
    from graphprune.onnx.canonical import canonicalise
    from graphprune.onnx.load import load
    from graphprune.onnx.runtime import find_trials
    from graphprune.onnx.shapes import infer_shapes

    model = canonicalise(load(path).model)
    bindings = [t.binding for t in find_trials(model)]
    shapes = [infer_shapes(model, b) for b in bindings]
    graph = analyse_graph(model, *shapes)
    return [alone(model, graph, group, bindings, seed) for group in graph.groups]


def alone(model: Any, graph: Any, group: Any, bindings: list[Any], seed: int) -> Record:
    """Remove half of one group's units and certify."""
    from graphprune.analysis.planning import plan_from_removed
    from graphprune.certify.certificate import certify
    from graphprune.errors import GraphpruneError
    from graphprune.passes.prune import PrunePass
    from graphprune.selection.widths import counts_for, grid_of, kept_units

    record: Record = {"group": group.name, "kind": group.kind, "size": group.size}
    rng = np.random.default_rng([seed, *group.name.encode()])
    kept = kept_units(group, rng.random(group.size), counts_for(group, 0.5, grid_of(1)))
    record["kept"] = int(kept.size)
    if kept.size == group.size:
        return {**record, "status": "left", "why": "no smaller width keeps its rows balanced"}
    removed = np.zeros(graph.resolver.classes.count, bool)
    removed[np.delete(group.units, kept)] = True
    plan = plan_from_removed(graph, removed, binding=bindings[0])
    smaller = model.clone()
    try:
        PrunePass(plan, bindings)(smaller)
        certificate = certify(model, smaller, plan, bindings=bindings, seed=seed)
    except Exception as error:  # passes wrap what they meet
        cause = error.__cause__ or error
        status = "left" if isinstance(cause, GraphpruneError) else "error"
        return {**record, "status": status, "why": f"{type(cause).__name__}: {cause}"}
    return {
        **record,
        "status": certificate.status,
        "why": certificate.first_difference,
        "max_rel_error": certificate.max_rel_error,
        "tensor_max_rel_error": certificate.tensor_max_rel_error,
        "tensors": len(plan.tensors),
    }


def row(name: str, record: Record) -> list[object]:
    """One line for each model."""
    if "groups" not in record:
        return [name, record["outcome"], *[""] * 5, record["reason"]]
    groups = record["groups"]
    counts = [sum(g["status"] == s for g in groups) for s in ("exact", "statistics")]
    worst = [
        max((g[k] for g in groups if k in g), default=0.0)
        for k in ("max_rel_error", "tensor_max_rel_error")
    ]
    bad = [g for g in groups if g["status"] not in ("exact", "statistics")]
    notes = "; ".join(f"{g['group']}: {g['status']}, {g['why']}" for g in bad)
    return [name, len(groups), *counts, len(bad), *(f"{w:.1e}" for w in worst), notes]


HEADER = (
    "model",
    "groups",
    "exact",
    "statistics",
    "other",
    "outputs: rel",
    "tensors: rel",
    "which",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.single_groups", description=__doc__)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--names", nargs="+", default=NAMES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one model")
    parser.add_argument("--memory-gb", type=float, default=8)
    parser.add_argument("--again", action="store_true", help="also what the JSON file knows")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps({"groups": examine(given.one, given.seed)}))
        return 0
    if given.models is None:
        parser.error("--models is required")
    results = Results(given.json)
    for name in given.names:
        if name in results.records and not given.again:
            continue
        path = model_path(name, given.models).resolve()
        arguments = ["--one", str(path), "--seed", str(given.seed)]
        limits = {"timeout": given.timeout, "memory_gb": given.memory_gb}
        results.add(name, run_child("tools.single_groups", arguments, **limits))
        print(*row(name, results.records[name]), flush=True)
    rows = [row(n, r) for n, r in results.records.items()]
    if given.out:
        parts = [
            "Written by `tools/single_groups.py`: one group at a time loses half of its units.",
            "\n".join(environment()),
            table(HEADER, rows, range(1, 7)),
        ]
        write_page(given.out, "Every group removed alone", parts)
    statuses = {g["status"] for r in results.records.values() for g in r.get("groups", ())}
    whole = all("groups" in r for r in results.records.values())
    return 0 if whole and statuses <= {"exact", "statistics", "left"} else 1


if __name__ == "__main__":
    sys.exit(main())
