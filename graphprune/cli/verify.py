"""`graphprune verify`: prove again that a pruned model is what its plan says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from graphprune.cli import options as opt
from graphprune.cli.console import Stages, note, reserved_stdout, stdout
from graphprune.cli.files import model_file
from graphprune.errors import CertificateError


def verify(
    original: Annotated[
        str, typer.Argument(metavar="ORIGINAL", help="The model before, a file or zoo:NAME.")
    ],
    pruned: Annotated[str, typer.Argument(metavar="PRUNED", help="The model after.")],
    plan: Annotated[
        str | None,
        opt.option(
            "--plan",
            "P",
            "The plan from --save-plan; if not given, PRUNED's name with .plan.json.",
            opt.WHAT,
        ),
    ] = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    dim: opt.Dim = None,
    seed: opt.Seed = 0,
) -> None:
    """Prove that PRUNED computes what the masked ORIGINAL computes; exit code 4 where it does not.

    The masked original is built from the plan alone, not by the code that prunes, and compared
    tensor by tensor in onnxruntime, so that a failure names the first node that differs.
    """
    dims = opt.dims(dim)
    opt.at_least(seed, 0, "--seed")
    files = [model_file(name) for name in (original, pruned)]
    plan_file = Path(plan) if plan else _beside(files[1])
    with reserved_stdout(), Stages(quiet) as stages:
        stages("load")
        from graphprune.pipeline import verify as verify_models
        from graphprune.plan import Plan

        given = None if plan_file is None else Plan.load(plan_file)
        certificate = verify_models(
            files[0], files[1], plan=given, dims=dims, seed=seed, progress=stages
        )
    data: dict[str, Any] = certificate.to_json()
    if as_json:
        print(json.dumps(data, indent=1, sort_keys=True))
    if certificate.status == "failed":
        failure = CertificateError(f"PRUNED differs from the masked original: {_first(data)}")
        if not as_json:
            raise failure
        note(f"graphprune: error: {failure}")
        raise typer.Exit(failure.exit_code)
    if not (as_json or quiet):
        from graphprune.report.layout import show, warning
        from graphprune.report.terminal import certificate_line

        show(stdout(), certificate_line(data), *map(warning, certificate.weak))


def _first(data: dict[str, Any]) -> str:
    return " ".join(str(data.get("first_difference") or "no reason given").split())


def _beside(pruned: Path) -> Path | None:
    """`net.pruned.onnx` -> `net.pruned.plan.json` or `net.plan.json`, whichever exists."""
    stem = pruned.name.removesuffix(".onnx")
    for name in (f"{stem}.plan.json", f"{stem.removesuffix('.pruned')}.plan.json"):
        if pruned.with_name(name).is_file():
            return pruned.with_name(name)
    return None
