"""Statistics over kept entries: the written-out form on the whole tensor equals the op itself on a
tensor that holds only what is kept. Both run in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from certify_case import cut, plan
from onnx import helper

from graphprune.certify.masks import zeroed
from graphprune.certify.twin import TwinError, masked_twin
from graphprune.cut import Cut, take
from graphprune.onnx.runtime import Session
from graphprune.onnx.shapes import infer_shapes

RNG = np.random.default_rng(0)
C = [0, 2, 3, 6]


def normal(*dims: int) -> np.ndarray:
    return (RNG.standard_normal(dims) + 0.5).astype(np.float32)


@dataclass(frozen=True)
class Norm:
    """One statistics op: operands after the first with their cuts, and the cuts of its outputs."""

    op: str
    shape: tuple[int, ...]
    cuts: Sequence[Cut]
    axes: tuple[int, ...]
    operands: Sequence[tuple[np.ndarray | None, Sequence[Cut]]] = ()
    outputs: Sequence[Sequence[Cut]] = ((),)
    attributes: Mapping[str, object] = field(default_factory=dict)
    pruned: Mapping[str, object] = field(default_factory=dict)
    opset: int = 18
    domain: str = ""


def model(case: Norm, shape, operands, attributes, dtype=np.float32) -> ir.Model:
    names = ["x"] + [f"w{i}" if a is not None else "" for i, a in enumerate(operands)]
    outputs = [f"y{i}" for i in range(len(case.outputs))]
    node = helper.make_node(
        case.op,
        names,
        outputs,
        name="norm",
        domain=case.domain,
        **{**case.attributes, **attributes},
    )
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", element, shape)],
        [onnx.ValueInfoProto(name=o) for o in outputs],
        [
            onnx.numpy_helper.from_array(a.astype(dtype) if a.dtype == np.float32 else a, n)
            for n, a in zip(names[1:], operands, strict=True)
            if a is not None
        ],
    )
    opsets = [helper.make_opsetid("", case.opset)]
    opsets += [helper.make_opsetid("com.microsoft", 1)] * bool(case.domain)
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=9))


def compare(case: Norm, dtype=np.float32, limit: float = 2e-6) -> None:
    whole = [a for a, _ in case.operands]
    part = [None if a is None else take(a, c) for a, c in case.operands]
    original = model(case, case.shape, whole, {}, dtype)
    x = normal(*case.shape).astype(dtype)
    small = model(case, take(x, case.cuts).shape, part, case.pruned, dtype)
    made = plan(
        {"x": case.cuts, **{f"y{i}": c for i, c in enumerate(case.outputs) if c}},
        [
            (f"w{i}", "norm", i + 1, c)
            for i, (a, c) in enumerate(case.operands)
            if a is not None and c
        ],
        statistics={"norm": case.axes},
    )
    twin = masked_twin(original, made, infer_shapes(original, {}))
    assert case.op not in {n.op_type for n in twin.model.graph} - {"ReduceMean"}
    want = Session(small, optimize=False).run({"x": take(x, case.cuts)})
    got = Session(twin.model, optimize=False).run({"x": x})
    masked = Session(original, optimize=False).run({"x": zeroed(x, case.cuts)})
    for i, cuts in enumerate(case.outputs):
        kept, expected = take(got[f"y{i}"], cuts), want[f"y{i}"]
        assert kept.dtype == expected.dtype
        assert kept.shape == expected.shape
        scale = np.abs(expected).max()
        assert scale > 0.1
        assert np.abs(kept - expected).max() <= limit * scale
        moved = np.abs(take(masked[f"y{i}"], cuts) - expected).max()
        assert moved > 0.01 * scale, "masking alone would have done: the case proves nothing"


c1, c2 = cut(1, 8, C), cut(2, 8, C)
w1 = [cut(0, 8, C)]
ROWS = [[0, 3], [1, 2]]
BLOCKS = [cut(1, 3, [0, 2]), cut(2, 4, ROWS, blocks=(1,))]
EVEN = [cut(1, 3, [0, 2]), cut(2, 4, [[0, 3], [0, 3]], blocks=(1,))]

CASES = {
    "layer_norm": Norm("LayerNormalization", (2, 3, 8), [c2], (2,),
                       [(normal(8), w1), (normal(8), w1)], [[c2], (), ()], {"epsilon": 0.01}),
    "layer_norm_no_bias": Norm("LayerNormalization", (2, 3, 8), [c2], (2,), [(normal(8), w1)],
                               [[c2]]),
    "layer_norm_two_axes": Norm("LayerNormalization", (2, 8, 5), [c1], (1, 2),
                                [(normal(8, 5), w1), (normal(8, 5), w1)], [[c1], (), ()],
                                {"axis": 1}),
    "layer_norm_two_cuts": Norm("LayerNormalization", (2, 8, 5), [c1, cut(2, 5, [1, 4])], (1, 2),
                                [(normal(8, 5), [cut(0, 8, C), cut(1, 5, [1, 4])])],
                                [[c1, cut(2, 5, [1, 4])]], {"axis": -2}),
    "layer_norm_blocks": Norm("LayerNormalization", (2, 3, 4), EVEN, (2,),
                              [(normal(4), [cut(0, 4, [0, 3])])],
                              [EVEN, [cut(1, 3, [0, 2])], [cut(1, 3, [0, 2])]]),
    "rms_norm": Norm("RMSNormalization", (2, 3, 8), [c2], (2,), [(normal(8), w1)], [[c2]],
                     {"epsilon": 0.01}, opset=23),
    "simplified_layer_norm": Norm("SimplifiedLayerNormalization", (2, 3, 8), [c2], (2,),
                                  [(normal(8), w1)], [[c2], ()], {"epsilon": 0.01}, opset=17),
    "skip_layer_norm": Norm("SkipLayerNormalization", (2, 3, 8), [c2], (2,),
                            [(normal(2, 3, 8), [c2]), *[(normal(8), w1)] * 3],
                            [[c2]], {"epsilon": 0.01}, domain="com.microsoft"),
    "skip_layer_norm_no_beta": Norm("SkipLayerNormalization", (2, 3, 8), [c2], (2,),
                                    [(normal(2, 3, 8), [c2]), (normal(8), w1)],
                                    [[c2]], {"epsilon": 0.01}, domain="com.microsoft"),
    "skip_rms_norm": Norm("SkipSimplifiedLayerNormalization", (2, 3, 8), [c2], (2,),
                          [(normal(2, 3, 8), [c2]), (normal(8), w1), (normal(8), w1)],
                          [[c2]], {"epsilon": 0.01}, domain="com.microsoft"),
    "instance_norm": Norm("InstanceNormalization", (2, 3, 8), [c2], (2,),
                          [(normal(3), ()), (normal(3), ())], [[c2]], {"epsilon": 0.01}),
    "instance_norm_blocks": Norm("InstanceNormalization", (2, 3, 4), BLOCKS, (2,),
                                 [(normal(3), [cut(0, 3, [0, 2])])] * 2, [BLOCKS]),
    "group_norm_18": Norm("GroupNormalization", (2, 8, 3, 2), [cut(1, 8, [0, 3, 5, 6])], (1, 2, 3),
                          [(normal(2), ()), (normal(2), ())], [[cut(1, 8, [0, 3, 5, 6])]],
                          {"num_groups": 2}),
    "group_norm_21": Norm("GroupNormalization", (2, 8, 3), [cut(1, 8, [4, 7])], (1, 2),
                          [(normal(8), [cut(0, 8, [4, 7])])] * 2, [[cut(1, 8, [4, 7])]],
                          {"num_groups": 2}, {"num_groups": 1}, opset=21),
    "mean_variance": Norm("MeanVarianceNormalization", (2, 8, 4, 4), [c1], (1, 2, 3), [], [[c1]],
                          {"axes": [1, 2, 3]}),
    "mean_variance_default": Norm("MeanVarianceNormalization", (2, 3, 8, 4), [c2], (2,), [],
                                  [[c2]]),
    "mean_11": Norm("ReduceMean", (2, 8, 4), [c1], (1,), [], [()], {"axes": [1], "keepdims": 1},
                    opset=11),
    "mean_12_flat": Norm("ReduceMean", (2, 8, 4), [c1], (1,), [], [()],
                         {"axes": [-2], "keepdims": 0}, opset=12),
    "mean_18": Norm("ReduceMean", (2, 8, 4), [c1], (1, 2), [(np.array([1, -1]), ())], [()],
                    {"keepdims": 0}),
    "mean_of_everything": Norm("ReduceMean", (2, 8, 4), [c1], (0, 1, 2), [], [()]),
    "mean_blocks": Norm("ReduceMean", (2, 3, 4), BLOCKS, (2,), [(np.array([2]), ())],
                        [[cut(1, 3, [0, 2])]]),
    "global_average": Norm("GlobalAveragePool", (2, 3, 8, 4), [c2], (2,), [], [()]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_written_out_equals_the_op_on_what_is_kept(name: str) -> None:
    compare(CASES[name])


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "mean_18"])
@pytest.mark.parametrize(("dtype", "limit"), [(np.float16, 2e-3), (np.float64, 1e-7)])
def test_other_float_types(name: str, dtype, limit: float) -> None:
    if name == "rms_norm" and dtype == np.float64:
        pytest.skip("onnxruntime's RMSNormalization of float64 rounds its statistics to float32")
    compare(CASES[name], dtype, limit)


def test_extra_outputs_of_the_skip_norms() -> None:
    """The sum comes out masked; onnxruntime's CPU kernels leave mean and deviation empty."""
    for name, sum_at in (("skip_layer_norm", 3), ("skip_rms_norm", 3)):
        case = CASES[name]
        outputs = [[c2], (), (), [c2]]
        case = Norm(**{**case.__dict__, "outputs": outputs})
        original = model(case, case.shape, [a for a, _ in case.operands], {})
        made = plan({"x": [c2], "y0": [c2], "y3": [c2]}, [], statistics={"norm": (2,)})
        twin = masked_twin(original, made, infer_shapes(original, {})).model
        kept = [v.name for v in twin.graph.outputs]
        assert kept == ["y0", "y1", "y2", "y3"]
        x = normal(*case.shape)
        got = Session(twin, optimize=False).run({"x": x})[f"y{sum_at}"]
        skip, bias = case.operands[0][0], case.operands[-1][0]
        assert np.allclose(take(got, [c2]), take(x + skip + bias, [c2]), atol=1e-6)
        assert not got[..., 1].any()


