"""One function over torch's two ONNX exporters, quiet and with the project's naming."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import onnx
import torch
from torch import nn

Exporter = Literal["dynamo", "legacy"]
Axes = Mapping[str, Mapping[int, str]]


def export(
    module: nn.Module,
    args: tuple[Any, ...] | Mapping[str, Any],
    path: str | os.PathLike[str] | None = None,
    *,
    exporter: Exporter = "dynamo",
    opset: int = 18,
    dynamic: bool = True,
    axes: Axes | None = None,
    output_names: tuple[str, ...] | None = None,
    optimize: bool = True,
) -> onnx.ModelProto:
    """Export `module` in evaluation mode, weights inside the file.

    Args:
        module: Takes tensors, returns a tensor or a tuple of tensors.
        args: Positional arguments, or arguments by name; names become the ONNX input names.
        path: Where to write the model too, or None.
        exporter: `dynamo` (torch.export) or `legacy` (TorchScript tracing).
        opset: 17 (legacy only), 18 or 23.
        dynamic: Leave the dims of `axes` open.
        axes: Dynamic dims, `{input: {dim: name}}`. Default: dimension 0 of each input is `batch`.
        output_names: ONNX output names; default: the exporter's.
        optimize: False leaves the dynamo exporter's graph as translated: batch norm not folded.

    Raises:
        ValueError: The dynamo exporter is asked for an opset before 18.
        RuntimeError or a subclass: The exporter cannot handle the module.
    """
    if exporter == "dynamo" and opset < 18:
        raise ValueError("the dynamo exporter starts at opset 18: use exporter='legacy' for 17")
    if not isinstance(args, Mapping):
        names = list(inspect.signature(module.forward).parameters)
        args = dict(zip(names, args, strict=False))
    if axes is None:
        axes = {name: {0: "batch"} for name in args}
    module.eval()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.onnx" if path is None else Path(path)
        options: dict[str, Any] = {
            "input_names": list(args),
            "output_names": list(output_names) if output_names else None,
            "opset_version": opset,
        }
        if exporter == "dynamo":
            dims: dict[str, Any] = {}
            shapes = {
                name: {d: dims.setdefault(n, torch.export.Dim(n)) for d, n in axes[name].items()}
                if name in axes
                else None
                for name in args
            }
            options |= {
                "dynamic_shapes": shapes if dynamic else None,
                "external_data": False,
                "dynamo": True,
                "verbose": False,
                "optimize": optimize,
            }
        else:
            options |= {"dynamic_axes": dict(axes) if dynamic else None, "dynamo": False}
        with _quiet(), torch.no_grad():
            torch.onnx.export(module, (), target, kwargs=dict(args), **options)
        model = onnx.load(target)
    forget_traces(model)
    if path is not None:
        onnx.save(model, path)
    return model


def forget_traces(model: onnx.ModelProto) -> None:
    """Drop the Python stack traces (and their paths) that the dynamo exporter leaves."""
    for node in [*model.graph.node, *(n for f in model.functions for n in f.node)]:
        for entry in [e for e in node.metadata_props if e.key.endswith("stack_trace")]:
            node.metadata_props.remove(entry)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress and deprecation notes off the terminal, and fused attention out of the graph.

    In evaluation mode nn.MultiheadAttention calls one fused kernel, which the legacy exporter does
    not know.
    """
    level = logging.root.manager.disable
    fused = torch.backends.mha.get_fastpath_enabled()
    logging.disable(logging.WARNING)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        torch.backends.mha.set_fastpath_enabled(fused)
