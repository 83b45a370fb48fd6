"""The index check of movement ops: numpy's semantics against onnxruntime's, and wrong ops found."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from certify_case import cut
from onnx import helper

from graphprune.certify.movement import Move, UncheckedError, check_move, data_inputs
from graphprune.cut import take
from graphprune.onnx.shapes import infer_shapes


def one_node(op, inputs, attributes, outputs=1, opset=18):
    """A model of one node whose operands but the first kind are constants."""
    names = [f"i{k}" for k in range(len(inputs))]
    node = helper.make_node(op, names, [f"o{k}" for k in range(outputs)], name="n", **attributes)
    data = [k for k, a in enumerate(inputs) if a.dtype == np.float32]
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(names[k], 1, inputs[k].shape) for k in data],
        [onnx.ValueInfoProto(name=o) for o in node.output],
        [
            onnx.numpy_helper.from_array(a, n)
            for n, a in zip(names, inputs, strict=True)
            if a.dtype != np.float32
        ],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def run(proto, inputs):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options)
    feeds = {i.name: inputs[int(i.name[1:])] for i in session.get_inputs()}
    return session.run(None, feeds)


def move_of(proto) -> Move:
    model = ir.from_proto(proto)
    shapes = infer_shapes(model, {})
    node = model.graph[0]
    which = data_inputs(node)
    return Move(
        node,
        tuple(shapes.dims[node.inputs[i]] for i in which),
        tuple(shapes.dims[v] for v in node.outputs),
        tuple(shapes.values.get(v) for v in node.inputs),
    )


def numbers(*shape):
    return np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)


def ints(*values):
    return np.array(values, dtype=np.int64)


# op, original operands, attributes, cuts of data inputs, cuts of outputs, pruned operands
# (None: the same), pruned attributes (None: the same)
CASES = {
    "transpose": ("Transpose", [numbers(2, 6, 3, 4)], {"perm": [0, 3, 1, 2]},
                  [[cut(1, 6, [0, 4])]], [[cut(2, 6, [0, 4])]], None, None),
    "reshape_split": ("Reshape", [numbers(2, 5, 12), ints(2, 5, 3, 4)], {},
                      [[cut(2, 12, [0, 1, 4, 6])]],
                      [[cut(2, 3, [0, 1]), cut(3, 4, [[0, 1], [0, 2]], blocks=(2,))]],
                      {1: ints(2, 5, 2, 2)}, None),
    "reshape_merge": ("Reshape", [numbers(2, 5, 3, 4), ints(10, -1)], {},
                      [[cut(2, 3, [0, 2])]], [[cut(1, 12, [0, 1, 2, 3, 8, 9, 10, 11])]],
                      None, None),
    "flatten": ("Flatten", [numbers(2, 4, 3, 3)], {"axis": 1}, [[cut(1, 4, [1, 3])]],
                [[cut(1, 36, [*range(9, 18), *range(27, 36)])]], None, None),
    "slice": ("Slice", [numbers(2, 8, 3), ints(1), ints(-1), ints(1), ints(2)], {},
              [[cut(1, 8, [1, 2, 5, 6])]], [[cut(1, 3, [0, 2])]],
              {1: ints(0), 2: ints(3), 4: ints(2)}, None),
    "slice_backwards": ("Slice", [numbers(2, 6), ints(5), ints(-99), ints(1), ints(-1)], {},
                        [[cut(1, 6, [0, 4])]], [[cut(1, 6, [1, 5])]], None, None),
    "split": ("Split", [numbers(2, 7, 3), ints(4, 3)], {"axis": 1}, [[cut(1, 7, [0, 3, 5])]],
              [[cut(1, 4, [0, 3])], [cut(1, 3, [1])]], {1: ints(2, 1)}, None),
    "concat": ("Concat", [numbers(2, 3), numbers(2, 4)], {"axis": -1},
               [[cut(1, 3, [0, 2])], [cut(1, 4, [1])]], [[cut(1, 7, [0, 2, 4])]], None, None),
    "gather": ("Gather", [numbers(2, 6, 3), ints(5, -6, 2)], {"axis": 1},
               [[cut(1, 6, [0, 2, 5])]], [[]], {1: ints(2, 0, 1)}, None),
    "gather_scalar": ("Gather", [numbers(3, 4, 5), np.array(1)], {"axis": 0},
                      [[cut(2, 5, [1, 2])]], [[cut(1, 5, [1, 2])]], None, None),
    "tile": ("Tile", [numbers(2, 3), ints(1, 2)], {}, [[cut(1, 3, [0, 2])]],
             [[cut(1, 6, [0, 2, 3, 5])]], None, None),
    "pad": ("Pad", [numbers(2, 4), ints(0, 2, 0, 1)], {}, [[cut(1, 4, [0, 3])]],
            [[cut(1, 7, [0, 2, 5, 6])]], {1: ints(0, 1, 0, 1)}, None),
    "pad_reflect": ("Pad", [numbers(2, 4, 5), ints(0, 0, 2, 0, 0, 1)], {"mode": "reflect"},
                    [[cut(1, 4, [0, 3])]], [[cut(1, 4, [0, 3])]], None, None),
    "expand": ("Expand", [numbers(1, 3, 1), ints(2, 4, 3, 5)], {}, [[cut(1, 3, [1, 2])]],
               [[cut(2, 3, [1, 2])]], {1: ints(2, 4, 2, 5)}, None),
    "depth_to_space": ("DepthToSpace", [numbers(1, 12, 2, 3)], {"blocksize": 2},
                       [[cut(1, 12, [0, 2, 3, 5, 6, 8, 9, 11])]], [[cut(1, 3, [0, 2])]],
                       None, None),
    "depth_to_space_crd": ("DepthToSpace", [numbers(1, 12, 2, 3)], {"blocksize": 2, "mode": "CRD"},
                           [[cut(1, 12, [0, 1, 2, 3, 8, 9, 10, 11])]], [[cut(1, 3, [0, 2])]],
                           None, None),
    "space_to_depth": ("SpaceToDepth", [numbers(1, 3, 4, 2)], {"blocksize": 2},
                       [[cut(1, 3, [0, 2])]], [[cut(1, 12, [0, 2, 3, 5, 6, 8, 9, 11])]],
                       None, None),
    "squeeze": ("Squeeze", [numbers(2, 1, 4), ints(1)], {}, [[cut(2, 4, [3])]],
                [[cut(1, 4, [3])]], None, None),
    "unsqueeze": ("Unsqueeze", [numbers(2, 4), ints(0, 3)], {}, [[cut(1, 4, [0, 3])]],
                  [[cut(2, 4, [0, 3])]], None, None),
}  # fmt: skip


def both(name, operands=None, attributes=None):
    """The original's and the pruned graph's op, with the latter's operands shortened."""
    op, inputs, given, cuts, out_cuts, changed, other = CASES[name]
    before = one_node(op, inputs, given, len(out_cuts))
    which = data_inputs(ir.from_proto(before).graph[0])
    short = {k: take(inputs[k], c) for k, c in zip(which, cuts, strict=True)}
    changed = {**(changed or {}), **(operands or {})}
    new = [short.get(k, changed.get(k, a)) for k, a in enumerate(inputs)]
    after = one_node(op, new, attributes or other or given, len(out_cuts))
    return op, before, inputs, after, new, cuts, out_cuts


