from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphprune.errors import UsageError
from graphprune.onnx.shapes import Shapes, evaluate_sizes, infer_shapes


def model(text: str, opset: int = 18, extra: str = "") -> ir.Model:
    header = f'<ir_version: 10, opset_import: ["" : {opset}{extra}]>'
    return ir.from_proto(onnx.parser.parse_model(header + text))


def named(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    return {v.name: d for v, d in shapes.dims.items()}


def contents(shapes: Shapes) -> dict[str, list[int]]:
    return {v.name: a.tolist() for v, a in shapes.values.items()}


FLATTEN = """
g (float[N, 3, H, W] x, float[8, 3, 3, 3] w) => (float[N, K] y)
<int64[1] rest = {-1}, int64[1] first = {0}, int64 zero = {0}>
{
    c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w)
    s = Shape (c)
    n = Gather (s, zero)
    m = Unsqueeze (n, first)
    t = Concat <axis = 0> (m, rest)
    y = Reshape (c, t)
}
"""


def test_computed_reshape_targets_are_known_at_each_binding() -> None:
    graph = model(FLATTEN)
    for batch, size in ((2, 64), (3, 96)):
        shapes = infer_shapes(graph, {"N": batch, "H": size, "W": size})
        assert named(shapes)["c"] == (batch, 8, size // 2, size // 2)
        assert named(shapes)["y"] == (batch, 8 * size * size // 4)
        assert contents(shapes)["t"] == [batch, -1]
        assert not shapes.unknown


def test_an_open_dimension_is_a_usage_error_that_names_it() -> None:
    with pytest.raises(UsageError, match=r"'x'.*'H'.*--dim 'H=N'"):
        infer_shapes(model(FLATTEN), {"N": 2})


def test_stale_shapes_in_the_file_are_ignored() -> None:
    graph = model(FLATTEN)
    for node in graph.graph:
        for output in node.outputs:
            output.shape = ir.Shape([77, 77])
    shapes = infer_shapes(graph, {"N": 2, "H": 64, "W": 64})
    assert named(shapes)["y"] == (2, 8192)
    assert named(shapes)["s"] == (4,)


def test_weights_are_never_read() -> None:
    def fail() -> ir.TensorProtocol:
        raise AssertionError("a weight was read")

    graph = model("g (float[N, 64] x, float[64, 4096] w) => (float[N, M] y) { y = MatMul (x, w) }")
    weight = graph.graph.inputs.pop()
    weight.const_value = ir.LazyTensor(fail, ir.DataType.FLOAT, ir.Shape([64, 4096]), name="w")
    graph.graph.register_initializer(weight)
    assert named(infer_shapes(graph, {"N": 2}))["y"] == (2, 4096)


def test_integer_division_truncates_towards_zero() -> None:
    graph = model(
        """g (float[N] x) => (float[A] y)
        <int64 a = {-7}, int64 b = {2}, int64[1] one = {1}, int64[1] at = {0}>
        { q = Div (a, b) p = Neg (q) u = Unsqueeze (p, at) y = Expand (x, u) }"""
    )
    shapes = infer_shapes(graph, {"N": 1})
    assert contents(shapes)["q"] == -3
    assert named(shapes)["y"] == (3,)


def test_data_dependent_sizes_get_placeholders_and_a_reason() -> None:
    graph = model(
        """g (float[N, 8] x) => (int64[2, hits] y, float[hits, 8] z)
        {
            y = NonZero (x)
            rows = Slice <axes = [0], starts = [0], ends = [1]> (y)
            flat = Squeeze (rows)
            z = Gather <axis = 0> (x, flat)
        }""",
        opset=9,
    )
    shapes = infer_shapes(graph, {"N": 3})
    dims, by_name = named(shapes), {v.name: v for v in shapes.dims}
    assert dims["y"][0] == 2
    assert dims["z"] == (dims["y"][1], 8)
    assert "NonZero" in shapes.unknown[by_name["y"]]
    assert "NonZero" in shapes.unknown[by_name["z"]]
    assert by_name["x"] not in shapes.unknown


def test_one_name_means_one_placeholder() -> None:
    graph = model(
        """g (float[N, 8] x, bool[M] k) => (float[kept, 8] y, float[kept, 4] z)
        { y = Compress <axis = 0> (x, k)
          h = Slice <axes = [1], starts = [0], ends = [4]> (x)
          z = Compress <axis = 0> (h, k) }""",
        opset=9,
    )
    dims = named(infer_shapes(graph, {"N": 3, "M": 3}))
    assert dims["y"][0] == dims["z"][0]
    assert dims["z"][1] == 4


def test_an_unknown_op_keeps_the_shape_that_the_file_states() -> None:
    graph = model(
        "g (float[N, 8] x) => (float[N, 4] y) { y = other.Thing (x) }", extra=', "other" : 1'
    )
    shapes = infer_shapes(graph, {"N": 3})
    assert named(shapes)["y"] == (3, 4)
    assert "Thing" in shapes.unknown[graph.graph.outputs[0]]


def test_an_output_of_unknown_rank_is_absent() -> None:
    graph = model(
        "g (float[N, 8] x) => (float y) { h = other.Thing (x) y = Relu (h) }",
        extra=', "other" : 1',
    )
    for node in graph.graph:
        node.outputs[0].shape = None
    shapes = infer_shapes(graph, {"N": 3})
    assert set(named(shapes)) == {"x"}
    assert {v.name for v in shapes.unknown} == {"h", "y"}


def test_misfitting_inputs_are_unknown_with_the_reason() -> None:
    graph = model("g (float[2, 8] x, float[7, 3] w) => (float[a, b] y) { y = MatMul (x, w) }")
    shapes = infer_shapes(graph, {})
    assert "cannot multiply (2, 8) by (7, 3)" in shapes.unknown[graph.graph.outputs[0]]


# --- control flow ---------------------------------------------------------------------------------

SQUEEZE = """
g (float[N, C] x) => (float y)
<int64 one = {1}, int64[1] axis = {1}>
{
    s = Shape <start = 1, end = 2> (x)
    c = Squeeze (s)
    k = Equal (c, one)
    y = If (k) <
        then_branch = t () => (float[P] a) { a = Squeeze (x, axis) },
        else_branch = e () => (float[Q, R] b) { b = Identity (x) }
    >
}
"""


@pytest.mark.parametrize(("width", "expected"), [(1, (5,)), (4, (5, 4))])
def test_if_with_a_computed_condition_takes_one_branch(
    width: int, expected: tuple[int, ...]
) -> None:
    graph = model(SQUEEZE)
    shapes = infer_shapes(graph, {"N": 5, "C": width})
    assert named(shapes)["y"] == expected
    assert graph.graph.outputs[0] not in shapes.unknown


def test_if_with_a_data_dependent_condition_and_unlike_branches_is_unknown() -> None:
    graph = model(
        """g (float[N, 4] x, bool k) => (float y)
        <int64[1] axis = {0}>
        { y = If (k) <
            then_branch = t () => (float[P] a) { a = ReduceSum <keepdims = 0> (x, axis) },
            else_branch = e () => (float[Q, R] b) { b = Identity (x) }
        > }"""
    )
    assert "branches" in infer_shapes(graph, {"N": 5}).unknown[graph.graph.outputs[0]]


LOOP = """
g (float[N, 4] x{count}) => (float[N, 4] y, float[T, N, 4] z)
<bool yes = {{1}}{trips}>
{{
    y, z = Loop (trips, yes, x) <body = b (int64 i, bool c, float[P, Q] h)
        => (bool d, float[P, Q] k, float[P, Q] o)
        {{ d = Identity ({keep}) k = {step} o = Relu (h) }}>
}}
"""


def test_loop_with_a_known_count_stacks_its_scanned_outputs() -> None:
    text = LOOP.format(count="", trips=", int64 trips = {6}", keep="yes", step="Neg (h)")
    shapes = infer_shapes(model(text), {"N": 5})
    assert (named(shapes)["y"], named(shapes)["z"]) == ((5, 4), (6, 5, 4))
    assert named(shapes)["o"] == (5, 4)
    assert not shapes.unknown


def test_loop_with_an_open_count_is_unknown() -> None:
    graph = model(LOOP.format(count=", int64 trips", trips="", keep="yes", step="Neg (h)"))
    shapes = infer_shapes(graph, {"N": 5})
    assert named(shapes)["z"][1:] == (5, 4)
    assert {v.name for v in shapes.unknown} == {"z"}


def test_loop_that_may_end_early_is_unknown() -> None:
    text = LOOP.format(
        count=", bool more", trips=", int64 trips = {6}", keep="more", step="Neg (h)"
    )
    assert {v.name for v in infer_shapes(model(text), {"N": 5}).unknown} == {"z"}


def test_loop_that_grows_what_it_carries_is_unknown() -> None:
    step = "Concat <axis = 0> (h, h)"
    graph = model(LOOP.format(count="", trips=", int64 trips = {6}", keep="yes", step=step))
    unknown = infer_shapes(graph, {"N": 5}).unknown
    assert "step to step" in unknown[graph.graph.outputs[0]]


def test_scan_takes_an_axis_off_and_puts_one_on() -> None:
    graph = model(
        """g (float[4] s, float[N, 7, 4] x) => (float[4] y, float[N, 4, 7] z)
        { y, z = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [-1],
            body = b (float[4] h, float[P, 4] e) => (float[4] k, float[P, 4] o)
            { k = Relu (h) o = Add (e, h) }> (s, x) }"""
    )
    dims = named(infer_shapes(graph, {"N": 5}))
    assert (dims["e"], dims["y"], dims["z"]) == ((5, 4), (4,), (5, 4, 7))


def test_sequences_keep_the_shapes_of_their_elements() -> None:
    graph = model(
        """g (float[N, 8] x) => (float[N, 3] a, float[N, 5] b, float[N, 8] c)
        <int64[2] sizes = {3, 5}, int64 zero = {0}, int64 last = {-1}>
        { s = SplitToSequence <axis = 1> (x, sizes)
          a = SequenceAt (s, zero)
          b = SequenceAt (s, last)
          c = ConcatFromSequence <axis = 1> (s) }"""
    )
    shapes = infer_shapes(graph, {"N": 2})
    dims = named(shapes)
    assert (dims["a"], dims["b"], dims["c"]) == ((2, 3), (2, 5), (2, 8))
    assert not shapes.unknown


# --- other dims for the rewriter ------------------------------------------------------------------

HEADS = """
g (float[N, S, 12] x) => (float[N, S, H, D] y)
<int64 two = {2}, int64 three = {3}, int64[1] at = {0}>
{
    r = Relu (x)
    s = Shape (r)
    n = Gather (s, at)
    w = Gather (s, two)
    d = Div (w, three)
    h = Unsqueeze (d, at)
    t = Concat <axis = 0> (n, n, h)
    y = Reshape (r, t)
    k = Relu (x)
    q = Shape (k)
}
"""


def test_evaluate_sizes_follows_other_dims_through_the_arithmetic() -> None:
    graph = model(HEADS)
    shapes = infer_shapes(graph, {"N": 2, "S": 5})
    value = {v.name: v for v in shapes.dims}
    before = {v.name: a.tolist() for v, a in shapes.values.items()}
    after = evaluate_sizes(graph, shapes, {value["r"]: (2, 5, 6)})
    assert before["t"] == [2, 2, 4]
    assert after[value["s"]].tolist() == [2, 5, 6]
    assert after[value["t"]].tolist() == [2, 2, 2]
    assert after[value["q"]].tolist() == [2, 5, 12]  # of another tensor: unchanged
    assert set(after) == set(shapes.values)


def test_evaluate_sizes_takes_new_constants() -> None:
    graph = model(HEADS)
    shapes = infer_shapes(graph, {"N": 2, "S": 5})
    value = {v.name: v for v in shapes.dims}
    after = evaluate_sizes(graph, shapes, {}, {value["three"]: np.array(2)})
    assert after[value["t"]].tolist() == [2, 2, 6]


def test_evaluate_sizes_leaves_out_what_no_longer_works() -> None:
    graph = model(
        """g (float[4, 6] x) => (int64[24] y)
        <int64[1] flat = {24}> { s = Shape (x) c = ConstantOfShape (s) y = Reshape (c, flat) }"""
    )
    shapes = infer_shapes(graph, {})
    value = {v.name: v for v in shapes.dims}
    after = evaluate_sizes(graph, shapes, {value["x"]: (4, 3)})
    assert after[value["c"]].shape == (4, 3)
    assert value["y"] in shapes.values
    assert value["y"] not in after


def test_evaluate_sizes_follows_branches() -> None:
    graph = model(
        """g (float[N, C] x) => (float y)
        <int64[1] eight = {8}, int64 zero = {0}>
        { s = Shape <start = 1> (x)
          b = Less (s, eight)
          k = Squeeze (b)
          t = If (k) <
              then_branch = t () => (int64[1] a) { a = Add (s, s) },
              else_branch = e () => (int64[1] b2) { b2 = Identity (s) }
          >
          y = ConstantOfShape (t) }"""
    )
    shapes = infer_shapes(graph, {"N": 2, "C": 10})
    value = {v.name: v for v in shapes.dims}
    assert shapes.values[value["t"]].tolist() == [10]
    assert evaluate_sizes(graph, shapes, {value["x"]: (2, 9)})[value["t"]].tolist() == [9]
    assert evaluate_sizes(graph, shapes, {value["x"]: (2, 3)})[value["t"]].tolist() == [6]
