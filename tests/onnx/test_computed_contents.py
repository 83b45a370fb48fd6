"""How much computed content counts as known: index tables do, larger float tables do not."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphprune.onnx.shapes import infer_shapes


@pytest.mark.parametrize(
    ("kind", "size", "known"),
    [
        ("int64", 6000, True),
        ("int64", 1 << 17, False),
        ("float", 4000, True),
        ("float", 6000, False),
    ],
)
def test_counting_tables_are_known_up_to_a_batch_of_wide_channels(
    kind: str, size: int, known: bool
) -> None:
    """torch writes as_strided after a pool as a Gather with batch x channels computed indices."""
    cast = "INT64" if kind == "int64" else "FLOAT"
    model = onnx.parser.parse_model(
        f"""
        <ir_version: 10, opset_import: ["": 18]>
        g (float[N] x) => ({kind}[M] y)
        <int64 zero = {{0}}, int64 one = {{1}}, int64 size = {{{size}}}, int64[1] axis = {{0}}> {{
          counted = Range (zero, size, one)
          y0 = Cast <to = {getattr(onnx.TensorProto, cast)}> (counted)
          y = Add (y0, y0)
        }}
        """
    )
    found = infer_shapes(ir.from_proto(model), {"N": 2})
    values = {v.name: a for v, a in found.values.items()}
    assert ("y" in values) == known
    if known:
        np.testing.assert_array_equal(values["y"], 2 * np.arange(size))
