"""The loop: AdamW on the relative squared error to what the original gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from graphprune.distill.checkpoints import Checkpoints
from graphprune.distill.matches import Match
from graphprune.distill.module import OnnxModule
from graphprune.distill.samples import Group, Step
from graphprune.distill.teacher import Teacher, is_masked, spread, tensors

WARM_UP = 100
LOOKS = 20
"""How often the held-out inputs are looked at, at most, spread over the budget."""

_JUDGING = 0.1
"""Part of the time that looking may take."""

OUTPUTS = 2.0
"""What the error of the outputs counts; that of all values inside counts 1."""

_CLIP = 1.0
_DECAY = 0.01
_SCALED_BY = 32
"""Groups whose values say how much each of them varies."""

_PATIENCE = 20
"""Steps without a finite gradient after which training goes on from the best, at half the rate."""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast.

    Attributes:
        lr: Largest learning rate.
        minutes: Time for all of it; None: `steps` says when it ends.
        steps: Steps at most.
        seed: Of the order of steps.
        batch: Samples in a step, for the checkpoint.
    """

    lr: float
    minutes: float | None
    steps: int | None
    seed: int
    batch: int


@dataclass
class State:
    """Where a run is.

    Attributes:
        step: Steps that were made.
        seconds: Time that earlier runs took.
        start: Error on the held-out inputs before the first step.
        best: The smallest since.
        best_step: When that was.
        weights: The weights of it.
        skipped: Steps left out.
        history: `(step, seconds, error)`.
    """

    step: int
    seconds: float
    start: float
    best: float
    best_step: int
    weights: dict[str, Tensor]
    skipped: int
    history: list[tuple[int, float, float]]


