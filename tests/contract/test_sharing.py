"""Weights that were stored once are stored once, unless their uses keep different elements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from workbench import drawn, from_text

import graphprune
from graphprune.onnx.save import save
from models_zoo.builders import micrographs


def compiled(model: onnx.ModelProto, **settings) -> graphprune.Result:
    result = graphprune.compile(model, **{"channels": 0.5, "align": 1, "bench": False, **settings})
    assert result.report.certificate["status"] == "exact"
    return result


def written(result: graphprune.Result, path: Path) -> onnx.ModelProto:
    save(result.model, path / "out.onnx")
    return onnx.load(path / "out.onnx")


def floats(model: onnx.ModelProto) -> int:
    return sum(np.prod(i.dims) for i in model.graph.initializer if i.data_type == 1)


@pytest.mark.parametrize("ratio", [0.5, 0.9])
def test_a_tied_embedding_stays_tied(ratio: float, tmp_path: Path) -> None:
    """Table and head are one tensor, before and after, and the file gets smaller at any ratio."""
    model = micrographs.build("tied_embedding")
    result = compiled(model, channels=ratio)
    proto = written(result, tmp_path)
    tables = [i for i in proto.graph.initializer if 50 in i.dims]
    assert len(tables) == 1
    readers = {n.op_type for n in proto.graph.node if tables[0].name in n.input}
    assert readers == {"Gather", "Transpose"}
    assert tables[0].dims[1] < 32
    assert (tmp_path / "out.onnx").stat().st_size < len(model.SerializeToString())
    assert result.report.original.params == floats(model)
    assert result.report.pruned.params == floats(proto)


def test_equal_weights_that_were_shared_are_shared_where_cut_alike(tmp_path: Path) -> None:
    """Norms with one bias of zeros for all, as exporters store them."""
    body = (
        "h = Conv (x, w1) a = BatchNormalization (h, s, z, z, o) r = Relu (a) k = Conv (r, w2) "
        "b = BatchNormalization (k, s2, z, z, o) t = Add (a, b) e = Relu (t) y = Conv (e, w3)"
    )
    weights = {
        "w1": drawn(12, 3, 1, 1, fan_in=3),
        "w2": drawn(12, 12, 1, 1, fan_in=12),
        "w3": drawn(4, 12, 1, 1, fan_in=12),
        "s": np.linspace(0.5, 1.5, 12, dtype=np.float32),
        "s2": np.linspace(1.5, 0.7, 12, dtype=np.float32),
        "z": np.full(12, 0.1, np.float32),
        "o": np.full(12, 0.9, np.float32),
    }
    inputs, outputs = "float[N, 3, 4, 4] x", "float[N, 4, 4, 4] y"
    proto = written(compiled(from_text(body, weights, inputs=inputs, outputs=outputs)), tmp_path)
    assert {i.name for i in proto.graph.initializer} == set(weights)
    assert all(6 in i.dims for i in proto.graph.initializer)


def test_equal_weights_that_are_cut_differently_are_copied_once_for_each_cut(
    tmp_path: Path,
) -> None:
    body = "h = Conv (x, w1, z) r = Relu (h) k = Conv (r, w2, z) e = Relu (k) y = Conv (e, w3)"
    rng = np.random.default_rng(0)
    weights = {
        "w1": drawn(12, 3, 1, 1, fan_in=3),
        "w2": rng.permutation(drawn(12, 12, 1, 1, fan_in=12)),
        "w3": drawn(4, 12, 1, 1, fan_in=12),
        "z": np.linspace(0.1, 1, 12, dtype=np.float32),
    }
    inputs, outputs = "float[N, 3, 4, 4] x", "float[N, 4, 4, 4] y"
    result = compiled(from_text(body, weights, inputs=inputs, outputs=outputs))
    proto = written(result, tmp_path)
    biases = [i for i in proto.graph.initializer if list(i.dims) == [6]]
    cuts = {u.cuts[0].kept.tobytes() for u in result.plan.initializers if u.initializer == "z"}
    assert len(biases) == len(cuts) == 2
    assert "z" in {i.name for i in biases}


def test_weights_behind_identity_nodes_stay_shared(tmp_path: Path) -> None:
    """torch's exporter stores equal initializers once and points at them through Identity."""
    body = (
        "z1 = Identity (z) z2 = Identity (z) h = MatMul (x, w1) a = Add (h, z1) r = Relu (a) "
        "k = MatMul (r, w2) s = Add (r, k) b = Add (s, z2) e = Relu (b) y = MatMul (e, w3)"
    )
    weights = {
        "w1": drawn(8, 400),
        "w2": drawn(400, 400),
        "w3": drawn(400, 4),
        "z": np.linspace(0.1, 1, 400, dtype=np.float32),
    }
    model = from_text(body, weights)
    proto = written(compiled(model, channels=0.75), tmp_path)
    assert {i.name for i in proto.graph.initializer} == set(weights)
    assert (tmp_path / "out.onnx").stat().st_size < len(model.SerializeToString())


