"""One run of iterative pruning: what each step may keep, what a checkpoint holds, how it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from graphprune.decide import Scores
from graphprune.errors import UsageError
from graphprune.options import Options
from graphprune.plan import Plan
from graphprune.torch import checkpoint as files
from graphprune.torch.capture import Captured, capture
from graphprune.torch.checkpoint import Checkpoint
from graphprune.torch.initial import rewind
from graphprune.torch.pace import Schedule, schedule_of
from graphprune.torch.pipeline import prune
from graphprune.torch.subject import TorchSubject, parameter_count
from graphprune.torch.successive import other_values, shapes_of, spread
from graphprune.torch.targets import Costs, of_present
from graphprune.torch.work import Progress

# The blank keeps them apart from the user's names.
_OPTIMIZER, _EMA = "optimizer ", "ema "


class Stateful(Protocol):
    """Whatever has a state to keep: a scheduler, a GradScaler, an average, a sampler."""

    def state_dict(self) -> Any:
        """Tensors and plain data."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """The inverse."""


@dataclass(frozen=True)
class Step:
    """What one step did.

    Attributes:
        step: Its number, from 1.
        keep: What was to stay of the original, by the schedule.
        kind: `module` or `graph` (see `Pruned`).
        params: Parameters afterwards.
        macs: Multiply-adds afterwards, at the example inputs.
    """

    step: int
    keep: float
    kind: str
    params: int
    macs: int


@dataclass(eq=False)
class Run:
    """What is known from the start, and what the steps have added.

    Attributes:
        first: What the unpruned module costs. Its weights are not kept alive.
        shapes: Those of its nodes and weights.
        aliases: Name of a weight -> all its paths.
        inputs: Example inputs, by name, and dynamic shapes.
        options: What stays in the end.
        steps: How many there are.
        schedule: What stays after each.
        own: As for `prune`.
        inplace: As for `prune`.
        optimizer: Carried over in every step.
        ema: Carried over in every step.
        keep: What else a checkpoint holds.
        progress: Told what is done.
        asked: What a checkpoint must have been made for.
        origin: What every step rewinds to: a state dict of the unpruned module.
        plans: Of the steps that are done.
        records: Of the steps that are done.
    """

    first: Costs
    shapes: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, tuple[str, ...]]
    inputs: tuple[Any, Any, Any]
    options: Options
    steps: int
    schedule: Schedule
    own: bool | None
    inplace: bool
    optimizer: torch.optim.Optimizer | None
    ema: nn.Module | None
    keep: dict[str, Stateful]
    progress: Progress
    asked: dict[str, Any] = field(default_factory=dict)
    origin: Mapping[str, torch.Tensor] | None = None
    plans: list[Plan] = field(default_factory=list)
    records: list[Step] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        module: nn.Module,
        inputs: tuple[Any, Any, Any],
        options: Options,
        steps: int,
        schedule: str | Schedule,
        *,
        own: bool | None = None,
        inplace: bool = False,
        optimizer: torch.optim.Optimizer | None = None,
        ema: nn.Module | None = None,
        keep: Mapping[str, Stateful] | None = None,
        start: Mapping[str, torch.Tensor] | None = None,
        progress: Progress | None = None,
    ) -> Run:
        """A run of which nothing is done yet.

        Raises:
            UsageError: An unknown schedule, no steps, nothing that is to stay, or `head_dims`.
        """
        shape = schedule_of(schedule)
        if steps < 1:
            raise UsageError(f"steps {steps}: at least one")
        if not options.says_what_stays:
            raise UsageError(
                "say what stays in the end: channels=, params=, macs=, heads=, group_ratio="
            )
        if options.head_dims is not None and steps > 1:
            raise UsageError(
                "head_dims cannot be pruned in several steps: leave it to a last "
                "prune(..., head_dims=)"
            )
        captured = capture(module, *inputs)
        asked = {
            "module": type(module).__name__,
            "source_sha256": captured.sha256,
            "options": options.to_json(),
            "steps": steps,
            "schedule": schedule if isinstance(schedule, str) else _name(schedule),
            "kept": sorted(keep or ()),
            "optimizer": None if optimizer is None else type(optimizer).__name__,
            "ema": None if ema is None else type(ema).__name__,
            "rewound": start is not None,
        }
        return cls(
            first=_costs(captured),
            shapes=shapes_of(captured),
            aliases=dict(captured.weights.aliases),
            inputs=inputs,
            options=replace(options, bench=False),
            steps=steps,
            schedule=shape,
            own=True if inplace else own,
            inplace=inplace,
            optimizer=optimizer,
            ema=ema,
            keep=dict(keep or {}),
            progress=progress or (lambda *_: None),
            asked=json.loads(json.dumps(asked)),  # as it comes back from a checkpoint
            origin=None if start is None else {k: t.detach().clone() for k, t in start.items()},
        )

    def prune(
        self, module: nn.Module, number: int, scores: Callable[[nn.Module], Scores] | None
    ) -> nn.Module:
        """The module after step `number`, not trained yet."""
        args, kwargs, shapes = self.inputs
        given = None if scores is None else scores(module)
        result = prune(
            module,
            args,
            kwargs,
            dynamic_shapes=shapes,
            options=self._options(module, number),
            scores=given,
            optimizer=self.optimizer,
            ema=self.ema,
            own=self.own,
            inplace=self.inplace,
        )
        cost = result.report.pruned
        keep = _asked(self.options)
        ratio = self.schedule(number, self.steps, keep) if keep is not None else 1.0
        self.plans.append(result.plan)
        if self.origin is not None:
            rewind(result.module, self.origin, (*self.plans[:-1], result))
        self.records.append(Step(number, ratio, result.kind, cost.params, cost.macs))
        return result.module

    def _options(self, module: nn.Module, number: int) -> Options:
        """What stays of the present module so that the right share of the original does."""

        def at(target: float) -> float:
            return min(1.0, max(0.0, self.schedule(number, self.steps, target)))

        present = self.first if number == 1 else _costs(capture(module, *self.inputs))
        return of_present(self.options, at, self.first, present)

    def snapshot(self, module: nn.Module, number: int) -> Checkpoint:
        """Everything after step `number`."""
        states = {name: kept.state_dict() for name, kept in self.keep.items()}
        if self.optimizer is not None:
            states[_OPTIMIZER] = self.optimizer.state_dict()
        if self.ema is not None:
            states[_EMA] = files.weights_of(self.ema)
        return Checkpoint(
            run=self.asked,
            step=number,
            plans=tuple(self.plans),
            kinds=tuple(r.kind for r in self.records),
            records=tuple(asdict(r) for r in self.records),
            weights=files.weights_of(module),
            training=tuple(path for path, part in module.named_modules() if part.training),
            states=states,
            rng=files.rng_states(),
        )

    def resume(self, module: nn.Module, saved: Checkpoint, path: Path) -> tuple[nn.Module, int]:
        """The module, the optimizer and all else as they were after the last step."""
        for name, value in self.asked.items():
            if saved.run.get(name) != value:
                raise UsageError(
                    f"checkpoint {path} is of another run ({name.replace('_', ' ')} differs): "
                    "remove it, or give another path"
                )
        self.progress(f"resume after step {saved.step}")
        # The plans are applied to the trained weights: what rewriting is right is found by running
        # it, and weights that were just drawn may be dead.
        present = module
        weights = spread(module, saved.weights, saved.plans, self.aliases)
        with other_values(module, weights, restore=not self.inplace):
            for plan, kind in zip(saved.plans, saved.kinds, strict=True):
                present = self.apply(present, plan, kind)
        files.put_weights(present, saved.weights)
        training = set(saved.training)
        for name, part in present.named_modules():
            part.training = name in training
        if self.optimizer is not None:
            self.optimizer.load_state_dict(saved.states[_OPTIMIZER])
        if self.ema is not None:
            files.put_weights(self.ema, saved.states[_EMA])
        for name, kept in self.keep.items():
            kept.load_state_dict(saved.states[name])
        self.plans = list(saved.plans)
        self.records = [Step(**r) for r in saved.records]
        files.put_rng_states(saved.rng)
        return present, saved.step

    def apply(self, module: nn.Module, plan: Plan, kind: str) -> nn.Module:
        """The module after a plan of this run."""
        args, kwargs, shapes = self.inputs
        return prune(
            module,
            args,
            kwargs,
            dynamic_shapes=shapes,
            plan=plan,
            optimizer=self.optimizer,
            ema=self.ema,
            own=kind == "module",
            inplace=self.inplace,
            verify=False,
            allow_slower=True,
            seed=self.options.seed,
        ).module


def _costs(captured: Captured) -> Costs:
    subject = TorchSubject(captured)
    return Costs(subject.analyse(), parameter_count(captured), subject.macs())


def _name(schedule: Schedule) -> str:
    return str(getattr(schedule, "__name__", "function"))


def _asked(options: Options) -> float | None:
    given = (options.channels, options.params, options.macs)
    return next((x for x in given if x is not None), None)
