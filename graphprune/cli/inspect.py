"""`graphprune inspect`: what can be pruned, and what is pinned and why."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from graphprune.cli import options as opt
from graphprune.cli.console import Stages, reserved_stdout, stdout
from graphprune.cli.files import check_outputs, model_file

if TYPE_CHECKING:
    from graphprune.analysis.dependency import DependencyGraph


def inspect(
    model: opt.Model,
    as_json: opt.Json = False,
    dot: Annotated[
        str | None,
        opt.option(
            "--dot", "FILE", "Write the dependency graph for Graphviz; - for stdout.", opt.OUTPUT
        ),
    ] = None,
    graphml: Annotated[
        str | None,
        opt.option(
            "--graphml",
            "FILE",
            "Write the dependency graph as GraphML (networkx, Gephi, yEd).",
            opt.OUTPUT,
        ),
    ] = None,
    overwrite: opt.Overwrite = False,
    dim: opt.Dim = None,
) -> None:
    """Show MODEL's groups of coupled channels, their sizes, and what cannot be pruned and why."""
    dims = opt.dims(dim)
    source = model_file(model)
    files = {
        "--dot": Path(dot) if dot and dot != "-" else None,
        "--graphml": Path(graphml) if graphml else None,
    }
    check_outputs(source, files, overwrite)
    with reserved_stdout(), Stages() as stages:
        stages("analyse")
        from graphprune.pipeline import analyse, layers

        graph = analyse(source, dims=dims)
        whole = layers(source, dims=dims)
        if graphml:
            _write_graphml(graph, Path(graphml))
        text = _dot(graph) if dot else ""
    if files["--dot"] is not None:
        _write(files["--dot"], text)
    if dot == "-":
        print(text, end="")
    elif as_json:
        plain = {**graph.to_json(), "layers": [asdict(layer) for layer in whole]}
        print(json.dumps(plain, indent=1, sort_keys=True))
    else:
        from graphprune.report.inspection import print_groups

        print_groups(stdout(), model, graph, whole)


def _dot(graph: DependencyGraph) -> str:
    from graphprune.report.dot import to_dot

    return to_dot(graph.to_networkx())


def _write(path: Path, text: str) -> None:
    from graphprune.files import write_atomically

    write_atomically(path, lambda file: file.write(text.encode()))


def _write_graphml(graph: DependencyGraph, path: Path) -> None:
    from graphprune.files import write_atomically
    from graphprune.report.graphml import write_graphml

    coarse = graph.to_networkx()
    write_atomically(path, lambda file: write_graphml(coarse, file))
