"""The line of the torch front end: capture, decide, rewrite, keep the user's class, certify, measure.

The same line as `graphprune.pipeline`, on the other front end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, Literal

import torch
from torch import fx, nn

from graphprune import __version__
from graphprune.analysis.dependency import DependencyGraph
from graphprune.decide import Scores, decide
from graphprune.errors import CertificateError, NothingGainedError, UsageError
from graphprune.measure.latency import Latency
from graphprune.options import Options
from graphprune.plan import Cut, Plan, Unpruned
from graphprune.report.groups import group_reports
from graphprune.report.model import Report, Side
from graphprune.torch.capture import Captured, capture, mode
from graphprune.torch.compare import Difference, Oracle
from graphprune.torch.own import Kept, own_class
from graphprune.torch.rewrite import Edit, rewrite
from graphprune.torch.slicing import parameter_cuts
from graphprune.torch.subject import TorchSubject, count_parameters, parameter_count
from graphprune.torch.trace import analyse_captured

Progress = Callable[..., None]
Kind = Literal["module", "graph"]


@dataclass(frozen=True, eq=False)
class Pruned:
    """A pruned module, what was decided, and what that did.

    Attributes:
        module: The user's own class, or an `fx.GraphModule` where its code forbids other sizes.
        kind: `module` or `graph`.
        why: One line: how the class was kept, or why it could not be.
        plan: What was removed.
        report: As of `graphprune.compile`; latencies are of torch.
        captured: The original, as it was traced.
        pairs: Parameter of the original -> that of the result, and the cuts between them.
    """

    module: nn.Module
    kind: Kind
    why: str
    plan: Plan
    report: Report
    captured: Captured
    pairs: Mapping[nn.Parameter, tuple[nn.Parameter, Sequence[Cut]]]


@dataclass(frozen=True, eq=False)
class _Work:
    """What is known so far; every stage returns a copy that knows more."""

    subject: TorchSubject
    options: Options
    progress: Progress
    scores: Scores | None = None
    own: bool | None = None
    fold: bool = True
    plan: Plan | None = None
    graph: DependencyGraph | None = None
    made: fx.GraphModule | None = None
    edits: tuple[Edit, ...] = ()
    oracle: Oracle | None = None
    kept: Kept | None = None
    difference: Difference | None = None
    latency: Latency | None = None
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def captured(self) -> Captured:
        return self.subject.captured

    @property
    def known_plan(self) -> Plan:
        assert self.plan is not None
        return self.plan

    @property
    def graph_result(self) -> fx.GraphModule:
        assert self.made is not None
        return self.made

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


def decide_stage(work: _Work) -> _Work:
    """Analyse, score, select: the plan. A given plan is checked against the module."""
    if work.plan is not None:
        check_plan(work.captured, work.plan)
        return work
    plan, graph = decide(work.subject, work.options, work.progress, scores=work.scores)
    return replace(work, plan=plan, graph=graph)


def rewrite_stage(work: _Work) -> _Work:
    """The smaller graph; a group whose sizes cannot be followed is left, with the reason."""

    def again(refused: Sequence[Unpruned]) -> tuple[Plan, DependencyGraph]:
        return decide(work.subject, work.options, work.progress, refused, scores=work.scores)

    plan, graph, made, edits = rewrite(work.captured, work.known_plan, work.graph, again)
    if not plan.initializers and not work.options.allow_slower:
        reasons = list(dict.fromkeys(f"{u.node}: {u.reason}" for u in plan.unpruned))[:3]
        text = "; ".join(reasons) or "no weight of the module carries channels that could leave"
        raise NothingGainedError(f"no group could be pruned ({text})")
    return replace(work, plan=plan, graph=graph, made=made, edits=edits)


def keep_stage(work: _Work) -> _Work:
    """The user's own class with smaller weights, if it computes the same: that is tried out."""
    if work.captured.module is None or work.own is False:
        why = "a graph was asked for" if work.own is False else "a graph was given"
        return replace(work, kept=Kept(None, why, ()))
    oracle = work.oracle or Oracle(work.captured, work.known_plan, work.options.seed)

    def check(candidate: nn.Module) -> str:
        return oracle.difference(candidate, gradients=False).reason

    kept = own_class(work.captured, work.known_plan, work.edits, check, fold=work.fold)
    if kept.module is None and work.own:
        raise CertificateError(
            f"{type(work.captured.module).__name__} cannot be kept as it is: {kept.why}; take the "
            "graph (own=None), or exclude these groups"
        )
    return replace(work, kept=kept, oracle=oracle)


def certify_stage(work: _Work) -> _Work:
    """Prove it: outputs and gradients in eval mode, outputs and running statistics in train mode."""
    if not work.options.verify or not work.known_plan.initializers:
        return work
    oracle = work.oracle or Oracle(work.captured, work.known_plan, work.options.seed)
    found = oracle.difference(work.result)
    if not found.reason and work.captured.training and work.result is work.made:
        trained = oracle.difference(work.result, train=True, gradients=False)
        found = replace(found, reason=trained.reason, checked=found.checked + trained.checked)
    if found.reason:
        raise CertificateError(
            f"the pruned module differs from the masked original: {found.reason}; it was not changed"
        )
    return replace(work, difference=found, oracle=oracle)


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
        raise UsageError("say what stays: channels=, params=, macs=, heads=, head_dims= or a plan")
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
        True if inplace else own,
        fold=optimizer is None and ema is None,
        plan=None if plan is None else translated(captured, subject, plan),
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
    pairs = parameter_pairs(captured, plan, result)
    report = _report(work, kind)
    with _all_or_nothing(optimizer):
        if optimizer is not None:
            from graphprune.torch.optim import carry_over

            carry_over(optimizer, pairs)
        if ema is not None:
            from graphprune.torch.ema import carry_ema

            carry_ema(ema, plan, captured, result)
    if inplace:
        assert captured.module is not None
        transplant(result, captured.module)
        result = captured.module
    return Pruned(result, kind, work.kept.why, plan, report, captured, pairs)


