"""The user's own metric: a callable that is given a session and says how good the model is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.data.imported import import_callable, line_of
from graphprune.errors import UsageError
from graphprune.onnx.runtime import Session


@dataclass(frozen=True, eq=False)
class Metric:
    """A figure of merit of models with one interface; higher is better.

    Attributes:
        name: What the user calls it.
        function: Given an `onnxruntime.InferenceSession`, gives a number.
        threads: Of onnxruntime.
        provider: Its execution provider.
    """

    name: str
    function: Callable[[Any], Any]
    threads: int = 1
    provider: str = "CPUExecutionProvider"

    def __call__(self, model: ir.Model) -> float:
        """The metric of `model`.

        Raises:
            UsageError: The callable raises, or gives something else than a finite number.
            UnsupportedModelError: onnxruntime does not load the model.
        """
        with Session(model, threads=self.threads, provider=self.provider) as session:
            try:
                result = self.function(session.native)
            except Exception as error:  # a user's code may raise anything
                raise UsageError(
                    f"--eval {self.name} raised {type(error).__name__}: {line_of(error)}"
                ) from error
        return self._number(result)

    def _number(self, result: Any) -> float:
        array = np.asarray(result) if not isinstance(result, str) else None
        if array is None or array.size != 1 or array.dtype.kind not in "fiu":
            shown = type(result).__name__
            raise UsageError(
                f"--eval {self.name} gave {shown} and not one number: return a float, higher is "
                "better"
            )
        number = float(array.reshape(()))
        if not math.isfinite(number):
            raise UsageError(f"--eval {self.name} gave {number}: return a finite number")
        return number


def load_metric(source: Any, *, threads: int = 1, provider: str = "CPUExecutionProvider") -> Metric:
    """The metric that `source` names.

    Args:
        source: `module:callable`, or from Python the callable itself.
        threads: Of onnxruntime.
        provider: Its execution provider.

    Raises:
        UsageError: It is neither, or cannot be imported.
    """
    if isinstance(source, str):
        if ":" not in source:
            raise UsageError(
                f"--eval {source} is not module:callable, for example my_eval:accuracy"
            )
        return Metric(source, import_callable(source, "metric"), threads, provider)
    if not callable(source):
        raise UsageError(f"eval is {type(source).__name__}: give a callable or 'module:callable'")
    return Metric(getattr(source, "__name__", type(source).__name__), source, threads, provider)
