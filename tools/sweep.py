"""Compile every ONNX file of some folders and say what came out.

    python -m tools.sweep --models FOLDER [FOLDER ...] [--names GLOB ...] --channels 0.5 --align 1
        [--residual] [--set OPTION=VALUE ...] [--jobs N] [--out docs/results/coverage.md] [--json FILE]

Each model is compiled, certified and run at two sizes in a process of its own, with limits of time
and memory, so nothing that happens there ends the sweep. With `--json` an interrupted sweep goes on
where it stopped, and files that changed are done again; `--again OUTCOME` repeats what ended so
(`--again all`: everything). The page holds all settings that the JSON file knows. `--set` gives any
other field of `graphprune.Options`; `--set macs=0.5` takes the place of --channels.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tools._common import Record, Results, environment, peak_rss_mb, run_child, share, table, totals
from tools._common import write_page as write

#: Parameters removed at --channels 0.5 --align 1 (--residual for transformers), in per cent: what
#: the best of the others (Torch-Pruning 1.6.1) removes, or would where it fails.
DEPTH = {
    **{"resnet50": 73, "resnext50_32x4d": 73, "vgg11_bn": 74, "densenet121": 71},
    **{"mobilenet_v2": 65, "efficientnet_b0": 68, "shufflenet_v2_x1_0": 65},
    **{"swin_t": 72, "maxvit_t": 72, "vit_b_16": 72},
}
STAGES = ("load", "run", "decide", "rewrite", "certify")


# -- one model, in a process of its own ------------------------------------------------------------


def examine(path: Path, settings: dict[str, Any]) -> Record:
    """Compile one model, write it, run the file. Never raises."""
    import graphprune
    from graphprune.errors import CertificateError, GraphpruneError, NothingGainedError

    try:
        result = graphprune.compile(path, **{"bench": False, **settings})
        record = describe(result)
        if record["outcome"] == "pruned":
            record |= try_file(path, result.model)
    except GraphpruneError as error:
        kinds = {CertificateError: "failed", NothingGainedError: "nothing"}
        reason = str(error).replace(str(path), path.name)
        return {"outcome": kinds.get(type(error), "refused"), "reason": reason}
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        return {"outcome": "error", "reason": f"{type(error).__name__} at {where}: {error}"[:400]}
    return {**record, "peak_rss_mb": peak_rss_mb()}


def describe(result: Any) -> Record:
    """What the report says, in short."""
    report = result.report
    certificate = report.certificate or {}
    reasons: dict[str, int] = {}
    for item in report.unpruned:
        reasons[item.reason] = reasons.get(item.reason, 0) + 1
    latency = report.latency
    return {
        "outcome": "pruned" if report.groups else "nothing",
        "reason": "" if report.groups else "; ".join(reasons),
        "status": certificate.get("status"),
        "max_abs_error": certificate.get("max_abs_error"),
        "max_rel_error": certificate.get("max_rel_error"),
        "tensor_max_rel_error": certificate.get("tensor_max_rel_error"),
        "weak": certificate.get("weak", []),
        "params": [report.original.params, report.pruned.params],
        "macs": [report.original.macs, report.pruned.macs],
        "groups": len(report.groups),
        "unpruned": reasons,
        "left": sorted({u.reason for u in report.unpruned if u.group and u.group in u.node}),
        "timings_s": {s: round(t, 3) for s, t in report.timings_s.items()},
        "nodes": sum(1 for _ in result.model.graph),
        "latency": latency and [latency.ratio, *latency.interval, latency.verdict],
    }


def try_file(source: Path, pruned: Any) -> Record:
    """Write the pruned model, check and load the file, run it at two sizes."""
    import onnx

    from graphprune.onnx.bindings import dynamic_dims
    from graphprune.onnx.load import load
    from graphprune.onnx.runtime import find_trials
    from graphprune.onnx.save import save

    with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
        target = Path(folder, "pruned.onnx")
        save(pruned, target)
        onnx.checker.check_model(str(target))
        model = load(target).model
        if (before := signature(load(source).model)) != (after := signature(model)):
            return {"outcome": "failed", "reason": f"inputs or outputs changed: {before} {after}"}
        one, two = find_trials(model)
    sizes = [dict(t.binding) for t in (one, two)]
    if dynamic_dims(model) and one.binding == two.binding:
        return {"ran": sizes, "reason": "it runs at one size only"}
    return {"ran": sizes}


def signature(model: Any) -> list[str]:
    """Names, types and declared shapes of inputs and outputs, in order."""
    values = [*model.graph.inputs, *model.graph.outputs]
    return [f"{v.name}: {v.dtype} {v.shape}" for v in values]


# -- all models ---------------------------------------------------------------------------------


def files(folders: list[Path], globs: list[str]) -> Iterator[Path]:
    for path in sorted(p for f in folders for p in f.glob("*.onnx")):
        if any(fnmatchcase(path.stem, g) for g in globs):
            yield path


def label(settings: dict[str, Any]) -> str:
    """Settings as they stand on the command line."""
    words = [f"--{k} {v}" if v is not True else f"--{k}" for k, v in settings.items() if v]
    return " ".join(words)


def sweep(given: argparse.Namespace, settings: dict[str, Any]) -> Results:
    """Examine what is new, changed or to be done again, smallest file first."""
    results = Results(given.json)
    todo = []
    for path in files(given.models, given.names):
        key = f"{label(settings)} :: {path.stem}"
        stamp = [path.stat().st_size, int(path.stat().st_mtime)]
        known = results.records.get(key)
        again = given.again == "all" or (known and known["outcome"] == given.again)
        if known is None or known["stamp"] != stamp or again:
            todo.append((key, path, stamp))
    todo.sort(key=lambda item: item[2][0])

    def one(item: tuple[str, Path, list[int]]) -> tuple[str, Record]:
        key, path, stamp = item
        arguments = ["--one", str(path.resolve()), "--settings", json.dumps(settings)]
        limits = {"timeout": given.timeout, "memory_gb": given.memory_gb}
        return key, {**run_child("tools.sweep", arguments, **limits), "stamp": stamp}

    with ThreadPoolExecutor(given.jobs) as pool:
        for key, record in pool.map(one, todo):
            results.add(key, record)
            print(f"{key.split(' :: ')[1]}: {line(record)}", flush=True)
    return results


def line(r: Record) -> str:
    if r["outcome"] != "pruned":
        return f"{r['outcome'].upper()} {r['reason']} ({r['wall_s']} s)"
    params, macs = (share(r[k][1], r[k][0]) for k in ("params", "macs"))
    note = f" -- {r['reason']}" if r.get("reason") else ""
    return (
        f"{r['status']} {r['max_rel_error']:.1e}/{r['tensor_max_rel_error']:.1e}, params {params}, "
        f"MACs {macs}, {r['groups']} groups, {r['wall_s']} s{note}"
    )


# -- the page -----------------------------------------------------------------------------------


def page(records: dict[str, Record]) -> list[str]:
    """All parts of the page, one section for each set of options."""
    by_settings: dict[str, dict[str, Record]] = {}
    for key, record in records.items():
        settings, name = key.split(" :: ")
        by_settings.setdefault(settings, {})[name] = record
    return [part for s, found in sorted(by_settings.items()) for part in section(s, found)]


def section(settings: str, found: dict[str, Record]) -> list[str]:
    good = {n: r for n, r in sorted(found.items()) if r["outcome"] == "pruned"}
    bad = {n: r for n, r in sorted(found.items()) if r["outcome"] != "pruned"}
    counts = ", ".join(f"{n} {k}" for k, n in totals(found.values(), "outcome").items())
    proofs = ", ".join(f"{n} {k}" for k, n in totals(good.values(), "status").items())
    single = sum(1 for r in good.values() if r.get("reason"))
    text = f"{len(found)} models: {counts}. Certificates: {proofs or 'none'}. "
    text += f"All files load and run in onnxruntime{f', {single} at one size only' * bool(single)}."
    parts = [f"## `{settings}`", text]
    depth = [
        (n, f"-{DEPTH[n]} %", share(r["params"][1], r["params"][0]))
        for n, r in good.items()
        if n in DEPTH
    ]
    if depth and "--align 1" in settings:
        parts.append("Depth, parameters:\n\n" + table(("model", "goal", "reached"), depth, (1, 2)))
    if bad:
        rows = [(n, r["outcome"], r["reason"]) for n, r in bad.items()]
        parts.append("Not pruned:\n\n" + table(("model", "outcome", "reason"), rows))
    parts.append(table(HEADER, [row(n, r) for n, r in good.items()], range(2, len(HEADER))))
    return parts


HEADER = (
    *("model", "certificate", "outputs: abs", "rel", "tensors: rel", "parameters", "MACs"),
    *("groups", "nodes", *(f"{s} s" for s in STAGES)),
)


def row(name: str, r: Record) -> list[object]:
    errors = [f"{r[f'{k}_error']:.1e}" for k in ("max_abs", "max_rel", "tensor_max_rel")]
    costs = [share(r[k][1], r[k][0]) for k in ("params", "macs")]
    seconds = [f"{r['timings_s'].get(s, 0):.2f}" for s in STAGES]
    return [name, r["status"], *errors, *costs, r["groups"], r["nodes"], *seconds]


INTRODUCTION = """
Written by `tools/sweep.py`. Every model was compiled without benchmarking, certified against its
masked original at two sizes, written, checked, loaded and run in onnxruntime at two sizes.
`outputs` and `tensors` are the largest errors over the graph's outputs (absolute, and relative to
the largest magnitude) and over all tensors. Names: `NAME.EXPORTEROPSET[.static]`; without a suffix
torch's dynamo exporter, opset 18, dynamic dims. Networks of more than 150 million parameters are
built with two blocks of each run of identical ones.
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.sweep", description=__doc__)
    parser.add_argument("--models", type=Path, nargs="+", default=[])
    parser.add_argument("--names", nargs="+", default=["*"], metavar="GLOB")
    parser.add_argument("--channels", type=float, default=0.5)
    parser.add_argument("--align", default="auto")
    parser.add_argument("--residual", action="store_true")
    parser.add_argument("--set", nargs="+", default=[], metavar="OPTION=VALUE")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one model")
    parser.add_argument("--memory-gb", type=float, default=8, help="for one model")
    parser.add_argument("--again", default="", metavar="OUTCOME")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--settings", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(examine(given.one, given.settings)))
        return 0
    align = int(given.align) if given.align.isdigit() else given.align
    settings = {"channels": given.channels, "align": align, "residual": given.residual}
    for name, value in (item.split("=") for item in given.set):
        settings[name] = float(value) if value.replace(".", "", 1).isdigit() else value
        if name in ("macs", "params"):
            settings["channels"] = None
    results = sweep(given, settings)
    if given.out:
        parts = [INTRODUCTION, "\n".join(environment()), *page(results.records)]
        write(given.out, "Coverage", parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
