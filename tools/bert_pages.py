"""Tables and pictures of the study, into the blocks of a page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphprune.errors import UsageError
from graphprune.files import write_atomically
from tools._common import Record, environment, table
from tools.bert_cases import ROLES, Subject
from tools.bert_runs import (
    BOTH_SHARES,
    CRITERIA,
    EQUAL_SHARES,
    ROW_SHARES,
    ROW_WAYS,
    SINGLE,
    SPARSITIES,
    WAYS,
)
from tools.bert_tokens import THRESHOLDS, Rows, magnitudes

Records = Mapping[str, Record]


def figure(scores: Record | None) -> str:
    """`cosine (probe)`, as far as they are there."""
    if scores is None:
        return "not run"
    if "refused" in scores:
        return str(scores["refused"])
    first, *rest = scores.values()
    return f"{first:.3f}" + "".join(f" ({v:.3f})" for v in rest)


def quality(record: Record | None) -> str:
    """The same of a record that holds other facts, too."""
    keep = ("cosine", "probe", "refused")
    return figure(record and {k: v for k, v in record.items() if k in keep})


def part(record: Record | None, name: str) -> str:
    """The same of one of several models of a record."""
    return figure(record if record is None or "refused" in record else record[name])


def removed(record: Record | None) -> str:
    """Share of the encoder's weights that left."""
    return f"{record['removed']:.1%}" if record and "removed" in record else ""


def tables_of(subject: Subject, records: Records) -> dict[str, str]:
    """Every table by its name, of one model."""
    name = subject.name

    def found(*key: object) -> Record | None:
        return records.get(" | ".join(map(str, (name, *key))))

    weights = [
        [m["layer"], m["role"], f"{m['mean']:.4f}", *(f"{b:.1%}" for b in m["below"])]
        for m in magnitudes(subject)
    ]
    below = [f"below {t:g}" for t in THRESHOLDS]
    single = [
        [f"{s:.0%}"]
        + [quality(found("single", w, scope, f"{s:g}")) for w in WHERE for scope in SCOPES]
        for s in SPARSITIES
    ]
    zeros = [
        [w, f"{s:.0%}", i, *(f"{z:.1%}" for z in layer)]
        for w in WHERE
        for s in (0.5, 0.8)
        for i, layer in enumerate((found("single", w, "global", f"{s:g}") or {}).get("layers", ()))
    ]
    both = [
        [removed(r), part(r, "as cut"), part(r, "refitted"), *(part(r, n) for n in SINGLE)]
        for r in (found("both", s) for s in BOTH_SHARES)
    ]
    alone = [
        [way, removed(r), part(r, "as cut"), part(r, "refitted")]
        for share in EQUAL_SHARES
        for way in WAYS
        if (r := found("alone", way, share))
    ]
    return {
        "original": f"Original: cosine (probe) {quality(found('original'))}.\n",
        "weights": table(["layer", "weight", "mean abs", *below], weights, range(2, 6)),
        "single": table(["zeros", *(f"{w}, {s}" for w in WHERE for s in SCOPES)], single, range(5)),
        "layers": table(["pruned", "zeros", "layer", *ROLES], zeros, range(1, 9)),
        "both": table(["removed", "as cut", "refitted", *SINGLE], both, range(6)),
        "alone": table(["what leaves", "removed", "as cut", "refitted"], alone, (1, 2, 3)),
        "criteria": table(["criterion", "as cut", "refitted"], _criteria(found), (1, 2)),
        "tokens": _tokens(subject),
        "rows": table(
            ["zeros", *ROW_WAYS],
            [
                [f"{s:.0%}", *(_row(found("rows", w, f"{s:g}")) for w in ROW_WAYS)]
                for s in ROW_SHARES
            ],
            range(5),
        ),
        "environment": "\n".join(environment()) + "\n",
    }


WHERE, SCOPES = ("all", "encoder"), ("global", "local")


def _criteria(found: Any) -> list[list[str]]:
    lines = []
    for criterion in CRITERIA:
        runs, seed = [], 0
        while (record := found("criterion", criterion, seed)) is not None:
            runs.append(record)
            seed += 1
        cells = [", ".join(part(r, side) for r in runs) for side in ("as cut", "refitted")]
        lines.append([criterion, *(c or "not run" for c in cells)])
    return lines


