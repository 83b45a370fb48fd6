"""Whole groups leave: branches and blocks disappear, nothing of length 0 is left; all is proven."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from architectures import NETWORKS
from workbench import Bench, drawn, from_text

import graphprune
from graphprune.errors import UsageError
from graphprune.passes import DropEmptyPass
from graphprune.pipeline import Result
from graphprune.plan import Plan

DEPENDS = "would not depend on its inputs any more"


def without(model: onnx.ModelProto, *groups: str, **settings: object) -> Result:
    """Compile with the given groups gone."""
    ratios = tuple((name, 0.0) for name in groups)
    settings = {"bench": False, "allow_slower": True, **settings}
    return graphprune.compile(model, group_ratio=ratios, **settings)


def checked(result: Result) -> Result:
    """Proven, smaller, and without anything of length 0."""
    assert result.plan.groups, [u for u in result.plan.unpruned if u.group]
    found = result.report.certificate
    assert found["status"] in ("exact", "statistics")
    assert found["max_rel_error"] < 1e-5
    assert len(found["bindings"]) >= 1 + bool(result.plan.binding)
    proto = ir.to_proto(result.model)
    onnx.checker.check_model(proto, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        sizes = [d.dim_value for d in value.type.tensor_type.shape.dim if d.HasField("dim_value")]
        assert 0 not in sizes, value.name
    assert all(0 not in t.dims for t in proto.graph.initializer if t.name), "an empty weight"
    assert result.report.pruned.params < result.report.original.params
    return result


def ops(result: Result) -> list[str]:
    return [n.op_type for n in result.model.graph]


def refusal(model: onnx.ModelProto, group: str) -> tuple[str, str]:
    """(node, reason) for a group that cannot leave as a whole: all of it stays."""
    result = without(model, group)
    assert not result.plan.groups
    return next((u.node, u.reason) for u in result.plan.unpruned if u.group == group)


# -- whole networks --------------------------------------------------------------------------------

LEAVES = {
    "resnet": {"one.conv1": "Conv", "two.conv1": "BatchNormalization"},
    "mobilenet": {"one.expand": "HardSigmoid", "two.squeeze": "HardSigmoid"},
    "shufflenet": {"stem": "Conv", "one.point": "Conv", "two.last": "Transpose"},
    "densenet": {"two.conv1": "Conv", "three.conv2": "Concat"},
    "unet": {"down3": "Conv", "up1": "ConvTranspose", "up1.conv": "ConvTranspose"},
    "convnext": {"one.fc1": "ReduceL2"},
    "encoder": {"one.q": "Softmax", "two.fc1": "Sigmoid"},
    "llama": {"one.q": "Softmax", "two.gate": "Sigmoid"},
}
STAYS = {
    ("resnet", "stem"): DEPENDS,
    ("mobilenet", "two.expand"): DEPENDS,
    ("unet", "down1"): DEPENDS,
    ("llama", "embed"): DEPENDS,
    ("speech", "conv"): "nothing would be left of what GRU reads",
}


@pytest.mark.parametrize(("network", "group"), [(n, g) for n, gs in LEAVES.items() for g in gs])
def test_a_group_of_a_network_leaves(network: str, group: str) -> None:
    model = NETWORKS[network]()
    result = checked(without(model, group))
    assert [(g.name, g.kept) for g in result.plan.groups] == [(group, ())]
    op = LEAVES[network][group]
    before = [n.op_type for n in model.graph.node].count(op)
    assert ops(result).count(op) < before


@pytest.mark.parametrize(("network", "group"), STAYS)
def test_a_group_that_cannot_leave_stays_and_says_why(network: str, group: str) -> None:
    node, reason = refusal(NETWORKS[network](), group)
    assert STAYS[network, group] in reason
    assert node


def test_only_what_cannot_leave_is_refused() -> None:
    """The stem cannot; the block behind it, which was asked for as well, leaves."""
    result = checked(without(NETWORKS["resnet"](), "one.conv1", "stem"))
    assert [(g.name, g.kept) for g in result.plan.groups] == [("one.conv1", ())]
    assert [u.group for u in result.plan.unpruned if DEPENDS in u.reason] == ["stem"]


def test_blocks_leave_beside_thinner_ones() -> None:
    """Attention and layer of one block, half of everything else."""
    result = checked(without(NETWORKS["llama"](), "one.q", "one.gate", channels=0.5, align=1))
    sizes = {g.name: len(g.kept) / g.size for g in result.plan.groups}
    assert sizes == {"one.q": 0, "one.gate": 0, "two.q": 0.5, "two.gate": 0.5}
    assert ops(result).count("Softmax") == 1


@pytest.mark.parametrize(
    ("network", "groups", "settings"),
    [
        ("resnet", ["one.conv1"], {"macs": 0.5}),
        ("resnet", ["one.conv1"], {"params": 0.5, "scope": "global"}),
        ("encoder", ["one.q"], {"channels": 0.5, "head_dims": 0.5}),
        ("encoder", ["one.q", "two.fc1"], {"channels": 0.5, "residual": True}),
        ("convnext", ["one.fc1"], {"channels": 0.5, "residual": True}),
        ("densenet", ["two.conv2"], {"channels": 0.5}),
    ],
)
def test_beside_everything_else(network: str, groups: list[str], settings: dict) -> None:
    result = checked(without(NETWORKS[network](), *groups, align=1, **settings))
    assert [g.name for g in result.plan.groups if not g.kept] == groups
    assert any(0 < len(g.kept) < g.size for g in result.plan.groups)
    if "macs" in settings:
        assert result.report.pruned.macs <= settings["macs"] * result.report.original.macs


# -- what is left of single ops --------------------------------------------------------------------

CONV = {
    "w1": drawn(6, 3, 3, 3, fan_in=27),
    "w2": drawn(5, 6, 3, 3, fan_in=54),
    "b2": drawn(5, fan_in=1),
    "w3": drawn(5, 3, 3, 3, seed=1, fan_in=27),
    "w4": drawn(4, 5, 1, 1, fan_in=5),
}
IMAGE = {"inputs": "float[N, 3, 8, 8] x", "outputs": "float[N, C, H, W] y"}
BRANCHES = """
  a = Conv<pads = [1, 1, 1, 1]>(x, w1)
  b = Relu(a)
  c = Conv<pads = [1, 1, 1, 1]>(b, {second})
  d = Conv<pads = [1, 1, 1, 1]>(x, w3)
  {tail}
