"""`graphprune zoo`: the models that come with graphprune, and what pruning does to their metric."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphprune.cli import options as opt
from graphprune.cli.console import reserved_stdout, stdout

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphprune.report.model import Metric
    from graphprune.zoo import ZooEntry


def zoo(as_json: opt.Json = False) -> None:
    """List the trained models that come with graphprune; every MODEL may be zoo:NAME."""
    with reserved_stdout():
        from graphprune import zoo as models

        entries = [models.get(name) for name in models.names()]
    if as_json:
        print(json.dumps([_row(entry) for entry in entries], indent=1, sort_keys=True))
        return
    from rich.text import Text

    from graphprune.report import numbers
    from graphprune.report.layout import plain_table, show

    table = plain_table()
    table.add_column("name", no_wrap=True)
    table.add_column("what it is")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("quality", no_wrap=True)
    for entry in entries:
        table.add_row(
            Text(f"zoo:{entry.name}"),
            Text(entry.title),
            numbers.size(entry.path.stat().st_size),
            Text(f"{entry.metric} {entry.baseline:.3f}"),
        )
    show(stdout(), table)


def _row(entry: ZooEntry) -> dict[str, Any]:
    return {
        "name": f"zoo:{entry.name}",
        "title": entry.title,
        "description": entry.description,
        "metric": entry.metric,
        "baseline": entry.baseline,
        "licence": entry.licence,
        "source": entry.source,
        "path": str(entry.path),
        "bytes": entry.path.stat().st_size,
    }


def metric(model: str, source: Path, pruned: ir.Model, threads: int) -> Metric:
    """The zoo entry's own metric of both models.

    Args:
        model: zoo:NAME.
        source: Its file.
        pruned: What was made of it.
        threads: Of onnxruntime.
    """
    from graphprune.onnx.runtime import Session
    from graphprune.report.model import Metric
    from graphprune.zoo import get

    entry = get(model)
    data = entry.evaluation()
    figures = []
    for graph in (source, pruned):
        with Session(graph, threads=threads) as session:
            figures.append(float(entry.evaluate(session.run, data)))
    return Metric(entry.metric, figures[0], figures[1], len(data.get("labels", ())))