class Training:
    """Trains `student` in place.

    Args:
        student: The pruned graph in torch.
        model: The pruned graph, for the best model so far.
        teacher: The original.
        matches: Values that are compared.
        steps: Inputs to train on.
        held: Inputs that judge.
        recipe: How long and how fast.
        checkpoints: Where the state goes.
        saved: The state of an earlier run; None: there is none.
        progress: Called with the share that is done.
    """

    def __init__(
        self,
        student: OnnxModule,
        model: ir.Model,
        teacher: Teacher,
        matches: Sequence[Match],
        steps: Sequence[Step],
        held: Sequence[Step],
        recipe: Recipe,
        checkpoints: Checkpoints,
        saved: dict[str, Any] | None,
        progress: Callable[[float], None],
    ) -> None:
        self._student = student
        self._model = model
        self._teacher = teacher
        self._matches = matches
        self._names = [m.name for m in matches]
        self._steps = steps
        self._held = list(_keyed("held", held))
        self._recipe = recipe
        self._checkpoints = checkpoints
        self._earlier = saved
        self._progress = progress
        self._device = next(student.parameters()).device
        vectors = [p for p in student.parameters() if p.ndim < 2]
        matrices = [p for p in student.parameters() if p.ndim >= 2]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": _DECAY},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=recipe.lr,
            betas=(0.9, 0.99),
        )
        known = [*self._held, *_keyed("train", steps)][: max(len(self._held), _SCALED_BY)]
        self._variance = spread(teacher, matches, known)
        self._slower = 1.0
        self._judged = 0.0

    def run(self) -> State:
        """Train until the budget is used up; the student then has the best weights."""
        state = self._begun() if self._earlier is None else self._resumed(self._earlier)
        self._earlier = None
        began = perf_counter() - state.seconds
        looked = self._share(state.step, state.seconds)
        refused = 0
        while (share := self._share(state.step, perf_counter() - began)) < 1:
            if self._one(state.step, share):
                refused = 0
            else:
                state.skipped, refused = state.skipped + 1, refused + 1
                if refused == _PATIENCE:
                    self._put(state.weights)
                    self._slower, refused = self._slower / 2, 0
            state.step += 1
            state.seconds = perf_counter() - began
            share = self._share(state.step, state.seconds)
            if share >= 1 or (share - looked >= 1 / LOOKS and self._may_look(state.seconds)):
                self._look(state, began)
                looked = share
            self._progress(min(share, 1.0))
        self._put(state.weights)
        return state

    def _share(self, step: int, seconds: float) -> float:
        recipe = self._recipe
        by_steps = 0.0 if recipe.steps is None else step / recipe.steps
        by_time = 0.0 if recipe.minutes is None else seconds / (60 * recipe.minutes)
        return max(by_steps, by_time)

    def _may_look(self, seconds: float) -> bool:
        """With a budget of time, looking takes a tenth of it; steps alone decide otherwise."""
        return self._recipe.minutes is None or self._judged <= _JUDGING * seconds

    # -- one step ---------------------------------------------------------------------------------

    def _one(self, number: int, share: float) -> bool:
        """One step; False where its gradient is not finite, and nothing was changed."""
        warm = min(1.0, (number + 1) / WARM_UP)
        rate = self._recipe.lr * self._slower * warm * 0.5 * (1 + math.cos(math.pi * share))
        for part in self._optimizer.param_groups:
            part["lr"] = rate
        round_, place = divmod(number, len(self._steps))
        order = np.random.default_rng([self._recipe.seed, round_]).permutation(len(self._steps))
        index = int(order[place])
        groups = self._steps[index]
        samples = sum(g.samples for g in groups)
        self._optimizer.zero_grad(set_to_none=True)
        for i, group in enumerate(groups):
            inside, outputs = self._errors(("train", index, i), group)
            loss = inside + OUTPUTS * outputs
            (loss * (group.samples / samples)).backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self._student.parameters(), _CLIP)
        if not bool(torch.isfinite(norm)):
            return False
        self._optimizer.step()
        return True

    def _errors(self, key: Hashable, group: Group) -> tuple[Tensor, Tensor]:
        """Mean relative squared error of the values inside, and of the outputs."""
        targets = self._teacher.targets(key, group)
        found = self._student(tensors(group.feeds, self._device), self._names)
        sums: dict[bool, list[Tensor]] = {True: [], False: []}
        for match in self._matches:
            squares = (found[match.name] - targets[match.name]).square()
            if is_masked(squares, group.mask):
                mask = torch.as_tensor(group.mask, device=squares.device)
                shape = (*mask.shape, *[1] * (squares.ndim - 2))
                count = mask.sum() * (squares[0, 0].numel())
                error = (squares * mask.reshape(shape)).sum() / count
            else:
                error = squares.mean()
            sums[match.output].append(error / self._variance[match.name])
        zero = torch.zeros((), device=self._device)
        inside, outputs = (torch.stack(s).mean() if s else zero for s in (sums[False], sums[True]))
        return inside, outputs

    # -- looking ----------------------------------------------------------------------------------

    def _judge(self) -> float:
        """Error of the outputs on the held-out inputs; of the values inside without float outputs."""
        total = count = 0.0
        by_outputs = any(m.output for m in self._matches)
        with torch.no_grad():
            for key, group in self._held:
                inside, outputs = self._errors(key, group)
                total += float(outputs if by_outputs else inside) * group.samples
                count += group.samples
        return total / max(count, 1.0)

    def _look(self, state: State, began: float) -> None:
        since = perf_counter()
        error = self._judge()
        self._judged += perf_counter() - since
        state.seconds = perf_counter() - began
        state.history.append((state.step, state.seconds, error))
        if error < state.best:  # never true of NaN
            state.best, state.best_step, state.weights = error, state.step, self._taken()
            self._checkpoints.save_best(self._student, self._model, state.weights, error)
        self._checkpoints.save(self._saved(state))

    def _begun(self) -> State:
        error = self._judge()
        state = State(0, 0.0, error, error, 0, self._taken(), 0, [(0, 0.0, error)])
        self._checkpoints.save_best(self._student, self._model, state.weights, error)
        return state

    def _taken(self) -> dict[str, Tensor]:
        return {n: p.detach().clone() for n, p in self._student.weights.items()}

    def _put(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._student.weights.items():
                parameter.copy_(weights[name])

    # -- going on ---------------------------------------------------------------------------------

    def _saved(self, state: State) -> dict[str, Any]:
        return {
            **vars(state),
            "slower": self._slower,
            "batch": self._recipe.batch,
            "student": self._taken(),
            "optimizer": self._optimizer.state_dict(),
        }

    def _resumed(self, saved: dict[str, Any]) -> State:
        self._put(saved["student"])
        self._optimizer.load_state_dict(saved["optimizer"])
        self._slower = saved["slower"]
        names = State.__dataclass_fields__
        state = State(**{n: saved[n] for n in names})
        state.history = [(int(s), float(t), float(e)) for s, t, e in state.history]
        return state


def _keyed(part: str, steps: Sequence[Step]) -> Iterator[tuple[Hashable, Group]]:
    for s, step in enumerate(steps):
        for g, group in enumerate(step):
            yield (part, s, g), group
