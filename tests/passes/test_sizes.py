"""Operands that hold sizes: constants, Concats with a piece to patch, factors, refusals."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphprune.onnx.names import FreshNames
from graphprune.onnx.shapes import infer_shapes
from graphprune.passes.sizes import SizeError, SizeWriter

TEXT = """
<ir_version: 9, opset_import: ["" : 18]>
g (float[N, 6, T] x) => (float[A, B] y, float[C, D] z) {
    s = Shape (x)
    n = Gather (s, i0)
    c = Gather (s, i1)
    t = Gather (s, i2)
    ct = Mul (c, t)
    n1 = Unsqueeze (n, zero)
    ct1 = Unsqueeze (ct, zero)
    shape = Concat <axis = 0> (n1, ct1)
    y = Reshape (x, shape)
    z = Reshape (x, fixed)
}
"""
CONSTANTS = {"i0": 0, "i1": 1, "i2": 2, "zero": [0], "fixed": [-1, 6]}


class Sizes:
    """A small graph with its size tensors at two bindings."""

    def __init__(self, text: str = TEXT) -> None:
        proto = onnx.parser.parse_model(text)
        for name, value in CONSTANTS.items():
            array = np.array(value, np.int64)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        self.model = ir.from_proto(proto)
        self.shapes = [infer_shapes(self.model, {"N": n, "T": t}) for n, t in ((2, 5), (3, 7))]
        before = [s.values for s in self.shapes]
        self.writer = SizeWriter(FreshNames(self.model), before, before)

    def node(self, name: str) -> ir.Node:
        return next(n for n in self.model.graph if n.outputs[0].name == name)

    def write(
        self, name: str, first: list[int], second: list[int], i: int = 1, alone: bool = False
    ) -> ir.Value:
        self.writer.write(self.node(name), i, [np.array(first), np.array(second)], alone=alone)
        return self.node(name).inputs[i]

    def evaluated(self, value: ir.Value) -> list[list[int]]:
        """Contents of a size tensor at both bindings, computed afresh."""
        return [infer_shapes(self.model, s.binding).values[value].tolist() for s in self.shapes]


def test_what_is_right_already_is_left_alone() -> None:
    sizes = Sizes()
    assert sizes.write("y", [2, 30], [3, 42]).name == "shape"
    assert sizes.write("z", [-1, 6], [-1, 6]).name == "fixed"
    assert len(list(sizes.model.graph)) == 10


def test_a_constant_becomes_another_constant_of_the_same_type() -> None:
    sizes = Sizes()
    value = sizes.write("z", [-1, 4], [-1, 4])
    assert value.const_value.numpy().tolist() == [-1, 4]
    assert value.dtype == ir.DataType.INT64
    assert value.name == "z_size_kept"
    assert sizes.model.graph.initializers["fixed"].const_value.numpy().tolist() == [-1, 6]


def test_equal_constants_are_shared_and_scalars_stay_scalars() -> None:
    sizes = Sizes()
    first = sizes.write("z", [-1, 4], [-1, 4])
    assert sizes.write("y", [-1, 4], [-1, 4]) is first
    scalar = sizes.write("c", [0], [0])
    assert scalar is not first
    sizes.writer.write(sizes.node("n"), 1, [np.array(1), np.array(1)])
    assert list(sizes.node("n").inputs[1].shape) == []


def test_an_operand_that_was_not_there_is_added() -> None:
    sizes = Sizes()
    added = sizes.write("s", [1, 2], [1, 2], i=3)
    assert sizes.node("s").inputs[3] is added
    assert sizes.node("s").inputs[1:3] == (None, None)


def test_only_the_pieces_of_a_concat_that_change_are_other_ones() -> None:
    sizes = Sizes()
    value = sizes.write("y", [2, 20], [3, 28])
    concat = value.producer()
    assert concat.op_type == "Concat"
    assert concat.inputs[0].name == "n1"
    assert concat.inputs[1].name != "ct1"
    assert sizes.evaluated(value) == [[2, 20], [3, 28]]
    assert sizes.node("shape").inputs[1].name == "ct1", "the old one is untouched"
    names = [n.name for n in sizes.model.graph if n.name]
    assert names == sorted(set(names), key=names.index)


@pytest.mark.parametrize("wanted", [([2, 20], [3, 28]), ([2, 12], [3, 12])])
def test_a_concat_that_all_readers_want_changed_is_changed_in_its_place(
    wanted: tuple[list[int], list[int]],
) -> None:
    sizes = Sizes()
    value = sizes.write("y", *wanted, alone=True)
    assert value.name == "shape"
    assert sizes.write("y", *wanted, alone=True) is value, "once is enough"
    assert sizes.evaluated(value) == list(wanted)
    assert [n.op_type for n in sizes.model.graph].count("Concat") == 1
    order = [n.outputs[0].name for n in sizes.model.graph]
    made = value.producer().inputs[1].producer()
    assert made is None or order.index(made.outputs[0].name) < order.index("shape")


@pytest.mark.parametrize(
    ("over", "times", "ops"), [(1, 2, ["Mul"]), (2, 1, ["Div"]), (3, 2, ["Mul", "Div"])]
)
def test_dynamic_sizes_are_scaled(over: int, times: int, ops: list[str]) -> None:
    sizes = Sizes()
    wanted = [[2, 30 * times // over], [3, 42 * times // over]]
    value = sizes.write("y", *wanted)
    assert sizes.evaluated(value) == wanted
    made = []
    node = value.producer().inputs[1].producer()
    while node is not None and node.op_type in ("Mul", "Div") and node.name:
        made.append(node.op_type)
        node = node.inputs[0].producer()
    assert made[::-1] == ops


def test_a_size_that_became_static_is_a_constant_piece() -> None:
    sizes = Sizes()
    value = sizes.write("y", [2, 12], [3, 12])
    assert value.producer().inputs[1].const_value.numpy().tolist() == [12]
    assert sizes.evaluated(value) == [[2, 12], [3, 12]]


def test_what_no_factor_describes_is_refused_by_node() -> None:
    sizes = Sizes()
    with pytest.raises(SizeError, match="no factor") as error:
        sizes.write("y", [2, 31], [3, 43])
    assert error.value.node == "y"
    assert error.value.exit_code == 3


def test_a_dynamic_size_without_arithmetic_is_refused() -> None:
    sizes = Sizes()
    value = ir.Value(name="from_outside", type=ir.TensorType(ir.DataType.INT64))
    sizes.node("y").replace_input_with(1, value)
    with pytest.raises(SizeError, match="cannot be followed"):
        sizes.write("y", [2, 20], [3, 28])


def test_names_of_what_is_added_are_free() -> None:
    sizes = Sizes(TEXT.replace("ct", "z_size_kept"))
    value = sizes.write("z", [-1, 4], [-1, 4])
    assert value.name == "z_size_kept_2"
