"""From a torch module to a smaller ONNX file in one call, beside `torch.onnx.export`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphprune.errors import UnsupportedModelError, first_line
from graphprune.measure.latency import Latency
from graphprune.onnx.load import load
from graphprune.onnx.save import save
from graphprune.passes.stamp import StampPass
from graphprune.torch.capture import mode
from graphprune.torch.pipeline import prune
from graphprune.torch.result import Pruned


@dataclass(frozen=True, eq=False)
class Exported:
    """A pruned module and the ONNX file that was written of it.

    Attributes:
        pruned: As of `prune`.
        path: The file.
        latency: Both exports timed in onnxruntime, None where `bench` was off.
    """

    pruned: Pruned
    path: Path
    latency: Latency | None = None


def export(
    module: nn.Module,
    args: Any = None,
    path: str | Path = "model.onnx",
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    opset_version: int | None = None,
    input_names: list[str] | None = None,
    output_names: list[str] | None = None,
    bench: bool = False,
    **settings: Any,
) -> Exported:
    """Prune `module` and write the result as ONNX.

    Args:
        module: Unchanged.
        args: Example inputs.
        path: Of the file; nothing is left of it where the export fails.
        kwargs: Example inputs by name.
        dynamic_shapes: As for `torch.export.export`; None: sizes are those of the example inputs.
        opset_version: As for `torch.onnx.export`.
        input_names: As for `torch.onnx.export`.
        output_names: As for `torch.onnx.export`.
        bench: Export the original too, in memory, and time both in onnxruntime.
        **settings: As for `prune`.

    Raises:
        GraphpruneError: As `prune`.
        UnsupportedModelError: torch.onnx.export does not get through the module.
    """
    pruned = prune(module, args, kwargs, dynamic_shapes=dynamic_shapes, **settings)
    inputs = (args,) if isinstance(args, torch.Tensor) else tuple(args or ())
    options: dict[str, Any] = {
        "kwargs": dict(kwargs or {}) or None,
        "dynamic_shapes": dynamic_shapes,
        "opset_version": opset_version,
        "input_names": input_names,
        "output_names": output_names,
    }
    program = onnx_program(pruned.module, inputs, **options)
    latency = None
    if bench:
        original = onnx_program(module, inputs, **options)
        latency = _compare(original, program, pruned.report.options)
    target = Path(path)
    model = load(program).model
    StampPass(pruned.plan)(model)
    save(model, target)
    return Exported(pruned, target, latency)


def onnx_program(
    module: nn.Module, args: tuple[Any, ...], *, optimize: bool = True, **options: Any
) -> Any:
    """`torch.onnx.export` in eval mode, in memory."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        with mode(module, False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                module, args, dynamo=True, optimize=optimize, verbose=False, **given
            )
    except Exception as error:  # the exporter raises many kinds
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise UnsupportedModelError(
            f"torch.onnx.export does not get through {type(module).__name__}: {first_line(cause)}"
        ) from error


def _compare(original: Any, pruned: Any, options: Mapping[str, Any]) -> Latency:
    from graphprune.measure.latency import compare_latency
    from graphprune.onnx.runtime import Session, find_trials

    model = load(original).model
    with Session(model) as session:
        trial, _ = find_trials(model, {}, 0, session)
    threads = int(options.get("threads", 1))
    return compare_latency(model, load(pruned).model, trial.feeds, threads=threads)
