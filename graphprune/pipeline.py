"""The compile pipeline: one visible tuple of stages, each of which adds to what is known.

load -> run -> decide -> rewrite -> certify -> compensate -> measure -> report
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from graphprune.analysis.dependency import DependencyGraph
from graphprune.errors import (
    CertificateError,
    NothingGainedError,
    UnsupportedModelError,
    UsageError,
)
from graphprune.onnx.bindings import dynamic_dims
from graphprune.onnx.canonical import canonicalise
from graphprune.onnx.load import Loaded, load
from graphprune.onnx.shapes import Shapes, default_bindings, shape_pair
from graphprune.options import Options
from graphprune.plan import Plan, Unpruned

if TYPE_CHECKING:
    from graphprune.certify.certificate import Certificate
    from graphprune.certify.copy_check import CopyCheck
    from graphprune.data.feeds import Calibration
    from graphprune.decide import Scores
    from graphprune.measure.latency import Latency
    from graphprune.onnx.runtime import Session, Trial
    from graphprune.report.model import DriftReport, Report

__all__ = ["Options", "Result", "analyse", "compile", "verify"]

Progress = Callable[..., None]

_COARSER = (32, 64)
RUN_LIMIT = 1 << 30
"""Models with more bytes of weights are not run as a whole: onnxruntime would hold all of them."""


@dataclass(frozen=True, eq=False)
class Result:
    """A pruned model, what was decided, and what that did."""

    model: ir.Model
    plan: Plan
    report: Report


@dataclass(frozen=True, eq=False)
class Work:
    """What is known so far; every stage returns a copy that knows more."""

    source: Any
    options: Options
    progress: Progress
    given: Plan | None = None
    loaded: Loaded | None = None
    original: ir.Model | None = None
    bindings: tuple[Mapping[str, int], ...] = ()
    shapes: tuple[Shapes, Shapes] | None = None
    trials: tuple[Trial, ...] = ()
    timed: Trial | None = None
    graph: DependencyGraph | None = None
    plan: Plan | None = None
    pruned: ir.Model | None = None
    copied: CopyCheck | None = None
    certificate: Certificate | None = None
    latency: Latency | None = None
    calibration: Calibration | None = None
    drift: DriftReport | None = None
    report: Report | None = None
    warnings: tuple[str, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def known_model(self) -> ir.Model:
        assert self.original is not None
        return self.original

    @property
    def known_plan(self) -> Plan:
        assert self.plan is not None
        return self.plan

    @property
    def known_shapes(self) -> tuple[Shapes, Shapes]:
        assert self.shapes is not None
        return self.shapes

    @property
    def result(self) -> ir.Model:
        assert self.pruned is not None
        return self.pruned


def load_stage(work: Work) -> Work:
    """Read, check and canonicalise; a model in memory is never changed."""
    loaded = load(work.source)
    calibration = None
    if work.options.calib is not None:
        from graphprune.data.feeds import read_calibration

        options = work.options
        calibration = read_calibration(options.calib, loaded.model, options.calib_samples)
    original = canonicalise(loaded.model)
    return replace(work, loaded=loaded, original=original, calibration=calibration)


def run_stage(work: Work) -> Work:
    """Run the unpruned model, so that one that never worked is blamed correctly; find its sizes."""
    from graphprune.onnx.runtime import Session, find_trials

    model = work.known_model
    if _weight_bytes(model) > RUN_LIMIT:
        first, second = default_bindings(model, work.options.dims)
        warning = (
            "the model is too large to be run as a whole: "
            "it is verified layer by layer and not timed"
        )
        return replace(
            work,
            bindings=_planned(work, first, second),
            shapes=shape_pair(model, *_planned(work, first, second)),
            warnings=(*work.warnings, warning),
        )
    with Session(model, threads=work.options.threads, provider=work.options.provider) as session:
        one, two = find_trials(model, work.options.dims, work.options.seed, session)
        timed = _single(session, model, one, work.options)
    bindings = _planned(work, one.binding, two.binding)
    shapes = shape_pair(model, *bindings)
    return replace(work, bindings=bindings, shapes=shapes, trials=(one, two), timed=timed)


def _planned(
    work: Work, first: Mapping[str, int], second: Mapping[str, int]
) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """The bindings to work at; the first is that of a given plan, whose indices hold for it."""
    if work.given is None:
        return first, second
    binding = work.given.binding
    return {name: binding.get(name, size) for name, size in first.items()}, first


def decide_stage(work: Work) -> Work:
    """Analyse, score, select: the plan. With a given plan: check that it is for this model."""
    assert work.loaded is not None
    if work.given is not None:
        if work.given.source_sha256.startswith("torch:"):
            return replace(work, plan=_of_module(work, work.given))
        if work.given.source_sha256 != work.loaded.sha256:
            raise UsageError(
                "the plan was made for another model (its source_sha256 differs): "
                "make a new one with --save-plan"
            )
        return replace(work, plan=work.given)
    from graphprune.onnx.subject import decide_model

    plan, graph = decide_model(
        work.known_model,
        work.known_shapes,
        work.options,
        work.loaded.sha256,
        work.progress,
        scores=_scores(work),
    )
    return replace(work, plan=plan, graph=graph)


def _scores(work: Work) -> Scores | None:
    """Scores that come from calibration inputs, for the criterion that needs them."""
    if work.options.criterion != "energy" or work.calibration is None:
        return None
    from graphprune.compensation.energy import energy_scores
    from graphprune.onnx.subject import OnnxSubject

    assert work.loaded is not None
    subject = OnnxSubject(work.known_model, work.known_shapes, work.loaded.sha256)
    feeds = [batch.feeds for batch in work.calibration.fit]
    threads, seed = work.options.threads, work.options.seed
    return lambda graph, names: energy_scores(
        subject.model, graph, names, subject.weight, feeds, threads=threads, seed=seed
    )


def _of_module(work: Work, plan: Plan) -> Plan:
    """A plan that was made for the torch module that this model was exported from."""
    from graphprune.onnx.subject import OnnxSubject
    from graphprune.transfer import transfer

    assert work.loaded is not None
    subject = OnnxSubject(work.known_model, work.known_shapes, work.loaded.sha256)
    return transfer(
        plan,
        subject.analyse(),
        source_sha256=subject.sha256,
        origins=subject.origins(),
        binding=subject.binding,
    )


def rewrite_stage(work: Work) -> Work:
    """Emit the smaller graph. A group whose sizes cannot be followed is left, with the reason."""
    from graphprune.onnx.subject import decide_model
    from graphprune.passes.stamp import StampPass
    from graphprune.rewrite import rewrite

    assert work.loaded is not None
    sha256 = work.loaded.sha256

    def again(refused: Sequence[Unpruned]) -> tuple[Plan, DependencyGraph]:
        return decide_model(
            work.known_model,
            work.known_shapes,
            work.options,
            sha256,
            work.progress,
            refused,
            _scores(work),
        )

    bindings = [s.binding for s in work.known_shapes]
    plan, graph, pruned = rewrite(work.known_model, bindings, work.known_plan, work.graph, again)
    _require_something(plan, work.options)
    StampPass(plan)(pruned)
    return replace(work, plan=plan, graph=graph, pruned=pruned)


def certify_stage(work: Work) -> Work:
    """Prove it. Raises CertificateError, naming the first node that differs."""
    if not work.options.verify or not work.known_plan.tensors:
        return work
    from graphprune.certify.certificate import certify
    from graphprune.certify.copy_check import with_copy

    work = _compare_copy(work)
    certificate = certify(
        work.known_model,
        work.result,
        work.known_plan,
        bindings=work.bindings,
        seed=work.options.seed,
        progress=lambda share: work.progress("certify", share),
    )
    if certificate.status == "failed":
        raise CertificateError(
            f"the pruned graph differs from the masked original: {certificate.first_difference}; "
            "nothing was written"
        )
    if work.copied is not None:
        certificate = with_copy(certificate, work.copied)
    return replace(work, certificate=certificate)


def _compare_copy(work: Work) -> Work:
    """Show once that the canonical copy, which the certificate is about, is the model."""
    if work.copied is not None or not work.trials:
        return work
    from graphprune.certify.copy_check import check_copy, require_copy

    assert work.loaded is not None
    found = check_copy(
        work.loaded.model,
        work.known_model,
        work.trials,
        threads=work.options.threads,
        provider=work.options.provider,
        seed=work.options.seed,
    )
    require_copy(found)
    return replace(work, copied=found)


def compensate_stage(work: Work) -> Work:
    """Refit what is behind a cut to calibration inputs; what was proven is the model before."""
    if work.calibration is None or not work.known_plan.tensors:
        return work
    from graphprune.compensation.run import compensate

    model, drift, notes = compensate(
        work.known_model,
        work.result,
        work.known_plan,
        work.known_shapes[0],
        work.calibration,
        threads=work.options.threads,
        seed=work.options.seed,
        progress=lambda share: work.progress("compensate", share),
    )
    return replace(work, pruned=model, drift=drift, warnings=(*work.warnings, *notes))


def measure_stage(work: Work) -> Work:
    """Time both models. Where the result is slower, try coarser widths; else it is an error."""
    if not work.options.bench or work.timed is None:
        return work
    first = found = _timed(work)
    fixed = work.given is not None or work.options.align != "auto"
    for grid in () if fixed else _COARSER:
        if not _slower(found):
            return found
        note = f"slower on the default grid, so widths are multiples of {grid}"
        again = replace(
            work,
            options=replace(work.options, align=grid),
            warnings=(*work.warnings, note),
        )
        try:
            for stage in (decide_stage, rewrite_stage, certify_stage, compensate_stage):
                again = stage(again)
        except NothingGainedError:  # nothing is on that grid
            break
        found = _timed(again)
    if not _slower(found):
        return found
    assert first.latency is not None
    raise NothingGainedError(
        f"the pruned model is slower than the original ({first.latency.ratio:.2f}x at "
        f"{work.options.threads} thread(s)): keep less, use --align auto, or pass --allow-slower"
    )


def _slower(work: Work) -> bool:
    assert work.latency is not None
    return work.latency.verdict == "slower" and not work.options.allow_slower


def _timed(work: Work) -> Work:
    from graphprune.measure.latency import compare_latency

    assert work.timed is not None
    latency = compare_latency(
        work.known_model,
        work.result,
        work.timed.feeds,
        threads=work.options.threads,
        provider=work.options.provider,
        progress=lambda share: work.progress("measure", share),
    )
    return replace(work, latency=latency)


def report_stage(work: Work) -> Work:
    """Put together what was done."""
    from graphprune.report.build import build_report

    assert work.loaded is not None
    report = build_report(
        work.known_model,
        work.result,
        work.known_plan,
        work.known_shapes[0].binding if work.timed is None else work.timed.binding,
        source=str(work.loaded.path or "model in memory"),
        options=work.options,
        certificate=work.certificate,
        latency=work.latency,
        timings=work.timings,
        warnings=work.warnings,
        original_bytes=work.loaded.original_size_bytes,
        drift=work.drift,
    )
    return replace(work, report=report)


STAGES: tuple[tuple[str, Callable[[Work], Work]], ...] = (
    ("load", load_stage),
    ("run", run_stage),
    ("decide", decide_stage),
    ("rewrite", rewrite_stage),
    ("certify", certify_stage),
    ("compensate", compensate_stage),
    ("measure", measure_stage),
    ("report", report_stage),
)


def compile(
    model: Any,
    options: Options | None = None,
    *,
    plan: Plan | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Result:
    """Prune a model, prove the result, time both.

    Args:
        model: A path, `zoo:NAME`, `onnx.ModelProto`, `onnx_ir.Model` or torch `ONNXProgram`.
        options: What stays; or give the fields of `Options` as keywords (`channels=0.5`).
        plan: Apply this plan instead of making one.
        progress: Called with the name of each stage, and the share of it that is done.
        **settings: Fields of `Options`.

    Returns:
        The pruned model (not yet written), the plan and the report.

    Raises:
        GraphpruneError: One of its kinds; see `graphprune.errors`.
    """
    options = replace(options, **settings) if options is not None else Options(**settings)
    if plan is None and not options.says_what_stays:
        raise UsageError("say what stays: channels=, params=, macs=, heads=, head_dims= or a plan")
    work = Work(_source(model), options, progress or (lambda *_: None), given=plan)
    for name, stage in STAGES:
        work.progress(name)
        start = perf_counter()
        work = stage(work)
        work = replace(work, timings={**work.timings, name: perf_counter() - start})
    assert work.report is not None
    report = replace(work.report, timings_s=work.timings)
    return Result(work.result, work.known_plan, report)


def analyse(model: Any, *, dims: Mapping[str, int] | None = None) -> DependencyGraph:
    """The dependency graph of a model: groups, members, constraints, and what stays and why.

    Args:
        model: As for `compile`.
        dims: Sizes of dynamic dimensions.
    """
    from graphprune.onnx.analyse import analyse_graph

    canonical = canonicalise(load(_source(model)).model)
    return analyse_graph(canonical, *shape_pair(canonical, *default_bindings(canonical, dims)))


def verify(
    original: Any,
    pruned: Any,
    *,
    plan: Plan | None = None,
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Certificate:
    """Prove that `pruned` is what `plan` makes of `original`.

    Args:
        original: As for `compile`.
        pruned: The smaller model.
        plan: What was removed.
        dims: Sizes of dynamic dimensions.
        seed: Of the random inputs.
        progress: As for `compile`.

    Raises:
        UsageError: No plan, or one of another model.
        CertificateError: The canonical copy of `original`, which is compared, differs from it.
    """
    from graphprune.certify.certificate import certify
    from graphprune.certify.copy_check import check_copy, require_copy, with_copy
    from graphprune.onnx.runtime import find_trials

    if plan is None:
        raise UsageError(
            "verify needs the plan: make one with compile --save-plan, give it with --plan"
        )
    loaded = load(_source(original))
    if plan.source_sha256 and plan.source_sha256 != loaded.sha256:
        raise UsageError("the plan was made for another model (its source_sha256 differs)")
    smaller = load(_source(pruned)).model
    if "graphprune.refitted_layers" in smaller.metadata_props:
        raise UsageError(
            "the pruned model was refitted to calibration inputs after it was proven, so that its "
            "weights are not those of the original: verify what compile makes without --calib"
        )
    model = canonicalise(loaded.model)
    bindings: Sequence[Mapping[str, int]] | None = None
    if dims:
        bindings = list(default_bindings(model, dims))
    report = progress or (lambda *_: None)
    certificate = certify(
        model,
        smaller,
        plan,
        bindings=bindings,
        seed=seed,
        progress=lambda share: report("certify", share),
    )
    if certificate.status == "failed" or _weight_bytes(model) > RUN_LIMIT:
        return certificate
    found = check_copy(loaded.model, model, find_trials(model, dims, seed), seed=seed)
    require_copy(found)
    return with_copy(certificate, found)


def _single(session: Session, model: ir.Model, trial: Trial, options: Options) -> Trial:
    """A run at batch 1, which is what is timed and counted unless the user gave another size."""
    from graphprune.onnx.runtime import try_run

    binding = {
        name: 1 if axis == 0 and name not in options.dims else trial.binding[name]
        for name, (_, axis, _) in dynamic_dims(model).items()
    }
    if binding == dict(trial.binding):
        return trial
    try:
        return try_run(session, model, binding, options.seed)
    except UnsupportedModelError:
        return trial


def _source(model: Any) -> Any:
    if isinstance(model, str) and model.startswith("zoo:"):
        from graphprune.zoo import get

        return get(model.removeprefix("zoo:")).path
    return model


def _weight_bytes(model: ir.Model) -> int:
    from graphprune.onnx.subject import initializers_of

    found = (v.const_value for v in initializers_of(model).values())
    return sum(t.nbytes for t in found if t is not None)


def _require_something(plan: Plan, options: Options) -> None:
    if plan.tensors or plan.initializers or options.allow_slower:
        return
    reasons = list(dict.fromkeys(f"{u.node}: {u.reason}" for u in plan.unpruned))[:3]
    text = "; ".join(reasons) or "no weight of the model carries channels that could leave"
    raise NothingGainedError(f"no group could be pruned ({text})")