@pytest.mark.parametrize("name", CASES)
def test_right_op_passes_and_onnxruntime_agrees(name: str) -> None:
    op, before, inputs, after, new, cuts, out_cuts = both(name)
    for whole, part, kept in zip(run(before, inputs), run(after, new), out_cuts, strict=True):
        assert np.array_equal(take(whole, kept), part), "the case itself is wrong"
    assert check_move(op, move_of(before), move_of(after), cuts, out_cuts) == ""


WRONG = [
    ("transpose", {}, {"perm": [0, 2, 1, 3]}),
    ("reshape_split", {1: ints(2, 5, 4, 1)}, None),
    ("slice", {1: ints(1), 2: ints(4)}, None),
    ("slice", {4: ints(1), 2: ints(2)}, None),
    ("split", {1: ints(1, 2)}, None),
    ("gather", {1: ints(2, 1, 0)}, None),
    ("tile", {1: ints(1, 3)}, None),
    ("pad", {1: ints(0, 0, 0, 2)}, None),
    ("pad_reflect", {}, {"mode": "edge"}),
    ("expand", {1: ints(2, 1, 2, 5)}, None),
    ("depth_to_space", {}, {"blocksize": 2, "mode": "CRD"}),
    ("depth_to_space_crd", {}, {"blocksize": 2, "mode": "DCR"}),
    ("flatten", {}, {"axis": 2}),
]


@pytest.mark.parametrize(("name", "operands", "attributes"), WRONG)
def test_wrong_op_is_found(name: str, operands, attributes) -> None:
    op, before, _, after, _, cuts, out_cuts = both(name, operands, attributes)
    assert check_move(op, move_of(before), move_of(after), cuts, out_cuts)


@pytest.mark.parametrize(
    ("name", "out_cuts"),
    [
        ("transpose", [[cut(2, 6, [0, 3])]]),
        ("reshape_split", [[cut(2, 3, [0, 1]), cut(3, 4, [0, 1])]]),
        ("concat", [[cut(1, 7, [0, 2, 5])]]),
        ("gather", [[cut(1, 3, [0, 1])]]),
        ("space_to_depth", [[cut(1, 12, [0, 1, 2, 3, 8, 9, 10, 11])]]),
        ("squeeze", [[]]),
    ],
)
def test_wrong_plan_is_found(name: str, out_cuts) -> None:
    op, before, _, after, _, cuts, _ = both(name)
    assert check_move(op, move_of(before), move_of(after), cuts, out_cuts)


def test_untracked_axes_cost_nothing() -> None:
    """A tensor of 10^12 elements is checked through its one cut axis."""
    node = ir.node("Transpose", [ir.Value(name="x")], {"perm": [0, 2, 3, 1]})
    dims = (1000, 64, 4000, 4000)
    before = Move(node, (dims,), ((1000, 4000, 4000, 64),), (None,))
    after = Move(node, ((1000, 2, 4000, 4000),), ((1000, 4000, 4000, 2),), (None,))
    kept = cut(1, 64, [3, 60])
    assert check_move("Transpose", before, after, [[kept]], [[cut(3, 64, [3, 60])]]) == ""
    assert check_move("Transpose", before, after, [[kept]], [[cut(3, 64, [3, 61])]])


def test_what_is_not_known_is_not_passed() -> None:
    node = ir.node("Gather", [ir.Value(name="x"), ir.Value(name="i")], {"axis": 0})
    move = Move(node, ((4, 3),), ((2, 3),), (None, None))
    with pytest.raises(UncheckedError, match="indices"):
        check_move("Gather", move, move, [[cut(0, 4, [1, 2])]], [[]])
