"""A model of 4 GB in external data: how much memory does pruning it take?

    python -m tools.big_model --dir FOLDER [--gb 4] [--out docs/results/memory.md]

Makes a decoder-like transformer (embedding, attention by heads, MLP, head) of the given size in
FOLDER, its weights streamed to disk; compiles it with the command line in a process of its own and
watches that process's anonymous memory (mapped files do not count: the system drops them as it
likes). The certificate is the layer-wise one. Everything made is deleted afterwards.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper

from tools._common import ROOT, Record, environment, table, write_page

WIDTH, HEADS, HIDDEN, VOCABULARY = 4096, 32, 8192, 32000
LIMIT_GB = 1.5
OPTIONS = ("--channels 0.5", "--channels 0.5 --residual")
COMMAND = "import sys; from graphprune.cli import main; sys.exit(main())"
_CHUNK = 1 << 22


# -- the model ----------------------------------------------------------------------------------


class _Stream:
    """Initializers written to one file as they are made; none is ever held whole."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file = file
        self.name = name
        self.tensors: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def add(self, name: str, shape: tuple[int, ...], scale: float, shift: float = 0.0) -> str:
        self.file.write(b"\0" * (-self.file.tell() % 4096))
        start, left = self.file.tell(), int(np.prod(shape))
        while left:
            count = min(left, _CHUNK)
            chunk = self.random.standard_normal(count, dtype=np.float32)
            self.file.write((chunk * np.float32(scale) + np.float32(shift)).tobytes())
            left -= count
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (
            ("location", self.name),
            ("offset", start),
            ("length", self.file.tell() - start),
        ):
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)
        return name


def make(path: Path, blocks: int, width: int, heads: int, hidden: int, vocabulary: int) -> int:
    """Write the model and its data beside it; returns the bytes of both."""
    nodes: list[onnx.NodeProto] = []
    data = path.with_name(path.name + ".data")

    def node(op: str, inputs: list[str], name: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    with data.open("wb") as file:
        stream = _Stream(file, data.name)

        def linear(x: str, name: str, n: int, m: int) -> str:
            product = node("MatMul", [x, stream.add(f"{name}.w", (n, m), n**-0.5)], f"{name}.mul")
            return node("Add", [product, stream.add(f"{name}.b", (m,), 0.1)], name)

        def norm(x: str, name: str) -> str:
            scale = stream.add(f"{name}.scale", (width,), 0.1, 1.0)
            return node(
                "LayerNormalization", [x, scale, stream.add(f"{name}.b", (width,), 0.1)], name
            )

        x = node("Gather", [stream.add("embedding", (vocabulary, width), 1.0), "tokens"], "embed")
        for i in range(blocks):
            y = norm(x, f"{i}.norm1")
            parts = []
            for part, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
                flat = linear(y, f"{i}.{part}", width, width)
                split = node("Reshape", [flat, "split"], f"{i}.{part}.heads")
                parts.append(node("Transpose", [split], f"{i}.{part}.t", perm=order))
            scores = node("MatMul", parts[:2], f"{i}.scores")
            weights = node(
                "Softmax", [node("Mul", [scores, "scale"], f"{i}.scaled")], f"{i}.p", axis=-1
            )
            mixed = node("MatMul", [weights, parts[2]], f"{i}.mixed")
            back = node("Transpose", [mixed], f"{i}.back", perm=[0, 2, 1, 3])
            joined = node("Reshape", [back, "join"], f"{i}.joined")
            x = node("Add", [x, linear(joined, f"{i}.o", width, width)], f"{i}.attended")
            up = linear(norm(x, f"{i}.norm2"), f"{i}.up", width, hidden)
            down = linear(node("Relu", [up], f"{i}.act"), f"{i}.down", hidden, width)
            x = node("Add", [x, down], f"{i}.out")
        linear(norm(x, "norm"), "logits", width, vocabulary)
        small = [
            helper.make_tensor("split", TensorProto.INT64, [4], [0, 0, heads, width // heads]),
            helper.make_tensor("join", TensorProto.INT64, [3], [0, 0, width]),
            helper.make_tensor("scale", TensorProto.FLOAT, [], [(width / heads) ** -0.5]),
        ]
        size = file.tell()
    tokens = helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "sequence"])
    shape = ["batch", "sequence", vocabulary]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "big", [tokens], [logits], [*stream.tensors, *small])
    opsets = [helper.make_opsetid("", 18)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    )
    return size + path.stat().st_size


# -- the watch ----------------------------------------------------------------------------------


