"""How long one layer takes as a function of its width: what `--align auto` rests on.

For each kind of layer a small stack is timed at many widths against the widest, interleaved, and the
table goes to docs/results/staircase.md with `--out`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx_ir as ir

from graphprune.measure import latency
from tools._common import CPU_TIME, environment, table, use_cpu_time, write_page

WIDTHS = (
    128,
    127,
    126,
    124,
    120,
    112,
    104,
    100,
    97,
    96,
    80,
    72,
    65,
    64,
    63,
    60,
    56,
    48,
    32,
    24,
    16,
)


def conv_stack(width: int, rng: np.random.Generator, *, depthwise: bool) -> ir.Model:
    """Six convolutions of 28x28 positions, 3x3, dense or depthwise with a 1x1 behind it."""
    nodes, inits = [], []

    def weight(name: str, *shape: int) -> str:
        array = rng.standard_normal(shape, np.float32) / np.sqrt(np.prod(shape[1:]))
        inits.append((name, array.astype(np.float32)))
        return name

    current = "x"
    for layer in range(6):
        if depthwise:
            w = weight(f"d{layer}", width, 1, 3, 3)
            nodes.append(f"a{layer} = Conv<group = {width}, pads = [1, 1, 1, 1]>({current}, {w})")
            w = weight(f"w{layer}", width, width, 1, 1)
            nodes.append(f"b{layer} = Conv(a{layer}, {w})")
        else:
            w = weight(f"w{layer}", width, width, 3, 3)
            nodes.append(f"b{layer} = Conv<pads = [1, 1, 1, 1]>({current}, {w})")
        nodes.append(f"r{layer} = Relu(b{layer})")
        current = f"r{layer}"
    return _model([1, width, 28, 28], current, nodes, inits)


def matmul_stack(width: int, rng: np.random.Generator) -> ir.Model:
    """Six matrix products of 196 rows."""
    nodes, inits, current = [], [], "x"
    for layer in range(6):
        array = rng.standard_normal((width, width), np.float32) / np.sqrt(width)
        inits.append((f"w{layer}", array.astype(np.float32)))
        nodes.append(f"m{layer} = MatMul({current}, w{layer})")
        nodes.append(f"r{layer} = Relu(m{layer})")
        current = f"r{layer}"
    return _model([1, 196, width], current, nodes, inits)


def _model(
    shape: list[int], output: str, nodes: list[str], inits: list[tuple[str, np.ndarray]]
) -> ir.Model:
    dims = ", ".join(map(str, shape))
    body = "\n".join(nodes)
    declared = ", ".join(f"float[{', '.join(map(str, a.shape))}] {n}" for n, a in inits)
    text = f"""
    <ir_version: 10, opset_import: ["" : 18]>
    agraph (float[{dims}] x, {declared}) => (float[{dims}] {output}) {{ {body} }}
    """
    model = ir.from_onnx_text(text)
    graph = model.graph
    by_name = dict(inits)
    for value in list(graph.inputs)[1:]:
        value.const_value = ir.Tensor(by_name[value.name or ""], name=value.name)
        graph.inputs.remove(value)
        graph.register_initializer(value)
    return model


KINDS = {
    "dense 3x3": lambda n, rng: conv_stack(n, rng, depthwise=False),
    "depthwise 3x3 + 1x1": lambda n, rng: conv_stack(n, rng, depthwise=True),
    "MatMul": matmul_stack,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each pair")
    parser.add_argument("--cpu-time", action="store_true", help="on a machine that others use")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(argv)
    if given.cpu_time:
        use_cpu_time()
    rng = np.random.default_rng(0)
    rows = []
    widest = max(given.widths)
    for kind, build in KINDS.items():
        reference = build(widest, rng)
        for width in given.widths:
            model = build(width, rng)
            feeds = []
            for m in (reference, model):
                shape = [int(n) for n in m.graph.inputs[0].shape or ()]
                feeds.append({"x": rng.standard_normal(shape, np.float32)})
            found = latency.compare_latency(reference, model, *feeds, seconds_budget=given.seconds)
            work = (widest / width) ** 2
            low, high = found.interval
            rows.append(
                [
                    kind,
                    str(width),
                    f"{found.pruned.median_ms:.2f}",
                    f"{found.ratio:.2f} ({low:.2f} to {high:.2f})",
                    f"{found.ratio / work:.2f}",
                ]
            )
            print(*rows[-1], flush=True)
    head = ["layers", "width", "ms", f"speed-up over {widest}", "per MAC saved"]
    text = table(head, rows)
    if given.out:
        intro = (
            "Six layers of one width, timed against the widest, interleaved, one thread. `per MAC "
            "saved` is the speed-up over the ratio of MACs: 1 is all that can be had."
        )
        parts = [intro, "\n".join(environment()), CPU_TIME if given.cpu_time else "", text]
        write_page(given.out, "Latency against width", parts)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
