"""The numeric half of the certificate: both graphs in onnxruntime, at several sizes and inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from graphprune.certify.masks import MisfitError
from graphprune.certify.pieces import RunError, Runner, cut_points, make_piece
from graphprune.certify.probe import Probe
from graphprune.certify.sides import Sides, align, pieces_of, with_renamed
from graphprune.certify.tally import Tally
from graphprune.certify.twin import Twin, at_planned_binding, masked_twin
from graphprune.certify.walk import DifferenceError, Walk
from graphprune.errors import UnsupportedModelError
from graphprune.onnx.feeds import has_free_scalars, random_feeds
from graphprune.onnx.runtime import Session, check_runs
from graphprune.onnx.shapes import Shapes, default_bindings, infer_shapes
from graphprune.plan import Plan

Binding = Mapping[str, int]
Progress = Callable[[float], None]

ACTIVATION_BYTES = 256 << 20
"""Activations of one graph that are held at a time."""
WEIGHT_BYTES = 128 << 20
"""Weights of one graph that are held at a time, layerwise."""
_NO_LIMIT = 1 << 62


@dataclass(frozen=True, eq=False)
class Findings:
    """What the runs found.

    Attributes:
        difference: The first node that differs, in one line; empty where all agree.
        tally: Errors and evidence of all runs.
        bindings: Those that were run.
        probe: What the masks change; None where no run was completed.
        skipped: Tensors that were not masked along a dynamic axis at some binding.
        refused: Bindings at which the original itself does not run -> why.
    """

    difference: str
    tally: Tally
    bindings: tuple[Binding, ...]
    probe: Probe | None
    skipped: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Attempt:
    """One run that is to be made. An `optional` one may fail where the original fails too."""

    binding: Binding
    seed: int
    kind: str = "random"
    optional: bool = False


@dataclass
class _State:
    tally: Tally = field(default_factory=Tally)
    bindings: list[Binding] = field(default_factory=list)
    skipped: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    probe: Probe | None = None


def compare_graphs(
    original: ir.Model,
    pruned: ir.Model,
    plan: Plan,
    *,
    bindings: Sequence[Binding] | None = None,
    seed: int = 0,
    layerwise: bool = False,
    renamed: Mapping[str, Sequence[str]] | None = None,
    stand_ins: Mapping[str, Sequence[ir.TensorProtocol]] | None = None,
    progress: Progress | None = None,
) -> Findings:
    """Run the masked original and the pruned graph and compare every tensor.

    The first binding is run twice (inputs from N(0, 1) and from [0, 1); layerwise only where it
    is the only one), further ones once.

    Args:
        original: What the plan was made for.
        pruned: What is to be proven.
        plan: The cuts.
        bindings: Sizes of dynamic dimensions; None for the plan's and another at which the
            original runs.
        seed: Of the random inputs.
        layerwise: Check each node on the original's values and hold few weights at a time.
        renamed: See `Sides`.
        stand_ins: See `Sides`.
        progress: Told the share of the work that is done, from 0 to 1.

    Raises:
        TwinError: The plan does not fit the original.
        UnsupportedModelError: The original does not run at all.
    """
    state = _State()
    bench = _Bench(original, pruned, plan, layerwise, renamed or {}, stand_ins or {})
    steps = _steps(original, plan, bindings, seed, brief=layerwise)
    for done, attempts in enumerate(steps):
        for attempt in attempts:
            try:
                ran = _run(bench, attempt, state)
            except DifferenceError as error:
                return _findings(str(error), state, [*state.bindings, attempt.binding])
            if ran:
                break
        if progress is not None:
            progress((done + 1) / len(steps))
    return _findings(_fails_whole(bench, steps[0][0]), state, state.bindings)


def _fails_whole(bench: _Bench, attempt: _Attempt) -> str:
    """Where the graphs ran in several pieces: why the pruned graph does not run as a whole."""
    if not bench.in_pieces or bench.layerwise:
        return ""
    try:
        with Session(bench.pruned, optimize=False) as session:
            session.run(_feeds(bench.original, attempt))
    except UnsupportedModelError as error:
        return f"the pruned graph does not run as a whole: {error}"
    return ""


def _findings(difference: str, state: _State, bindings: Sequence[Binding]) -> Findings:
    unique = list({tuple(sorted(b.items())): b for b in bindings}.values())
    return Findings(
        difference,
        state.tally,
        tuple(unique),
        state.probe,
        tuple(sorted(state.skipped)),
        tuple(state.refused),
    )


def _steps(
    original: ir.Model, plan: Plan, bindings: Sequence[Binding] | None, seed: int, brief: bool
) -> list[list[_Attempt]]:
    """Runs to make: of each list, the first that works. `brief`: few, for a large model."""
    if bindings is not None:
        first, others = bindings[0], [[b] for b in bindings[1:]]
    else:
        default, other = default_bindings(original)
        first = {**default, **{k: v for k, v in plan.binding.items() if k in default}}
        batch_only = {k: other[k] if other[k] <= 3 else v for k, v in first.items()}
        doubled = {k: 2 * v for k, v in first.items()}
        others = [[b for b in (other, batch_only, doubled) if b != first]] if first else []
    return [
        [_Attempt(first, seed)],
        *([] if brief and others else [[_Attempt(first, seed + 1, "positive", optional=True)]]),
        *([_Attempt(b, seed + 2 + i, optional=True) for b in row] for i, row in enumerate(others)),
    ]


def _run(bench: _Bench, attempt: _Attempt, state: _State) -> bool:
    """Make one run; False where the original itself does not run so."""
    shapes = bench.shapes(attempt.binding)
    planned = at_planned_binding(bench.plan, shapes)
    sides, twin = bench.sides(shapes, planned)
    probe = bench.probe(sides) if state.probe is None else None
    walk = Walk(sides, planned)
    try:
        tally = walk.run(_feeds(bench.original, attempt), probe)
    except MisfitError as error:
        raise DifferenceError(f"the plan does not fit the original: {error}") from error
    except (RunError, UnsupportedModelError) as error:
        reason = _original_fails(bench.original, attempt)
        if not reason:
            raise DifferenceError(f"the masked original does not run: {error}") from error
        if not attempt.optional:
            raise UnsupportedModelError(reason) from error
        sizes = ", ".join(f"{k}={v}" for k, v in sorted(attempt.binding.items()))
        state.refused.append(f"{sizes}: {reason}")
        return False
    state.tally.add(tally)
    state.bindings.append(attempt.binding)
    state.skipped.update(twin.skipped)
    state.probe = state.probe or probe
    return True


def _feeds(model: ir.Model, attempt: _Attempt) -> dict[str, Any]:
    if has_free_scalars(model):  # e.g. a sampling rate, of which only some values work
        return check_runs(model, attempt.binding, attempt.seed)
    return random_feeds(model, attempt.binding, attempt.seed, attempt.kind)


def _original_fails(model: ir.Model, attempt: _Attempt) -> str:
    """Why the unmasked original fails in the same run; empty where it does not."""
    try:
        check_runs(model, attempt.binding, attempt.seed)
    except UnsupportedModelError as error:
        return str(error)
    return ""


class _Bench:
    """Builds the sides for a binding, and keeps them where nothing in them depends on it."""

    def __init__(
        self,
        original: ir.Model,
        pruned: ir.Model,
        plan: Plan,
        layerwise: bool,
        renamed: Mapping[str, Sequence[str]],
        stand_ins: Mapping[str, Sequence[ir.TensorProtocol]],
    ) -> None:
        self.original = original
        self.plan = plan
        self.pruned = pruned
        self.layerwise = layerwise
        self._renamed = renamed
        self._stand_ins = stand_ins
        self._dynamic = any(c.dynamic for cuts in plan.tensors.values() for c in cuts)
        self._made: dict[bool, tuple[Sides, Twin]] = {}
        self._ends: list[int] = []
        self._shapes: dict[tuple[tuple[str, int], ...], Shapes] = {}

    @property
    def in_pieces(self) -> bool:
        """Whether the graphs did not run as a whole."""
        return len(self._ends) > 1

    def shapes(self, binding: Binding) -> Shapes:
        """Shapes of the original at a binding."""
        key = tuple(sorted(binding.items()))
        if key not in self._shapes:
            self._shapes[key] = infer_shapes(self.original, binding)
        return self._shapes[key]

    def sides(self, shapes: Shapes, planned: bool) -> tuple[Sides, Twin]:
        """Both graphs, cut into pieces.

        Raises:
            TwinError: The plan does not fit the original.
        """
        key = planned if self._dynamic else True
        if key not in self._made or (self._dynamic and not planned):
            self._made[key] = self._make(shapes)
        return self._made[key]

    def probe(self, sides: Sides) -> Probe:
        parts = align(self.original.graph, self.original.graph, self._ends)
        runner = Runner(self.original, sides.dtypes, keep=False)
        return Probe(sides, [make_piece(part) for part in parts], runner)

    def _make(self, shapes: Shapes) -> tuple[Sides, Twin]:
        graph = self.original.graph
        twin = masked_twin(self.original, self.plan, shapes)
        dtypes = {v.name: t for v, t in shapes.dtypes.items() if v.name}

        def nbytes(value: ir.Value) -> int:
            dims, dtype = shapes.dims.get(value), shapes.dtypes.get(value)
            return (
                0 if dims is None or dtype is None else math.ceil(math.prod(dims) * dtype.itemsize)
            )

        if not self._ends:
            limit = WEIGHT_BYTES if self.layerwise else _NO_LIMIT
            self._ends = cut_points(list(graph), nbytes, ACTIVATION_BYTES, limit)
        pruned_parts = align(graph, self.pruned.graph, self._ends)
        keep = not self.layerwise
        sides = Sides(
            original=self.original,
            twin=twin.model,
            pruned=self.pruned,
            cuts=with_renamed(self.plan.tensors, self._renamed, shapes),
            renamed=self._renamed,
            stand_ins=self._stand_ins,
            dtypes=dtypes,
            twin_pieces=pieces_of(align(graph, twin.model.graph, self._ends)),
            pruned_pieces=[[make_piece(part)] for part in pruned_parts],
            runners=(Runner(twin.model, dtypes, keep), Runner(self.pruned, dtypes, keep)),
            layerwise=self.layerwise,
        )
        return sides, twin
