"""Running the masked original and the pruned graph side by side, tensor by tensor.

Every tensor that both have under one name is compared: `pruned.t == take(masked.t, cuts)`, in
topological order, so that the first one that differs names the node at fault.

Rounding is not a fault. Where a tensor differs by more than the tolerance, its node is run alone on
the masked original's own values: if it is right there, the nodes before it only rounded differently
(a tie in an ArgMax, a quantised value, a cancellation); the run goes on from the original's value
and says so. Checking every node in this way from the start is the *layerwise* level: no error
accumulates, no second copy of the weights is held, and by induction the whole graph is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
import onnx_ir as ir

from graphprune.certify.compare import COARSEST, Deviation, deviation
from graphprune.certify.graphs import constants_only, describe, is_random, sizes_only
from graphprune.certify.masks import fitting
from graphprune.certify.pieces import Piece, RunError, Values, make_piece, portable
from graphprune.certify.probe import Probe
from graphprune.certify.sides import Pair, Sides, last_uses, tolerances
from graphprune.certify.tally import Tally
from graphprune.cut import take

_MOST_RESTARTS = 16
_NOISE_MARGIN = 32.0


class DifferenceError(Exception):
    """The pruned graph differs; the message names the node, the tensor and by how much."""


class Walk:
    """One run of both graphs on the same inputs."""

    def __init__(self, sides: Sides, planned: bool) -> None:
        self.sides = sides
        self.planned = planned
        self.tally = Tally()
        self.twin_values: dict[str, Any] = {}
        self.pruned_values: dict[str, Any] = {}
        self._layerwise = sides.layerwise
        self._restarts = 0
        graph = sides.original.graph
        constants = constants_only(graph)
        quiet = constants | sizes_only(graph, constants)
        self._quiet = {v.name for v in quiet if v.name}
        self._known = {v.name for n in graph for v in n.outputs if v.name}
        self._outputs = {v.name for v in graph.outputs}
        self._tolerances = tolerances(graph, sides.dtypes)
        self._renamed = sides.renamed
        self._waiting: list[Pair] = []
        self._last_use = last_uses(sides)

    def run(self, feeds: Values, probe: Probe | None = None) -> Tally:
        """Run and compare everything.

        Raises:
            DifferenceError: At the first node that differs.
            RunError: The masked original does not run on `feeds`.
        """
        feeds = {name: portable(array) for name, array in feeds.items()}
        self.twin_values.update(feeds)
        self.pruned_values.update(feeds)
        if probe is not None:
            probe.start(feeds)
        sides = self.sides
        for k, piece in enumerate(sides.twin_pieces):
            self.twin_values.update(sides.runners[0].run(piece, self.twin_values))
            if probe is not None:
                probe.step(k, self.twin_values, self.planned)
            self._compare_constants(piece)
            for part in self._parts(k):
                self._run_pruned(part)
            self._compare_waiting()
            self._release(k)
        if self._waiting:
            names = ", ".join(f"'{p.original}'" for p in self._waiting[:3])
            raise DifferenceError(
                f"the pruned graph: {names} of the original could not be observed"
            )
        return self.tally

    # --- running the pruned graph -----------------------------------------------------------------

    def _parts(self, k: int) -> Iterator[Piece]:
        for piece in self.sides.pruned_pieces[k]:
            if self._layerwise and len(piece.nodes) > 1:
                yield from (make_piece([node]) for node in piece.nodes)
            else:
                yield piece

    def _run_pruned(self, piece: Piece) -> None:
        keep = not self._layerwise
        while piece.nodes:
            try:
                self._execute(piece, keep)
            except RunError as error:
                self._explain(piece, error)
            restart = self._compare(piece)
            if restart is None:
                return
            rest = piece.nodes[restart:]
            if self._layerwise:
                for node in rest:
                    self._run_pruned(make_piece([node]))
                return
            piece, keep = make_piece(rest), False

    def _execute(self, piece: Piece, keep: bool) -> None:
        inputs = {
            name: self._original(name) if self._layerwise else self.pruned_values[name]
            for name in piece.inputs
        }
        self.pruned_values.update(self.sides.runners[1].run(piece, inputs, keep))

    def _explain(self, piece: Piece, error: RunError) -> NoReturn:
        """Find the node that keeps a piece from running: each alone, on the original's values."""
        if len(piece.nodes) == 1:
            raise DifferenceError(f"{describe(piece.nodes[0])} does not run: {error}") from error
        self._layerwise = True
        for node in piece.nodes:
            self._run_pruned(make_piece([node]))
        raise DifferenceError(f"the pruned graph does not run: {error}") from error

    def _original(self, name: str) -> Any:
        """The masked original's value, shortened; the pruned graph's own where there is none."""
        names = (name, *self._renamed.get(name, ()))
        source = next((n for n in names if n in self.twin_values and n not in self._quiet), None)
        if source is None:
            return self.pruned_values[name]
        want = self._shortened(source)
        return self.pruned_values[name] if want is None else want

    def _shortened(self, name: str) -> Any:
        """`take(masked.t, cuts)`; None where the cuts mean nothing at this binding, and for
        sequences, which are compared when they are taken apart."""
        value = self.twin_values[name]
        cuts = self.sides.cuts.get(name, ())
        if not isinstance(value, np.ndarray):
            return None
        if not cuts:
            return value
        held, dropped = fitting(cuts, value.shape, self.planned)
        return None if dropped else take(value, held)

    # --- comparing --------------------------------------------------------------------------------

    def _compare(self, piece: Piece) -> int | None:
        """Compare what a piece defines; where a node only rounded, the index to go on from."""
        for index, node in enumerate(piece.nodes):
            for pair in self._pairs(node):
                if pair.original not in self.twin_values:
                    self._waiting.append(pair)
                    continue
                found = self._judge(pair, node)
                if found is None:
                    continue
                self._excuse(node, pair, found)
                self._restarts += 1
                self._layerwise = self._layerwise or self._restarts >= _MOST_RESTARTS
                return index + 1
        return None

    def _pairs(self, node: ir.Node) -> Iterator[Pair]:
        for output in node.outputs:
            name = output.name or ""
            if name in self._known:
                yield Pair(name, name)
            for old in self._renamed.get(name, ()):
                yield Pair(name, old)

    def _judge(self, pair: Pair, node: ir.Node | None) -> Deviation | None:
        """None where the tensor agrees (it is noted), else how it differs."""
        want = self._shortened(pair.original)
        if want is None:
            self.tally.uncompared.add(pair.original)
            return None
        found = deviation(want, self.pruned_values[pair.pruned])
        tolerance = self._tolerances.get(pair.original, COARSEST)
        limit = tolerance.local if self._layerwise and node is not None else tolerance.whole
        if found.within(limit):
            if pair.original not in self._quiet:
                self.tally.note(pair.original, found, pair.pruned in self._outputs)
            return None
        return None if pair.original in self._quiet else found

    def _compare_constants(self, piece: Piece) -> None:
        for name in piece.outputs:
            for tensor in self.sides.stand_ins.get(name, ()):
                want = self._shortened(name)
                if want is None:
                    self.tally.uncompared.add(name)
                    continue
                got = np.asarray(tensor.numpy())
                if np.broadcast_shapes(got.shape, want.shape) == want.shape:
                    got = np.broadcast_to(got, want.shape)
                found = deviation(want, got)
                if not found.within(self._tolerances.get(name, COARSEST).whole):
                    text = _describe(None, Pair(tensor.name or "", name), found)
                    raise DifferenceError(f"{text}: it stands for '{name}'")
                self.tally.note(name, found, False)

    def _compare_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for pair in waiting:
            if pair.original not in self.twin_values:
                self._waiting.append(pair)
                continue
            found = self._judge(pair, None)
            if found is not None:
                raise DifferenceError(_describe(None, pair, found))

    def _excuse(self, node: ir.Node, pair: Pair, found: Deviation) -> None:
        """Run the node alone on the masked original's values; where it is right there, it was only
        rounded differently before it, and the run goes on from the original's values.

        Raises:
            DifferenceError: It is wrong there too.
        """
        pairs = [
            p
            for p in self._pairs(node)
            if p.original in self.twin_values and p.original not in self._quiet
        ]
        if not is_random(node):
            self._check_alone(node, pair, found, pairs)
        for each in pairs:
            want = self._shortened(each.original)
            if want is not None:
                self.pruned_values[each.pruned] = want
        reason = (
            "it draws random numbers"
            if is_random(node)
            else f"differs by {found.max_rel:.2g} after the nodes before it, alone it is right"
        )
        self.tally.rounded[describe(node)] = reason

    def _check_alone(
        self, node: ir.Node, pair: Pair, found: Deviation, pairs: Sequence[Pair]
    ) -> None:
        piece = make_piece([node])
        inputs = {name: self._original(name) for name in piece.inputs}
        try:
            alone = self.sides.runners[1].run(piece, inputs, keep=False)
            for each in pairs:
                want = self._shortened(each.original)
                if want is None:
                    continue
                here = deviation(want, alone[each.pruned])
                limit = self._tolerances.get(each.original, COARSEST).local
                if not here.within(limit) and not self._is_noise(piece, inputs, each, alone, here):
                    raise DifferenceError(_describe(node, each, here))
                self.tally.note(each.original, here, each.pruned in self._outputs)
        except RunError as error:
            raise DifferenceError(f"{_describe(node, pair, found)}; alone: {error}") from error

    def _is_noise(
        self, piece: Piece, inputs: Values, pair: Pair, alone: Values, found: Deviation
    ) -> bool:
        """Whether rounding errors of the inputs change the output about as much, at the worst
        entry and on the whole (a step function changes much, but at few entries)."""
        if found.flaw or found.exact:
            return False
        generator = np.random.default_rng(0)
        shaken = {n: _shaken(a, generator) for n, a in inputs.items()}
        again = self.sides.runners[1].run(piece, shaken, keep=False)
        moved = deviation(alone[pair.pruned], again[pair.pruned])
        return (
            not moved.flaw
            and found.max_abs <= _NOISE_MARGIN * moved.max_abs
            and found.mean_abs <= _NOISE_MARGIN * moved.mean_abs
        )

    # --- memory -----------------------------------------------------------------------------------

    def _release(self, k: int) -> None:
        waiting = {p.original for p in self._waiting} | {p.pruned for p in self._waiting}
        for values in (self.twin_values, self.pruned_values):
            for name in [n for n in values if self._last_use.get(n, -1) <= k and n not in waiting]:
                del values[name]


def _shaken(array: Any, generator: np.random.Generator) -> Any:
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        return array
    step = 2.0 * float(np.finfo(array.dtype).eps)
    signs = generator.choice(np.array([1.0 - step, 1.0 + step]), size=array.shape)
    return (array * signs).astype(array.dtype)


def _describe(node: ir.Node | None, pair: Pair, found: Deviation) -> str:
    where = describe(node) if node is not None else "the pruned graph"
    if found.flaw:
        return f"{where}: tensor '{pair.pruned}' has {found.flaw}"
    return (
        f"{where}: tensor '{pair.pruned}' differs from the masked original by {found.max_abs:.3g} "
        f"({found.max_rel:.3g} of its largest magnitude {found.scale:.3g})"
    )
