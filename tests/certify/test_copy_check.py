"""The canonical copy is the model, and where it is not, that is found."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphprune
from graphprune.certify.certificate import Certificate
from graphprune.certify.copy_check import CopyCheck, check_copy, require_copy, with_copy
from graphprune.errors import CertificateError
from graphprune.onnx.canonical import canonicalise
from graphprune.onnx.runtime import Trial, find_trials
from graphprune.stages import prove, read

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def model(text: str, weights: dict[str, np.ndarray]) -> ir.Model:
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> g {text}')
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def checked(source: ir.Model, copy: ir.Model) -> CopyCheck:
    return check_copy(source, copy, find_trials(copy))


I64 = np.int64
SOURCES = {
    "folded": model(
        "(float[N, 8] x) => (float[N, 6] y) { e = Exp (w) t = Transpose <perm = [1, 0]> (e) "
        "y = MatMul (x, t) }",
        {"w": normal(6, 8)},
    ),
    "shuffled": model(
        "(float[N, 8, 4, 4] x) => (float[N, 8, 4, 4] y) { a = Reshape (x, s) "
        "b = Transpose <perm = [0, 2, 1, 3, 4]> (a) c = Reshape (b, t) y = Conv (c, w) }",
        {
            "s": np.array([-1, 2, 4, 4, 4], I64),
            "t": np.array([-1, 8, 4, 4], I64),
            "w": normal(8, 8, 1, 1),
        },
    ),
    "a Gather that changes nothing": model(
        "(float[N, 8] x) => (float[N, 4] y) { h = MatMul (x, w) s = Shape (h) n = Gather (s, zero) "
        "m = Mul (n, six) r = Range (zero, m, one) e = Unsqueeze (six, axis) "
        "k = Unsqueeze (n, axis) t = Concat <axis = 0> (k, e) i = Reshape (r, t) "
        "f = Reshape (h, flat) g = Gather (f, i) y = MatMul (g, v) }",
        {
            **{"zero": np.array(0, I64), "one": np.array(1, I64), "six": np.array(6, I64)},
            **{"axis": np.array([0], I64), "flat": np.array([-1], I64)},
            **{"w": normal(8, 6), "v": normal(6, 4)},
        },
    ),
    "zero states": model(
        "(float[5, N, 8] x) => (float[5, 1, N, 6] y) { i = Shape <start = 1, end = 2> (x) "
        "d = Concat <axis = 0> (one, i, six) s = ConstantOfShape (d) "
        "y = LSTM <hidden_size = 6> (x, w, r, , , s, s) }",
        {
            "one": np.array([1], I64),
            "six": np.array([6], I64),
            "w": normal(1, 24, 8),
            "r": normal(1, 24, 6),
        },
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_copies_compute_what_the_model_does(name: str) -> None:
    source = SOURCES[name]
    copy = canonicalise(source)
    assert len(list(copy.graph)) < len(list(source.graph))
    found = checked(source, copy)
    assert found.max_rel_error is not None
    assert found.max_rel_error < 1e-6
    assert found == CopyCheck(found.max_rel_error)
    require_copy(found)


@pytest.mark.parametrize("name", SOURCES)
def test_a_copy_that_is_another_model_is_found(name: str) -> None:
    source = SOURCES[name]
    copy = canonicalise(source)
    for value in copy.graph.initializers.values():
        if value.const_value.dtype.is_floating_point():
            array = value.const_value.numpy().copy()
            array.reshape(-1)[0] += 0.1
            value.const_value = ir.tensor(array, name=value.name)
    found = checked(source, copy)
    assert found.difference.startswith("output 'y': error ")
    with pytest.raises(CertificateError, match="output 'y'") as error:
        require_copy(found)
    assert "\n" not in str(error.value)


def test_the_output_that_differs_is_named() -> None:
    text = "(float[N, 8] x) => (float[N, 6] a, float[N, 6] b) { a = MatMul (x, v) h = Neg (w) "
    text += "b = MatMul (x, h) }"
    source = model(text, {"v": normal(8, 6), "w": normal(8, 6)})
    copy = canonicalise(source)
    copy.graph.initializers["h"].const_value = ir.tensor(normal(8, 6), name="h")
    assert checked(source, copy).difference.startswith("output 'b'")
    wrong = model(
        "(float[N, 8] x) => (float[N, 7] a, float[N, 6] b) { a = MatMul (x, v) b = MatMul (x, h) }",
        {"v": normal(8, 7), "h": normal(8, 6)},
    )
    assert "shape" in checked(source, wrong).difference


def test_rounding_is_no_fault() -> None:
    """A cancellation makes much of the last bit of a folded constant; its node is still right."""
    text = "(float[N, 8] x) => (float[N, 8] y) { a = Mul (x, u) b = Mul (x, v) y = Sub (a, b) }"
    u = np.full(8, 1.2345678, np.float32)
    v = (u * np.float32(1 + 2e-6)).astype(np.float32)
    source = model(text, {"u": u, "v": v})
    copy = model(text, {"u": np.nextafter(u, np.float32(2)), "v": v})
    found = checked(source, copy)
    assert found.max_rel_error is not None
    assert found.max_rel_error > 1e-2
    assert not found.difference


def test_what_cannot_be_compared_is_said() -> None:
    text = "(float[N, 8] x) => (float[N, 8] y) { r = RandomNormalLike (x) y = Add (x, r) }"
    source = model(text, {})
    found = checked(source, canonicalise(source))
    assert found == CopyCheck(skipped="it draws random numbers")
    certificate = with_copy(Certificate("exact"), found)
    assert certificate.copy_max_rel_error is None
    assert certificate.weak == (
        "the model as given was not compared with its copy: it draws random numbers",
    )


def test_a_model_that_does_not_run_is_no_fault_of_its_copy() -> None:
    copy = SOURCES["folded"]
    broken = model(
        "(float[N, 8] x) => (float[N, 6] y) { h = Reshape (x, s) y = MatMul (h, w) }",
        {"s": np.array([-1, 9], I64), "w": normal(9, 6)},
    )
    trials: tuple[Trial, ...] = find_trials(copy)
    assert "Reshape" in check_copy(broken, copy, trials).skipped


LAYERS = "(float[N, 8] x) => (float[N, 4] y) { t = Exp (w) h = MatMul (x, t) r = Relu (h) "
LAYERS += "y = MatMul (r, v) }"


def test_compile_and_verify_report_it() -> None:
    source = model(LAYERS, {"w": normal(8, 32), "v": normal(32, 4)})
    settings = {"channels": 0.5, "bench": False, "align": 1}
    result = graphprune.compile(source, **settings)
    assert result.report.certificate is not None
    assert 0 <= result.report.certificate["copy_max_rel_error"] < 1e-6
    found = graphprune.verify(source, result.model, plan=result.plan)
    assert found.copy_max_rel_error is not None
    assert found.copy_max_rel_error < 1e-6


def test_nothing_is_pruned_where_the_copy_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: ir.Model) -> ir.Model:
        copy = canonicalise(model)
        tensor = copy.graph.initializers["t"].const_value
        copy.graph.initializers["t"].const_value = ir.tensor(tensor.numpy() * 2, name="t")
        return copy

    source = model(LAYERS, {"w": normal(8, 32), "v": normal(32, 4)})
    result = graphprune.compile(source, channels=0.5, bench=False, align=1)
    for stage in (prove, read):
        monkeypatch.setattr(stage, "canonicalise", wrong)
    with pytest.raises(CertificateError, match="differs from the model itself at output 'y'"):
        graphprune.compile(source, channels=0.5, bench=False, align=1)
    pruned = graphprune.compile(source, channels=0.5, bench=False, align=1, verify=False)
    with pytest.raises(CertificateError, match="output 'y'"):
        graphprune.verify(source, pruned.model, plan=result.plan)
