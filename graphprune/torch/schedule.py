"""Pruning in steps, with the user's training between them; it goes on after an interruption.

Every ratio is the fraction of the *original* that stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphprune.decide import Scores
from graphprune.errors import NothingGainedError, UsageError
from graphprune.options import Options
from graphprune.plan import Plan
from graphprune.torch import checkpoint as files
from graphprune.torch.pace import Schedule
from graphprune.torch.run import Run, Stateful, Step
from graphprune.torch.successive import composed
from graphprune.torch.work import Progress


@dataclass(frozen=True, eq=False)
class Iterated:
    """A module that was pruned step by step.

    Attributes:
        module: The result, trained on after the last step.
        plans: The plan of each step, in the numbering of the module before it.
        plan: All of them as one, in the numbering of the original; None where a step gave a graph
            whose nodes have other names.
        steps: What each step did.
        resumed_at: Steps that were read from the checkpoint.
    """

    module: nn.Module
    plans: tuple[Plan, ...]
    plan: Plan | None
    steps: tuple[Step, ...]
    resumed_at: int = 0


def iterative(
    module: nn.Module,
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    steps: int,
    train: Callable[[nn.Module, int], Any],
    schedule: str | Schedule = "cubic",
    scores: Callable[[nn.Module], Scores] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    ema: nn.Module | None = None,
    state: Mapping[str, Stateful] | None = None,
    rewind_to: Mapping[str, torch.Tensor] | None = None,
    checkpoint: str | Path | None = None,
    dynamic_shapes: Any = None,
    options: Options | None = None,
    own: bool | None = None,
    inplace: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Iterated:
    """Prune, train, prune more, train, until the target is reached. `steps=1` is one-shot pruning.

    Args:
        module: Unchanged unless `inplace`.
        args: Example inputs.
        kwargs: Example inputs by name.
        steps: How many times to prune and train.
        train: Called after each step with the module and the number of the step, from 1: the user's
            own loop. It puts the module into train mode itself.
        schedule: What stays after each step: `constant`, `linear`, `cubic` or
            `geometric`, or a function (see `graphprune.torch.pace`).
        scores: Given the present module, the scores of its units (see `scores_from`): asked for
            before every step. None: those of `criterion`, of the present weights.
        optimizer: Goes on through all steps, its state sliced. `train` may as well make a new one.
        ema: An `AveragedModel` or a copy of the module, pruned along; `train` updates it.
        state: What else the checkpoint shall hold, by name, e.g. `{"lr": scheduler}`.
        rewind_to: A state dict of the unpruned module: after each pruning what stays gets its values
            of then (`graphprune.torch.rewind`), before `train`. None: weights are preserved.
        checkpoint: A file that is written after every step. If it is there already the run goes on
            from it, with fresh `module`, `optimizer`, `ema` and `state` as they were at first. If
            `train` is deterministic given the random states of torch, numpy and Python, the weights
            are bit by bit those of a run that was not interrupted.
        dynamic_shapes: As for `torch.export.export`.
        options: What stays in the end, of the original; or the fields of `Options` as keywords:
            `channels=`, `params=` or `macs=`, and with them `heads=`, `group_ratio=` and all else.
        own: As for `prune`.
        inplace: Change `module` itself.
        progress: Told what is done.
        **settings: Fields of `Options`.

    Raises:
        UsageError: A checkpoint of another run, an unknown schedule, `head_dims` in several steps, `layers`.
        GraphpruneError: What `prune` raises. The module is then as the last good step left it.
    """
    chosen = replace(options, **settings) if options is not None else Options(**settings)
    if chosen.layers is not None:
        raise UsageError("layers leave in one step: prune(layers=...) first, then go on from that")
    run = Run.start(
        module,
        (args, kwargs, dynamic_shapes),
        chosen,
        steps,
        schedule,
        own=own,
        inplace=inplace,
        optimizer=optimizer,
        ema=ema,
        keep=state,
        start=rewind_to,
        progress=progress,
    )
    path = None if checkpoint is None else Path(checkpoint)
    done = 0
    present = module
    if path is not None and path.exists():
        present, done = run.resume(module, files.load(path), path)
    for number in range(done + 1, steps + 1):
        run.progress(f"step {number} of {steps}")
        present = run.prune(present, number, scores)
        train(present, number)
        if path is not None:
            files.save(path, run.snapshot(present, number))
    if not any(plan.initializers for plan in run.plans) and not chosen.allow_slower:
        raise NothingGainedError("no step could prune anything: see prune() for the reasons")
    return Iterated(
        present, tuple(run.plans), composed(run.plans, run.shapes), tuple(run.records), done
    )
