"""The stages of the torch line; each takes what is known and gives what it adds (see `pipeline`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from graphprune.analysis.dependency import DependencyGraph
from graphprune.decide import Measured, decide
from graphprune.errors import CertificateError, NothingGainedError
from graphprune.plan import Plan, Unpruned
from graphprune.torch.bypass import check_shortened
from graphprune.torch.capture import mode
from graphprune.torch.compare import Oracle
from graphprune.torch.differences import Difference
from graphprune.torch.layer_choice import choose, others, scaled
from graphprune.torch.own import Kept, own_class
from graphprune.torch.own_shorter import own_without_layers
from graphprune.torch.plans import check_plan
from graphprune.torch.rewrite import rewrite
from graphprune.torch.shorten import shortened
from graphprune.torch.subject import TorchSubject
from graphprune.torch.work import Work

_FOLDED = 1e3
"""A weight that was multiplied is rounded once more: equal is then 1e-6."""


def shorten_stage(work: Work) -> Work:
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


def decide_stage(work: Work) -> Work:
    """Analyse, score, select: the plan. A given plan is checked against the module."""
    if work.plan is not None:
        check_plan(work.captured, work.plan)
        return work
    if work.layers and not others(work.options):
        plan = Plan(work.captured.sha256, (), {}, (), layers=work.layers)
        return replace(work, plan=plan)
    plan, graph = _decided(work, ())
    return replace(work, plan=plan, graph=graph)


def _decided(work: Work, refused: Sequence[Unpruned]) -> tuple[Plan, DependencyGraph]:
    measured = Measured(work.scores)
    options = scaled(work.options, work.subject, work.short) if work.layers else work.options
    plan, graph = decide(work.short, options, work.progress, refused, measured)
    plan = replace(plan, source_sha256=work.captured.sha256, layers=work.layers)
    return plan, graph


def rewrite_stage(work: Work) -> Work:
    """The smaller graph; a group whose sizes cannot be followed is left, with the reason."""

    def again(refused: Sequence[Unpruned]) -> tuple[Plan, DependencyGraph]:
        return _decided(work, refused)

    plan, graph, made, edits = rewrite(work.short.captured, work.known_plan, work.graph, again)
    if not plan.initializers and not plan.layers and not work.options.allow_slower:
        reasons = list(dict.fromkeys(f"{u.node}: {u.reason}" for u in plan.unpruned))[:3]
        text = "; ".join(reasons) or "no weight of the module carries channels that could leave"
        raise NothingGainedError(f"no group could be pruned ({text})")
    return replace(work, plan=plan, graph=graph, made=made, edits=edits)


def keep_stage(work: Work) -> Work:
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


def certify_stage(work: Work) -> Work:
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


def _in_train_mode(work: Work, oracle: Oracle, slack: float) -> Difference:
    """Outputs and running statistics; of a class that draws random numbers itself, nothing."""
    assert work.kept is not None
    found = _against(work.kept, work.result, oracle, slack, train=True)
    if found.reason and work.result is not work.made:
        assert work.captured.module is not None
        if oracle.random(work.captured.module):
            return Difference()
    return found


def measure_stage(work: Work) -> Work:
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
