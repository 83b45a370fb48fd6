"""What the programs of this folder share: children with limits, tables, words for the machine."""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
Record = dict[str, Any]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


# -- children -----------------------------------------------------------------------------------


def run_child(module: str, arguments: Sequence[str], *, timeout: float, memory_gb: float) -> Record:
    """Run `python -m MODULE ARGUMENTS` with limits; its last line of output is a JSON object.

    Whatever happens to the child, a record comes back: where it does not end well, `outcome` says
    how (`timeout`, `memory`, `crash`) and `reason` is the last line it wrote to stderr.

    Args:
        module: A module that can be run.
        arguments: Its command line.
        timeout: Seconds after which it is killed, with its own children.
        memory_gb: Limit of its private memory (mapped files do not count).
    """

    def limit() -> None:
        size = int(memory_gb * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))

    started = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            stdout=out,
            stderr=err,
            env={**os.environ, **dict.fromkeys(_THREADS, "1")},
            preexec_fn=limit,
            start_new_session=True,
        )
        try:
            code = child.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            code = None
        record = _last_json(out)
        said = _tail(err)
    seconds = time.perf_counter() - started
    if record is None:
        record = {"outcome": "crash", "reason": said or f"exit status {code}"}
        if code is None:
            record = {"outcome": "timeout", "reason": f"more than {timeout:.0f} s"}
        elif "MemoryError" in said or "bad_alloc" in said or code == -signal.SIGKILL:
            record = {"outcome": "memory", "reason": f"more than {memory_gb:g} GB ({said})"}
    return {**record, "wall_s": round(seconds, 2)}


def _last_json(file: Any) -> Record | None:
    file.seek(0)
    lines = file.read().decode(errors="replace").strip().splitlines()
    if not lines:
        return None
    try:
        found = json.loads(lines[-1])
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _tail(file: Any) -> str:
    file.seek(0)
    lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip()[:400] if lines else ""


def peak_rss_mb() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def model_path(name: str, folder: Path) -> Path:
    """`FOLDER/NAME.onnx`, exported first where it is not there yet."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        from models_zoo.builders import catalogue

        catalogue.build(name, cache=folder)
    return path


# -- results that survive an interruption --------------------------------------------------------


class Results:
    """Records by key in a JSON file that is rewritten after each one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.records: dict[str, Record] = {}
        if path is not None and path.exists():
            self.records = json.loads(path.read_text())

    def add(self, key: str, record: Record) -> None:
        self.records[key] = record
        if self._path is None:
            return
        unfinished = self._path.with_name(f".{self._path.name}.part")
        unfinished.write_text(json.dumps(self.records, indent=1, sort_keys=True))
        unfinished.replace(self._path)


# -- time on a machine that others use -------------------------------------------------------------

CPU_TIME = (
    "Other programs ran on the machine: times are CPU seconds of the one thread that computes, which "
    "leave out what they took of the processor, but not what they took of its caches and memory."
)


def use_cpu_time() -> None:
    """From here on models are timed in CPU seconds (one thread only)."""
    from graphprune.measure import latency

    latency.compare_latency = partial(latency.compare_latency, clock=time.thread_time)  # type: ignore[assignment]


# -- words ----------------------------------------------------------------------------------------


def environment(threads: int = 1) -> list[str]:
    """Lines of Markdown that say where and with what something was measured."""
    packages = ("onnxruntime", "onnx", "onnx-ir", "numpy", "scipy")
    return [
        f"- {datetime.date.today().isoformat()}, {cpu()}, {threads} thread{'s' * (threads != 1)}",
        f"- Python {platform.python_version()}, {', '.join(f'{p} {version(p)}' for p in packages)}",
    ]


def cpu() -> str:
    """The kind of processor in words."""
    facts: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    except OSError:
        return platform.machine()
    flags = facts.get("flags", "").split()
    vector = next((v for v in ("avx512f", "avx2", "avx") if v in flags), "")
    kind = facts.get("model name", platform.machine())
    family = f"family {facts['cpu family']} model {facts['model']}" if "cpu family" in facts else ""
    words = [kind, family, vector.replace("avx512f", "AVX-512").upper(), f"{os.cpu_count()} cores"]
    return ", ".join(w for w in words if w)


def table(
    header: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[int] = ()
) -> str:
    """A Markdown table; columns named in `right` are aligned to the right."""
    marks = ["---:" if i in right else "---" for i in range(len(header))]
    lines = [header, marks, *([cell(c) for c in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def cell(value: object) -> str:
    """Text for one cell: nothing in it ends the cell or the row."""
    if value is None:
        return ""
    return " ".join(str(value).replace("|", "\\|").split())


def share(after: float, before: float) -> str:
    """The change in per cent, `-73.1 %`."""
    return "" if not before else f"{100 * (after / before - 1):+.1f} %"


def write_page(path: Path, title: str, parts: Iterable[str]) -> None:
    """Write a page of Markdown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "\n\n".join(p.strip("\n") for p in parts if p)
    path.write_text(f"# {title}\n\n{body}\n")


def totals(records: Iterable[Mapping[str, Any]], field: str) -> dict[str, int]:
    """How often each value of a field occurs, most frequent first."""
    counts: dict[str, int] = {}
    for record in records:
        counts[str(record.get(field))] = counts.get(str(record.get(field)), 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
