"""`graphprune sensitivity`: what a model loses when one group alone keeps a part of its units."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from graphprune.cli import data_options as data
from graphprune.cli import options as opt
from graphprune.cli.console import Stages, reserved_stdout, stdout
from graphprune.cli.files import check_outputs, model_file
from graphprune.errors import UsageError


def sensitivity(
    model: opt.Model,
    calib: data.Calib = None,
    calib_samples: data.CalibSamples = 256,
    calib_images: data.CalibImages = None,
    tokenizer: data.Tokenizer = None,
    max_length: data.MaxLength = None,
    evaluate: data.Eval = None,
    fractions: Annotated[
        str,
        opt.option(
            "--fractions",
            "R,R,...",
            "Of each group's units that stay, rounded to what --align allows.",
            opt.WHAT,
        ),
    ] = "0.125,0.25,0.375,0.5,0.625,0.75,0.875",
    criterion: opt.Criterion = "auto",
    align: Annotated[
        str,
        opt.option(
            "--align",
            "auto|N",
            "Widths that are measured: what the runtime likes, multiples of N, or any (1).",
            opt.WHAT,
        ),
    ] = "auto",
    residual: opt.Residual = False,
    only: opt.Only = None,
    exclude: opt.Exclude = None,
    no_compensation: Annotated[
        bool,
        opt.flag("--no-compensation", "Measure the model as it is cut only.", opt.WHAT),
    ] = False,
    output: Annotated[
        str | None,
        opt.option(
            "--output -o",
            "S.json",
            "Write the curves, for graphprune compile --ratios-from.",
            opt.OUTPUT,
        ),
    ] = None,
    plot: Annotated[
        str | None,
        opt.option("--plot", "S.svg", "Draw the curves (needs the plots extra).", opt.OUTPUT),
    ] = None,
    jobs: Annotated[
        int,
        opt.option("--jobs", "N", "Processes that measure.", opt.RUN),
    ] = 1,
    scheduler: Annotated[
        str,
        opt.option(
            "--scheduler",
            "ADDRESS",
            "Measure on the Dask cluster of this scheduler instead (needs the cluster extra).",
            opt.RUN,
        ),
    ] = "",
    as_json: opt.Json = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    dim: opt.Dim = None,
    threads: opt.Threads = 1,
    seed: opt.Seed = 0,
) -> None:
    """Measure MODEL with each group alone at several widths: where pruning hurts, and where not.

    Damage is the relative squared error of the outputs on calibration inputs, in front of a Softmax
    or Sigmoid. An interrupted run goes on where it stopped when the same command is given again.
    """
    shares = _fractions(fractions)
    opt.at_least(jobs, 1, "--jobs")
    source = model_file(model)
    files = {"-o": Path(output) if output else None, "--plot": Path(plot) if plot else None}
    check_outputs(source, files, overwrite)
    if plot:
        _require_plots()
    settings: dict[str, Any] = {
        "criterion": criterion,
        "align": opt.align(align),
        "residual": residual,
        "only": tuple(only or ()),
        "exclude": tuple(exclude or ()),
        "dims": opt.dims(dim),
        "threads": opt.at_least(threads, 1, "--threads"),
        "seed": opt.at_least(seed, 0, "--seed"),
        **data.reading(
            "random" if calib is None else calib,
            calib_samples,
            calib_images,
            tokenizer,
            max_length,
        ),
        "eval": evaluate,
    }
    with reserved_stdout(), Stages(quiet) as stages:
        stages("load libraries")
        from graphprune.options import Options
        from graphprune.pipeline import sensitivity as measure

        found, warnings = measure(
            source,
            Options(**settings),
            fractions=shares,
            compensate=not no_compensation,
            jobs=jobs,
            scheduler=scheduler,
            checkpoint=None if files["-o"] is None else _checkpoint(files["-o"]),
            progress=stages,
        )
        if files["-o"] is not None:
            found.save(files["-o"])
            _checkpoint(files["-o"]).unlink(missing_ok=True)
        if files["--plot"] is not None:
            from graphprune.report.curves import plot_curves

            plot_curves(found, files["--plot"], title=Path(model).name)
    if as_json:
        print(found.dumps(), end="")
    elif not quiet:
        from graphprune.report.curves import print_curves

        print_curves(stdout(), found, warnings, _next(model, output))


def _checkpoint(output: Path) -> Path:
    """Where measurements are kept until all are there."""
    return output.with_name(f".{output.name}.partial")


def _next(model: str, output: str | None) -> str:
    if output is None:
        return "Keep the curves with -o FILE: compile --ratios-from takes widths from them."
    return f"Use it:  graphprune compile {model} --macs 0.5 --ratios-from {output}"


def _fractions(text: str) -> tuple[float, ...]:
    """Fractions between 0 and 1, ascending."""
    try:
        found = tuple(sorted({float(t) for t in text.split(",")}))
    except ValueError:
        found = ()
    if not found or not all(0 < f < 1 for f in found):
        raise UsageError(
            f"--fractions {text!r} is no list of fractions between 0 and 1, for example 0.25,0.5,0.75"
        )
    return found


def _require_plots() -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib: pip install 'graphprune[plots]'")
