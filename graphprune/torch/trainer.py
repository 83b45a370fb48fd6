"""Pruning inside a Hugging Face `Trainer`: a callback; needs transformers and accelerate.

The model stays the same object, and so do the optimizer and the learning-rate scheduler that the
Trainer has made: nothing of the training loop is touched.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphprune.decide import Scores
from graphprune.errors import UsageError
from graphprune.files import write_atomically
from graphprune.options import Options
from graphprune.plan import Plan
from graphprune.torch.optim import innermost
from graphprune.torch.pace import Schedule
from graphprune.torch.run import Run, Step
from graphprune.torch.successive import other_values, spread

try:
    from transformers import TrainerCallback
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "PruningCallback needs transformers and accelerate: pip install transformers accelerate"
    ) from error

_FILE = "graphprune.json"


class PruningCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Prunes the Trainer's model at some steps or epochs, and lets the training go on.

    Every checkpoint that the Trainer saves after pruning gets a `graphprune.json`; `restore` makes
    a fresh model fit for `trainer.train(resume_from_checkpoint=...)`.

    Args:
        kwargs: Example inputs by name, as for `prune` (labels are not needed).
        at_steps: Optimizer steps after which to prune, e.g. `(100, 200, 300)`.
        at_epochs: Or: epochs after which to prune.
        schedule: What stays after each: `constant`, `linear`, `cubic`, `geometric`, or a function.
        scores: Given the model, the scores of its units (see `scores_from`); None: `criterion`.
        options: What stays in the end, of the original; or the fields of `Options` as keywords.
        **settings: Fields of `Options`, e.g. `channels=0.5` or `macs=0.5`.

    Attributes:
        steps: What each pruning did.
        plans: The plans, one after the other.

    Raises:
        UsageError: Neither or both of `at_steps` and `at_epochs`; while training: a model that is
            spread over several processes, and what `prune` raises.
    """

    def __init__(
        self,
        kwargs: Mapping[str, Any],
        *,
        at_steps: Sequence[int] = (),
        at_epochs: Sequence[int] = (),
        schedule: str | Schedule = "cubic",
        scores: Callable[[nn.Module], Scores] | None = None,
        options: Options | None = None,
        **settings: Any,
    ) -> None:
        if bool(at_steps) == bool(at_epochs):
            raise UsageError("say when to prune: either at_steps= or at_epochs=, at least one")
        self._kwargs = dict(kwargs)
        self._by_epoch = bool(at_epochs)
        self._at = sorted({int(n) for n in (at_epochs or at_steps)})
        self._schedule = schedule
        self._scores = scores
        self._options = replace(options, **settings) if options else Options(**settings)
        self._run: Run | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        """What each pruning so far did."""
        return tuple(self._run.records) if self._run is not None else ()

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans so far, each in the numbering of the model before it."""
        return tuple(self._run.plans) if self._run is not None else ()

    def restore(self, model: nn.Module, checkpoint: str | Path) -> None:
        """Give a fresh model the shapes that it had in a checkpoint of the Trainer.

        Call it before `Trainer(model, callbacks=[this])`; then
        `trainer.train(resume_from_checkpoint=checkpoint)` finds weights and optimizer state that
        fit.

        Args:
            model: The unpruned model; changed in place.
            checkpoint: The folder that the Trainer saved.

        Raises:
            UsageError: The folder has no plans, or they are of another model.
        """
        path = Path(checkpoint) / _FILE
        try:
            data = json.loads(path.read_text())
            plans = [Plan.from_json(p) for p in data["plans"]]
            records = [Step(**r) for r in data["steps"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path} cannot be read: the checkpoint was saved without this callback"
            ) from error
        run = self._start(model)
        weights = spread(model, _weights(Path(checkpoint)), plans, run.aliases)
        with other_values(model, weights, restore=False):
            for plan in plans:
                run.apply(model, plan, "module")
        run.plans, run.records = plans, records
        self._run = run

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Look at the model."""
        if args.world_size > 1:
            raise UsageError(
                "PruningCallback works in one process: a distributed wrapper keeps the old sizes; "
                "prune between two trainings"
            )
        if self._run is None:
            self._run = self._start(given["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Prune, if it is time."""
        if not self._by_epoch:
            self._prune_at(int(state.global_step), given)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Prune, if it is time."""
        if self._by_epoch:
            self._prune_at(round(state.epoch), given)

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Put the plans beside what the Trainer saved."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self._run is None or not folder.is_dir():
            return
        data = {
            "plans": [p.to_json() for p in self._run.plans],
            "steps": [asdict(r) for r in self._run.records],
        }
        write_atomically(folder / _FILE, lambda file: file.write(json.dumps(data).encode()))

    def _start(self, model: nn.Module) -> Run:
        inputs = (None, _on(self._kwargs, model), None)
        with _plain_forward(model):
            return Run.start(
                model, inputs, self._options, len(self._at), self._schedule, inplace=True
            )

    def _prune_at(self, now: int, given: Mapping[str, Any]) -> None:
        run = self._run
        assert run is not None
        if now not in self._at or self._at.index(now) < len(run.records):
            return
        model = given["model"]
        run.optimizer = innermost(given["optimizer"])
        with _plain_forward(model):
            run.prune(model, len(run.records) + 1, self._scores)


@contextmanager
def _plain_forward(model: nn.Module) -> Iterator[None]:
    """accelerate puts a wrapped `forward` on the instance for mixed precision: aside for now."""
    wrapped = vars(model).pop("forward", None)
    try:
        yield
    finally:
        if wrapped is not None:
            vars(model)["forward"] = wrapped


def _on(kwargs: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    device = next(model.parameters()).device
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in kwargs.items()}


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint; none where they are not in safetensors."""
    from safetensors.torch import load_file

    weights: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        weights.update(load_file(path))
    return weights
