"""Shapes and contents of every op in onnx's own conformance suite, against its recorded outputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphprune.onnx.checks import quiet
from graphprune.onnx.load import load
from graphprune.onnx.shapes import Shapes, infer_shapes

# Output sizes that depend on data, or ops that are no part of trained networks: these may be
# unknown, with a reason. Everything else must be right.
MAY_BE_UNKNOWN = {
    "BlackmanWindow",
    "Compress",
    "ConstantOfShape",
    "HammingWindow",
    "HannWindow",
    "ImageDecoder",
    "Loop",
    "MaxUnpool",
    "MelWeightMatrix",
    "NonMaxSuppression",
    "NonZero",
    "OptionalGetElement",
    "OptionalHasElement",
    "Range",
    "Resize",
    "Scan",
    "StringNormalizer",
    "StringSplit",
    "Unique",
    "Upsample",
}


def cases() -> list[object]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(collect_testcases(None))


@pytest.fixture(scope="module")
def suite() -> list[object]:
    return [c for c in cases() if c.model is not None and c.model.graph.node]


def results(
    suite: list[object], constants: str
) -> Iterator[tuple[str, str, ir.Value, Shapes, object]]:
    """Each output of each case: (case, op, value, shapes, recorded output). Inputs after the first
    (`constants` = "operands") or all of them ("all") become initializers."""
    for case in suite:
        model: onnx.ModelProto = case.model
        with quiet():
            loaded = load(model).model
        inputs, outputs = case.data_sets[0]
        for position, (value, array) in enumerate(zip(loaded.graph.inputs, inputs, strict=False)):
            if not isinstance(array, np.ndarray | np.generic):
                continue
            array = np.asarray(array)
            value.shape = ir.Shape(array.shape)
            if array.dtype.kind not in "iubf" or array.size > 4000:
                continue
            if constants == "all" or (position and array.size < 300):
                value.const_value = ir.tensor(array, name=value.name)
                loaded.graph.initializers[value.name] = value
        for node in loaded.graph:
            for output in node.outputs:
                output.shape = None
        shapes = infer_shapes(loaded, {})
        op = model.graph.node[0].op_type if len(model.graph.node) == 1 else "expanded"
        for value, recorded in zip(loaded.graph.outputs, outputs, strict=False):
            if isinstance(recorded, np.ndarray):
                yield case.name, op, value, shapes, recorded


def test_inferred_shapes_are_those_of_the_conformance_suite(suite: list[object]) -> None:
    right, wrong, unknown = 0, [], set()
    for name, op, value, shapes, recorded in results(suite, "operands"):
        if value in shapes.unknown:
            assert shapes.unknown[value]
            if op != "expanded":
                unknown.add(op)
            continue
        dtype = shapes.dtypes.get(value)
        fits = dtype is not None and (
            recorded.dtype.kind in "OUS" or dtype.numpy() == recorded.dtype
        )
        if shapes.dims.get(value) == recorded.shape and fits:
            right += 1
        else:
            wrong.append((name, shapes.dims.get(value), recorded.shape, dtype))
    assert not wrong
    assert unknown <= MAY_BE_UNKNOWN
    assert right > 1500


def test_contents_are_those_of_the_conformance_suite(suite: list[object]) -> None:
    checked, wrong = set(), []
    for name, op, value, shapes, recorded in results(suite, "all"):
        if value not in shapes.values or value.producer() is None:
            continue
        known = shapes.values[value]
        same = known.shape == recorded.shape and np.allclose(
            known.astype(np.float64),
            recorded.astype(np.float64),
            rtol=1e-2,
            atol=1e-6,
            equal_nan=True,
        )
        checked.add(op)
        if not same:
            wrong.append(name)
    assert not wrong
    assert len(checked) > 50