def anonymous_mb(pid: int) -> float:
    """Anonymous memory of a process and of its children, in MB; 0 where it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    found = re.search(r"RssAnon:\s+(\d+) kB", text)
    own = int(found[1]) / 1024 if found else 0.0
    return own + sum(anonymous_mb(int(child)) for child in children)


def compile_watched(model: Path, options: list[str], timeout: float) -> Record:
    """Compile in a process of its own.

    Returns:
        `code`: the exit code, `seconds`, `peak_mb`: the highest anonymous memory, `written`: bytes of
        the result (deleted again), `report`: the JSON report, `said`: the end of its output.
    """
    target, report = model.with_name("pruned.onnx"), model.with_name("report.json")
    command = ["-c", COMMAND, "compile", model, "-o", target, "--report", report, "--no-bench"]
    log = target.with_suffix(".log")
    started, peak = time.perf_counter(), 0.0
    with log.open("w") as out:
        child = subprocess.Popen(
            [sys.executable, *map(str, command), *options],
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        while child.poll() is None:
            peak = max(peak, anonymous_mb(child.pid))
            if time.perf_counter() - started > timeout:
                child.kill()
            time.sleep(0.02)
    made = list(model.parent.glob("pruned.onnx*"))
    record = {
        "code": child.returncode,
        "seconds": time.perf_counter() - started,
        "peak_mb": peak,
        "written": sum(f.stat().st_size for f in made),
        "report": json.loads(report.read_text()) if report.exists() else None,
        "said": log.read_text()[-2000:],
    }
    for file in [*made, report]:
        file.unlink(missing_ok=True)
    return record


def rows(size: int, result: Record) -> list[tuple[str, str]]:
    """What is told of one compile."""
    facts = result["report"]
    before, after = (facts[k]["params"] / 1e9 for k in ("original", "pruned"))
    certificate = facts["certificate"]
    return [
        ("model", f"{size / 1e9:.2f} GB, {before:.2f} G parameters"),
        ("pruned", f"{result['written'] / 1e9:.2f} GB, {after:.2f} G parameters"),
        ("peak anonymous memory", f"{result['peak_mb'] * 2**20 / 1e9:.2f} GB"),
        ("seconds", f"{result['seconds']:.0f}"),
        *((f"of it {s}", f"{t:.1f}") for s, t in sorted(facts["timings_s"].items())),
        ("certificate", f"{certificate['status']}, {certificate['level']}"),
        ("largest relative error of a tensor", f"{certificate['tensor_max_rel_error']:.1e}"),
        ("tensors compared", str(certificate["checked_tensors"])),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.big_model", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="needs over twice --gb free")
    parser.add_argument("--gb", type=float, default=4.0)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--timeout", type=float, default=3600)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    width, hidden = given.width, given.width * HIDDEN // WIDTH
    heads = max(4, width * HEADS // WIDTH)
    block = 4 * (4 * width * width + 2 * width * hidden)
    blocks = max(1, math.ceil((given.gb * 1e9 - 8 * width * given.vocabulary) / block))
    free = shutil.disk_usage(given.dir).free
    if free < 2.2 * given.gb * 1e9:
        print(f"{given.dir} has {free / 1e9:.1f} GB free, {2.2 * given.gb:.1f} are needed")
        return 1
    results = []
    with tempfile.TemporaryDirectory(prefix="big-model-", dir=given.dir) as name:
        model = Path(name, "big.onnx")
        started = time.perf_counter()
        size = make(model, blocks, width, heads, hidden, given.vocabulary)
        print(f"{size / 1e9:.2f} GB in {time.perf_counter() - started:.0f} s", flush=True)
        for options in OPTIONS:
            results.append(compile_watched(model, options.split(), given.timeout))
            if results[-1]["code"] != 0:
                print(results[-1]["said"])
                return 1
    columns = [rows(size, result) for result in results]
    lines = [(cells[0][0], *(cell[1] for cell in cells)) for cells in zip(*columns, strict=True)]
    page = table(("what", *(f"`{o}`" for o in OPTIONS)), lines)
    print(page)
    if given.out:
        said = (
            f"Written by `tools/big_model.py`: a decoder in external data, {LIMIT_GB} GB allowed."
        )
        write_page(given.out, "Memory", [said, "\n".join(environment()), page])
    failed = any(r["report"]["certificate"]["status"] == "failed" for r in results)
    peak = max(r["peak_mb"] for r in results) * 2**20 / 1e9
    return 1 if failed or peak >= LIMIT_GB else 0


if __name__ == "__main__":
    sys.exit(main())
