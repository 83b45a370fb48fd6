"""`graphprune explain`: why a node or tensor can or cannot be pruned."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from graphprune.cli import options as opt
from graphprune.cli.console import Stages, reserved_stdout, stdout
from graphprune.cli.files import model_file


def explain(
    model: opt.Model,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NODE_OR_TENSOR", help="A node, tensor, initializer or group of MODEL."
        ),
    ],
    as_json: opt.Json = False,
    dim: opt.Dim = None,
) -> None:
    """Show why NODE_OR_TENSOR can or cannot be pruned: the path of couplings that decides it."""
    dims = opt.dims(dim)
    source = model_file(model)
    with reserved_stdout(), Stages() as stages:
        stages("analyse")
        from graphprune.pipeline import analyse

        explanation = analyse(source, dims=dims).explain(name)
    if as_json:
        print(json.dumps(explanation.to_json(), indent=1, sort_keys=True))
    else:
        from graphprune.report.inspection import print_explanation

        print_explanation(stdout(), explanation)
