"""The interpreter against onnxruntime: every op, real models, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from audit import Subject, all_cases, rng_for
from workbench import drawn, from_text

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

from graphprune import zoo  # noqa: E402
from graphprune.distill.module import OnnxModule  # noqa: E402
from graphprune.distill.ops import OPS  # noqa: E402
from graphprune.errors import UnsupportedModelError  # noqa: E402
from graphprune.onnx.canonical import canonicalise  # noqa: E402
from graphprune.onnx.feeds import random_feeds  # noqa: E402
from graphprune.onnx.load import load  # noqa: E402
from graphprune.onnx.runtime import Session  # noqa: E402
from graphprune.onnx.shapes import default_bindings  # noqa: E402

REFUSED = {
    "attention.scores_out": "it gives its scores",
    "attention.external_cache[nonpad]": "lengths of padded keys",
    "elementwise.integers[BitShift]": "UInt32",
    "elementwise.integers[Mod]": "UInt32",
    "elementwise.integers[Mod-scalar]": "UInt32",
    "elementwise.other_floats[float16]": "single precision",
    "gather.positions_of_a_dynamic_length": "single precision",
    "normalization.batch_norm_training": "training_mode",
    "pool.max_pool_indices": "positions of the maxima",
}
"""Cases of known ops that are refused, and a part of the reason."""

NO_CASE = {
    ("", "BitwiseAnd"),
    ("", "BitwiseOr"),
    ("", "BitwiseXor"),
}
"""Ops that no case of this run uses (see `test_every_op_is_run`)."""


def as_tensors(feeds: Any) -> dict[str, Any]:
    return {name: torch.from_numpy(np.array(array)) for name, array in feeds.items()}


def error_of(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest error relative to the largest magnitude; infinite where NaN or infinity differ."""
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    usable = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~usable], b[~usable], equal_nan=True):
        return np.inf
    scale = max(float(np.abs(b[usable]).max(initial=0.0)), 1e-2)
    return float(np.abs(a[usable] - b[usable]).max(initial=0.0)) / scale


def ops_of(model: ir.Model) -> set[tuple[str, str]]:
    return {
        ("" if n.domain == "ai.onnx" else n.domain, n.op_type)
        for n in ir.traversal.RecursiveGraphIterator(model.graph)
    }


FAMILIES = sorted({case.family for case in all_cases().values()})
SUPPORTED = {*OPS, ("", "If")}


@pytest.mark.parametrize("family", FAMILIES)
def test_ops_give_what_onnxruntime_gives(family: str) -> None:
    ran = 0
    for name, case in all_cases().items():
        if case.family == family:
            ran += compared(name)
    assert ran or family in ("control_flow", "quant")


def compared(name: str) -> bool:
    """Run one case in both; False where it is refused, as it should be."""
    example = all_cases()[name].build(rng_for(name, 0))
    subject = Subject(example)
    if ops_of(subject.model) - SUPPORTED:
        with pytest.raises(UnsupportedModelError, match=r"node '\S+' \(.*has no gradient here"):
            OnnxModule(subject.model)
        return False
    feeds = subject.feeds(subject.shapes[-1], 0)
    refused = next((r for start, r in REFUSED.items() if name.startswith(start)), "")
    if refused:
        with pytest.raises(UnsupportedModelError, match=refused):
            OnnxModule(subject.model)(as_tensors(feeds))
        return False
    with torch.no_grad():
        found = OnnxModule(subject.model)(as_tensors(feeds))
    wanted = subject._run(subject.model, feeds, (), "the model")
    assert set(found) == set(wanted), name
    for value, array in wanted.items():
        result = found[value].numpy()
        assert (result.shape, result.dtype) == (array.shape, array.dtype), name
        assert error_of(result, array) <= max(example.tolerance, 2e-5), name
    return True


def test_every_op_has_a_case() -> None:
    used: set[tuple[str, str]] = set()
    for name, case in all_cases().items():
        used.update(
            ("" if d == "ai.onnx" else d, op) for d, op, _ in case.build(rng_for(name, 0)).ops
        )
    assert set(OPS) - used - NO_CASE == set()


@pytest.mark.parametrize("name", zoo.names())
def test_a_real_model(name: str) -> None:
    entry = zoo.get(name)
    model = canonicalise(load(str(entry.path)).model)
    feeds = {n: a[:4] if n in ("pixels", "x") else a for n, a in entry.calibration()[0].items()}
    with Session(model) as session:
        wanted = session.run(feeds)
    module = OnnxModule(model)
    found = module(as_tensors(feeds))
    for value, array in wanted.items():
        assert error_of(found[value].detach().numpy(), array) < 1e-4
    sum(v.square().sum() for v in found.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in module.weights.values())
    assert sum(float(p.grad.abs().sum()) > 0 for p in module.weights.values()) >= 10


