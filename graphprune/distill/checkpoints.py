"""The folder from which an interrupted run goes on, and which holds the best model so far."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from graphprune.distill.module import OnnxModule
from graphprune.errors import UsageError
from graphprune.files import write_atomically
from graphprune.onnx.save import save

STATE = "distill.pt"
"""State of the run: weights, optimizer, the best so far."""

BEST = "best.onnx"
"""The best model so far."""


class Checkpoints:
    """Reads and writes the state of one run.

    Args:
        folder: Made where it does not exist (its parent must); None: nothing is written.
        key: What tells whether a state is of the same models, plan and inputs.

    Raises:
        UsageError: The folder cannot be made.
    """

    def __init__(self, folder: str | PathLike[str] | None, key: str) -> None:
        self._folder = None if folder is None else Path(folder)
        self._key = key
        self._written = -1.0
        if self._folder is not None:
            try:
                self._folder.mkdir(exist_ok=True)
            except OSError as error:
                raise UsageError(
                    f"cannot make the checkpoint folder {folder}: {error.strerror}"
                ) from error

    def load(self) -> dict[str, Any] | None:
        """The state of an earlier run; None where there is none.

        Raises:
            UsageError: It is of another run, or damaged.
        """
        if self._folder is None or not (self._folder / STATE).exists():
            return None
        path = self._folder / STATE
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            key = state["key"]
        except Exception as error:  # a damaged archive raises errors of several libraries
            raise UsageError(
                f"checkpoint {path} is damaged ({type(error).__name__}): remove it to start anew"
            ) from error
        if key != self._key:
            raise UsageError(
                f"checkpoint {path} is of another run (other model, plan, inputs or seed): give "
                "another folder or remove it"
            )
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state, completely or not at all."""
        if self._folder is not None:
            whole = {**state, "key": self._key}
            write_atomically(self._folder / STATE, lambda file: torch.save(whole, file))

    def save_best(
        self, student: OnnxModule, model: ir.Model, weights: Mapping[str, Tensor], error: float
    ) -> None:
        """Write the best model so far, unless it is the one that was written last."""
        if self._folder is None or error == self._written:
            return
        copy = model.clone()
        student.write_back(copy, weights)
        save(copy, self._folder / BEST)
        self._written = error