def _row(record: Record | None) -> str:
    hit = (record or {}).get("hit")
    return quality(record) + (f", hits {hit:.1%}" if hit is not None else "")


def _tokens(subject: Subject) -> str:
    lines: dict[tuple[str, str, int], list[str]] = {}
    for c in Rows(subject).correlations():
        p = f"p {c['p']:.0e}" if c["p"] > 0 else "p < 1e-300"
        lines.setdefault((c["fact"], c["tokens"], c["n"]), []).append(f"{c['r']:+.2f} ({p})")
    header = ["of a row", "tokens", "number", "with length", "with id", "with length, id held"]
    return table(header, [[f, t, f"{n:,}", *r] for (f, t, n), r in lines.items()], (2, 3, 4, 5))


def fill(page: str, model: str, blocks: Mapping[str, str]) -> str:
    """The page with this model's blocks (`MODEL/NAME`) written anew, and all others as they are.

    Raises:
        UsageError: It has a block that nothing is known of.
    """

    def block(match: re.Match[str]) -> str:
        of, _, name = match[1].partition("/")
        if of != model:
            return match[0]
        if name not in blocks:
            raise UsageError(f"the page has a block '{match[1]}': known are {', '.join(blocks)}")
        return f"<!-- table: {match[1]} -->\n\n{blocks[name]}\n<!-- end -->"

    return re.sub(r"<!-- table: (\S+) -->.*?<!-- end -->", block, page, flags=re.DOTALL)


def write(subject: Subject, records: Records, out: Path) -> None:
    """Fill this model's blocks (`<!-- table: minilm-l3/rows -->`); draw what was pruned beside it."""
    text = fill(out.read_text(), subject.name, tables_of(subject, records))
    write_atomically(out, lambda file: file.write(text.encode()))
    if any(key.startswith(f"{subject.name} | rows |") for key in records):
        draw(subject, records, out.with_name(f"{out.stem}-{subject.name}.svg"))


def draw(subject: Subject, records: Records, path: Path) -> None:
    """Norm and near-zero entries over the length of a token; quality over rows and over zeros."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    def line(axis: Any, label: str, shares: Any, *key: str) -> None:
        found = {s: records.get(" | ".join((subject.name, *key, f"{s:g}"))) for s in shares}
        points = {s: r["cosine"] for s, r in found.items() if r and "cosine" in r}
        axis.plot([100 * s for s in points], list(points.values()), marker="o", ms=3, label=label)

    with matplotlib.rc_context({"svg.hashsalt": "graphprune", "svg.fonttype": "none"}):
        figure = Figure(figsize=(9, 7), layout="constrained")
        (norm, near), (rows, zeros) = figure.subplots(2, 2)
        known = Rows(subject)
        for axis, fact in ((norm, "norm"), (near, "near zero")):
            _bands(axis, known.length, known.facts[fact])
            axis.set(xlabel="characters of the token", ylabel=fact)
        for way in ROW_WAYS:
            line(rows, way, ROW_SHARES, "rows", way)
        rows.set(xlabel="zeros of the word embedding, %", ylabel="cosine")
        for what in WHERE:
            for scope in SCOPES:
                line(zeros, f"{what}, {scope}", SPARSITIES, "single", what, scope)
        zeros.set(xlabel="zeros, %", ylabel="cosine")
        for axis in (rows, zeros):
            axis.legend()
        for axis in (norm, near, rows, zeros):
            axis.grid(alpha=0.3)
        canvas = FigureCanvasSVG(figure)
        write_atomically(path, lambda file: canvas.print_svg(file, metadata={"Date": None}))


def _bands(axis: Any, length: np.ndarray, values: np.ndarray) -> None:
    """Median, quartiles and tenths for each length that 20 tokens have (all, where none has)."""
    sizes, counts = np.unique(length, return_counts=True)
    sizes = sizes[counts >= min(20, counts.max())]
    cuts = np.array([np.quantile(values[length == s], (0.1, 0.25, 0.5, 0.75, 0.9)) for s in sizes])
    (middle,) = axis.plot(sizes, cuts[:, 2], marker="o", ms=3)
    for low, high in ((0, 4), (1, 3)):
        axis.fill_between(sizes, cuts[:, low], cuts[:, high], alpha=0.15, color=middle.get_color())
