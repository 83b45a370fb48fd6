"""The line of the torch front end: capture, decide, rewrite, keep the user's class, certify, measure.

The same line as `graphprune.pipeline`, on the other front end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch
from torch import nn

from graphprune.analysis.dependency import DependencyGraph
from graphprune.decide import Scores
from graphprune.errors import UsageError
from graphprune.options import Options
from graphprune.plan import Plan
from graphprune.torch.capture import capture
from graphprune.torch.plans import translated
from graphprune.torch.reporting import build_report
from graphprune.torch.result import (
    Kind,
    Pruned,
    all_or_nothing,
    parameter_pairs,
    transplant,
)
from graphprune.torch.stages import (
    certify_stage,
    decide_stage,
    keep_stage,
    measure_stage,
    rewrite_stage,
    shorten_stage,
)
from graphprune.torch.subject import TorchSubject
from graphprune.torch.trace import analyse_captured
from graphprune.torch.work import Progress, Work


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


STAGES: tuple[tuple[str, Callable[[Work], Work]], ...] = (
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
    work = Work(
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


def _finish(work: Work, optimizer: torch.optim.Optimizer | None, ema: Any, inplace: bool) -> Pruned:
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
