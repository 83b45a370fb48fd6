"""The line of the torch front end: capture, decide, rewrite, keep the user's class, certify, measure.

The same line as `graphprune.pipeline`, on the other front end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import torch
from torch import fx, nn

from graphprune.analysis.dependency import DependencyGraph
from graphprune.decide import Measured, Scores, decide
from graphprune.errors import CertificateError, NothingGainedError, UsageError
from graphprune.measure.latency import Latency
from graphprune.options import Options
from graphprune.plan import LayerCut, Plan, Unpruned
from graphprune.torch.bypass import check_shortened
from graphprune.torch.capture import Captured, capture, mode
from graphprune.torch.compare import Difference, Oracle
from graphprune.torch.layer_choice import choose, others, scaled
from graphprune.torch.own import Kept, own_class
from graphprune.torch.own_shorter import own_without_layers
from graphprune.torch.plans import check_plan, translated
from graphprune.torch.reporting import build_report
from graphprune.torch.result import (
    Kind,
    Pruned,
    all_or_nothing,
    parameter_pairs,
    transplant,
)
from graphprune.torch.rewrite import Edit, rewrite
from graphprune.torch.shorten import shortened
from graphprune.torch.subject import TorchSubject
from graphprune.torch.trace import analyse_captured

Progress = Callable[..., None]

_FOLDED = 1e3
"""A weight that was multiplied is rounded once more: equal is then 1e-6."""


@dataclass(frozen=True, eq=False)
class _Work:
    """What is known so far; every stage returns a copy that knows more."""

    subject: TorchSubject
    options: Options
    progress: Progress
    scores: Scores | None = None
    inputs: Iterable[Any] | None = None
    dynamic_shapes: Any = None
    own: bool | None = None
    fold: bool = True
    plan: Plan | None = None
    graph: DependencyGraph | None = None
    made: fx.GraphModule | None = None
    edits: tuple[Edit, ...] = ()
    layers: tuple[LayerCut, ...] = ()
    base: TorchSubject | None = None
    oracle: Oracle | None = None
    kept: Kept | None = None
    difference: Difference | None = None
    latency: Latency | None = None
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def captured(self) -> Captured:
        return self.subject.captured

    @property
    def short(self) -> TorchSubject:
        """The module without the layers that left; the module itself where none did."""
        return self.base or self.subject

    @property
    def known_plan(self) -> Plan:
        assert self.plan is not None
        return self.plan

    @property
    def graph_result(self) -> fx.GraphModule:
        assert self.made is not None
        return self.made

    def make_oracle(self) -> Oracle:
        """What the masked original computes."""
        return Oracle(self.short.captured, self.known_plan, self.options.seed, self.captured)

    @property
    def result(self) -> nn.Module:
        kept = self.kept.module if self.kept is not None else None
        return kept if kept is not None else self.graph_result


def analyse(
    module: Any,
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
) -> DependencyGraph:
    """The dependency graph of a module: groups, members, constraints, and what stays and why.

    Args:
        module: A module, `ExportedProgram` or `torch.onnx.ONNXProgram`.
        args: Example inputs.
        kwargs: Example inputs by name.
        dynamic_shapes: As for `torch.export.export`; None: the first dimension of every input.
    """
    return analyse_captured(capture(module, args, kwargs, dynamic_shapes))


def shorten_stage(work: _Work) -> _Work:
    """The module without the layers that leave; nothing where all of them stay."""
    if work.plan is not None:
        layers = work.plan.layers
    elif work.options.layers is not None:
        layers = choose(work.subject, work.options, work.inputs)
    else:
        layers = ()
    if not layers:
        return work
    base = shortened(work.captured, layers)
    if work.options.verify:
        check_shortened(work.captured, base, layers, work.options.seed)
    return replace(work, layers=layers, base=TorchSubject(base))


def decide_stage(work: _Work) -> _Work:
    """Analyse, score, select: the plan. A given plan is checked against the module."""
    if work.plan is not None:
        check_plan(work.captured, work.plan)
        return work
    if work.layers and not others(work.options):
        plan = Plan(work.captured.sha256, (), {}, (), layers=work.layers)
        return replace(work, plan=plan)
    plan, graph = _decided(work, ())
    return replace(work, plan=plan, graph=graph)


def _decided(work: _Work, refused: Sequence[Unpruned]) -> tuple[Plan, DependencyGraph]:
    measured = Measured(work.scores)
    options = scaled(work.options, work.subject, work.short) if work.layers else work.options
    plan, graph = decide(work.short, options, work.progress, refused, measured)
    plan = replace(plan, source_sha256=work.captured.sha256, layers=work.layers)
    return plan, graph


def rewrite_stage(work: _Work) -> _Work:
    """The smaller graph; a group whose sizes cannot be followed is left, with the reason."""

    def again(refused: Sequence[Unpruned]) -> tuple[Plan, DependencyGraph]:
        return _decided(work, refused)

    plan, graph, made, edits = rewrite(work.short.captured, work.known_plan, work.graph, again)
    if not plan.initializers and not plan.layers and not work.options.allow_slower:
        reasons = list(dict.fromkeys(f"{u.node}: {u.reason}" for u in plan.unpruned))[:3]
        text = "; ".join(reasons) or "no weight of the module carries channels that could leave"
        raise NothingGainedError(f"no group could be pruned ({text})")
    return replace(work, plan=plan, graph=graph, made=made, edits=edits)


def keep_stage(work: _Work) -> _Work:
    """The user's own class with smaller weights, if it computes the same: that is tried out."""
    if work.captured.module is None or work.own is False:
        why = "a graph was asked for" if work.own is False else "a graph was given"
        return replace(work, kept=Kept(None, why, ()))
    oracle = work.oracle or work.make_oracle()

    def check(candidate: nn.Module, renamed: Mapping[str, str] | None = None) -> str:
        return oracle.difference(candidate, gradients=False, slack=_FOLDED, renamed=renamed).reason

    if work.layers:
        kept = own_without_layers(
            work.captured,
            work.short.captured,
            work.known_plan,
            check,
            dynamic_shapes=work.dynamic_shapes,
            seed=work.options.seed,
            fold=work.fold,
        )
    else:
        kept = own_class(work.captured, work.known_plan, work.edits, check, fold=work.fold)
    if kept.module is not None and not kept.folded:
        reason = oracle.difference(kept.module, gradients=False, renamed=kept.renamed).reason
        kept = Kept(None, reason) if reason else kept
    if kept.module is None and work.own:
        raise CertificateError(
            f"{type(work.captured.module).__name__} cannot be kept as it is: {kept.why}; take the "
            "graph (own=None), or exclude these groups"
        )
    return replace(work, kept=kept, oracle=oracle)


