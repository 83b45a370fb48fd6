"""Hidden states of recurrent layers, as values of a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.onnx.constants import constant, is_constant
from graphprune.onnx.operands import attribute
from graphprune.rules.context import node_name

Array = np.ndarray[Any, Any]

RECURRENT = ("LSTM", "GRU", "RNN")
STATE = 2
"""Which input of a recurrent op R is, which reads the state of the step before."""

AXES = (1, 3)
"""Of directions and units in the states of all steps, `(time, directions, batch, units)`."""


@dataclass(frozen=True, eq=False)
class State:
    """The hidden state of a recurrent layer.

    Attributes:
        node: The layer.
    """

    node: ir.Node

    @property
    def weights(self) -> Array:
        """R, `(directions, gates * units, units)`, float64: read each time."""
        found = constant(self.node, STATE)
        assert found is not None
        return found

    @property
    def value(self) -> str:
        """The states of all steps; where nothing reads them, what `with_states` calls them."""
        return self.node.outputs[0].name or f"{node_name(self.node)} (states)"


def state_of(node: ir.Node) -> State | None:
    """A recurrent layer's; None where its weights are computed, or its batch comes first."""
    if node.op_type not in RECURRENT or node.domain not in ("", "ai.onnx"):
        return None
    if attribute(node, "layout", 0):  # onnxruntime has no kernel for it
        return None
    return State(node) if is_constant(node, STATE) else None


def states_of(model: ir.Model) -> dict[str, State]:
    """Of all recurrent layers of the top graph, by node."""
    found = ((node_name(n), state_of(n)) for n in model.graph)
    return {name: state for name, state in found if state is not None}


def with_states(model: ir.Model) -> ir.Model:
    """A model that can be asked for the states of all steps; a copy where something must be named."""
    if all(s.node.outputs[0].name for s in states_of(model).values()):
        return model
    copy = model.clone()
    for state in states_of(copy).values():
        state.node.outputs[0].name = state.value
    return copy
