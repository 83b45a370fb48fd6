from __future__ import annotations

import numpy as np
import pytest
from fused import attributes, found, model, reasons, shortened, weight
from onnx import numpy_helper

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
HIDDEN, WIDTH = 6, 5


def recurrent(op: str, directions: int, inputs: str = "float[T, N, 5] x", extra: str = "", **more):
    """A recurrent layer whose Y is read by a dense layer, both directions merged."""
    g = GATES[op]
    both = ', direction="bidirectional"' if directions == 2 else ""
    attrs = "".join(f", {k}={v}" for k, v in more.items())
    body = f"""
        [cell] h, last = {op} <hidden_size=6{both}{attrs}> (x, w, r, b{extra})
        t = Transpose <perm=[0, 2, 1, 3]> (h)
        merged = Reshape (t, shape)
        y = MatMul (merged, head)
    """
    weights = {
        "w": (directions, g * HIDDEN, WIDTH),
        "r": (directions, g * HIDDEN, HIDDEN),
        "b": (directions, 2 * g * HIDDEN),
        "p": (directions, 3 * HIDDEN),
        "head": (directions * HIDDEN, 3),
    }
    if "p" not in extra:
        del weights["p"]
    proto = model(body, weights, inputs)
    shape = np.array([0, 0, directions * HIDDEN])
    proto.graph.initializer.append(numpy_helper.from_array(shape, "shape"))
    return proto


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("blocks", [True, False])
def test_every_hidden_unit_of_each_direction_is_one_unit(op, directions, blocks):
    assert found(recurrent(op, directions), blocks=blocks) == [("hidden", directions * HIDDEN)]


@pytest.mark.parametrize("op", GATES)
def test_a_unit_is_a_row_of_every_gate_and_a_column_of_r(op):
    g = GATES[op]
    proto = recurrent(op, 2)
    pruned = shortened(proto, leave=2)
    before = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    w, cells, b = (weight(pruned, op, i) for i in (1, 2, 3))
    assert w.shape == (2, g * 4, WIDTH)
    assert cells.shape == (2, g * 4, 4)
    assert b.shape == (2, 2 * g * 4)
    assert attributes(pruned, op)["hidden_size"] == 4
    kept = []
    for d in range(2):
        rows = [int(np.flatnonzero((before["w"][d] == row).all(axis=1))[0]) for row in w[d]]
        units = rows[:4]
        kept.append(units)
        assert rows == [gate * HIDDEN + u for gate in range(g) for u in units]
        assert np.array_equal(cells[d], before["r"][d][rows][:, units])
        biases = [gate * HIDDEN + u for gate in range(2 * g) for u in units]
        assert np.array_equal(b[d], before["b"][d][biases])
    assert kept[0] != kept[1], "each direction keeps its own units"
    head = weight(pruned, "MatMul", 1)
    assert np.array_equal(head, before["head"][[*kept[0], *(HIDDEN + u for u in kept[1])]])


def test_peepholes_lose_one_weight_of_each_gate():
    pruned = shortened(recurrent("LSTM", 1, extra=', "", "", "", p'.replace('""', "")))
    assert weight(pruned, "LSTM", 7).shape == (1, 3 * (HIDDEN - 1))


def test_a_state_that_the_caller_gives_holds_the_units():
    proto = recurrent("GRU", 1, inputs="float[T, N, 5] x, float[1, N, 6] first", extra=", , first")
    assert found(proto) == []
    assert reasons(proto, "cell") == {"its initial state has a fixed size"}


def test_attributes_that_are_no_sizes_stay():
    pruned = shortened(recurrent("GRU", 1, linear_before_reset=1, clip=2.5))
    kept = attributes(pruned, "GRU")
    assert kept["linear_before_reset"] == 1
    assert kept["clip"] == 2.5


@pytest.mark.parametrize("output", ["last", "cell"])
def test_a_state_that_is_the_models_output_holds_the_units(output):
    body = "h, last, cell = LSTM <hidden_size=6> (x, w, r)"
    weights = {"w": (1, 24, 5), "r": (1, 24, 6)}
    proto = model(body, weights, "float[T, N, 5] x", f"float[1, N, 6] {output}")
    assert found(proto) == []
    assert f"it is the model's output '{output}'" in reasons(proto, output)


def test_batch_first_outputs_carry_the_units_on_their_last_axis():
    body = """
        [cell] h, last = GRU <hidden_size=6, layout=1, direction="bidirectional"> (x, w, r)
        flat = Flatten (last)
        steps = ReduceSum <keepdims=0> (h, axes)
        a = MatMul (flat, head)
        b = MatMul (steps, tail)
    """
    weights = {"w": (2, 18, 5), "r": (2, 18, 6), "head": (12, 3), "tail": (6, 3)}
    proto = model(body, weights, "float[N, T, 5] x", "float[N, 3] a, float[N, T, 3] b")
    proto.graph.initializer.append(numpy_helper.from_array(np.array([2]), "axes"))
    # The sum over the directions ties them.
    assert found(proto) == [("hidden", 6)]
    pruned = shortened(proto)
    assert weight(pruned, "GRU", 2).shape == (2, 15, 5)
    shapes = sorted(
        n.inputs[1].const_value.numpy().shape for n in pruned.graph if n.op_type == "MatMul"
    )
    assert shapes == [(5, 3), (10, 3)]
