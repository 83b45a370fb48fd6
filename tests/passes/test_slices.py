"""Slices in place of whole initializers: shared where they are alike, named like what they replace."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from workbench import drawn, from_text

from graphprune.cut import Cut
from graphprune.onnx.load import load
from graphprune.onnx.names import FreshNames
from graphprune.passes.slices import slice_initializers

TEXT = "a = MatMul (x, w) b = MatMul (x, w) c = MatMul (x, w) y = Sum (a, b, c)"


def sliced(kept: list[list[int] | None]) -> tuple[ir.Model, list[ir.Value]]:
    """Of three readers of one weight some read it cut to these columns."""
    model = load(from_text(TEXT, {"w": drawn(8, 4)})).model
    nodes = [n for n in model.graph if n.op_type == "MatMul"]
    uses = {
        (node, 1): (Cut(1, 4, np.array(columns)),)
        for node, columns in zip(nodes, kept, strict=True)
        if columns is not None
    }
    slice_initializers(model, uses, FreshNames(model))
    read = [n.inputs[1] for n in nodes]
    assert all(v is not None for v in read)
    return model, [v for v in read if v is not None]


def contents(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


def test_alike_uses_share_a_slice_that_takes_over_the_name() -> None:
    model, (a, b, c) = sliced([[0, 2], [0, 2], [1, 3]])
    assert a is b
    assert a is not c
    assert a.name == "w"
    assert set(model.graph.initializers) == {"w", c.name}
    np.testing.assert_array_equal(contents(a), drawn(8, 4)[:, [0, 2]])
    np.testing.assert_array_equal(contents(c), drawn(8, 4)[:, [1, 3]])


def test_the_whole_keeps_its_name_where_something_reads_it() -> None:
    model, (a, b, c) = sliced([[0, 2], None, None])
    assert b is c
    assert b.name == "w"
    assert a.name != "w"
    assert set(model.graph.initializers) == {"w", a.name}
    np.testing.assert_array_equal(contents(b), drawn(8, 4))
