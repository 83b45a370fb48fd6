"""Which layers of a module leave: by what it is without them (`graphprune.damage.layers`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.utils import _pytree as pytree

from graphprune.damage.judge import error, variance
from graphprune.damage.layers import cosines, first, greedy, kept_count, ranked
from graphprune.errors import NothingGainedError, UsageError, first_line
from graphprune.options import AUTO, Options
from graphprune.plan import LayerCut
from graphprune.rules.aten.registry import aten
from graphprune.rules.registry import no_macs
from graphprune.torch.call import call_of
from graphprune.torch.capture import Captured, mode
from graphprune.torch.layers import layers_of
from graphprune.torch.shorten import shortened
from graphprune.torch.subject import TorchSubject, parameter_count
from graphprune.torch.twin import flat_inputs

Runs = list[dict[str, np.ndarray]]

Batch = tuple[tuple[Any, ...], Mapping[str, Any]]

_SATURATING = frozenset(
    (
        "softmax",
        "log_softmax",
        "_softmax",
        "_log_softmax",
        "sigmoid",
        "hardsigmoid",
        "argmax",
        "argmin",
    )
)
_MOVES = frozenset(
    (
        "view",
        "reshape",
        "flatten",
        "transpose",
        "permute",
        "squeeze",
        "unsqueeze",
        "_unsafe_view",
        "to",
    )
)


def choose(
    subject: TorchSubject, options: Options, inputs: Iterable[Any] | None = None
) -> tuple[LayerCut, ...]:
    """Layers that leave, in the order in which they were chosen, each with its score.

    Args:
        subject: The module.
        options: How many, and by which criterion.
        inputs: Batches: a tensor, a tuple of positional or a dict of named arguments each, of the
            example's sizes but for the first axis. None: the example inputs.

    Raises:
        NothingGainedError: The module has no layers, or none would leave.
        UsageError: It does not run on `inputs`.
    """
    captured = subject.captured
    if options.linear_layers:
        raise UsageError(
            "linear_layers is for ONNX models, where the linear maps are fitted: leave it out, and "
            "train the shorter module on"
        )
    cuts = [LayerCut(layer.name, layer.source, layer.output) for layer in layers_of(captured)]
    if not cuts:
        raise NothingGainedError(
            "the module has no layer or residual block that could leave as a whole (none whose input "
            "is added to what it makes of it)"
        )
    enough = _enough(subject, options, len(cuts))
    batches = _batches(captured, inputs)
    if options.layer_criterion == "cosine":
        return first(ranked(cuts, _cosines(captured, cuts, batches)), enough)
    wanted = _outputs(captured, batches)
    scales = {name: variance([run[name] for run in wanted]) for name in wanted[0]}

    def damage(gone: Sequence[LayerCut]) -> float:
        return error(wanted, _outputs(shortened(captured, gone), batches), scales)

    return greedy(cuts, damage, enough)


def scaled(options: Options, whole: TorchSubject, short: TorchSubject) -> Options:
    """Budgets of the original as those of the module without its layers."""
    pairs = {"params": (_parameters(whole), _parameters(short))}
    pairs["macs"] = whole.macs(), short.macs()
    budgets = {
        name: min(1.0, share * before / after)
        for name, (before, after) in pairs.items()
        if (share := getattr(options, name)) is not None and after
    }
    return replace(options, **budgets)


def _enough(
    subject: TorchSubject, options: Options, count: int
) -> Callable[[Sequence[LayerCut]], bool]:
    assert options.layers is not None
    if options.layers != AUTO:
        leave = count - kept_count(float(options.layers), count)
        if not leave and not others(options) and not options.allow_slower:
            raise NothingGainedError(
                f"{options.layers} of {count} layers are {count} layers, rounded: nothing would leave"
            )
        return lambda gone: len(gone) >= leave
    whole = {"params": _parameters(subject), "macs": subject.macs()}
    limits = {
        name: share * cost
        for name, cost in whole.items()
        if (share := getattr(options, name)) is not None
    }

    def met(gone: Sequence[LayerCut]) -> bool:
        now = TorchSubject(shortened(subject.captured, gone))
        costs = {"params": _parameters(now), "macs": now.macs()}
        return all(costs[name] <= limit for name, limit in limits.items())

    return met


def others(options: Options) -> bool:
    """Whether anything but layers is to be pruned; with `auto` nothing is, as layers meet budgets."""
    rest = replace(options, layers=None, linear_layers=False)
    if options.layers == AUTO:
        rest = replace(rest, macs=None, params=None)
    return rest.says_what_stays


def _parameters(subject: TorchSubject) -> int:
    return parameter_count(subject.captured)


def _batches(captured: Captured, inputs: Iterable[Any] | None) -> list[Batch]:
    if inputs is None:
        return [(captured.args, captured.kwargs)]
    found: list[Batch] = []
    for batch in inputs:
        if isinstance(batch, Mapping):
            found.append(((), batch))
        else:
            found.append((tuple(batch) if isinstance(batch, tuple | list) else (batch,), {}))
    if not found:
        raise UsageError("inputs= holds no batch: give at least one, or leave it out")
    return found


def _outputs(captured: Captured, batches: Sequence[Batch]) -> Runs:
    """Outputs by their numbers, in front of what saturates."""
    output = next(n for n in captured.nodes if n.op == "output")
    taps = {f"{i}": _tap(n).name for i, n in enumerate(_leaves(output)) if _floating(n)}
    runs = _runs(captured, batches, list(taps.values()))
    return [{i: run[name] for i, name in taps.items()} for run in runs]


def _leaves(output: fx.Node) -> list[fx.Node]:
    return [n for n in pytree.tree_leaves(output.args) if isinstance(n, fx.Node)]


def _floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _tap(node: fx.Node) -> fx.Node:
    """What is compared in place of an output (see `graphprune.onnx.saturation`)."""
    present = node
    while present.op == "call_function":
        op = call_of(present).op
        source = present.args[0] if present.args else None
        if not isinstance(source, fx.Node) or source.op != "call_function":
            break
        if op in _SATURATING:
            return source
        if op not in _MOVES:
            break
        present = source
    return node


def _cosines(
    captured: Captured, layers: Sequence[LayerCut], batches: Sequence[Batch]
) -> list[float]:
    """One minus the mean cosine of what comes into each layer and what goes out."""
    known = {n.name: n for n in captured.nodes}
    names = list(dict.fromkeys(n for cut in layers for n in (cut.source, cut.output)))
    runs = _runs(captured, batches, names)
    scores = []
    for cut in layers:
        axis = 1 if _channels_first(known[cut.output]) else -1
        found = [cosines(run[cut.source], run[cut.output], axis).reshape(-1) for run in runs]
        scores.append(1 - float(np.concatenate(found).mean()))
    return scores


def _channels_first(node: fx.Node) -> bool:
    """Whether channels are the second axis (else the last), by the layer nearest in front."""
    present: Any = node
    while isinstance(present, fx.Node) and present.op == "call_function":
        call = call_of(present)
        rule = aten.find(call.domain, call.op, None)
        if rule is not None and rule.macs is not no_macs:
            return "conv" in call.op
        if call.op in _MOVES:
            return False
        present = present.args[0] if present.args else None
    return False


def _runs(captured: Captured, batches: Sequence[Batch], names: Sequence[str]) -> Runs:
    """Named values of a graph, batch by batch, in eval mode."""
    graph = captured.graph_module
    found: Runs = []
    with mode(graph, False), torch.no_grad():
        for args, kwargs in batches:
            look = _Look(graph, names)
            try:
                look.call(*args, **kwargs)
            except Exception as problem:  # whatever an op raises at sizes that do not fit
                line = first_line(problem, 200)
                raise UsageError(
                    f"the module does not run on inputs= ({line}): batches have the "
                    "example's sizes but for the first axis"
                ) from problem
            found.append(look.seen)
    return found


class _Look(fx.Interpreter):
    def __init__(self, graph_module: fx.GraphModule, names: Sequence[str]) -> None:
        super().__init__(graph_module)
        self.graph_module = graph_module
        self.names = frozenset(names)
        self.seen: dict[str, np.ndarray] = {}

    def call(self, *args: Any, **kwargs: Any) -> None:
        self.run(*flat_inputs(self.graph_module, args, kwargs), enable_io_processing=False)

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self.names:
            self.seen[n.name] = result.detach().double().cpu().numpy().copy()
        return result
