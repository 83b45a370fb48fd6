"""Taking whole layers out, before anything inside of layers is looked at.

What comes out is the *base*: the stages behind decide, rewrite and prove widths on it as if it were
the file. Costs, refits and drift are against the original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from graphprune.errors import (
    CertificateError,
    NothingGainedError,
    UnsupportedModelError,
    UsageError,
)
from graphprune.onnx.shapes import infer_shapes, shape_pair
from graphprune.options import AUTO, Options
from graphprune.passes.drop_layers import DropLayersPass
from graphprune.plan import LayerCut, LinearMap, Plan
from graphprune.stages.work import Work

if TYPE_CHECKING:
    from graphprune.certify.shortened import Shortened

_MADE_UP = (
    "without --calib, layers were chosen by made-up inputs: look at the result, or give inputs"
)


def shorten_stage(work: Work) -> Work:
    """The model without the layers that leave; nothing where all of them stay."""
    if work.given is not None:
        return based_on(work, _as_here(work, work.given))
    if work.options.layers is None:
        return work
    return _scaled(based_on(*_chosen(work)))


def _as_here(work: Work, plan: Plan) -> tuple[LayerCut, ...]:
    """Layers of a given plan; those of a module's plan are known by their names."""
    from graphprune.onnx.layers import layers_of

    if not plan.layers or not plan.source_sha256.startswith("torch:"):
        return plan.layers
    here = {found.name: found for found in layers_of(work.known_model, work.known_shapes)}
    missing = [cut.name for cut in plan.layers if cut.name not in here]
    if missing:
        raise UsageError(
            f"the plan drops the layer '{missing[0]}', and the model has none of that name: "
            "graphprune inspect lists its layers"
        )
    return tuple(
        replace(cut, source=here[cut.name].source, output=here[cut.name].output)
        for cut in plan.layers
    )


def based_on(work: Work, layers: Sequence[LayerCut]) -> Work:
    """Go on with the model without `layers`, once it is shown that it is that."""
    if not layers:
        return work
    base = without(work.known_model, layers)
    if work.options.verify:
        feeds = [t.feeds for t in work.trials]
        found = proven(work.known_model, base, layers, feeds, work.options.threads)
        work = replace(work, shortened=found)
    shapes = shape_pair(base, *(s.binding for s in work.known_shapes))
    return replace(work, layers=tuple(layers), base=base, base_shapes=shapes)


def without(model: ir.Model, layers: Sequence[LayerCut]) -> ir.Model:
    """A copy of a canonical model without some layers. Raises UsageError where it lacks them."""
    base = model.clone()
    DropLayersPass(layers)(base)
    return base


def proven(
    model: ir.Model,
    base: ir.Model,
    layers: Sequence[LayerCut],
    feeds: Sequence[Mapping[str, Any]],
    threads: int = 1,
) -> Shortened:
    """Raises CertificateError where `base` is not `model` without `layers`."""
    from graphprune.certify.shortened import check_shortened

    found = check_shortened(model, base, layers, feeds, threads=threads)
    if found.failure:
        raise CertificateError(
            "the model without layers is not the original with their inputs in place of their "
            f"outputs: {found.failure}; nothing was written"
        )
    return found


def _chosen(work: Work) -> tuple[Work, tuple[LayerCut, ...]]:
    from graphprune.damage.layers import choose_layers

    options = work.options
    candidates = _candidates(work)
    if not work.trials:
        raise UsageError("the model is too large to be run as a whole: layers cannot be measured")
    calibration = work.calibration
    if calibration is None or calibration.random:
        work = replace(work, warnings=(*work.warnings, _MADE_UP))
    feeds = [t.feeds for t in work.trials]
    if calibration is not None:
        feeds = [b.feeds for b in calibration.choose]
    enough, most = _enough(work, len(candidates))
    measured = 0

    def progress() -> None:
        nonlocal measured
        measured += 1
        work.progress("layers", min(1.0, measured / (len(candidates) + 3 * most)))

    try:
        found = choose_layers(
            work.known_model,
            candidates,
            feeds,
            enough,
            criterion=options.layer_criterion,
            threads=options.threads,
            progress=progress,
        )
    except UnsupportedModelError as error:
        raise UsageError(f"the model does not run on the calibration inputs: {error}") from error
    return work, found


def _candidates(work: Work) -> list[LayerCut]:
    from graphprune.onnx.layers import layers_of

    layers = layers_of(work.known_model, work.known_shapes)
    if not layers:
        raise NothingGainedError(
            "the model has no layer or residual block that could leave as a whole (none whose input "
            "is added to what it makes of it)"
        )
    cuts = [LayerCut(layer.name, layer.source, layer.output) for layer in layers]
    return [replace(c, linear=_map(work, c)) if work.options.linear_layers else c for c in cuts]


def _map(work: Work, cut: LayerCut) -> LinearMap:
    from graphprune.onnx.channels import channels_first

    value = next(v for n in work.known_model.graph for v in n.outputs if v.name == cut.output)
    shapes = work.known_shapes[0]
    dims, dtype = shapes.dims[value], shapes.dtypes[value].numpy().name
    if channels_first(value) and len(dims) > 2:
        return LinearMap(dims[1], len(dims) - 2, dtype)
    return LinearMap(dims[-1], None, dtype)


def _enough(work: Work, count: int) -> tuple[Any, int]:
    """When to stop, and how many layers leave at most."""
    from graphprune.damage.layers import kept_count

    options = work.options
    if options.layers != AUTO:
        assert options.layers is not None
        leave = count - kept_count(float(options.layers), count)
        if not leave and not _other(options) and not options.allow_slower:
            raise NothingGainedError(
                f"{options.layers} of {count} layers are {count} layers, rounded: nothing would leave"
            )
        return (lambda cuts: len(cuts) >= leave), leave
    whole = _costs(work.known_model, work)

    def met(cuts: Sequence[LayerCut]) -> bool:
        now = _costs(without(work.known_model, cuts), work)
        wanted = (options.params, options.macs)
        shares = [n / w if w else 0.0 for n, w in zip(now, whole, strict=True)]
        return all(w is None or s <= w for s, w in zip(shares, wanted, strict=True))

    return met, count


def _other(options: Options) -> bool:
    """Whether anything but layers is to be pruned."""
    return replace(options, layers=None, linear_layers=False).says_what_stays


def _costs(model: ir.Model, work: Work) -> tuple[int, int]:
    """Parameters and multiply-adds."""
    from graphprune.measure.cost import count_macs
    from graphprune.measure.size import count_parameters

    shapes = infer_shapes(model, work.known_shapes[0].binding)
    return count_parameters(model), count_macs(model, shapes).total


def _scaled(work: Work) -> Work:
    """Budgets are of the original; what stands behind sees the model without the layers."""
    options = work.options
    if work.base is None or (options.params is None and options.macs is None):
        return work
    whole, now = _costs(work.known_model, work), _costs(work.base, work)
    budgets = {
        name: min(1.0, share * before / after)
        for name, before, after in zip(("params", "macs"), whole, now, strict=True)
        if (share := getattr(options, name)) is not None and after
    }
    return replace(work, options=replace(options, **budgets), asked=work.asked or options)