def shared() -> ir.Model:
    """One weight used twice, constants of all kinds, shape arithmetic."""
    proto = from_text(
        "h = MatMul (x, w) h2 = MatMul (h, w) p = Pow (h2, two) c = Clip (p, low, high)"
        " s = Shape (x) one = Gather (s, first) a = Add (c, mask) z = Mul (a, tiny)"
        " t = MatMul (z, last) y = Add (t, bias)",
        {
            "w": drawn(8, 8),
            "two": np.array([2.0], np.float32),
            "low": np.array(0.01, np.float32),
            "high": np.array(9.0, np.float32),
            "first": np.array([0]),
            "mask": np.array([0, 0, 0, 0, 0, 0, 0, -1e9], np.float32),
            "tiny": np.array([0.5], np.float32),
            "last": drawn(8, 1),
            "bias": np.array([0.25], np.float32),
        },
        outputs="float[N, 1] y",
    )
    return canonicalise(load(proto).model)


def test_parameters_are_the_weights() -> None:
    module = OnnxModule(shared())
    assert sorted(module.weights) == ["last", "w"]
    assert len(list(module.parameters())) == 2


def test_the_bias_of_one_output_is_a_weight() -> None:
    proto = from_text(
        "y = Gemm (x, w, b)",
        {"w": drawn(8, 1), "b": np.array([0.5], np.float32)},
        outputs="float[N, 1] y",
    )
    assert sorted(OnnxModule(canonicalise(load(proto).model)).weights) == ["b", "w"]


def test_gradients_are_what_onnxruntime_feels() -> None:
    """The weight is changed in the file; the change of the output is the derivative's."""
    model = canonicalise(load(str(zoo.get("resnet-fashion").path)).model)
    feeds = {"pixels": zoo.get("resnet-fashion").calibration()[0]["pixels"][:2]}
    module = OnnxModule(model)
    output = next(iter(module(as_tensors(feeds)).values()))
    weight = next(p for n, p in module.weights.items() if p.ndim == 4 and p.shape[1] > 1)
    name = next(n for n, p in module.weights.items() if p is weight)
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    step = 1e-3 * weight.detach().norm() / direction.norm()
    v = torch.linspace(-1, 1, output.numel()).reshape(output.shape)
    (output * v).sum().backward()
    expected = float((weight.grad * direction).sum())

    def run(sign: float) -> float:
        copy = model.clone()
        moved = {name: weight.detach() + sign * step * direction}
        module.write_back(copy, moved)
        with Session(copy) as session:
            found = next(iter(session.run(feeds).values()))
        return float((found.astype(np.float64) * v.numpy()).sum())

    assert (run(1) - run(-1)) / (2 * float(step)) == pytest.approx(expected, rel=2e-2)


def test_values_by_name_and_operands_of_single_uses() -> None:
    model = shared()
    module = OnnxModule(model)
    feeds = as_tensors(random_feeds(model, default_bindings(model)[0], 0))
    plain = module(feeds, ["h", "h2"])
    assert list(plain) == ["h", "h2"]
    first = next(iter(model.graph))
    other = module(
        feeds, ["h", "h2"], {(first.name or "h", 1): torch.zeros_like(module.weights["w"])}
    )
    assert not other["h"].any()
    second = list(model.graph)[1]
    own = {(second.name or "h2", 1): torch.zeros_like(module.weights["w"])}
    other = module(feeds, ["h", "h2"], own)
    assert torch.equal(other["h"], plain["h"])
    assert not other["h2"].any()


def test_an_if_takes_its_branch() -> None:
    proto = from_text(
        "c = Identity (yes) y = If (c) <then_branch = a () => (float[N, 8] p) { p = MatMul (x, w) },"
        " else_branch = b () => (float[N, 8] q) { q = Relu (x) }>",
        {"w": drawn(8, 8)},
        inputs="float[N, 8] x, bool yes",
        outputs="float[N, 8] y",
    )
    model = canonicalise(load(proto).model)
    module = OnnxModule(model)
    x = drawn(3, 8, seed=5)
    for yes in (True, False):
        feeds = {"x": x, "yes": np.array(yes)}
        with Session(model) as session:
            wanted = session.run(feeds)["y"]
        found = module(as_tensors(feeds))["y"]
        assert error_of(found.detach().numpy(), wanted) < 1e-5


@pytest.mark.parametrize(
    "attributes",
    [
        "",
        "strides = [2, 1], pads = [2, 0, 2, 0]",
        "dilations = [2, 3], pads = [1, 0, 3, 0]",
        "group = 2",
        'auto_pad = "SAME_UPPER"',
        "pads = [0, 1, 0, 1]",  # a column that becomes three wide
    ],
)
def test_convolutions_of_a_column(attributes: str) -> None:
    width = 4 if "group" not in attributes else 2
    weights = {"w": drawn(6, width, 3, 1, fan_in=9), "b": drawn(6)}
    model = load(
        from_text(
            f"y = Conv <{attributes}> (x, w, b)" if attributes else "y = Conv (x, w, b)",
            weights,
            inputs="float[N, 4, 11, 1] x",
            outputs="float[N, 6, A, B] y",
        )
    ).model
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 4, 11, 1)).astype(np.float32)}
    with Session(model) as session:
        wanted = session.run(feeds)["y"]
    found = OnnxModule(model)(as_tensors(feeds))["y"]
    assert tuple(found.shape) == wanted.shape
    assert error_of(found.detach().numpy(), wanted) < 1e-5


def test_a_node_that_fails_is_named() -> None:
    model = shared()
    with pytest.raises(UnsupportedModelError, match=r"node 'h' \(MatMul\) cannot be run in torch"):
        OnnxModule(model)({"x": torch.zeros(2, 3)})
