"""Pruning single weights: zeros where weights matter least, shapes as they were.

result = graphprune.sparsify("model.onnx", sparsity=0.9)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
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
from graphprune.sparse.reports import SparseWeight, SparsityReport
from graphprune.sparse.scores import check_criterion, input_means, score
from graphprune.sparse.weights import Weight, prunable

if TYPE_CHECKING:
    from graphprune.measure.latency import Latency
    from graphprune.plan import Plan

Array = np.ndarray[Any, Any]
Progress = Callable[..., None]

RANDOM = "calibration inputs are random: wanda weighs by scales of inputs, which are others in use"


@dataclass(frozen=True)
class Sparsity:
    """What to prune of single weights.

    Attributes:
        sparsity: The share of zeros over all weights that are pruned, 0 < S < 1; None with a
            pattern, which says it.
        scope: `global` (one threshold over all layers) or `local` (the same share of each; with
            `wanda` of each output).
        criterion: See `graphprune.sparse.scores`.
        pattern: N:M, `2:4`: of every M elements in a row N stay.
        pattern_axis: Along which axis; None: the one that is summed over.
        only: Globs of initializers or layers; all others are left.
        exclude: Globs of initializers or layers to leave.
        seed: Of random scores and inputs.
    """

    sparsity: float | None = None
    scope: str = "global"
    criterion: str = "magnitude"
    pattern: str | None = None
    pattern_axis: int | None = None
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("only", "exclude"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        if self.sparsity is not None and not 0 < self.sparsity < 1:
            raise UsageError(
                f"sparsity {self.sparsity:g} is out of range: it is the share of zeros, 0 < S < 1"
            )
        if self.scope not in ("global", "local"):
            raise UsageError(f"scope '{self.scope}' is neither 'local' nor 'global'")
        check_criterion(self.criterion)
        if self.pattern is None:
            if self.sparsity is None:
                raise UsageError("say how much to prune: sparsity (0.9) or pattern (2:4)")
            if self.pattern_axis is not None:
                raise UsageError("pattern_axis needs a pattern, for example 2:4")
        elif self.sparsity is not None and abs(self.sparsity - 1 + self.n / self.m) > 1e-6:
            raise UsageError(
                f"pattern {self.pattern} gives sparsity {1 - self.n / self.m:g}: leave out sparsity"
            )

    @property
    def n(self) -> int:
        """How many of `m` stay."""
        return self._pattern[0]

    @property
    def m(self) -> int:
        """The length of a group."""
        return self._pattern[1]

    @property
    def _pattern(self) -> tuple[int, int]:
        found = re.fullmatch(r"(\d+):(\d+)", self.pattern or "")
        if not found or not 0 < int(found[1]) < int(found[2]):
            raise UsageError(f"pattern '{self.pattern}' is not N:M with 0 < N < M, for example 2:4")
        return int(found[1]), int(found[2])


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
        calib: Calibration inputs, for criterion `wanda` (`graphprune.data.source`).
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
            divide, no calibration inputs for `wanda`, or inputs that cannot be read.
        NothingGainedError: The model has no weight that is pruned.
        UnsupportedModelError: The model is unsound or does not run.
    """
    options = replace(options, **settings) if options is not None else Sparsity(**settings)
    if options.criterion == "wanda" and calib is None:
        raise UsageError("criterion 'wanda' needs calibration inputs: give calib (--calib)")
    if options.criterion != "wanda" and calib is not None:
        raise UsageError(
            f"criterion '{options.criterion}' does not look at calibration inputs: leave out calib "
            "(--calib), or take criterion wanda"
        )
    check_reading(calib, calib_images, tokenizer, max_length)
    tell = progress or (lambda *_: None)
    tell("load")
    loaded = load(Path(model) if isinstance(model, str) else model)
    original = loaded.model
    LiftConstantsToInitializersPass()(original)
    weights = _chosen(prunable(original), options)
    inputs: dict[str, Array] = {}
    warnings: list[str] = []
    if options.criterion == "wanda":
        tell("run")
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
        feeds = [b.feeds for b in (*data.fit, *data.choose, *data.judge)]
        inputs = input_means(original, weights, feeds, threads)
        if data.random:
            warnings.append(RANDOM)
    tell("select")
    masks = _masks(weights, options, inputs)
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


def _masks(
    weights: list[Weight], options: Sparsity, inputs: Mapping[str, Array]
) -> dict[str, Mask]:
    def scores(weight: Weight) -> Array:
        return score(weight, options.criterion, options.seed, inputs)

    if options.pattern is not None:
        return select.n_of_m(weights, scores, options.n, options.m, options.pattern_axis)
    assert options.sparsity is not None
    if options.scope == "global":
        return select.over_all(weights, scores, options.sparsity)
    choose = select.by_output if options.criterion == "wanda" else select.by_layer
    return choose(weights, scores, options.sparsity)


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
