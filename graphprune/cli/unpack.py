"""`graphprune unpack`: the model in a pack, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from graphprune.cli import options as opt
from graphprune.cli.console import Stages, reserved_stdout, stdout
from graphprune.cli.files import check_outputs
from graphprune.errors import UsageError


def unpack(
    packed: Annotated[
        str, typer.Argument(metavar="FILE", help="A file that graphprune pack wrote.")
    ],
    output: Annotated[
        str | None,
        opt.option(
            "--output -o",
            "MODEL",
            "The ONNX file to write; FILE with .onnx if not given. External data goes beside "
            "it, under its old names.",
            opt.OUTPUT,
        ),
    ] = None,
    check: Annotated[
        bool, opt.flag("--check", "Only check that all can be restored; write nothing.", opt.OUTPUT)
    ] = False,
    as_json: opt.Json = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Restore the model in FILE, byte for byte; a damaged FILE is refused with exit code 3.

    Every part is checked before anything is written, and every restored file against the SHA-256 of
    what was packed.
    """
    source = Path(packed)
    if not source.is_file():
        raise UsageError(f"no such file: {packed}")
    if check and output:
        raise UsageError("--check writes nothing: leave out -o")
    target = None if check else Path(output) if output else source.with_suffix(".onnx")
    with reserved_stdout(), Stages(quiet) as stages:
        stages("load libraries")
        from graphprune.sparse.pack import contents
        from graphprune.sparse.pack import unpack as unpack_model

        if target is not None:
            beside = [target.parent / name for name in contents(source).files if name]
            names = {f"-o (external data {f.name})": f for f in beside if f.parent.is_dir()}
            check_outputs(source, {"-o": target, **names}, overwrite)
        report = unpack_model(source, target, lambda share: stages("unpack", share))
    if as_json:
        print(json.dumps(report.to_json(), indent=1, sort_keys=True))
    elif not quiet:
        done = "can be restored, nothing was written" if target is None else f"Wrote {target}"
        stdout().print(
            f"{packed}: all {len(report.files)} file(s) as they were packed. {done}.",
            soft_wrap=True,
            markup=False,
        )