def certify_stage(work: _Work) -> _Work:
    """Prove it: outputs and gradients in eval mode, outputs and running statistics in train mode."""
    if not work.options.verify or not work.known_plan.cuts_something:
        return work
    assert work.kept is not None
    oracle = work.oracle or work.make_oracle()
    slack = _FOLDED if work.kept.folded else 1.0
    found = _against(work.kept, work.result, oracle, slack)
    if not found.reason and work.captured.training:
        trained = _in_train_mode(work, oracle, slack)
        found = replace(found, reason=trained.reason, checked=found.checked + trained.checked)
    if found.reason:
        raise CertificateError(
            f"the pruned module differs from the masked original: {found.reason}; it was not changed"
        )
    return replace(work, difference=found, oracle=oracle)


def _against(
    kept: Kept, result: nn.Module, oracle: Oracle, slack: float, train: bool = False
) -> Difference:
    return oracle.difference(
        result,
        train=train,
        gradients=not train,
        slack=slack,
        folded=kept.folded,
        renamed=kept.renamed,
    )


def _in_train_mode(work: _Work, oracle: Oracle, slack: float) -> Difference:
    """Outputs and running statistics; of a class that draws random numbers itself, nothing."""
    assert work.kept is not None
    found = _against(work.kept, work.result, oracle, slack, train=True)
    if found.reason and work.result is not work.made:
        assert work.captured.module is not None
        if oracle.random(work.captured.module):
            return Difference()
    return found


def measure_stage(work: _Work) -> _Work:
    """Time both in torch, in eval mode."""
    if not work.options.bench:
        return work
    from graphprune.measure.latency import interleave, judge

    original = work.captured.module or work.captured.graph_module
    args, kwargs = work.captured.args, dict(work.captured.kwargs)
    threads = torch.get_num_threads()
    torch.set_num_threads(work.options.threads)
    try:
        with mode(original, False), mode(work.result, False), torch.no_grad():
            samples = interleave(
                lambda: original(*args, **kwargs), lambda: work.result(*args, **kwargs), 10.0
            )
    finally:
        torch.set_num_threads(threads)
    return replace(work, latency=judge(samples, work.options.threads, "torch"))


