"""`graphprune pack`: a model as one compact file, or with sparse initializers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from graphprune.cli import options as opt
from graphprune.cli.console import Stages, reserved_stdout, stdout
from graphprune.cli.files import check_outputs, default_output, model_file

ENDINGS = {"compact": ".gpk", "onnx-sparse": ".sparse.onnx"}


def pack(
    model: opt.Model,
    output: Annotated[str | None, opt.output("MODEL.gpk (MODEL.sparse.onnx)", "FILE")] = None,
    form: Annotated[
        str,
        opt.option(
            "--as",
            "FORM",
            "compact: one file for graphprune unpack. onnx-sparse: an ONNX file with "
            "sparse_initializer, which onnxruntime loads; it is timed.",
            opt.WHAT,
        ),
    ] = "compact",
    as_json: opt.Json = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    dim: opt.Dim = None,
    threads: opt.Threads = 1,
    seed: opt.Seed = 0,
    no_bench: opt.NoBench = False,
) -> None:
    """Store MODEL in the fewest bytes: each tensor in its cheapest format, nothing lost.

    Dense, bitmap, COO, CSR, CSC or N:M, by exact byte counts. [bold]graphprune unpack[/bold] gives
    all files of the model back byte for byte. Nothing runs faster by it.
    """
    opt.choice(form, tuple(ENDINGS), "--as")
    dims = opt.dims(dim)
    opt.at_least(threads, 1, "--threads")
    opt.at_least(seed, 0, "--seed")
    source = model_file(model)
    target = Path(output) if output else default_output(model, ENDINGS[form])
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
        from graphprune.report.layout import show

        show(stdout(), *parts)
        stdout().print(f"Wrote {target}.", soft_wrap=True, markup=False)
