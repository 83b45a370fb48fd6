"""The rewriter, one of its promises after the other. (That the numbers are right: tests/rules.)"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from architectures import NETWORKS
from workbench import Bench, drawn, from_text, half, random_counts, removal

from graphprune.cut import Cut
from graphprune.errors import UsageError
from graphprune.passes.prune import PrunePass
from graphprune.passes.sizes import SizeError
from graphprune.plan import InitializerCut, Plan
from models_zoo.builders import micrographs

MODELS = {**NETWORKS, **{n: lambda n=n: micrographs.build(n) for n in micrographs.NAMES}}


def halved(bench: Bench, *, blocks: bool = True, seed: int = 0) -> tuple[ir.Model, Plan]:
    graph = bench.analyse(blocks=blocks)
    plan = bench.plan(graph, removal(graph, {g.name: half(g) for g in graph.groups}, seed))
    return bench.pruned(plan), plan


def named(model: ir.Model, name: str) -> ir.Node:
    return next(n for n in model.graph if name in (n.name, n.outputs[0].name))


def contents(model: ir.Model, name: str) -> list[int]:
    return model.graph.initializers[name].const_value.numpy().tolist()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("blocks", [True, False])
def test_what_is_written_is_a_valid_model_of_the_same_face(name: str, blocks: bool) -> None:
    bench = Bench(MODELS[name]())
    pruned, plan = halved(bench, blocks=blocks)
    assert plan.tensors
    before, after = ir.to_proto(bench.model), ir.to_proto(pruned)
    onnx.checker.check_model(after, full_check=True)
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output
    assert after.opset_import == before.opset_import
    assert after.ir_version == before.ir_version
    assert after.ByteSize() < before.ByteSize()
    for binding in (0, 1):
        old, new = bench.run(binding=binding), bench.run(pruned, binding)
        assert {n: a.shape for n, a in old.items()} == {n: a.shape for n, a in new.items()}


@pytest.mark.parametrize("name", MODELS)
def test_nodes_keep_their_order_names_and_wiring(name: str) -> None:
    """New nodes are only those that patch computed sizes, in front of their reader."""
    bench = Bench(MODELS[name]())
    pruned, _ = halved(bench)
    old = {n.name: n for n in bench.model.graph}
    kept = [n for n in pruned.graph if n.name in old]
    assert [n.name for n in kept] == [n for n in old if n in {k.name for k in kept}]
    for node in pruned.graph:
        if node.name not in old:
            assert node.name.endswith("_kept") or "_kept_" in node.name
            assert node.op_type in ("Concat", "Mul", "Div")
            assert node.outputs[0].dtype == ir.DataType.INT64
            continue
        other = old[node.name]
        assert node.op_type == other.op_type
        assert [v.name for v in node.outputs] == [v.name for v in other.outputs]
        for new, was in zip(node.inputs, other.inputs, strict=True):
            if was is not None and not was.is_initializer() and was.producer() is not None:
                assert new is not None
                if new.name != was.name:
                    assert "_kept" in (new.name or ""), (node.name, was.name, new.name)


def test_slices_are_made_when_they_are_read() -> None:
    bench = Bench(NETWORKS["resnet"]())
    reads = []
    tensor = bench.model.graph.initializers["two.conv1.weight"].const_value

    class Watched(ir.LazyTensor):
        pass

    def load() -> ir.TensorProtocol:
        reads.append("two.conv1.weight")
        return ir.tensor(tensor.numpy())

    watched = Watched(load, tensor.dtype, ir.Shape(tensor.shape.numpy()), name="two.conv1.weight")
    bench.model.graph.initializers["two.conv1.weight"].const_value = watched
    counts = {"stem": (8,), "two.conv1": (10,)}
    plan = bench.plan(bench.graph, removal(bench.graph, counts))
    reads.clear()
    pruned = bench.pruned(plan)
    assert reads == []
    value = pruned.graph.initializers["two.conv1.weight"]
    assert list(value.shape) == [10, 8, 3, 3]
    assert reads == []
    assert value.const_value.numpy().shape == (10, 8, 3, 3)
    assert reads == ["two.conv1.weight"]


def test_weights_are_the_kept_rows_and_columns() -> None:
    bench = Bench(NETWORKS["resnet"]())
    pruned, plan = halved(bench)
    for use in plan.initializers:
        array = bench.weights[use.initializer]
        for cut in use.cuts:
            array = np.take(array, cut.kept, axis=cut.axis)
        node = named(pruned, use.node)
        value = node.inputs[use.input]
        assert value.name == use.initializer
        assert (value.const_value.numpy() == array).all()
        assert list(value.shape) == list(array.shape)


def test_the_model_it_was_cloned_from_is_not_touched() -> None:
    bench = Bench(NETWORKS["encoder"]())
    before = ir.to_proto(bench.model).SerializeToString(deterministic=True)
    halved(bench)
    assert ir.to_proto(bench.model).SerializeToString(deterministic=True) == before


# -- sharing ---------------------------------------------------------------------------------------

TWICE = "h = MatMul (x, w) r = Relu (h) g = MatMul (r, w) s = Relu (g) y = MatMul (s, v)"


def test_uses_that_keep_different_elements_get_copies_of_their_own() -> None:
    bench = Bench(from_text(TWICE, {"w": drawn(8, 8), "v": drawn(8, 4)}))
    counts = {"h": (3,), "g": (5,)}
    pruned = bench.pruned(bench.plan(bench.graph, removal(bench.graph, counts)))
    shapes = {n: list(v.shape) for n, v in pruned.graph.initializers.items()}
    first, second = named(pruned, "h").inputs[1].name, named(pruned, "g").inputs[1].name
    assert first != second
    assert (shapes[first], shapes[second]) == ([8, 3], [3, 5])
    assert "w" in (first, second), "one of them keeps the name"
    assert len(shapes) == 3


def test_uses_that_keep_the_same_share_one_copy() -> None:
    body = (
        "x = MatMul (z, u) h = MatMul (x, w) r = Add (x, h) g = MatMul (r, w) s = Add (r, g) "
        "y = MatMul (s, v)"
    )
    weights = {"u": drawn(5, 8), "w": drawn(8, 8), "v": drawn(8, 4)}
    bench = Bench(from_text(body, weights, inputs="float[N, 5] z"))
    (group,) = bench.graph.groups
    pruned = bench.pruned(bench.plan(bench.graph, removal(bench.graph, {group.name: (5,)})))
    assert named(pruned, "h").inputs[1] is named(pruned, "g").inputs[1]
    assert {n: list(v.shape) for n, v in pruned.graph.initializers.items()} == {
        "u": [5, 5],
        "w": [5, 5],
        "v": [5, 4],
    }


def test_a_use_that_is_not_cut_keeps_the_original() -> None:
    body = "h = MatMul (x, w) r = Relu (h) y0 = MatMul (r, v) z = MatMul (x, w) y = Add (y0, z)"
    bench = Bench(from_text(body, {"w": drawn(8, 6), "v": drawn(6, 6, seed=1)}))
    (group,) = bench.graph.groups
    pruned = bench.pruned(bench.plan(bench.graph, removal(bench.graph, {group.name: (2,)})))
    assert named(pruned, "z").inputs[1].name == "w"
    assert named(pruned, "h").inputs[1].name == "w_kept"
    assert list(pruned.graph.initializers["w"].shape) == [8, 6]
    assert list(pruned.graph.initializers["w_kept"].shape) == [8, 2]


def test_an_initializer_that_is_an_output_of_the_graph_stays() -> None:
    proto = from_text(
        "h = MatMul (x, w) r = Relu (h) y = MatMul (r, v)", {"w": drawn(8, 6), "v": drawn(6, 4)}
    )
    proto.graph.output.append(onnx.helper.make_tensor_value_info("w", 1, [8, 6]))
    bench = Bench(proto)
    (group,) = bench.graph.groups
    pruned = bench.pruned(bench.plan(bench.graph, removal(bench.graph, {group.name: (2,)})))
    onnx.checker.check_model(ir.to_proto(pruned), full_check=True)
    assert [v.name for v in pruned.graph.outputs] == ["y", "w"]
    assert (bench.run(pruned)["w"] == drawn(8, 6)).all()


def test_new_names_are_free_everywhere() -> None:
    """A tensor, a node or something in a body may already have the name a copy would get."""
    body = (
        "w_kept = MatMul (x, w) r = Relu (w_kept) y0 = MatMul (r, v) z = MatMul (x, w) "
        "c = Constant <value = bool {1}> () "
        "i = If (c) <then_branch = t () => (float[N, 6] w_kept_2) { w_kept_2 = Tanh (z) }, "
        "else_branch = e () => (float[N, 6] b) { b = Relu (z) }> y = Add (y0, i)"
    )
    bench = Bench(from_text(body, {"w": drawn(8, 6), "v": drawn(6, 6, seed=1)}))
    (group,) = bench.graph.groups
    pruned = bench.pruned(bench.plan(bench.graph, removal(bench.graph, {group.name: (2,)})))
    onnx.checker.check_model(ir.to_proto(pruned), full_check=True)
    assert set(pruned.graph.initializers) == {"w", "w_kept_3", "v", "c"}
    assert bench.run(pruned)["y"].shape == bench.run()["y"].shape


# -- sizes -----------------------------------------------------------------------------------------


def test_a_constant_that_holds_sizes_is_copied_where_others_need_the_old_one() -> None:
    """Two Reshape share one constant; only one of their tensors gets shorter."""
    body = (
        "h = MatMul (x, w) r = Reshape (h, s) t = MatMul (r, c) q = Reshape (t, f) "
        "z = MatMul (q, v) k = MatMul (x, u) p = Reshape (k, s) e = Softmax <axis = 1> (p) "
        "m = Softmax <axis = 2> (e) o = MatMul (m, d) n = ReduceSum <keepdims = 0> (o, one) "
        "y = Add (z, n)"
    )
    weights = {
        "w": drawn(8, 12),
        "u": drawn(8, 12, seed=1),
        "c": drawn(3, 5),
        "d": drawn(3, 4),
        "v": drawn(20, 4),
        "s": np.array([0, 4, 3]),
        "f": np.array([0, 20]),
        "one": np.array([1]),
    }
    bench = Bench(from_text(body, weights))
    pruned, plan = halved(bench, blocks=False)
    assert {"h", "r", "t", "q"} <= set(plan.tensors)
    assert "k" not in plan.tensors
    assert named(pruned, "r").inputs[1].name != "s"
    assert named(pruned, "p").inputs[1].name == "s"
    assert contents(pruned, "s") == [0, 4, 3]
    (cut,) = plan.tensors["r"]
    assert contents(pruned, named(pruned, "r").inputs[1].name) == [0, 4, cut.count]
    assert bench.run(pruned)["y"].shape == bench.run()["y"].shape


def test_equal_new_constants_are_shared() -> None:
    bench = Bench(NETWORKS["llama"]())
    pruned, _ = halved(bench)
    constants = [n for n in pruned.graph.initializers if "size_kept" in n]
    arrays = [tuple(contents(pruned, n)) for n in constants]
    assert constants
    assert len(set(arrays)) == len(arrays)


def test_attributes_follow() -> None:
    bench = Bench(micrographs.build("depthwise_multiplier"))
    pruned, _ = halved(bench)
    assert [n.attributes["group"].as_int() for n in pruned.graph if n.op_type == "Conv"] == [
        1,
        8,
        1,
    ]
    bench = Bench(micrographs.build("lstm_linear"))
    pruned, _ = halved(bench)
    (lstm,) = [n for n in pruned.graph if n.op_type == "LSTM"]
    assert lstm.attributes["hidden_size"].as_int() == 16


def test_computed_sizes_stay_computed() -> None:
    """Shape -> Slice -> Concat -> Reshape: batch and time stay dynamic, the heads are patched."""
    bench = Bench(NETWORKS["encoder"]())
    pruned, _ = halved(bench)
    reshape = named(pruned, next(n.name for n in bench.model.graph if n.op_type == "Reshape"))
    concat = reshape.inputs[1].producer()
    assert concat.op_type == "Concat"
    assert concat.name in {n.name for n in bench.model.graph}, "its only reader wants it so"
    dynamic, static = concat.inputs[:2], concat.inputs[2:]
    assert all(v.producer().op_type == "Slice" for v in dynamic)
    assert [v.const_value.numpy().tolist() for v in static] == [[2], [8]]


SCALED = (
    "h = Conv (x, w) s = Shape (h) a = Gather (s, one) b = Gather (s, two) n = {size} "
    "f = Cast <to = 1> (n) d = Div (h, f) y = Conv (d, v)"
)


def scaled(size: str) -> Bench:
    weights = {
        "w": drawn(8, 3, 1, fan_in=3),
        "v": drawn(4, 8, 1, fan_in=8),
        "one": np.array(1),
        "two": np.array(2),
    }
    inputs, outputs = "float[N, 3, T] x", "float[N, 4, T] y"
    body = SCALED.format(size=size)
    return Bench(from_text(body, weights, inputs=inputs, outputs=outputs))


def test_scalars_computed_from_a_pruned_size_keep_their_value() -> None:
    """A mean's divisor or an attention's 1 / sqrt(d) is data, not a size."""
    bench = scaled("Identity (a)")
    pruned, _ = halved(bench)
    cast = named(pruned, "d").inputs[1]
    numbers = [v for v in pruned.graph.initializers.values() if v.const_value.size == 1]
    assert any(float(v.const_value.numpy()) == 8 for v in numbers)
    assert cast is not None


@pytest.mark.parametrize(("kept", "added"), [(4, ["Mul"]), (6, ["Mul", "Div"]), (2, ["Mul"])])
def test_dynamic_scalars_are_scaled_back(kept: int, added: list[str]) -> None:
    """Channels times time as a divisor: the time is dynamic, the channels are those of before."""
    bench = scaled("Mul (a, b)")
    plan = bench.plan(bench.graph, removal(bench.graph, {"h": (kept,)}))
    pruned = bench.pruned(plan)
    assert [n.op_type for n in pruned.graph if "_kept" in (n.name or "")] == added
    constant = scaled("Identity (a)")  # the same network divided by the channels alone
    other = constant.pruned(constant.plan(constant.graph, removal(constant.graph, {"h": (kept,)})))
    for binding in (0, 1):
        time = bench.bindings[binding]["T"]
        found, expected = bench.run(pruned, binding)["y"], constant.run(other, binding)["y"]
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(found * time, expected, rtol=1e-4, atol=1e-7)


def test_what_no_factor_describes_is_refused_with_the_node() -> None:
    bench = scaled("Add (a, b)")
    with pytest.raises(SizeError, match="factor") as error:
        halved(bench)
    assert error.value.node in ("d", "f")


def test_shapes_in_the_file_are_shortened() -> None:
    proto = micrographs.build("grouped_conv")
    proto = onnx.shape_inference.infer_shapes(proto)
    bench = Bench(proto)
    pruned, plan = halved(bench)
    assert plan.tensors
    for node in pruned.graph:
        for value in node.outputs:
            cuts = plan.tensors.get(value.name)
            if cuts and value.shape is not None:
                assert value.shape[cuts[0].axis] == cuts[0].count
                assert isinstance(value.shape[0], ir.SymbolicDim)
    onnx.checker.check_model(ir.to_proto(pruned), full_check=True)


def test_what_nothing_reads_any_more_is_gone_and_the_rest_stays() -> None:
    proto = from_text(
        "h = MatMul (x, w) r = Reshape (h, s) q = Reshape (r, f) z = Relu (q) y = MatMul (z, v) "
        "unread = Relu (h)",
        {
            "w": drawn(8, 6),
            "v": drawn(6, 4),
            "s": np.array([0, 3, 2]),
            "f": np.array([0, 6]),
            "spare": drawn(3),
        },
    )
    bench = Bench(proto)
    bench.model.graph.register_initializer(
        ir.Value(name="loose", const_value=ir.tensor(drawn(2)), shape=ir.Shape([2]))
    )
    pruned, _ = halved(bench, blocks=False)
    names = set(pruned.graph.initializers)
    assert "s" not in names
    assert "f" not in names
    assert "loose" in names, "it was never read: not ours to remove"
    assert "unread" in {n.outputs[0].name for n in pruned.graph}


# -- plans from outside ----------------------------------------------------------------------------


def test_an_empty_plan_changes_nothing() -> None:
    bench = Bench(NETWORKS["resnet"]())
    plan = Plan("", (), {}, ())
    result = PrunePass(plan)(bench.model.clone())
    assert not result.modified


@pytest.mark.parametrize(
    ("plan", "word"),
    [
        (Plan("", (), {"gone": (Cut(0, 2, np.array([0])),)}, ()), "'gone'"),
        (
            Plan("", (), {}, (InitializerCut("w", "gone", 1, (Cut(0, 2, np.array([0])),)),)),
            "'gone'",
        ),
        (
            Plan(
                "", (), {}, (InitializerCut("stem.bias", "conv_0", 1, (Cut(0, 2, np.array([0])),)),)
            ),
            "'stem.bias'",
        ),
    ],
)
def test_plans_that_name_what_is_not_there_are_refused(plan: Plan, word: str) -> None:
    bench = Bench(NETWORKS["resnet"]())
    with pytest.raises(UsageError, match=word):
        PrunePass(plan)(bench.model)


@pytest.mark.parametrize("axis", [1, 0, 5])
def test_plans_of_another_size_are_refused(axis: int) -> None:
    bench = Bench(NETWORKS["resnet"]())
    cut = Cut(axis, 99, np.array([3, 98]))
    for plan in (
        Plan("", (), {"conv_0": (cut,)}, ()),
        Plan("", (), {}, (InitializerCut("stem.weight", "conv_0", 1, (cut,)),)),
    ):
        with pytest.raises(UsageError, match="and not 99"):
            PrunePass(plan)(bench.model)


def test_bindings_are_found_where_none_are_given() -> None:
    bench = Bench(NETWORKS["encoder"]())
    counts = random_counts(bench.graph.groups, np.random.default_rng(0))
    plan = bench.plan(bench.graph, removal(bench.graph, counts))
    alone = bench.model.clone()
    PrunePass(plan)(alone)
    given = ir.to_proto(bench.pruned(plan)).SerializeToString(deterministic=True)
    assert ir.to_proto(alone).SerializeToString(deterministic=True) == given


def test_it_composes_with_other_passes() -> None:
    bench = Bench(NETWORKS["resnet"]())
    plan = bench.plan(bench.graph, removal(bench.graph, {"stem": (4,)}))
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    model = bench.model.clone()
    ir.passes.Sequential(PrunePass(plan), RemoveUnusedNodesPass())(model)
    assert list(model.graph.initializers["stem.weight"].shape) == [4, 3, 3, 3]