@contextmanager
def _all_or_nothing(optimizer: torch.optim.Optimizer | None) -> Iterator[None]:
    """Put the optimizer back as it was where something fails after it was changed."""
    if optimizer is None:
        yield
        return
    groups = [list(g["params"]) for g in optimizer.param_groups]
    state = dict(optimizer.state)
    try:
        yield
    except BaseException:
        for group, parameters in zip(optimizer.param_groups, groups, strict=True):
            group["params"][:] = parameters
        optimizer.state.clear()
        optimizer.state.update(state)
        raise


def parameter_pairs(
    captured: Captured, plan: Plan, result: nn.Module
) -> dict[nn.Parameter, tuple[nn.Parameter, Sequence[Cut]]]:
    """Every parameter of the original, with that of the result and the cuts between them."""
    source = captured.module or captured.graph_module
    cuts = parameter_cuts(plan)
    names = {p: n for n, paths in captured.weights.aliases.items() for p in paths}
    made = dict(result.named_parameters(remove_duplicate=False))
    pairs: dict[nn.Parameter, tuple[nn.Parameter, Sequence[Cut]]] = {}
    for path, parameter in source.named_parameters(remove_duplicate=False):
        if parameter not in pairs and path in made:
            pairs[parameter] = made[path], cuts.get(names.get(path, path), ())
    return pairs


def transplant(source: nn.Module, target: nn.Module) -> None:
    """Give every part of `target` the parameters, buffers and attributes of its twin in `source`.

    Hooks and everything else that `target` alone has stays.
    """
    parts = dict(target.named_modules())
    for path, new in source.named_modules():
        old = parts[path]
        old.__class__ = type(new)
        for name, value in vars(new).items():
            if name in ("_parameters", "_buffers"):
                getattr(old, name).update(value)
            elif name == "_flat_weights" or not name.startswith("_"):
                old.__dict__[name] = value


def translated(captured: Captured, subject: TorchSubject, plan: Plan) -> Plan:
    """A plan of this module as it is, a plan of its ONNX export by the names of parameters."""
    if plan.source_sha256 == captured.sha256:
        return plan
    from graphprune.transfer import transfer

    paths = captured.weights.aliases
    aliases = {path: name for name, found in paths.items() for path in found}
    blocks = all(not cut.blocks for use in plan.initializers for cut in use.cuts)
    graph = subject.analyse(blocks=blocks)
    return transfer(plan, graph, source_sha256=captured.sha256, aliases=aliases)


def check_plan(captured: Captured, plan: Plan) -> None:
    """Raises UsageError where a plan cuts what the module does not have, or not of that size."""
    tensors = captured.weights.tensors
    for use in plan.initializers:
        tensor = tensors.get(use.initializer)
        if tensor is None:
            raise UsageError(
                f"the plan cuts '{use.initializer}', which this module does not have: it was made "
                "for another class"
            )
        for cut in use.cuts:
            size = tensor.shape[cut.axis] if cut.axis < tensor.ndim else 0
            if size != cut.size:
                raise UsageError(
                    f"the plan cuts axis {cut.axis} of '{use.initializer}', which has {size} "
                    f"elements here and not {cut.size}: it was made for another size of the class"
                )


def _report(work: _Work, kind: Kind) -> Report:
    captured, plan, subject = work.captured, work.known_plan, work.subject
    tensors = captured.weights.tensors
    shapes = {name: tuple(t.shape) for name, t in tensors.items() if isinstance(t, nn.Parameter)}
    latency = work.latency
    assert work.kept is not None
    name = type(captured.module).__name__ if captured.module is not None else "graph"
    kept = [f"kept {name}: {work.kept.why}", *work.kept.changed]
    lost = [f"{name} became a graph: {work.kept.why}"]
    result = work.result
    before, after = (_bytes(m) for m in (captured.module or captured.graph_module, result))
    return Report(
        version=__version__,
        source=name,
        source_sha256=plan.source_sha256,
        plan_sha256=plan.sha256,
        options=work.options.to_json(),
        original=Side(
            parameter_count(captured),
            subject.macs(),
            before,
            latency.original.median_ms if latency else None,
            latency.original.iqr_ms if latency else None,
        ),
        pruned=Side(
            count_parameters(result),
            subject.macs(plan),
            after,
            latency.pruned.median_ms if latency else None,
            latency.pruned.iqr_ms if latency else None,
        ),
        latency=latency,
        certificate=_certificate(work),
        groups=group_reports(plan, shapes),
        unpruned=plan.unpruned,
        timings_s=work.timings,
        warnings=(*captured.notes, *(kept if kind == "module" else lost)),
    )


def _bytes(module: nn.Module) -> int:
    tensors = {id(t): t for t in module.state_dict(keep_vars=True).values()}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _certificate(work: _Work) -> dict[str, Any] | None:
    found = work.difference
    if found is None:
        return None
    nodes = sorted(work.known_plan.statistics_nodes)
    return {
        "status": "statistics" if nodes else "exact",
        "level": "full",
        "max_abs_error": found.abs_error,
        "max_rel_error": found.rel_error,
        "gradient_max_rel_error": found.gradient_error,
        "statistics_nodes": nodes,
        "checked_tensors": found.checked,
        "weak": list(found.weak),
        "first_difference": None,
    }
