"""A model file, and a pipeline that does what a test tells it to."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from cli_stand_ins import mlp


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

        import graphprune.pipeline

        monkeypatch.setattr(graphprune.pipeline, "compile", compile, raising=False)
        return calls

    if "graphprune.pipeline" not in sys.modules:
        try:
            import graphprune.pipeline
        except ImportError:
            import graphprune

            stand_in = types.ModuleType("graphprune.pipeline")
            stand_in.Options = types.SimpleNamespace
            monkeypatch.setitem(sys.modules, "graphprune.pipeline", stand_in)
            monkeypatch.setattr(graphprune, "pipeline", stand_in, raising=False)
    return replace
