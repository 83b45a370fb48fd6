"""Proving that the smaller graph is the masked original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graphprune.errors import CertificateError, UsageError
from graphprune.onnx.canonical import canonicalise
from graphprune.onnx.load import load
from graphprune.onnx.shapes import default_bindings
from graphprune.plan import Plan
from graphprune.stages import read
from graphprune.stages.work import Progress, Work

if TYPE_CHECKING:
    from graphprune.certify.certificate import Certificate


def certify_stage(work: Work) -> Work:
    """Prove it. Raises CertificateError, naming the first node that differs."""
    if not work.options.verify or not work.known_plan.cuts_something:
        return work
    from graphprune.certify.certificate import certify
    from graphprune.certify.copy_check import with_copy
    from graphprune.certify.shortened import with_layers

    work = _compare_copy(work)
    certificate = certify(
        work.base_model,
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
    return replace(work, certificate=with_layers(certificate, work.shortened))


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
    from graphprune.certify.shortened import with_layers
    from graphprune.onnx.runtime import find_trials

    if plan is None:
        raise UsageError(
            "verify needs the plan: make one with compile --save-plan, give it with --plan"
        )
    loaded = load(read.resolve(original))
    if plan.source_sha256 and plan.source_sha256 != loaded.sha256:
        raise UsageError("the plan was made for another model (its source_sha256 differs)")
    smaller = load(read.resolve(pruned)).model
    if "graphprune.refitted_layers" in smaller.metadata_props:
        raise UsageError(
            "the pruned model was refitted to calibration inputs after it was proven, so that its "
            "weights are not those of the original: verify what compile makes without --calib"
        )
    model = whole = canonicalise(loaded.model)
    shortened = None
    if plan.layers:
        from graphprune.stages.shorten import proven, without

        model = without(whole, plan.layers)
        large = read.weight_bytes(whole) > read.RUN_LIMIT
        feeds = [] if large else [t.feeds for t in find_trials(whole, dims, seed)]
        shortened = proven(whole, model, plan.layers, feeds)
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
    certificate = with_layers(certificate, shortened)
    if certificate.status == "failed" or read.weight_bytes(whole) > read.RUN_LIMIT:
        return certificate
    found = check_copy(loaded.model, whole, find_trials(whole, dims, seed), seed=seed)
    require_copy(found)
    return with_copy(certificate, found)
