"""Recurrent networks for tests of what happens to hidden units that leave."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from workbench import drawn, from_text

Array = np.ndarray[Any, Any]

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
INPUTS, OUTPUTS = 4, 3


def recurrent(
    op: str,
    units: int = 12,
    *,
    directions: int = 1,
    bias: bool = True,
    twins: bool = False,
    last: bool = False,
    attributes: str = "",
) -> onnx.ModelProto:
    """A recurrent layer `x` -> `o`, and a matrix `v` that reads its states.

    Args:
        op: LSTM, GRU or RNN.
        units: Hidden units of a direction.
        directions: 1 or 2.
        bias: Whether the layer has one.
        twins: Whether each unit of the second half always is what one of the first half is.
        last: Only the state of the last step is read, and those of all steps have no name.
        attributes: More attributes of the layer.
    """
    rows = GATES[op] * units
    weights = {
        "w": drawn(directions, rows, INPUTS, fan_in=INPUTS),
        "r": 2 * drawn(directions, rows, units, fan_in=units),
        "b": drawn(directions, 2 * rows, fan_in=4),
        "v": drawn(directions * units, OUTPUTS),
        "s": np.array([0, 0, directions * units]),
        "one": np.array([1]),
    }
    if twins:
        for array in (weights["w"], weights["r"], weights["b"]):
            parts = array.reshape(directions, -1, 2, units // 2, *array.shape[2:])
            parts[:, :, 1] = parts[:, :, 0]
    if not bias:
        del weights["b"]
    made = ", h" if last else "o"
    direction = ', direction = "bidirectional"' if directions == 2 else ""
    body = (
        f"{made} = {op} <hidden_size = {units}{direction}{attributes}>"
        f" (x, w, r{', b' if bias else ''}) "
    )
    if last:
        body += "t = Transpose <perm = [1, 0, 2]> (h) s0 = Constant <value_ints = [0, -1]> ()"
        body += " f = Reshape (t, s0) y = MatMul (f, v)"
        outputs = f"float[N, {OUTPUTS}] y"
    else:
        body += "t = Transpose <perm = [0, 2, 1, 3]> (o) f = Reshape (t, s) y = MatMul (f, v)"
        outputs = f"float[T, N, {OUTPUTS}] y"
    return from_text(body, weights, inputs=f"float[T, N, {INPUTS}] x", outputs=outputs)


def sequences(count: int = 16, *, length: int = 40, batch: int = 4) -> list[dict[str, Array]]:
    """Smooth inputs `x`, `(time, batch, inputs)`, of unit variance."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(count):
        noise = rng.normal(size=(length + 4, batch, INPUTS))
        x = sum(noise[i : i + length] for i in range(5)) / np.sqrt(5)
        found.append({"x": x.astype(np.float32)})
    return found