"""


def branches(tail: str, bias: bool = True, inner: str = "", **extra: np.ndarray) -> onnx.ModelProto:
    body = BRANCHES.format(second="w2, b2" if bias else "w2", tail=tail)
    body = body.replace("b = Relu(a)", inner or "b = Relu(a)")
    used = {n: v for n, v in {**CONV, **extra}.items() if n in body}
    return from_text(body, used, **IMAGE)


def test_addition_of_a_bias_reads_a_constant() -> None:
    result = checked(without(branches("s = Add(d, c) y = Conv(s, w4)"), "a"))
    assert ops(result) == ["Conv", "Add", "Conv"]
    add = result.model.graph[1]
    assert add.inputs[1].const_value.numpy().shape == (1, 5, 1, 1)
    assert np.array_equal(add.inputs[1].const_value.numpy().reshape(-1), CONV["b2"])


@pytest.mark.parametrize(
    ("tail", "left"),
    [
        ("s = Add(c, d) y = Conv(s, w4)", ["Conv", "Conv"]),
        ("s = Sub(d, c) y = Conv(s, w4)", ["Conv", "Conv"]),
        ("y = Add(c, d)", ["Conv", "Add"]),  # a graph output keeps its name
        ("s = Sub(c, d) y = Conv(s, w4)", ["Conv", "Sub", "Conv"]),
        ("s = Mul(d, c) t = Add(s, d) y = Conv(t, w4)", ["Conv", "Mul", "Add", "Conv"]),
    ],
)
def test_zero(tail: str, left: list[str]) -> None:
    assert ops(checked(without(branches(tail, bias=False), "a"))) == left


def test_a_constant_is_carried_through_norms_and_activations() -> None:
    vectors = {
        n: np.random.default_rng(i).uniform(0.5, 1.5, 5).astype(np.float32)
        for i, n in enumerate(("scale", "shift", "mean", "var"))
    }
    tail = """
      e = BatchNormalization(c, scale, shift, mean, var)
      f = LeakyRelu(e)
      g = Transpose<perm = [0, 2, 3, 1]>(f)
      h = Unsqueeze(g, one)
      i = Squeeze(h, one)
      j = Transpose<perm = [0, 3, 1, 2]>(i)
      s = Add(d, j)
      y = Conv(s, w4)"""
    model = branches(tail, bias=False, **vectors, one=np.array([1]))
    assert ops(checked(without(model, "a"))) == ["Conv", "Add", "Conv"]


def test_whatever_else_reads_a_constant_gets_all_of_it() -> None:
    tail = (
        "e = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c) "
        "f = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(d) s = Add(e, f) y = Conv(s, w4)"
    )
    result = checked(without(branches(tail), "a"))
    assert ops(result).count("Expand") == 1
    assert ops(result).count("Shape") == 1  # the batch is dynamic


def test_of_an_open_size_that_is_no_multiple_nothing_is_written_out() -> None:
    body = BRANCHES.format(
        second="w2, b2",
        tail="e = MaxPool<kernel_shape = [2, 2]>(c) "
        "f = MaxPool<kernel_shape = [2, 2]>(d) s = Add(e, f) y = Conv(s, w4)",
    )
    body = body.replace("c = Conv<pads = [1, 1, 1, 1]>", "c = Conv<pads = [1, 1, 0, 0]>")
    body = body.replace("d = Conv<pads = [1, 1, 1, 1]>", "d = Conv<pads = [1, 1, 0, 0]>")
    model = from_text(body, CONV, inputs="float[N, 3, H0, W0] x", outputs=IMAGE["outputs"])
    node, reason = refusal(model, "a")
    assert node == "e"
    assert "depends on a dynamic dimension" in reason


def test_concat_loses_operands_and_gives_way_to_its_last() -> None:
    body = """
      a = Conv(x, w1)
      b = Conv(x, v1)
      c = Conv(x, u1)
      k = Concat<axis = 1>(a, b, c)
      r = Relu(k)
      y = Conv(r, w)"""
    weights = {
        "w1": drawn(6, 3, 1, 1, fan_in=3),
        "v1": drawn(5, 3, 1, 1, fan_in=3),
        "u1": drawn(4, 3, 1, 1, fan_in=3),
        "w": drawn(3, 15, 1, 1, fan_in=15),
    }
    model = from_text(body, weights, **IMAGE)
    two = checked(without(model, "b"))
    assert ops(two) == ["Conv", "Conv", "Concat", "Relu", "Conv"]
    assert [v.name for v in two.model.graph[2].inputs] == ["a", "c"]
    assert ops(checked(without(model, "a", "b"))) == ["Conv", "Relu", "Conv"]
    assert DEPENDS in next(
        u.reason for u in without(model, "a", "b", "c").plan.unpruned if u.group == "a"
    )


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("pieces", [2, 3])
def test_split_loses_results(opset: int, pieces: int) -> None:
    names = ["p", "q", "r"][:pieces]
    given = ", parts" if opset >= 13 else ""
    attribute = "" if opset >= 13 else ", split = [" + ", ".join(["5"] * pieces) + "]"
    uses = " ".join(f"{n}1 = MatMul({n}, w{n})" for n in names)
    total = "y = Sum(" + ", ".join(f"{n}1" for n in names) + ")"
    body = (
        f"a = MatMul(x, w) {', '.join(names)} = Split<axis = 1{attribute}>(a{given}) {uses} {total}"
    )
    weights = {
        "w": drawn(8, 5 * pieces),
        **{f"w{n}": drawn(5, 4, seed=i) for i, n in enumerate(names)},
    }
    if opset >= 13:
        weights["parts"] = np.array([5] * pieces)
    bench = Bench(from_text(body, weights, opset=opset))
    first = bench.graph.groups[0].name
    result = checked(without(from_text(body, weights, opset=opset), first))
    assert ops(result).count("Split") == (pieces > 2)
    assert ops(result).count("MatMul") == pieces


def test_sizes_of_what_is_gone_are_read_elsewhere() -> None:
    """The shape of the removed branch sizes a reshape of the other one."""
    body = """
      a = MatMul(x, w1)
      b = Relu(a)
      z = Shape(b)
      n = Slice(z, zero, two)
      t = Concat<axis = 0>(n, sizes)
      c = MatMul(x, w3)
      r = Reshape(c, t)
      m = ReduceMean<keepdims = 0>(r, last)
      d = MatMul(b, w2)
      s = Add(d, b2)
      y = Add(m, s)"""
    weights = {
        "w1": drawn(8, 6),
        "w2": drawn(6, 3),
        "w3": drawn(8, 12),
        "b2": drawn(3, fan_in=1),
        "zero": np.array([0]),
        "two": np.array([2]),
        "sizes": np.array([3, 4]),
        "last": np.array([-1]),
    }
    shapes = {"inputs": "float[N, T, 8] x", "outputs": "float[N, T, 3] y"}
    result = checked(without(from_text(body, weights, **shapes), "a"))
    assert "Relu" not in ops(result)
    shapes_read = [n.inputs[0].name for n in result.model.graph if n.op_type == "Shape"]
    assert set(shapes_read) == {"x"}


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_gemm_and_two_outputs_of_the_graph(beta: float) -> None:
    body = f"""
      a = Gemm(x, w1, b1)
      b = Tanh(a)
      c = Gemm<beta = {beta}>(b, w2, b2)
      s = Add(x, c)
      y = MatMul(s, w3)
      z = Relu(x)"""
    weights = {
        "w1": drawn(8, 6),
        "b1": drawn(6, fan_in=1),
        "w2": drawn(6, 8),
        "b2": drawn(8, fan_in=1),
        "w3": drawn(8, 4),
    }
    model = from_text(body, weights, outputs="float[N, 4] y, float[N, 8] z")
    result = checked(without(model, "a"))
    assert ops(result) == ["Add", "MatMul", "Relu"]
    bias = result.model.graph[0].inputs[1].const_value.numpy()
    assert np.allclose(bias, beta * weights["b2"])


def test_conv_transpose_einsum_and_reductions() -> None:
    body = """
      a = Conv(x, w1)
      b = Sigmoid(a)
      c = ConvTranspose(b, up, b2)
      e = Einsum<equation = "nchw,co->nohw">(b, mix)
      f = ReduceSum<keepdims = 1>(b, one)
      g = Add(c, e)
      h = Add(g, f)
      d = Conv(x, w3)
      s = Mul(h, d)
      y = Conv(s, w4)"""
    weights = {
        "w1": drawn(6, 3, 1, 1, fan_in=3),
        "up": drawn(6, 5, 1, 1, fan_in=6),
        "mix": drawn(6, 5),
        "w3": drawn(5, 3, 1, 1, fan_in=3),
        "b2": CONV["b2"],
        "w4": CONV["w4"],
        "one": np.array([1]),
    }
    assert ops(checked(without(from_text(body, weights, **IMAGE), "a"))) == ["Conv", "Mul", "Conv"]


def test_taps_of_two_blocks_in_a_row() -> None:
    """Both additions give way to the same tensor, and both results are read elsewhere."""
    body = """
      h = MatMul(x, w0)
      a = MatMul(h, w1) b = Relu(a) c = MatMul(b, w2) s = Add(h, c)
      d = MatMul(s, v1) e = Relu(d) f = MatMul(e, v2) t = Add(s, f)
      g = Tanh(s)
      i = Mul(t, g)
      y = MatMul(i, w3)"""
    weights = {
        "w0": drawn(8, 8),
        "w1": drawn(8, 6),
        "w2": drawn(6, 8),
        "v1": drawn(8, 6, seed=1),
        "v2": drawn(6, 8, seed=1),
        "w3": drawn(8, 4),
    }
    result = checked(without(from_text(body, weights), "a", "d"))
    assert ops(result) == ["MatMul", "Tanh", "Mul", "MatMul"]


def test_a_body_that_reads_it_keeps_it() -> None:
    body = """
      a = MatMul(x, w1)
      c = ReduceMean<keepdims = 0>(x)
      t = Greater(c, zero)
      b = If(t) <
        then_branch = then () => (p) { p = Relu(a) },
        else_branch = els () => (q) { q = Tanh(a) }
      >
      d = MatMul(b, w2)
      e = MatMul(x, w3)
      y = Add(d, e)"""
    weights = {
        "w1": drawn(8, 6),
        "w2": drawn(6, 4),
        "w3": drawn(8, 4),
        "zero": np.array(0, np.float32),
    }
    model = from_text(body, weights)
    node, reason = refusal(model, "a")
    assert node in ("p", "q")
    assert "body" in reason


# -- options, plans --------------------------------------------------------------------------------


def test_only_single_groups_may_leave_as_a_whole() -> None:
    for settings in (
        {"channels": 0.0},
        {"heads": 0.0},
        {"params": 0.0},
        {"group_ratio": {"a": -0.1}},
    ):
        with pytest.raises(UsageError, match="fraction that remains"):
            graphprune.compile(NETWORKS["resnet"](), **settings)


def test_a_saved_plan_does_the_same(tmp_path) -> None:
    model = NETWORKS["encoder"]()
    result = checked(without(model, "one.q"))
    result.plan.save(tmp_path / "plan.json")
    plan = Plan.load(tmp_path / "plan.json")
    assert plan.sha256 == result.plan.sha256
    again = graphprune.compile(model, plan=plan, bench=False, allow_slower=True)
    one, other = (ir.to_proto(r.model).SerializeToString() for r in (result, again))
    assert one == other
    found = graphprune.verify(model, ir.to_proto(again.model), plan=plan)
    assert found.status == "exact"


def test_nothing_empty_nothing_done() -> None:
    bench = Bench(NETWORKS["resnet"]())
    plan = bench.plan(bench.graph, np.zeros(bench.graph.resolver.classes.count, bool))
    copy = bench.model.clone()
    assert not DropEmptyPass(plan, bench.model)(copy).modified