def test_layers_that_share_a_transposed_weight_share_it_still(tmp_path: Path) -> None:
    """ALBERT: one layer's weights used by all, each time behind a Transpose of its own."""
    steps, h = "", "h0"
    for i in range(4):
        steps += f"t{i} = Transpose <perm = [1, 0]> (w) m{i} = MatMul ({h}, t{i}) "
        steps += f"r{i} = Relu (m{i}) h{i + 1} = Add ({h}, r{i}) "
        h = f"h{i + 1}"
    body = f"h0 = MatMul (x, u) {steps} y = MatMul ({h}, v)"
    weights = {"u": drawn(8, 64), "w": drawn(64, 64), "v": drawn(64, 4)}
    model = from_text(body, weights)
    proto = written(compiled(model), tmp_path)
    assert sorted(tuple(i.dims) for i in proto.graph.initializer) == [(8, 32), (32, 4), (32, 32)]


def test_shape_constants_are_copied_on_write(tmp_path: Path) -> None:
    """All Reshape of a block read one constant; each gets the sizes of its own tensor."""
    body = (
        "h = MatMul (x, w) r = Reshape (h, s) c = MatMul (r, k) f = Reshape (c, t) "
        "a = MatMul (f, v) p = Reshape (x, s2) q = ReduceSum <keepdims = 0> (p, one) "
        "q1 = MatMul (q, o) y = Add (a, q1)"
    )
    weights = {
        "w": drawn(8, 8),
        "k": drawn(2, 6),
        "v": drawn(24, 4),
        "o": drawn(2, 4),
        "s": np.array([0, 4, 2]),
        "s2": np.array([0, 4, 2]),
        "t": np.array([0, 24]),
        "one": np.array([1]),
    }
    body = body.replace("s2", "s")
    model = from_text(body, {n: a for n, a in weights.items() if n != "s2"})
    proto = written(compiled(model), tmp_path)
    arrays = {i.name: onnx.numpy_helper.to_array(i) for i in proto.graph.initializer}
    nodes = {n.output[0]: n for n in proto.graph.node}
    assert arrays[nodes["p"].input[1]].tolist() == [0, 4, 2]
    changed = [n for n in ("r", "f") if nodes[n].input[1] not in ("s", "t")]
    assert changed
    onnx.checker.check_model(proto, full_check=True)


def test_repeated_compiles_do_not_pile_up() -> None:
    """Pruning what was pruned already adds no copies, no renamed weights and no second stamp."""
    first = compiled(micrographs.build("unfused_attention"), channels=0.75)
    second = compiled(ir.to_proto(first.model), channels=0.5)
    names = [set(r.model.graph.initializers) for r in (first, second)]
    assert len(names[1]) <= len(names[0])
    keys = [k for k in second.model.metadata_props if k.startswith("graphprune.")]
    assert len(keys) == 3
    assert second.model.metadata_props["graphprune.plan_sha256"] == second.plan.sha256