STAGES: tuple[tuple[str, Callable[[_Work], _Work]], ...] = (
    ("shorten", shorten_stage),
    ("decide", decide_stage),
    ("rewrite", rewrite_stage),
    ("keep", keep_stage),
    ("certify", certify_stage),
    ("measure", measure_stage),
)


def prune(
    module: Any,
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    options: Options | None = None,
    plan: Plan | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    ema: Any = None,
    scores: Scores | None = None,
    inputs: Iterable[Any] | None = None,
    own: bool | None = None,
    inplace: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Pruned:
    """A physically smaller module that computes what the masked original computes.

    Args:
        module: A module, `ExportedProgram` or `torch.onnx.ONNXProgram`; unchanged unless `inplace`.
        args: Example inputs (a tensor or a tuple).
        kwargs: Example inputs by name.
        dynamic_shapes: As for `torch.export.export`; None: the first dimension of every input.
        options: What stays; or give the fields of `Options` as keywords (`channels=0.5`).
        plan: Apply this plan instead of making one; a plan of the ONNX export is translated.
        optimizer: Goes on with the smaller parameters, its state sliced with them.
        ema: An averaged copy of the module (a module or a state dict): pruned in place as well.
        scores: Scores of coupled units from outside (see `GradientScores`).
        inputs: Batches by which `layers=` chooses: a tensor, a tuple or a dict of arguments each. None:
            the example inputs.
        own: True: the user's class or an error; False: a graph; None: what works.
        inplace: Change `module` itself. Possible where its class can be kept.
        progress: Called with the name of each stage.
        **settings: Fields of `Options`; `bench` is off unless given.

    Raises:
        GraphpruneError: One of its kinds; nothing is changed then.
    """
    settings.setdefault("bench", options.bench if options is not None else False)
    chosen = replace(options, **settings) if options is not None else Options(**settings)
    if plan is None and not chosen.says_what_stays:
        raise UsageError(
            "say what stays: channels=, params=, macs=, heads=, head_dims=, layers= or a plan"
        )
    if chosen.calib is not None or chosen.eval is not None:
        raise UsageError(
            "calib and eval are for ONNX models: with a torch module score by data with "
            "scores=GradientScores(...), and train it on"
        )
    if inplace and own is False:
        raise UsageError("inplace=True keeps the module's class: do not give own=False with it")
    report_to = progress or (lambda *_: None)
    report_to("capture")
    start = perf_counter()
    captured = capture(module, args, kwargs, dynamic_shapes)
    subject = TorchSubject(captured)
    work = _Work(
        subject,
        chosen,
        report_to,
        scores,
        inputs,
        dynamic_shapes,
        True if inplace else own,
        fold=optimizer is None and ema is None,
        plan=None if plan is None else translated(captured, plan),
        timings={"capture": perf_counter() - start},
    )
    for name, stage in STAGES:
        report_to(name)
        start = perf_counter()
        work = stage(work)
        work = replace(work, timings={**work.timings, name: perf_counter() - start})
    return _finish(work, optimizer, ema, inplace)


def _finish(
    work: _Work, optimizer: torch.optim.Optimizer | None, ema: Any, inplace: bool
) -> Pruned:
    """Everything is proven: now, and only now, is anything of the user's changed."""
    captured, plan = work.captured, work.known_plan
    assert work.kept is not None
    kind: Kind = "module" if work.kept.module is not None else "graph"
    result = work.result
    result.train(captured.module.training if captured.module is not None else False)
    pairs = parameter_pairs(captured, plan, result, work.kept.renamed)
    left = set(work.short.captured.dropped)
    gone = [t for n in left if isinstance(t := captured.weights.tensors[n], nn.Parameter)]
    report = build_report(
        work.subject,
        work.short,
        plan,
        result,
        work.options,
        work.kept,
        difference=work.difference,
        latency=work.latency,
        timings=work.timings,
    )
    with all_or_nothing(optimizer):
        if optimizer is not None:
            from graphprune.torch.optim import carry_over

            carry_over(optimizer, pairs, [p for p in gone if p not in pairs])
        if ema is not None:
            from graphprune.torch.ema import carry_ema

            carry_ema(ema, plan, captured, result, work.kept.surgery, work.kept.renamed)
    if inplace:
        assert captured.module is not None
        if work.kept.surgery is not None:
            work.kept.surgery.apply(captured.module)
        transplant(result, captured.module)
        result = captured.module
    scaled = tuple(work.kept.folded)
    renamed = work.kept.renamed
    return Pruned(result, kind, work.kept.why, plan, report, captured, pairs, scaled, renamed)
