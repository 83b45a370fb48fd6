from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes
import pytest
from workbench import Bench, drawn, from_text

from graphprune.onnx.runtime import Session
from graphprune.passes.drop_zero_states import DropZeroStatesPass, is_zero

HIDDEN = 4
CELL = "h, last, c = LSTM <hidden_size=4> (x, w, r, , , {first}, {second})\ny = Squeeze (h, one)"
BATCH = "dims = Shape <start=1, end=2> (x)\nsizes = Concat <axis=0> (one, dims, hidden)"


def recurrent(
    before: str, first: str, second: str = "", tail: str = "", **more: np.ndarray
) -> ir.Model:
    weights = {
        "w": drawn(1, 4 * HIDDEN, 3, fan_in=3),
        "r": drawn(1, 4 * HIDDEN, HIDDEN, fan_in=4),
        "one": np.array([1]),
        "hidden": np.array([HIDDEN]),
        **more,
    }
    body = f"{BATCH}\n{before}\n{CELL.format(first=first, second=second)}\n{tail}"
    inputs, outputs = "float[T, N, 3] x", f"float[T, N, {HIDDEN}] y"
    return ir.from_proto(from_text(body, weights, inputs=inputs, outputs=outputs))


def states(model: ir.Model) -> list[str | None]:
    (cell,) = [n for n in model.graph if n.op_type == "LSTM"]
    return [None if v is None else v.name for v in cell.inputs[5:7]]


def ops(model: ir.Model) -> list[str]:
    return [n.op_type for n in model.graph]


def dropped(model: ir.Model) -> ir.Model:
    """A copy after the pass; it computes the same."""
    copy = model.clone()
    result = ir.passes.Sequential(DropZeroStatesPass())(copy)
    assert result.modified == (states(copy) != states(model))
    x = np.random.default_rng(0).normal(0, 1, (3, 2, 3)).astype(np.float32)
    with Session(model) as before, Session(copy) as after:
        old, new = before.run({"x": x})["y"], after.run({"x": x})["y"]
    assert float(np.abs(old).max()) > 0.05
    assert np.array_equal(old, new)
    return copy


@pytest.mark.parametrize(
    "before",
    [
        "z = ConstantOfShape (sizes)",
        "z = Expand (zero, sizes)",
        "s = ConstantOfShape (sizes)\nz = Identity (s)",
        "s = Expand (zero, sizes)\nt = Concat <axis=0> (s, s)\nz = Slice (t, one, two, nil)",
    ],
)
def test_zeros_made_in_the_graph_are_dropped_with_what_made_them(before):
    zero = {"zero": np.zeros(1, np.float32), "two": np.array([2]), "nil": np.array([0])}
    result = dropped(recurrent(before, "z", "z", **zero))
    assert states(result) == [None, None]
    assert ops(result) == ["LSTM", "Squeeze"]


def test_a_tensor_of_zeros_that_something_else_reads_stays():
    model = recurrent("z = ConstantOfShape (sizes)", "z", tail="u = ReduceSum (z)\nv = Add (y, u)")
    result = dropped(model)
    assert states(result)[0] is None
    assert "ConstantOfShape" in ops(result)


@pytest.mark.parametrize(
    "before",
    [
        "z = ConstantOfShape <value = float[1] {0.5}> (sizes)",
        "z = Expand (half, sizes)",
        "a = ConstantOfShape (sizes)\nz = Cos (a)",
        "a = ConstantOfShape (sizes)\nb = Expand (half, sizes)\nboth = Concat <axis=0> (a, b)\n"
        "z = Slice (both, one, two, nil)",
    ],
)
def test_what_is_not_certainly_zero_stays(before):
    more = {"half": np.full(1, 0.5, np.float32), "two": np.array([2]), "nil": np.array([0])}
    result = dropped(recurrent(before, "z", **more))
    assert states(result)[0] == "z"


def test_initializers_of_zeros_stay():
    """Every use of an initializer is cut for itself."""
    model = recurrent("", "z", z=np.zeros((1, 2, HIDDEN), np.float32))
    assert states(dropped(model))[0] == "z"


def test_a_zero_that_the_caller_may_replace_is_none():
    proto = from_text(
        "y = Identity (z)",
        {"z": np.zeros(2, np.float32)},
        inputs="float[2] z",
        outputs="float[2] y",
    )
    model = ir.from_proto(proto)
    assert not is_zero(model.graph.inputs[0])


def test_layers_that_share_their_zeros_are_pruned_apart():
    weights = {
        "w": drawn(1, 4 * HIDDEN, 3, fan_in=3),
        "r": drawn(1, 4 * HIDDEN, HIDDEN, fan_in=4),
        "u": drawn(1, 4 * HIDDEN, HIDDEN, fan_in=4),
        "s": drawn(1, 4 * HIDDEN, HIDDEN, fan_in=4, seed=1),
        "v": drawn(HIDDEN, 2),
        "one": np.array([1]),
        "hidden": np.array([HIDDEN]),
    }
    body = f"""
        {BATCH}
        z = ConstantOfShape (sizes)
        [below] a, al, ac = LSTM <hidden_size=4> (x, w, r, , , z, z)
        b = Squeeze (a, one)
        [above] h, hl, hc = LSTM <hidden_size=4> (b, u, s, , , z, z)
        t = Squeeze (h, one)
        y = MatMul (t, v)
    """
    inputs, outputs = "float[T, N, 3] x", "float[T, N, 2] y"
    proto = from_text(body, weights, inputs=inputs, outputs=outputs)
    groups = Bench(proto).analyse().groups
    assert [(g.name, g.size) for g in groups] == [("below", HIDDEN), ("above", HIDDEN)]
    onnx.checker.check_model(proto)
