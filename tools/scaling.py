"""How long the analysis takes, how that grows, and where a whole compile spends its time.

    python -m tools.scaling --models FOLDER [--out docs/results/speed.md] [--repeat 5]

FOLDER keeps exported models (`NAME.onnx`, made on demand). Three measurements: shapes and analysis
of large real graphs; the same for graphs that grow in ops and in width, a decade each (of
`tools/ladder`; their weights cannot be read); and a whole compile without benchmarking, with the
seconds that pass inside onnxruntime. CPU seconds stand beside wall seconds: on a busy machine only
they mean much.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from tools._common import environment, model_path, table, write_page
from tools.ladder import ladder

LARGE = ("densenet121", "densenet161", "resnet50", "vit_b_16", "swin_t", "efficientnet_b0")
Seconds = tuple[float, float]
Row = list[object]
OPS = (50, 100, 200, 350, 500)
WIDTHS = (1024, 2048, 4096, 7168, 10240)


def best(action: Callable[[], object], repeat: int) -> tuple[float, float]:
    """Least CPU seconds and least wall seconds of `repeat` runs."""
    cpu, wall = [], []
    for _ in range(repeat):
        started, clock = time.perf_counter(), time.process_time()
        action()
        cpu.append(time.process_time() - clock)
        wall.append(time.perf_counter() - started)
    return min(cpu), min(wall)


def analysis_seconds(model: ir.Model, repeat: int) -> tuple[int, Seconds, Seconds]:
    """Groups; CPU and wall seconds of shapes at two bindings, and of these and the analysis."""
    from graphprune.onnx.analyse import analyse_graph
    from graphprune.onnx.shapes import default_bindings, infer_shapes

    bindings = default_bindings(model)
    shapes = [infer_shapes(model, b) for b in bindings]
    graph = analyse_graph(model, *shapes)
    alone = best(lambda: [infer_shapes(model, b) for b in bindings], repeat)
    both = best(lambda: analyse_graph(model, *(infer_shapes(model, b) for b in bindings)), repeat)
    return len(graph.groups), alone, both


def real(names: tuple[str, ...], folder: Path, repeat: int) -> Iterator[Row]:
    from graphprune.onnx.canonical import canonicalise
    from graphprune.onnx.load import load

    for name in names:
        model = canonicalise(load(model_path(name, folder)).model)
        groups, shapes, both = analysis_seconds(model, repeat)
        yield [name, len(list(model.graph)), groups, *(f"{t:.3f}" for t in (*shapes, *both))]


def growth(ops: Sequence[int], widths: Sequence[int], repeat: int) -> tuple[list[Row], list[str]]:
    """Rows of (ops, width, seconds), and the exponents fitted to them."""
    rows: list[Row] = []
    points: list[tuple[int, int, float]] = []
    pairs = dict.fromkeys([(n, widths[-1]) for n in ops] + [(ops[-1], w) for w in widths])
    for count, width in pairs:
        model = ladder(count, width)
        nodes = len(list(model.graph))
        groups, _, (cpu, wall) = analysis_seconds(model, repeat)
        points.append((nodes, width, cpu))
        per_channel = f"{1e9 * cpu / nodes / width:.0f}"
        rows.append([nodes, width, groups, f"{cpu:.3f}", f"{wall:.3f}", per_channel])
    by_ops = [(n, t) for n, w, t in points if w == widths[-1]]
    by_width = [(w, t) for n, w, t in points if n == max(p[0] for p in points)]
    return rows, [
        f"seconds ~ ops^{exponent(by_ops):.2f} at width {widths[-1]}",
        f"seconds ~ width^{exponent(by_width):.2f} at {max(p[0] for p in points)} ops",
        f"seconds ~ (ops x width)^{exponent([(n * w, t) for n, w, t in points]):.2f} over all",
    ]


def exponent(points: list[tuple[int, float]]) -> float:
    """Slope of log(seconds) over log(size), by least squares."""
    size, seconds = np.log(np.array(points, float)).T
    return float(np.polyfit(size, seconds, 1)[0])


@contextmanager
def runtime_clock() -> Iterator[list[float]]:
    """Sums the wall seconds that pass inside onnxruntime: loading and running sessions."""
    import onnxruntime as ort

    spent = [0.0]

    class Timed(ort.InferenceSession):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            started = time.perf_counter()
            super().__init__(*args, **kwargs)
            spent[0] += time.perf_counter() - started

        def run(self, *args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return super().run(*args, **kwargs)
            finally:
                spent[0] += time.perf_counter() - started

    original = ort.InferenceSession
    ort.InferenceSession = Timed
    try:
        yield spent
    finally:
        ort.InferenceSession = original


def compiled(path: Path) -> list[Row]:
    """Seconds of each stage of one compile, and of onnxruntime within it."""
    import graphprune

    rows: list[Row] = []
    marks: list[tuple[str, float, float]] = []
    with runtime_clock() as spent:
        clock = time.process_time()
        started = time.perf_counter()
        stages = {"load", "run", "decide", "rewrite", "certify", "measure", "report"}

        def progress(stage: str, *_: object) -> None:
            if stage in stages and (not marks or marks[-1][0] != stage):
                marks.append((stage, time.perf_counter(), spent[0]))

        graphprune.compile(path, channels=0.5, bench=False, progress=progress)
        end = time.perf_counter()
    for (stage, at, runtime), (_, after, later) in zip(
        marks, [*marks[1:], ("", end, spent[0])], strict=True
    ):
        rows.append([stage, f"{after - at:.2f}", f"{later - runtime:.2f}"])
    rows.append(["all", f"{end - started:.2f}", f"{spent[0]:.2f}"])
    rows.append(["all, CPU", f"{time.process_time() - clock:.2f}", ""])
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.scaling", description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--names", nargs="+", default=LARGE)
    parser.add_argument("--compile", default="resnet50", metavar="NAME")
    parser.add_argument("--ops", type=int, nargs="+", default=OPS)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    seconds = ("shapes, CPU s", "shapes, wall s", "with analysis, CPU s", "with analysis, wall s")
    one = table(
        ("model", "nodes", "groups", *seconds),
        real(tuple(given.names), given.models, given.repeat),
        range(1, 7),
    )
    print(one, flush=True)
    rows, fits = growth(tuple(given.ops), tuple(given.widths), given.repeat)
    header = ("ops", "width", "groups", "CPU s", "wall s", "ns per op and channel")
    two = table(header, rows, range(6))
    print(two, *fits, sep="\n", flush=True)
    three = table(
        ("stage", "wall s", "of it inside onnxruntime"),
        compiled(model_path(given.compile, given.models)),
        (1, 2),
    )
    print(three)
    if given.out:
        parts = [
            f"Written by `tools/scaling.py`. Least of {given.repeat} runs.",
            "\n".join(environment()),
            "## Dependency analysis of real graphs\n\nShapes at two bindings, then the analysis.",
            one,
            "## Growth\n\nShapes and analysis of made graphs whose weights have no contents.",
            two,
            "\n".join(f"- {f}" for f in fits),
            f"## `compile {given.compile} --channels 0.5 --no-bench`",
            three,
        ]
        write_page(given.out, "Speed of the compiler", parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
