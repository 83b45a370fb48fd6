"""`graphprune sparsify`: single weights set to zero."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from graphprune.cli import data_options as data
from graphprune.cli import options as opt
from graphprune.cli.console import Stages, reserved_stdout, stdout
from graphprune.cli.files import ZOO, check_outputs, default_output, model_file
from graphprune.cli.zoo import metric
from graphprune.errors import UsageError

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprune.sparse.sparsify import Sparsified

HOW_MUCH = "How much becomes zero"


def sparsify(
    model: opt.Model,
    sparsity: Annotated[
        float | None,
        opt.option(
            "--sparsity", "S", "Share of zeros over all pruned weights, 0 < S < 1.", HOW_MUCH
        ),
    ] = None,
    pattern: Annotated[
        str | None,
        opt.option(
            "--pattern", "N:M", "Of every M weights in a row N stay, for example 2:4.", HOW_MUCH
        ),
    ] = None,
    pattern_axis: Annotated[
        int | None,
        opt.option(
            "--pattern-axis",
            "AXIS",
            "Along which axis of every weight; the one that is summed over if not given.",
            HOW_MUCH,
        ),
    ] = None,
    scope: Annotated[
        str,
        opt.option(
            "--scope",
            "SCOPE",
            "global: one threshold over all layers. local: the same share of each. sensitivity: "
            "shares of least damage, measured on --calib.",
            opt.WHAT,
        ),
    ] = "global",
    criterion: Annotated[
        str,
        opt.option(
            "--criterion",
            "NAME",
            "magnitude, l<P> (relative to the layer's Lp mean), random; with --calib: wanda, and "
            "taylor and fisher (need torch).",
            opt.WHAT,
        ),
    ] = "magnitude",
    calib: data.Calib = None,
    calib_samples: data.CalibSamples = 128,
    calib_images: data.CalibImages = None,
    tokenizer: data.Tokenizer = None,
    max_length: data.MaxLength = None,
    only: Annotated[list[str] | None, opt.only("weights and layers")] = None,
    exclude: Annotated[list[str] | None, opt.exclude("weights and layers")] = None,
    compile_: Annotated[
        bool,
        opt.flag("--compile", "Remove units of which nothing is left, proven exact.", opt.WHAT),
    ] = False,
    output: Annotated[str | None, opt.output("MODEL.sparse.onnx beside the input")] = None,
    save_plan: Annotated[
        str | None,
        opt.option(
            "--save-plan",
            "P.json",
            "Write the plan that removes the empty units of OUT (for graphprune apply).",
            opt.OUTPUT,
        ),
    ] = None,
    as_json: opt.Json = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    dim: opt.Dim = None,
    threads: opt.Threads = 1,
    seed: opt.Seed = 0,
    no_bench: opt.NoBench = False,
) -> None:
    """Set the single weights of MODEL that matter least to zero; its shapes stay.

    Weights of convolutions, matrix products, recurrent layers and embeddings are pruned; biases and
    norms are not. The file is smaller once it is packed ([bold]graphprune pack[/bold]); nothing
    runs faster unless whole channels, neurons or heads became zero and leave ([bold]--compile[/bold]).
    """
    settings: dict[str, Any] = {
        "sparsity": sparsity,
        "scope": scope,
        "criterion": criterion,
        "pattern": pattern,
        "pattern_axis": pattern_axis,
        "only": tuple(only or ()),
        "exclude": tuple(exclude or ()),
        "seed": opt.at_least(seed, 0, "--seed"),
    }
    dims = opt.dims(dim)
    opt.at_least(threads, 1, "--threads")
    reading = data.reading(calib, calib_samples, calib_images, tokenizer, max_length)
    if compile_ and save_plan:
        raise UsageError("--save-plan is for the sparse model as it is: leave out --compile")
    source = model_file(model)
    target = Path(output) if output else default_output(model, ".sparse.onnx")
    plan_file = Path(save_plan) if save_plan else None
    check_outputs(source, {"-o": target, "--save-plan": plan_file}, overwrite)
    with reserved_stdout(), Stages(quiet) as stages:
        stages("load libraries")
        from graphprune.errors import NothingGainedError
        from graphprune.onnx.load import load
        from graphprune.onnx.save import save
        from graphprune.sparse.options import Sparsity
        from graphprune.sparse.sparsify import sparsify as sparsify_model

        made = sparsify_model(
            source,
            Sparsity(**settings),
            **reading,
            dims=dims,
            threads=threads,
            bench=not no_bench,
            progress=stages,
        )
        report = {**made.report.to_json(), "source": model}
        if plan_file is not None and made.empty_plan is None:
            raise NothingGainedError("--save-plan: no unit is empty, so there is no plan")
        result = made.model
        if compile_ and made.empty_plan is not None:
            result, report["compiled"] = _compiled(made, dims, threads, seed, not no_bench, stages)
        if model.startswith(ZOO):
            stages("evaluate")
            found = metric(model, source, result, threads)
            report["metric"] = {
                "name": found.name,
                "original": found.original,
                "sparse": found.pruned,
            }
        stages("write")
        save(result, target)
        if plan_file is not None and made.empty_plan is not None:
            replace(made.empty_plan, source_sha256=load(target).sha256).save(plan_file)
    if as_json:
        print(json.dumps(report, indent=1, sort_keys=True))
    elif not quiet:
        from graphprune.report.layout import show
        from graphprune.report.sparsity import sparsity_parts

        show(stdout(), *sparsity_parts(model, made.report))
        for line in _next_steps(target, report, made, compile_):
            stdout().print(line, soft_wrap=True, markup=False)


def _compiled(
    made: Sparsified,
    dims: dict[str, int],
    threads: int,
    seed: int,
    bench: bool,
    stages: Stages,
) -> tuple[ir.Model, dict[str, Any]]:
    """The model without its empty units, and what the pipeline says of it."""
    from graphprune.pipeline import Options
    from graphprune.pipeline import compile as compile_model

    options = Options(dims=dims, threads=threads, seed=seed, bench=bench, allow_slower=True)
    result = compile_model(made.model, options, plan=made.empty_plan, progress=stages)
    report = json.loads(result.report.dumps())
    keys = ("original", "pruned", "certificate", "latency")
    return result.model, {key: report.get(key) for key in keys}


def _next_steps(
    target: Path, report: dict[str, Any], made: Sparsified, compiled: bool
) -> list[str]:
    lines = []
    quality = report.get("metric")
    if quality:
        lines.append(f"{quality['name']}: {quality['original']:.4f} -> {quality['sparse']:.4f}")
    done = report.get("compiled")
    if done:
        before, after = done["original"]["params"], done["pruned"]["params"]
        certificate = done["certificate"] or {}
        status = certificate.get("status")
        lines += [f"warning: {line}" for line in certificate.get("weak") or ()]
        lines.append(
            f"Empty units left: {before:,} -> {after:,} parameters, certificate {status}, and the "
            "outputs are those of the sparse model."
        )
    elif made.empty_plan is not None and not compiled:
        lines.append("Remove the empty units, proven exact: the same command with --compile.")
    lines.append(f"Wrote {target}. Make it small on disk:  graphprune pack {target}")
    return lines
