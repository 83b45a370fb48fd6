"""Pruning single weights: zeros where weights matter least, shapes as they were.

result = graphprune.sparsify("model.onnx", sparsity=0.9)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from graphprune.errors import GraphpruneError, NothingGainedError, UsageError
from graphprune.onnx.load import load
from graphprune.options import check_reading
from graphprune.passes.sparsify import Mask, SparsifyPass
from graphprune.selection.empty import Empty
from graphprune.selection.ratios import named
from graphprune.sparse import select
from graphprune.sparse.empty import empty_units
from graphprune.sparse.formats import Tensor, cheapest
from graphprune.sparse.options import Sparsity
from graphprune.sparse.reports import SparseWeight, SparsityReport
from graphprune.sparse.scores import DATA_DRIVEN, GRADIENT, by_gradient, input_means, score
from graphprune.sparse.weights import Weight, prunable

if TYPE_CHECKING:
    from graphprune.data.feeds import Calibration
    from graphprune.measure.latency import Latency
    from graphprune.plan import Plan

Array = np.ndarray[Any, Any]
Progress = Callable[..., None]

RANDOM = "calibration inputs are random: what matters on them need not matter in use"


@dataclass(frozen=True, eq=False)
class Sparsified:
    """A model with zeros, which weights they replaced, and what that did.

    Attributes:
        model: Not yet written.
        masks: Initializer -> which of its elements were pruned.
        report: Figures.
        empty_plan: Removes the units of which nothing is left (`graphprune.compile(model,
            plan=...)`); None where there are none.
    """

    model: ir.Model
    masks: Mapping[str, Mask]
    report: SparsityReport
    empty_plan: Plan | None = None


def sparsify(
    model: Any,
    options: Sparsity | None = None,
    *,
    calib: Any = None,
    calib_samples: int = 128,
    calib_images: str | None = None,
    tokenizer: str | PathLike[str] | None = None,
    max_length: int | None = None,
    dims: Mapping[str, int] | None = None,
    threads: int = 1,
    bench: bool = True,
    progress: Progress | None = None,
    **settings: Any,
) -> Sparsified:
    """Set the weights that matter least to zero.

    Args:
        model: A path, an `onnx.ModelProto`, an `onnx_ir.Model` or a torch `ONNXProgram`; not changed.
        options: What to prune; or give the fields of `Sparsity` as keywords (`sparsity=0.9`).
        calib: Calibration inputs, for criteria `wanda`, `taylor`, `fisher` and scope `sensitivity`
            (`graphprune.data.source`).
        calib_samples: As many of them at most.
        calib_images: How images become inputs (`graphprune.data.images`).
        tokenizer: The tokenizer.json for a text file.
        max_length: Tokens of one text at most; None: what the model or the tokenizer says, else 128.
        dims: Sizes of dynamic dimensions.
        threads: Of onnxruntime.
        bench: Time both models.
        progress: Told each stage.
        **settings: Fields of `Sparsity`.

    Raises:
        UsageError: An option out of range, a glob that names nothing, an axis that N:M does not
            divide, no calibration inputs where they are needed, inputs that cannot be read, or a
            gradient criterion without torch.
        NothingGainedError: The model has no weight that is pruned.
        UnsupportedModelError: The model is unsound, does not run, or has an op without a gradient.
    """
    options = replace(options, **settings) if options is not None else Sparsity(**settings)
    _check_calib(options, calib is not None)
    check_reading(calib, calib_images, tokenizer, max_length)
    tell = progress or (lambda *_: None)
    tell("load")
    loaded = load(Path(model) if isinstance(model, str) else model)
    original = loaded.model
    LiftConstantsToInitializersPass()(original)
    weights = _chosen(prunable(original), options)
    warnings: list[str] = []
    data: Calibration | None = None
    if options.reads_data:
        from graphprune.data.feeds import read_calibration

        data = read_calibration(
            calib,
            original,
            calib_samples,
            images=calib_images,
            tokenizer=tokenizer,
            max_length=max_length,
            seed=options.seed,
            dims=dims,
        )
        if data.random:
            warnings.append(RANDOM)
    masks = _masks(original, weights, options, data, threads, tell)
    result = original.clone()
    SparsifyPass(masks)(result)
    tell("analyse")
    kept = {w.name for w in weights}
    done = [_after(w) for w in prunable(result) if w.name in kept]
    warnings += [
        f"all of '{w.name}' is zero: its layer's output is constant; use scope local, or prune less"
        for w, _ in done
        if w.sparsity == 1
    ]
    try:
        empty = empty_units(result, dims, options.seed)
    except GraphpruneError as error:  # the zeros are right whether or not the graph is understood
        empty = Empty((), None)
        warnings.append(f"empty units were not looked for: {error}")
    latency = _timed(original, result, dims, options.seed, threads, tell) if bench else None
    report = SparsityReport(
        source=str(loaded.path or "model in memory"),
        options=asdict(options),
        weights=tuple(w for w, _ in done),
        elements=sum(w.size for w in weights),
        zeros=sum(zeros for _, zeros in done),
        latency=latency,
        empty=empty.groups,
        warnings=tuple(warnings),
    )
    return Sparsified(result, masks, report, empty.plan)


def _chosen(weights: list[Weight], options: Sparsity) -> list[Weight]:
    if not weights:
        raise NothingGainedError(
            "the model has no weight that is pruned (floating-point weights of Conv, Gemm, MatMul, "
            "recurrent layers and embeddings)"
        )

    def matched(weight: Weight, globs: tuple[str, ...]) -> bool:
        return any(named(n, g) for n in (weight.name, *weight.layers) for g in globs)

    for option, globs in (("--only", options.only), ("--exclude", options.exclude)):
        for glob in globs:
            if not any(matched(w, (glob,)) for w in weights):
                raise UsageError(f"{option} '{glob}' names no weight and no layer that is pruned")
    chosen = [
        w
        for w in weights
        if (not options.only or matched(w, options.only)) and not matched(w, options.exclude)
    ]
    if not chosen:
        raise UsageError("--only and --exclude leave no weight to prune")
    return chosen


def _check_calib(options: Sparsity, given: bool) -> None:
    asked = f"criterion '{options.criterion}'"
    if not given and options.reads_data:
        asked = asked if options.criterion in DATA_DRIVEN else f"scope '{options.scope}'"
        raise UsageError(f"{asked} needs calibration inputs: give calib (--calib)")
    if given and not options.reads_data:
        raise UsageError(
            f"{asked} does not look at calibration inputs: leave out calib (--calib), or take "
            f"criterion {', '.join(DATA_DRIVEN)} or scope sensitivity"
        )


def _masks(
    model: ir.Model,
    weights: list[Weight],
    options: Sparsity,
    data: Calibration | None,
    threads: int,
    tell: Progress,
) -> dict[str, Mask]:
    """What leaves of each weight. Where ratios are measured, scores see other inputs than these."""
    measured = options.scope == "sensitivity"
    parts = () if data is None else (data.fit if measured else data.fit + data.choose + data.judge)
    scores = _scores(model, weights, options, [b.feeds for b in parts], threads, tell)
    if options.pattern is not None:
        tell("select")
        return select.n_of_m(weights, scores, options.n, options.m, options.pattern_axis)
    assert options.sparsity is not None
    if measured:
        assert data is not None
        from graphprune.sparse.sensitivity import damage_curves, least_damage

        tell("measure damage")
        curves = damage_curves(
            model,
            weights,
            scores,
            options.sparsity,
            [b.feeds for b in data.choose + data.judge],
            threads=threads,
            progress=partial(tell, "measure damage"),
        )
        return select.by_count(weights, scores, least_damage(weights, curves, options.sparsity))
    tell("select")
    if options.scope == "global":
        return select.over_all(weights, scores, options.sparsity)
    choose = select.by_output if options.criterion == "wanda" else select.by_layer
    return choose(weights, scores, options.sparsity)


def _scores(
    model: ir.Model,
    weights: list[Weight],
    options: Sparsity,
    feeds: list[dict[str, Array]],
    threads: int,
    tell: Progress,
) -> select.Scores:
    """The criterion as a function of the weight."""
    inputs: Mapping[str, Array] = {}
    if options.criterion == "wanda":
        tell("run")
        inputs = input_means(model, weights, feeds, threads)
    if options.criterion in GRADIENT:
        from graphprune.distill.weight_scores import weight_scores

        tell("score")
        names, report = [w.name for w in weights], partial(tell, "score")
        found = weight_scores(
            model, names, feeds, options.criterion, options.seed, threads=threads, progress=report
        )
        return by_gradient(weights, found, options.criterion)
    return lambda weight: score(weight, options.criterion, options.seed, inputs)


def _after(weight: Weight) -> tuple[SparseWeight, int]:
    array = np.ascontiguousarray(weight.array())
    bits = array.reshape(-1).view(f"<u{array.itemsize}")
    form, stored, nonzero = cheapest(Tensor(bits, weight.shape))
    zeros = weight.size - nonzero
    return (
        SparseWeight(
            weight.name,
            weight.layers,
            weight.shape,
            zeros / max(1, weight.size),
            array.nbytes,
            stored,
            form,
        ),
        zeros,
    )


def _timed(
    before: ir.Model,
    after: ir.Model,
    dims: Mapping[str, int] | None,
    seed: int,
    threads: int,
    tell: Progress,
) -> Latency:
    from graphprune.measure.latency import compare_latency
    from graphprune.onnx.runtime import find_trials

    trial = find_trials(before, dims, seed)[0]
    return compare_latency(
        before,
        after,
        trial.feeds,
        threads=threads,
        seconds_budget=5.0,
        progress=lambda share: tell("measure", share),
    )
