"""A model file, and a pipeline that does what a test tells it to."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from cli_stand_ins import mlp

import graphprune.pipeline


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small ONNX file, alone in its folder."""
    path = tmp_path / "net.onnx"
    ir.save(mlp(), path)
    return path


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], list[Any]]:
    """Replaces `graphprune.pipeline.compile`; gives the list of calls that will be recorded."""

    def replace(action: Callable[..., Any]) -> list[Any]:
        calls: list[Any] = []

        def compile(model: Any, options: Any = None, **rest: Any) -> Any:
            calls.append(types.SimpleNamespace(model=model, options=options, **rest))
            return action()

        monkeypatch.setattr(graphprune.pipeline, "compile", compile)
        return calls

    return replace
