"""Whether the canonical copy that is pruned still is the model that was given.

Plans, masks and the certificate speak of the canonical copy: constants folded, identity gathers and
zero states gone, shuffles rewritten. Here both are run in onnxruntime on the same inputs, and every
output is compared. An output that differs by more than rounding is not yet a fault: a folded
constant may be rounded otherwise, and a quantised model or an ArgMax makes much of that. Then the
two are compared tensor by tensor, where each node is judged by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from graphprune.certify.certificate import Certificate
from graphprune.certify.compare import COARSEST, deviation
from graphprune.certify.graphs import all_nodes, is_random
from graphprune.certify.numeric import compare_graphs
from graphprune.certify.sides import tolerances
from graphprune.errors import CertificateError, UnsupportedModelError
from graphprune.onnx.runtime import Session, Trial
from graphprune.onnx.shapes import infer_shapes
from graphprune.plan import Plan


@dataclass(frozen=True)
class CopyCheck:
    """What the comparison found.

    Attributes:
        max_rel_error: Largest error of an output, relative to its largest magnitude; None where
            they were not compared.
        difference: The first output that differs and by how much; empty where all agree.
        skipped: Why they were not compared; empty where they were.
    """

    max_rel_error: float | None = None
    difference: str = ""
    skipped: str = ""


def check_copy(
    model: ir.Model,
    copy: ir.Model,
    trials: Sequence[Trial],
    *,
    threads: int = 1,
    provider: str = "CPUExecutionProvider",
    seed: int = 0,
) -> CopyCheck:
    """Run a model on the inputs on which its canonical copy was run.

    Args:
        model: As loaded.
        copy: What `graphprune.onnx.canonical.canonicalise` made of it.
        trials: Runs of the copy.
        threads: onnxruntime's intra-op threads.
        provider: onnxruntime execution provider.
        seed: Of further random inputs, where outputs are not equal up to rounding.
    """
    if any(is_random(node) for node in all_nodes(model.graph)):
        return CopyCheck(skipped="it draws random numbers")
    shapes = infer_shapes(copy, trials[0].binding)
    dtypes = {v.name: t for v, t in shapes.dtypes.items() if v.name}
    limits = tolerances(copy.graph, dtypes)
    largest, difference = 0.0, ""
    try:
        with Session(model, threads=threads, provider=provider) as session:
            runs = [(session.run(trial.feeds), trial.outputs) for trial in trials]
    except UnsupportedModelError as error:
        return CopyCheck(skipped=str(error))
    for wanted, got in runs:
        for name, want in wanted.items():
            found = deviation(want, got[name])
            if not found.flaw:
                largest = max(largest, found.max_rel)
            if not difference and not found.within(limits.get(name, COARSEST).whole):
                difference = f"output '{name}': {found.flaw or f'error {found.max_rel:.1e}'}"
    if difference and _only_rounds(model, copy, trials, seed):
        difference = ""
    return CopyCheck(largest, difference)


def require_copy(found: CopyCheck) -> None:
    """Raise CertificateError (exit code 4), naming the first output that differs."""
    if found.difference:
        raise CertificateError(
            f"the canonical copy of the model differs from the model itself at {found.difference}: "
            "this is a bug of graphprune"
        )


def with_copy(certificate: Certificate, found: CopyCheck) -> Certificate:
    """The certificate, which speaks of the copy, with what ties the copy to the model."""
    weak = certificate.weak
    if found.skipped:
        weak = (*weak, f"the model as given was not compared with its copy: {found.skipped}")
    return replace(certificate, copy_max_rel_error=found.max_rel_error, weak=weak)


def _only_rounds(model: ir.Model, copy: ir.Model, trials: Sequence[Trial], seed: int) -> bool:
    """Whether each tensor of the copy is right, going by the model's own values before it."""
    nothing = Plan("", (), {}, ())
    bindings = [trial.binding for trial in trials]
    return not compare_graphs(model, copy, nothing, bindings=bindings, seed=seed).difference
