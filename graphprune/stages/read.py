"""Reading a model and running it as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from graphprune.errors import UnsupportedModelError, UsageError
from graphprune.onnx.bindings import dynamic_dims
from graphprune.onnx.canonical import canonicalise
from graphprune.onnx.load import load
from graphprune.onnx.shapes import default_bindings, shape_pair
from graphprune.options import Options
from graphprune.stages.work import Work

if TYPE_CHECKING:
    from graphprune.onnx.runtime import Session, Trial

RUN_LIMIT = 1 << 30
"""Models with more bytes of weights are not run as a whole: onnxruntime would hold all of them."""


def load_stage(work: Work) -> Work:
    """Read, check and canonicalise; a model in memory is never changed."""
    options = work.options
    if options.eval is not None:
        from graphprune.data.metric import load_metric

        metric = load_metric(options.eval, threads=options.threads, provider=options.provider)
        work = replace(work, metric=metric)
    loaded = load(resolve(work.source))
    if options.calib is not None:
        from graphprune.data.feeds import read_calibration

        calibration = read_calibration(
            options.calib,
            loaded.model,
            options.calib_samples,
            images=options.calib_images,
            tokenizer=options.tokenizer,
            max_length=options.max_length,
            seed=options.seed,
            dims=options.dims,
        )
        warnings = (*work.warnings, *calibration.warnings)
        work = replace(work, calibration=calibration, warnings=warnings)
    original = canonicalise(loaded.model)
    if options.distill is not None:
        from graphprune.distill.run import check

        assert work.calibration is not None
        check(original, work.calibration)
    return replace(work, loaded=loaded, original=original)


def run_stage(work: Work) -> Work:
    """Run the unpruned model, so that one that never worked is blamed correctly; find its sizes."""
    from graphprune.onnx.runtime import Session, find_trials

    model = work.known_model
    if weight_bytes(model) > RUN_LIMIT:
        first, second = default_bindings(model, work.options.dims)
        warning = (
            "the model is too large to be run as a whole: "
            "it is verified layer by layer and not timed"
        )
        return replace(
            work,
            bindings=_planned(work, first, second),
            shapes=shape_pair(model, *_planned(work, first, second)),
            quality=() if work.metric is None else (work.metric(model),),
            warnings=(*work.warnings, warning),
        )
    with Session(model, threads=work.options.threads, provider=work.options.provider) as session:
        one, two = find_trials(model, work.options.dims, work.options.seed, session)
        timed = _single(session, model, one, work.options)
    work = _looked_at(work)
    bindings = _planned(work, one.binding, two.binding)
    shapes = shape_pair(model, *bindings)
    if work.calibration is not None:
        from graphprune.data.room import with_room

        work = replace(work, calibration=with_room(work.calibration, model, shapes[0].dims))
    quality = () if work.metric is None else (work.metric(model),)
    return replace(
        work, bindings=bindings, shapes=shapes, trials=(one, two), timed=timed, quality=quality
    )


def _looked_at(work: Work) -> Work:
    """Say what is to be said of the calibration inputs, now that the model is known to run."""
    from graphprune.data.spread import looked_at

    before = work.calibration
    if before is None:
        return work
    data = looked_at(work.known_model, before, threads=work.options.threads)
    if data.random and not before.random and work.options.distill is not None:
        raise UsageError(
            "distillation (--distill) learns from inputs: these look like noise to the model, its "
            "outputs hardly vary"
        )
    new = data.warnings[len(before.warnings) :]
    return replace(work, calibration=data, warnings=(*work.warnings, *new))


def _planned(
    work: Work, first: Mapping[str, int], second: Mapping[str, int]
) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """The bindings to work at; the first is that of a given plan, whose indices hold for it."""
    if work.given is None:
        return first, second
    binding = work.given.binding
    return {name: binding.get(name, size) for name, size in first.items()}, first


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


def resolve(model: Any) -> Any:
    """`zoo:NAME` as the path of its file; anything else as it is."""
    if isinstance(model, str) and model.startswith("zoo:"):
        from graphprune.zoo import get

        return get(model.removeprefix("zoo:")).path
    return model


def weight_bytes(model: ir.Model) -> int:
    """Of all initializers together."""
    from graphprune.onnx.subject import initializers_of

    found = (v.const_value for v in initializers_of(model).values())
    return sum(t.nbytes for t in found if t is not None)
