"""The op-coverage table of the torch front end: every ATen rule, and which audit cases show it.

    python -m tools.torch_ops            print the table
    python -m tools.torch_ops --write    write docs/ops-torch.md

Nothing in the table is written by hand. Every audit case (tests/rules/aten) is built, captured and
analysed, as `tools.op_coverage` does for ONNX. Exits 1 if a rule has no case.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tools.audit import ROOT
from tools.op_coverage import Row, observe

DOCUMENT = ROOT / "docs" / "ops-torch.md"
SEEDS = (0,)

_HEADER = """# Ops of the torch front end

What graphprune knows of each ATen op: written by `python -m tools.torch_ops --write`, not by hand.
Ops are named without overload, in-place ops as their pure form.

- **exact**: channels leave through it and the result equals the masked original to float error.
- **statistics**: also exact for whole blocks; where channels leave an axis that it takes statistics
  over, they are those of what is kept (the certificate names such nodes).
- **boundary**: nothing leaves through it; what is around it is pruned.
- **sizes**: it makes or reads no channels, only sizes or numbers; they are put right.

An op that is not listed is a boundary too. *Stays* quotes what the rule says where channels have to
stay. *Audited by* names the files `tests/rules/aten/aten_cases_*.py` in which the op is run eagerly,
pruned at random and compared in float64, tensor by tensor, at two batch sizes.
"""


@dataclass(frozen=True)
class _Subject:
    """What `observe` asks for."""

    captured: Any

    def analyse(self, *, blocks: bool) -> Any:
        from graphprune.torch.trace import analyse_captured

        return analyse_captured(self.captured, blocks=blocks)


def load_harness() -> None:
    """Make `aten_audit` and the cases beside it importable."""
    for folder in ("tests/rules", "tests/rules/aten"):
        path = str(ROOT / folder)
        if path not in sys.path:
            sys.path.insert(0, path)


def table() -> list[Row]:
    """Analyse all audit cases; one row for each registered rule, sorted."""
    load_harness()
    import torch
    from aten_audit import all_cases, captured_of, ops_of, rng_for

    from graphprune.rules.aten.registry import aten

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    cases = all_cases()
    rows = {(r.domain, r.op): Row(r.domain, r.op, r.since, r.boundary) for r in aten}
    for name, case in sorted(cases.items()):
        for seed in SEEDS:
            captured = captured_of(case.build(rng_for(name, seed)))
            present = {}
            for key in ops_of(captured):
                row = rows.get(key)
                if row is not None:
                    row.families[case.family] += 1
                    present[key[1]] = row
            for blocks in (True, False):
                observe(_Subject(captured), blocks, present)
    return [rows[key] for key in sorted(rows)]


def markdown(rows: Iterable[Row]) -> str:
    """The document."""
    rows = list(rows)
    kinds = Counter(r.kind for r in rows)
    lines = [
        _HEADER,
        f"{len(rows)} ops: {kinds['exact']} exact, {kinds['statistics']} with statistics, "
        f"{kinds['boundary']} boundaries, {kinds['sizes']} of sizes.",
        "",
        "| op | | stays | audited by |",
        "|---|---|---|---|",
    ]
    for row in rows:
        reasons = row.boundary or "; ".join(sorted(row.reasons)[:2])
        files = ", ".join(sorted(row.families)[:3])
        op = row.op if row.domain == "aten" else f"{row.domain}::{row.op}"
        lines.append(f"| {op} | {row.kind} | {reasons} | {files or '**none**'} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.torch_ops", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/ops-torch.md")
    given = parser.parse_args(arguments)
    rows = table()
    text = markdown(rows)
    if given.write:
        DOCUMENT.write_text(text)
        print(f"{DOCUMENT.relative_to(ROOT)}: {len(rows)} rules")
    else:
        print(text)
    bare = [r for r in rows if not r.families]
    for row in bare:
        print(f"no audit case for {row.domain}::{row.op}", file=sys.stderr)
    return 1 if bare else 0


if __name__ == "__main__":
    sys.exit(main())
