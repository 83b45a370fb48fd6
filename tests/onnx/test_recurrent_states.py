"""Which recurrent layers have states that can be asked for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from recurrent_nets import recurrent, sequences

from graphprune.onnx.runtime import Session
from graphprune.onnx.states import state_of, states_of, with_states


def loaded(op: str, **settings: object) -> ir.Model:
    return ir.from_proto(recurrent(op, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_the_states_of_all_steps(op: str) -> None:
    model = loaded(op, directions=2)
    (state,) = states_of(model).values()
    assert state.value == "o"
    assert state.weights.shape == (2, {"LSTM": 48, "GRU": 36, "RNN": 12}[op], 12)
    assert with_states(model) is model


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_states_without_a_name_get_one_in_a_copy(op: str) -> None:
    model = loaded(op, last=True)
    (state,) = states_of(model).values()
    copy = with_states(model)
    assert copy is not model
    assert not state.node.outputs[0].name
    feed = sequences(1)[0]
    with Session(copy, outputs=[state.value, "h"]) as session:
        found = session.run(feed)
    assert found[state.value].shape == (40, 1, 4, 12)
    np.testing.assert_array_equal(found[state.value][-1], found["h"])


def test_other_layers_have_none() -> None:
    model = loaded("GRU")
    assert [state_of(n) is not None for n in model.graph] == [
        n.op_type == "GRU" for n in model.graph
    ]
    (layer,) = [n for n in model.graph if n.op_type == "GRU"]
    layer.attributes["layout"] = ir.AttrInt64("layout", 1)
    assert state_of(layer) is None
    layer.attributes["layout"] = ir.AttrInt64("layout", 0)
    layer.replace_input_with(2, layer.inputs[0])
    assert state_of(layer) is None
