"""Choosing what leaves, and the smaller graph without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from graphprune.analysis.dependency import DependencyGraph
from graphprune.decide import Measured
from graphprune.errors import NothingGainedError, UnsupportedModelError, UsageError
from graphprune.options import DATA_CRITERIA, GRADIENT_CRITERIA, Options
from graphprune.plan import Plan, Unpruned
from graphprune.stages.work import Work
from graphprune.threads import at_once

if TYPE_CHECKING:
    from graphprune.decide import Scores, Subject


def decide_stage(work: Work) -> Work:
    """Analyse, score, select: the plan. With a given plan: check that it is for this model."""
    assert work.loaded is not None
    if work.given is not None:
        if work.given.source_sha256.startswith("torch:"):
            plan = replace(_of_module(work, work.given), layers=work.layers)
            return replace(work, plan=plan)
        if work.given.source_sha256 != work.loaded.sha256:
            raise UsageError(
                "the plan was made for another model (its source_sha256 differs): "
                "make a new one with --save-plan"
            )
        return replace(work, plan=work.given)
    from graphprune.onnx.subject import decide_model

    plan, graph = decide_model(
        work.base_model,
        work.base_sizes,
        work.options,
        work.loaded.sha256,
        work.progress,
        measured=_measured(work),
    )
    return replace(work, plan=replace(plan, layers=work.layers), graph=graph)


def _measured(work: Work) -> Measured:
    return Measured(
        scores=scores_for(work),
        curves=work.curves,
        latency=work.predict,
        scores_of=_scores_of(work),
    )


def scores_for(work: Work, jobs: int | None = None) -> Scores | None:
    """Scores of the model's units from calibration inputs; None where the criterion needs none.

    Args:
        work: A model that ran whole.
        jobs: Threads that score; None: as many as the machine has room for.
    """
    scores_of = _scores_of(work, jobs)
    return None if scores_of is None else scores_of(_subject(work))


def _scores_of(work: Work, jobs: int | None = None) -> Callable[[Subject], Scores] | None:
    """The user's scores, or those from calibration inputs, of a model that ran whole.

    From inputs that are made up nothing is chosen unless a criterion is named.
    """
    options, calibration = work.options, work.calibration
    if work.scores is not None:
        own = partial(_own_scores, work.scores)
        return lambda subject: own
    if calibration is None or options.criterion not in ("auto", *DATA_CRITERIA):
        return None
    if options.criterion == "auto" and calibration.random:
        return None
    from graphprune.distill.scores import gradient_scores
    from graphprune.onnx.subject import OnnxSubject
    from graphprune.scoring.run import data_scores

    feeds = [batch.feeds for batch in calibration.fit]

    def scores_of(subject: Subject) -> Scores:
        assert isinstance(subject, OnnxSubject)
        dims = {v.name: d for v, d in subject.shapes[0].dims.items() if v.name}

        def scores(graph: DependencyGraph, names: Sequence[str]) -> Mapping[str, np.ndarray]:
            key = tuple((name, graph.by_name[name].units.tobytes()) for name in names)
            if subject.model is work.base_model and key in work.scored:
                return work.scored[key]
            work.progress("score")
            weights, report = subject.weight, partial(work.progress, "score")
            found: Mapping[str, np.ndarray]
            try:
                if options.criterion in GRADIENT_CRITERIA:
                    found = gradient_scores(
                        subject.model,
                        graph,
                        names,
                        weights,
                        feeds,
                        options.criterion,
                        options.seed,
                        threads=options.threads,
                        progress=report,
                    )
                else:
                    found = data_scores(
                        subject.model,
                        graph,
                        names,
                        weights,
                        feeds,
                        options.criterion,
                        dims=dims,
                        threads=options.threads,
                        jobs=at_once(options.threads) if jobs is None else jobs,
                        seed=options.seed,
                        known=work.collected if subject.model is work.base_model else None,
                        progress=report,
                    )
            except UnsupportedModelError as error:
                raise UsageError(
                    f"the model does not run on the calibration inputs: {error}"
                ) from error
            if subject.model is work.base_model:
                work.scored[key] = found
            return found

        return scores

    return scores_of


def _own_scores(
    given: Scores, graph: DependencyGraph, names: Sequence[str]
) -> Mapping[str, np.ndarray]:
    """What the user's function says. Raises UsageError where a unit has no number."""
    found = given(graph, names)
    for name in names:
        values, size = np.asarray(found.get(name, ())), graph.by_name[name].size
        if values.shape != (size,) or not np.isfinite(values).all():
            raise UsageError(
                f"scores give no finite number for each of the {size} units of '{name}'"
            )
    return found


def _subject(work: Work) -> Subject:
    from graphprune.onnx.subject import OnnxSubject

    assert work.loaded is not None
    return OnnxSubject(work.base_model, work.base_sizes, work.loaded.sha256)


def _of_module(work: Work, plan: Plan) -> Plan:
    """A plan that was made for the torch module that this model was exported from."""
    from graphprune.transfer import transfer

    subject = _subject(work)
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
            work.base_model,
            work.base_sizes,
            work.options,
            sha256,
            work.progress,
            refused,
            _measured(work),
        )

    bindings = [s.binding for s in work.base_sizes]
    plan, graph, pruned = rewrite(work.base_model, bindings, work.known_plan, work.graph, again)
    if work.given is None:
        plan = replace(plan, layers=work.layers)
    _require_something(plan, work.options)
    StampPass(plan)(pruned)
    return replace(work, plan=plan, graph=graph, pruned=pruned)


def _require_something(plan: Plan, options: Options) -> None:
    if plan.cuts_something or options.allow_slower:
        return
    reasons = list(dict.fromkeys(f"{u.node}: {u.reason}" for u in plan.unpruned))[:3]
    text = "; ".join(reasons) or "no weight of the model carries channels that could leave"
    raise NothingGainedError(f"no group could be pruned ({text})")
