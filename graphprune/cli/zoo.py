"""`graphprune zoo`: the models that come with graphprune."""

from __future__ import annotations

import json

from graphprune.cli import options as opt
from graphprune.cli.console import reserved_stdout, stdout


def zoo(as_json: opt.Json = False) -> None:
    """List the trained models that come with graphprune; every MODEL may be zoo:NAME."""
    with reserved_stdout():
        from graphprune import zoo as models

        entries = [models.get(name) for name in models.names()]
    if as_json:
        rows = [{"name": e.name, "description": e.description, "metric": e.metric} for e in entries]
        print(json.dumps(rows, indent=1, sort_keys=True))
        return
    from rich.text import Text

    from graphprune.report.terminal import plain_table, show

    table = plain_table()
    table.add_column("name", no_wrap=True)
    table.add_column("what it is")
    table.add_column("metric", no_wrap=True)
    for entry in entries:
        table.add_row(Text(f"zoo:{entry.name}"), Text(entry.description), Text(entry.metric))
    show(stdout(), table)
