"""The op-coverage table: every registered op rule, what it does, and which audit cases show it.

    python -m tools.op_coverage            print the table
    python -m tools.op_coverage --write    write docs/ops.md

Nothing in the table is written by hand. Every audit case (tests/rules) is built and analysed; a
rule is covered by the cases in whose graphs its op stands, it is a boundary if nothing prunable
ever passed through it, and what it says about channels that stay is quoted. Exits 1 if a rule has
no case.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tools.audit import ROOT, load_harness

DOCUMENT = ROOT / "docs" / "ops.md"
SEEDS = (0,)

_HEADER = """# Ops

What graphprune knows of each op: written by `python -m tools.op_coverage --write`, not by hand.

- **exact**: channels leave through it and the result equals the masked original to float error.
- **statistics**: also exact for whole blocks; where channels leave an axis that it takes statistics
  over, they are those of what is kept (the certificate names such nodes). A Mul or Div counts
  where it makes a mean of a sum.
- **boundary**: nothing leaves through it; what is around it is pruned.
- **sizes**: it makes or reads no channels, only sizes or numbers; they are put right.

An op that is not listed is a boundary too. *Since* is the first opset of the domain that a rule is
right for. *Stays* quotes what the rule says where channels have to stay. *Audited by* names the
files `tests/rules/cases_*.py` in which the op is run in onnxruntime, pruned at random and compared,
tensor by tensor.
"""


_OUTPUTS = ("it is the model's output", "it is an output of the module")


@dataclass
class Row:
    """One registered rule and what the cases show of it."""

    domain: str
    op: str
    since: int
    boundary: str = ""
    families: Counter[str] = field(default_factory=Counter)
    passed: bool = False
    statistics: bool = False
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def kind(self) -> str:
        if self.boundary or (not self.passed and self.reasons):
            return "boundary"
        if not self.passed:
            return "sizes"
        return "statistics" if self.statistics else "exact"


def table() -> list[Row]:
    """Analyse all audit cases; one row for each registered rule, sorted."""
    load_harness()
    from audit import Subject, all_cases, rng_for

    import graphprune.rules.onnx  # noqa: F401  (registers the rules)
    from graphprune.rules import registry

    rows = {(r.domain, r.op, r.since): Row(r.domain, r.op, r.since, r.boundary) for r in registry}
    for name, case in sorted(all_cases().items()):
        for seed in SEEDS:
            example = case.build(rng_for(name, seed))
            present = {}
            for domain, op, version in example.ops:
                rule = registry.find(domain, op, version)
                if rule is not None:
                    row = rows[rule.domain, rule.op, rule.since]
                    row.families[case.family] += 1
                    present[op] = row
            subject = Subject(example)
            for blocks in (True, False):
                observe(subject, blocks, present)
    return [rows[key] for key in sorted(rows, key=lambda k: (k[0], k[1].lower(), k[2]))]


def observe(subject: object, blocks: bool, present: dict[str, Row]) -> None:
    """Through which nodes something prunable passes, and what is said of what stays."""
    graph = subject.analyse(blocks=blocks)  # type: ignore[attr-defined]
    movable = set()
    for site in graph.sites:
        if graph.resolved(site):
            movable.add(site.name)
            if site.is_weight:
                movable.add((site.node, site.name))
    for link in graph.links:
        row = present.get(link.op)
        if row is None:
            continue
        weights = any((link.node, name) in movable for name in link.reads)
        into = any(name in movable for name in link.reads)
        out = any(name in movable for name in link.writes)
        row.passed |= out or weights or (into and not row.reasons)
    ops = {link.node: link.op for link in graph.links}
    for item in graph.statistics:
        row = present.get(item.op)
        if row is not None and any(graph.resolver.resolve(f) for f in item.factors):
            row.statistics = True
    for item in graph.unpruned:
        row = present.get(ops.get(item.node, ""))
        if row is not None and not item.reason.startswith(_OUTPUTS):
            row.reasons[item.reason] += 1


def markdown(rows: Iterable[Row]) -> str:
    """The document."""
    rows = list(rows)
    kinds = Counter(r.kind for r in rows)
    ops = len({(r.domain, r.op) for r in rows})
    lines = [
        _HEADER,
        f"{len(rows)} rules for {ops} ops: {kinds['exact']} exact, {kinds['statistics']} with "
        f"statistics, {kinds['boundary']} boundaries, {kinds['sizes']} of sizes.",
        "",
        "| op | domain | since | | stays | audited by |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        reasons = row.boundary or "; ".join(sorted(row.reasons)[:2])
        files = ", ".join(name for name, _ in sorted(row.families.items(), key=_rank)[:3])
        domain = row.domain or "ai.onnx"
        cells = (row.op, domain, row.since, row.kind, reasons, files or "**none**")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _rank(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.op_coverage", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/ops.md")
    given = parser.parse_args(arguments)
    rows = table()
    text = markdown(rows)
    if given.write:
        DOCUMENT.write_text(text)
        print(f"{Path(DOCUMENT).relative_to(ROOT)}: {len(rows)} rules")
    else:
        print(text)
    bare = [r for r in rows if not r.families]
    for row in bare:
        name = f"{row.domain}.{row.op}" if row.domain else row.op
        print(f"no audit case for {name} (since {row.since})", file=sys.stderr)
    return 1 if bare else 0


if __name__ == "__main__":
    sys.exit(main())
