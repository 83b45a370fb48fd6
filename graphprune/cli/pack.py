"""`graphprune pack`: a model as one compact file, or with sparse initializers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from graphprune.cli import options as opt
from graphprune.cli.console import Stages, reserved_stdout, stdout
from graphprune.cli.files import ZOO, check_outputs, model_file

FORMS = ("compact", "onnx-sparse")


def pack(
    model: opt.Model,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The file to write; MODEL.gpk (MODEL.sparse.onnx) if not given.",
            rich_help_panel=opt.OUTPUT,
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="FORM",
            help="compact: one file for graphprune unpack. onnx-sparse: an ONNX file with "
            "sparse_initializer, which onnxruntime loads.",
            rich_help_panel=opt.WHAT,
        ),
    ] = "compact",
    as_json: opt.Json = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    dim: opt.Dim = None,
    threads: opt.Threads = 1,
    seed: opt.Seed = 0,
    no_bench: Annotated[
        bool, opt.flag("--no-bench", "Do not time a model with sparse initializers.", opt.RUN)
    ] = False,
) -> None:
    """Store MODEL in the fewest bytes: each tensor in its cheapest format, nothing lost.

    Dense, bitmap, COO, CSR, CSC or N:M, by exact byte counts. [bold]graphprune unpack[/bold] gives
    all files of the model back byte for byte. Nothing runs faster by it.
    """
    opt.choice(form, FORMS, "--as")
    dims = opt.dims(dim)
    opt.at_least(threads, 1, "--threads")
    opt.at_least(seed, 0, "--seed")
    source = model_file(model)
    target = Path(output) if output else _default(model, form)
    check_outputs(source, {"-o": target}, overwrite)
    with reserved_stdout(), Stages(quiet) as stages:
        stages("load libraries")
        from graphprune.report.storage import pack_parts, sparse_parts
        from graphprune.sparse.initializers import write_sparse
        from graphprune.sparse.pack import pack as pack_model

        if form == "compact":
            packed = pack_model(source, target, lambda share: stages("pack", share))
            data, parts = packed.to_json(), pack_parts(model, packed)
        else:
            stages("write and check")
            made = write_sparse(
                source,
                target,
                dims=dims,
                threads=threads,
                seed=seed,
                seconds=None if no_bench else 5.0,
            )
            data, parts = made.to_json(), sparse_parts(model, made)
    if as_json:
        print(json.dumps(data, indent=1, sort_keys=True))
    elif not quiet:
        from graphprune.report.terminal import show

        show(stdout(), *parts)
        stdout().print(f"Wrote {target}.", soft_wrap=True, markup=False)


def _default(model: str, form: str) -> Path:
    ending = {"compact": ".gpk", "onnx-sparse": ".sparse.onnx"}[form]
    if model.startswith(ZOO):
        return Path(f"{model.removeprefix(ZOO)}{ending}")
    path = Path(model)
    return path.with_name(f"{path.name.removesuffix('.onnx')}{ending}")
