"""Iterative magnitude pruning: train, mask the smallest weights, go back, train again.

With `initialisation="rewound"` it finds winning tickets (Frankle and Carbin, ICLR'19; from a later
step than 0: Frankle et al., ICML'20); with `preserved` and a `train` that begins its learning rate
anew it is rewinding of the learning rate (Renda et al., ICLR'20).
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from graphprune.errors import UsageError
from graphprune.torch import checkpoint as files
from graphprune.torch.initial import reinitialise, rewind, snapshot
from graphprune.torch.masks import is_mask, put_masks
from graphprune.torch.pace import Schedule, schedule_of
from graphprune.torch.run import Stateful
from graphprune.torch.unstructured import sparsify
from graphprune.torch.weight_scores import WeightScores
from graphprune.torch.work import Progress

INITIALISATIONS = ("rewound", "random", "preserved")
_START = "start "  # the blank keeps it apart from the user's names


@dataclass(frozen=True)
class Round:
    """What one round did.

    Attributes:
        number: 0: the dense module was trained.
        sparsity: Share of zeros over the weights that are pruned.
        zeros: Of these.
        elements: Of these.
        result: What `train` returned, where that is plain data (a number, a dict of numbers).
    """

    number: int
    sparsity: float
    zeros: int
    elements: int
    result: Any = None


@dataclass(frozen=True, eq=False)
class Lottery:
    """A module that was masked and trained in rounds.

    Attributes:
        module: Masked, trained after the last round; `bake` makes it a plain one.
        rounds: What each did, the dense training first.
        start: The state dict that was rewound to; None where nothing was.
        resumed_at: Rounds that were read from the checkpoint, the dense training not counted.
    """

    module: nn.Module
    rounds: tuple[Round, ...]
    start: Mapping[str, torch.Tensor] | None
    resumed_at: int = 0


def lottery(
    module: nn.Module,
    train: Callable[[nn.Module, int], Any],
    sparsity: float = 0.98,
    *,
    steps: int,
    schedule: str | Schedule = "geometric",
    initialisation: str = "rewound",
    rewind_to: int | Mapping[str, torch.Tensor] = 0,
    criterion: str | None = None,
    scope: str = "global",
    scores: Callable[[nn.Module], WeightScores] | None = None,
    only: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    embeddings: bool = True,
    seed: int = 0,
    state: Mapping[str, Stateful] | None = None,
    checkpoint: str | Path | None = None,
    inplace: bool = False,
    progress: Progress | None = None,
) -> Lottery:
    """Train, then `steps` times: mask more of the smallest weights, put the others back, train.

    Args:
        module: Freshly initialised; unchanged unless `inplace`.
        train: Called with the module and the number of the round, 0 for the dense one: the user's
            own loop, its optimizer and schedule made anew. Where `rewind_to` is a step k > 0, rounds
            from 1 on train from step k, with the schedule as it is there.
        sparsity: Share of zeros in the end, over the weights that are pruned.
        steps: Rounds after the dense training; 1 is one-shot pruning.
        schedule: What stays after each: `geometric` (the same share of what is left, as published),
            `linear`, `cubic`, `constant` or a function (see `graphprune.torch.pace`).
        initialisation: What each round trains from: `rewound`, `random` (each layer's own
            initialiser, another draw in each round) or `preserved`.
        rewind_to: 0: the weights as given; k: those after k optimizer steps of the dense training;
            or a state dict.
        criterion: As for `sparsify`.
        scope: As for `sparsify`, `global` or `local`.
        scores: Given the present module, gradients of it, asked for before each masking.
        only: As for `sparsify`.
        exclude: As for `sparsify`.
        embeddings: As for `sparsify`.
        seed: Of `random`.
        state: What else the checkpoint shall hold, by name.
        checkpoint: A file that is written after every round. If it is there already the run goes on
            from it, given the module as it was at first. If `train` is deterministic given the
            random states of torch, numpy and Python, the weights are bit by bit those of a run that
            was not interrupted.
        inplace: Train and mask `module` itself.
        progress: Told each round.

    Raises:
        UsageError: An option out of range, a dense training that ends before step `rewind_to`, a
            checkpoint of another run, and what `sparsify` raises.
    """
    _check(sparsity, steps, initialisation, rewind_to)
    pace = schedule_of(schedule)
    tell = progress or (lambda *_: None)
    asked = {
        "module": type(module).__name__,
        "weights": _shapes(module),
        "sparsity": sparsity,
        "steps": steps,
        "schedule": schedule if isinstance(schedule, str) else getattr(schedule, "__name__", ""),
        "initialisation": initialisation,
        "rewind_to": rewind_to if isinstance(rewind_to, int) else "state",
        "criterion": criterion,
        "scope": scope,
        "only": [only] if isinstance(only, str) else list(only),
        "exclude": [exclude] if isinstance(exclude, str) else list(exclude),
        "embeddings": embeddings,
        "seed": seed,
        "kept": sorted(state or ()),
    }
    path = None if checkpoint is None else Path(checkpoint)
    run = _Run(module if inplace else copy.deepcopy(module), asked, dict(state or {}), path)
    done = -1
    if path is not None and path.exists():
        done = run.resume()
        tell(f"resume after round {done}")
    if done < 0:
        tell("train")
        with _noted(run.module, rewind_to if initialisation == "rewound" else None) as noted:
            result = train(run.module, 0)
        run.start = noted.get("start")
        if initialisation == "rewound" and run.start is None:
            raise UsageError(
                f"the dense training ended after {noted['steps']} optimizer steps, before step "
                f"{rewind_to} that is to be rewound to: train longer, or give an earlier step"
            )
        run.add(0, 0, 0, result)
    for number in range(max(done, 0) + 1, steps + 1):
        tell(f"round {number} of {steps}")
        found = sparsify(
            run.module,
            1 - min(1.0, max(0.0, pace(number, steps, 1 - sparsity))),
            scope=scope,
            criterion=criterion,
            scores=None if scores is None else scores(run.module),
            only=only,
            exclude=exclude,
            embeddings=embeddings,
            seed=seed,
        )
        if run.start is not None:
            rewind(run.module, run.start)
        elif initialisation == "random":
            reinitialise(run.module, seed + number)
        run.add(number, found.zeros, found.elements, train(run.module, number))
    return Lottery(run.module, tuple(run.rounds), run.start, max(done, 0))


@dataclass(eq=False)
class _Run:
    """What the rounds have added."""

    module: nn.Module
    asked: Mapping[str, Any]
    kept: Mapping[str, Stateful]
    path: Path | None
    rounds: list[Round] = field(default_factory=list)
    start: Mapping[str, torch.Tensor] | None = None

    def add(self, number: int, zeros: int, elements: int, result: Any) -> None:
        """One more round, into the checkpoint as well."""
        share = zeros / elements if elements else 0.0
        self.rounds.append(Round(number, share, zeros, elements, _plain(result)))
        if self.path is None:
            return
        states: dict[str, Any] = {n: k.state_dict() for n, k in self.kept.items()}
        states[_START] = None if self.start is None else dict(self.start)
        saved = files.Checkpoint(
            run=self.asked,
            step=number,
            plans=(),
            kinds=(),
            records=tuple(asdict(r) for r in self.rounds),
            weights=files.weights_of(self.module),
            training=tuple(p for p, part in self.module.named_modules() if part.training),
            states=states,
            rng=files.rng_states(),
        )
        files.save(self.path, saved)

    def resume(self) -> int:
        """Everything as it was after the last round; its number."""
        assert self.path is not None
        saved = files.load(self.path)
        for name, value in self.asked.items():
            if saved.run.get(name) != value:
                raise UsageError(
                    f"checkpoint {self.path} is of another run ({name.replace('_', ' ')} differs): "
                    "remove it, or give another path"
                )
        put_masks(self.module, {k: t for k, t in saved.weights.items() if is_mask(k)})
        files.put_weights(self.module, saved.weights)
        training = set(saved.training)
        for name, part in self.module.named_modules():
            part.training = name in training
        for name, kept in self.kept.items():
            kept.load_state_dict(saved.states[name])
        self.start = saved.states[_START]
        self.rounds = [Round(**dict(r)) for r in saved.records]
        files.put_rng_states(saved.rng)
        return saved.step


@contextmanager
def _noted(
    module: nn.Module, moment: int | Mapping[str, torch.Tensor] | None
) -> Iterator[dict[str, Any]]:
    """The state dict at a moment of the training that runs inside; and how many steps it took."""
    found: dict[str, Any] = {"steps": 0}
    if not isinstance(moment, int):
        if moment is not None:
            found["start"] = {k: t.detach().clone() for k, t in moment.items()}
        yield found
        return
    if moment == 0:
        found["start"] = snapshot(module)
        yield found
        return
    counts: dict[int, int] = {}
    own = {id(p) for p in module.parameters()}

    def stepped(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if not any(id(p) in own for g in optimizer.param_groups for p in g["params"]):
            return
        counts[id(optimizer)] = counts.get(id(optimizer), 0) + 1
        found["steps"] = max(counts.values())
        if found["steps"] == moment and "start" not in found:
            found["start"] = snapshot(module)

    handle = register_optimizer_step_post_hook(stepped)
    try:
        yield found
    finally:
        handle.remove()


def _check(sparsity: float, steps: int, initialisation: str, rewind_to: Any) -> None:
    if not 0 < sparsity < 1:
        raise UsageError(
            f"sparsity {sparsity:g} is out of range: it is the share of zeros, 0 < S < 1"
        )
    if steps < 1:
        raise UsageError(f"steps {steps}: at least one")
    if initialisation not in INITIALISATIONS:
        known = ", ".join(INITIALISATIONS)
        raise UsageError(f"unknown initialisation '{initialisation}': choose one of {known}")
    if isinstance(rewind_to, int) and rewind_to < 0:
        raise UsageError(f"rewind_to {rewind_to}: a step of the dense training, or a state dict")


def _shapes(module: nn.Module) -> str:
    shapes = [(p, list(t.shape)) for p, t in files.weights_of(module).items()]
    return hashlib.sha256(json.dumps(shapes).encode()).hexdigest()


def _plain(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return None
