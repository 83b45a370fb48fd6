"""Units of which nothing is left are found, leave, and the outputs stay."""

from __future__ import annotations

import numpy as np
import pytest
from workbench import drawn, from_text

import graphprune
from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session
from graphprune.sparse.empty import empty_units

BODY = "h = MatMul(x, a) i = Add(h, b) r = Relu(i) y = MatMul(r, c)"


def mlp(**zeros) -> dict[str, np.ndarray]:
    arrays = {"a": drawn(8, 20), "b": drawn(20), "c": drawn(20, 6)}
    for name, index in zeros.items():
        arrays[name][index] = 0
    return arrays


@pytest.mark.parametrize(
    ("zeros", "units"),
    [
        ({"a": (slice(None), [3, 7]), "b": [3, 7]}, (3, 7)),  # nothing makes them
        ({"c": [2, 5, 9]}, (2, 5, 9)),  # nothing reads them
        ({"a": (slice(None), [3, 4]), "b": [3], "c": [9]}, (3, 9)),  # 4 is a constant: it stays
    ],
)
def test_empty_neurons_leave_and_outputs_stay(zeros, units):
    proto = from_text(BODY, mlp(**zeros))
    found = empty_units(proto)
    (group,) = found.groups
    assert (group.units, group.size, group.leave) == (units, 20, True)
    result = graphprune.compile(proto, plan=found.plan, allow_slower=True, bench=False)
    assert result.report.certificate["status"] == "exact"
    assert result.model.graph.initializers["c"].shape.numpy() == (20 - len(units), 6)
    x = np.random.default_rng(0).normal(size=(9, 8)).astype(np.float32)
    outputs = []
    for model in (load(proto).model, result.model):
        with Session(model) as session:
            outputs.append(session.run({"x": x})["y"])
    assert outputs[0].std() > 0.1
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-6)


def test_nothing_is_empty():
    found = empty_units(from_text(BODY, mlp()))
    assert (found.groups, found.plan) == ((), None)


def test_one_unit_of_a_layer_always_stays():
    proto = from_text(BODY, mlp(c=slice(None)))
    (group,) = empty_units(proto).groups
    assert len(group.units) == 19


def test_a_unit_that_something_else_reads_stays():
    """A mean over the neurons sees a neuron that no weight reads."""
    body = f"{BODY.replace('y =', 'z =')} m = ReduceMean<keepdims=1>(r, axis) y = Add(z, m)"
    arrays = mlp(c=[2, 5]) | {"axis": np.array([1], np.int64)}
    found = empty_units(from_text(body, arrays))
    assert found.plan is None
    assert not any(group.leave for group in found.groups)


def test_a_sigmoid_makes_something_of_nothing():
    """The neuron is 0.5 behind the sigmoid, and is read."""
    body = BODY.replace("Relu", "Sigmoid")
    proto = from_text(body, mlp(a=(slice(None), [3]), b=[3]))
    (group,) = empty_units(proto).groups
    assert (group.leave, group.why) == (False, "outputs would change")
