"""How quickly models are packed and unpacked, how small they get, and in how much memory.

    python -m tools.pack_speed                    # all rows, as a table
    python -m tools.pack_speed --megabytes 64     # smaller files

Each row is one file of random weights at a density, packed and unpacked in a process of its own.
Speeds are bytes of the dense file per second of processor time of one thread, best of three. The
process may take 0.75 GB of private memory, libraries included, whatever the size of the file.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tools._common import run_child

LIMIT_GB = 0.75
ROWS = (
    ("float32", 0.0, ""), ("float32", 0.5, ""), ("float32", 0.5, "2:4"), ("float32", 0.8, ""),
    ("float32", 0.9, ""), ("float32", 0.98, ""), ("float16", 0.9, ""), ("int8", 0.9, ""),
)  # fmt: skip


def build(path: Path, dtype: str, sparsity: float, pattern: str, megabytes: int) -> None:
    """A file of square weights of 16 MB and smaller ones."""
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    size = np.dtype(dtype).itemsize
    side = 2048
    count = max(1, megabytes * 10**6 // (side * side * size))
    tensors = []
    for i in range(count):
        shape = (side, side) if i % 2 else (side // 4, side // 4, 4, 4)
        array = rng.standard_normal(shape, dtype=np.float32)
        if dtype == "int8":
            array = np.where(array == 0, 1, np.clip(np.rint(array * 40), -127, 127))
        array = array.astype(dtype)
        if pattern:
            groups = np.abs(array.reshape(-1, 4))
            order = groups.argsort(axis=1)[:, :2]
            np.put_along_axis(array.reshape(-1, 4), order, 0, axis=1)
        else:
            array[rng.random(shape, dtype=np.float32) < sparsity] = 0
        tensors.append(numpy_helper.from_array(array, f"w{i}"))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    value = helper.make_tensor_value_info("x", kind, [1])
    out = helper.make_tensor_value_info("y", kind, [1])
    node = helper.make_node("Identity", ["x"], ["y"])
    onnx.save(helper.make_model(helper.make_graph([node], "g", [value], [out], tensors)), path)


def child(arguments: dict[str, Any]) -> dict[str, Any]:
    """One row: pack, unpack, compare."""
    from graphprune.sparse.pack import pack, unpack

    source = Path(arguments["source"])
    target, back = source.with_suffix(".gpk"), source.with_suffix(".back")
    times = []
    for call in (lambda: pack(source, target), lambda: unpack(target, back)):
        tries = []
        for _ in range(3):
            start = time.process_time()
            report = call()
            tries.append(time.process_time() - start)
        times.append(min(tries))
    size = source.stat().st_size
    return {
        "dense": size,
        "packed": target.stat().st_size,
        "same": filecmp.cmp(source, back, shallow=False),
        "pack": size / times[0] / 1e6,
        "unpack": size / times[1] / 1e6,
        "formats": sorted({f for t in report.tensors for f in t.formats}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(child(json.loads(given.child))))
        return
    print("| weights | zeros | format | of dense | pack | unpack | the same bytes |")
    print("|---|---|---|---|---|---|---|")
    for dtype, sparsity, pattern in ROWS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            build(path, dtype, sparsity, pattern, given.megabytes)
            arguments = ["--child", json.dumps({"source": str(path)})]
            row = run_child("tools.pack_speed", arguments, timeout=300, memory_gb=LIMIT_GB)
        if "packed" not in row:
            sys.exit(f"{dtype} {sparsity}: {row.get('outcome')}: {row.get('reason')}")
        zeros = f"{sparsity:.0%}" + (f", {pattern}" if pattern else "")
        print(
            f"| {dtype} | {zeros} | {', '.join(row['formats'])} | "
            f"{row['packed'] / row['dense']:.1%} | {row['pack']:.0f} MB/s | "
            f"{row['unpack']:.0f} MB/s | {'yes' if row['same'] else 'NO'} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
