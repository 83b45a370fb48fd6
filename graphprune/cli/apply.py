"""`graphprune apply`: cut a model as a plan says."""

from __future__ import annotations

from typing import Annotated

import typer

from graphprune.cli import options as opt
from graphprune.cli.produce import produce


def apply(
    model: opt.Model,
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="A plan from --save-plan.")],
    output: opt.Output = None,
    report: opt.ReportFile = None,
    as_json: opt.Json = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    dim: opt.Dim = None,
    provider: opt.Provider = opt.CPU,
    threads: opt.Threads = 1,
    seed: opt.Seed = 0,
    no_verify: opt.NoVerify = False,
) -> None:
    """Cut MODEL exactly as PLAN says and prove it: the same input and plan give the same bytes.

    Nothing is timed; [bold]graphprune bench MODEL OUT[/bold] does that.
    """
    settings = {
        "dims": opt.dims(dim),
        "provider": provider,
        "threads": opt.at_least(threads, 1, "--threads"),
        "seed": opt.at_least(seed, 0, "--seed"),
        "bench": False,
        "verify": not no_verify,
    }
    produce(
        model,
        settings,
        output=output,
        plan=plan,
        report=report,
        overwrite=overwrite,
        as_json=as_json,
        quiet=quiet,
    )