def test_dynamic_axis_at_another_size() -> None:
    """GroupNorm by InstanceNorm over (channels of the group x positions), positions open: where the
    kept entries lie is known at the plan's size only, how many there are is known at any."""
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[2, 6, L] x) => (float[2, 3, M] y)
      <int64[3] grouped = {2, 3, -1}, float[3] one = {1, 1, 1}, float[3] zero = {0, 0, 0}> {
      r = Reshape(x, grouped)
      y = InstanceNormalization(r, one, zero)
    }"""
    proto = onnx.parser.parse_model(text)
    original = ir.from_proto(proto)
    channels = [1, 2, 5]  # one of each pair

    def rows(length: int) -> list[list[int]]:
        return [[c % 2 * length + i for i in range(length)] for c in channels]

    moving = [cut(2, 8, rows(4), blocks=(1,), dynamic=True)]
    made = plan(
        {"x": [cut(1, 6, channels)], "r": moving, "y": moving},
        [],
        statistics={"y": (2,)},
        binding={"L": 4},
    )
    for length, skipped in ((4, ()), (7, ("r", "y"))):
        twin = masked_twin(original, made, infer_shapes(original, {"L": length}))
        assert twin.skipped == skipped
        x = normal(2, 6, length) + 3.0
        got = Session(twin.model, optimize=False).run({"x": x})["y"]
        short = x[:, channels]
        mean, deviation = short.mean(axis=2, keepdims=True), short.std(axis=2, keepdims=True)
        want = (short - mean) / np.sqrt(deviation**2 + 1e-5)
        index = np.broadcast_to(np.array(rows(length)), (2, 3, length))
        assert np.allclose(np.take_along_axis(got, index, axis=2), want, atol=2e-5)


def test_one_norm_behind_another() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[2, 8] x) => (float[2, 8] y) <float[8] w = {1, 2, 3, 4, 5, 6, 7, 8}> {
      a = LayerNormalization(x, w)
      y = LayerNormalization(a, w)
    }"""
    original = ir.from_proto(onnx.parser.parse_model(text))
    kept = cut(1, 8, C)
    made = plan(
        {"x": [kept], "a": [kept], "y": [kept]},
        [("w", "a", 1, w1), ("w", "y", 1, w1)],
        statistics={"a": (1,), "y": (1,)},
    )
    twin = masked_twin(original, made, infer_shapes(original, {}))
    small = ir.from_proto(
        onnx.parser.parse_model(
            text.replace("8] x", "4] x")
            .replace("8] y", "4] y")
            .replace("float[8] w = {1, 2, 3, 4, 5, 6, 7, 8}", "float[4] w = {1, 3, 4, 7}")
        )
    )
    x = normal(2, 8)
    want = Session(small, optimize=False).run({"x": x[:, C]})["y"]
    got = Session(twin.model, optimize=False).run({"x": x})["y"][:, C]
    assert np.allclose(got, want, atol=1e-5)


def test_neutral_ops_stay_and_others_are_refused() -> None:
    case = Norm("LpNormalization", (2, 8), [cut(1, 8, C)], (1,), [], [[cut(1, 8, C)]], {"p": 2})
    original = model(case, case.shape, [], {})
    made = plan({"x": case.cuts}, [], statistics={"norm": (1,)})
    twin = masked_twin(original, made, infer_shapes(original, {}))
    assert "LpNormalization" in {n.op_type for n in twin.model.graph}
    case = Norm("Softmax", (2, 8), case.cuts, (1,), [], [[cut(1, 8, C)]])
    original = model(case, case.shape, [], {})
    with pytest.raises(TwinError, match="Softmax 'norm': no formula"):
        masked_twin(original, made, infer_shapes(original, {}))
