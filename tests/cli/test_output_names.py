"""Where a result goes when no -o says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphprune.cli.files import default_output


@pytest.mark.parametrize(
    ("model", "ending", "expected"),
    [
        ("some/net.onnx", ".pruned.onnx", "some/net.pruned.onnx"),
        (Path("some/net.v2.onnx"), ".gpk", "some/net.v2.gpk"),
        ("net", ".sparse.onnx", "net.sparse.onnx"),
        ("zoo:text-angle", ".trimmed.onnx", "text-angle.trimmed.onnx"),
    ],
)
def test_the_ending_changes_beside_the_input_and_zoo_models_go_here(model, ending, expected):
    assert default_output(model, ending) == Path(expected)
