"""Tables and pictures of `tools/cnn_study.py`."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from graphprune.errors import UsageError
from graphprune.files import write_atomically
from tools._common import Record, environment, table

SHARES = ("near-zero weights", "below a common threshold", "sparse filters")
HOW = {"damage": "as cut", "folded": "compensated"}
Records = Mapping[str, Any]


def write(records: Records, page: Path) -> None:
    """Fill the marked places of a page, and draw its pictures beside it.

    Raises:
        UsageError: The page is not there, or has no place for something.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {page}: {error.strerror}") from error
    parts = {
        "summary": summary(records),
        "layers": costs_by_layer(records),
        "criteria": criteria(records),
        "sensitivity": sensitivity(records),
        "correlations": correlations(records),
        "environment": "\n".join(environment()),
    }
    for name, content in parts.items():
        text = filled(text, name, content)
    for name, draw in PICTURES.items():
        picture(page.with_name(f"{page.stem}-{name}.svg"), records, draw)
    write_atomically(page, lambda file: file.write(text.encode()))


def filled(text: str, name: str, content: str) -> str:
    """`text` with `content` between `<!-- name -->` and `<!-- /name -->`. Raises UsageError."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    place = re.compile(f"{begin}\n.*?{end}", re.DOTALL)
    if not place.search(text):
        raise UsageError(f"the page has no place {begin} ... {end}")
    return place.sub(lambda _: f"{begin}\n{content.strip()}\n{end}", text)


def of(records: Records, part: str) -> Iterator[tuple[list[str], Any]]:
    """The rest of the key, and the record, of one part."""
    for key, record in records.items():
        first, *rest = key.split(" | ")
        if first == part:
            yield rest, record


# -- where parameters and MACs are ------------------------------------------------------------------


def summary(records: Records) -> str:
    """One line a net: convolutions against fully connected layers."""

    def row(name: str, layers: Sequence[Record]) -> list[object]:
        cells: list[object] = [name]
        for what in ("params", "macs"):
            whole = sum(each[what] for each in layers)
            full = sum(each[what] for each in layers if not each["convolution"])
            most = max(layers, key=lambda each: each[what])
            size = f"{whole / 1e6:.3g}" if whole < 1e9 else f"{float(f'{whole / 1e6:.3g}'):,.0f}"
            cells += [f"{size} M", f"{full / whole:.1%}"]
            cells.append(f"{most['layer']}: {most[what] / whole:.0%}")
        return cells

    header = ["net", "parameters", "fully connected", "most in one layer"]
    header += ["MACs", "fully connected", "most in one layer"]
    return table(header, [row(name, r) for (name,), r in of(records, "costs")], (1, 2, 4, 5))


def costs_by_layer(records: Records) -> str:
    """One line a layer of the nets that are pruned here."""
    known = {name for (name,), _ in of(records, "original")}
    rows = []
    for (name,), layers in of(records, "costs"):
        whole = [sum(each[what] for each in layers) for what in ("params", "macs")]
        for each in layers if name in known else ():
            costs = zip((each["params"], each["macs"]), whole, strict=True)
            shares = [
                cell for cost, total in costs for cell in (f"{cost:,}", f"{cost / total:.1%}")
            ]
            rows.append([name, each["layer"], "x".join(map(str, each["shape"])), *shares])
    header = ["net", "layer", "weight", "parameters", "share", "MACs", "share"]
    return table(header, rows, range(3, 7))


# -- accuracy by criterion --------------------------------------------------------------------------


def runs(records: Records, net: str) -> dict[str, dict[float, list[Record]]]:
    """Criterion -> part kept -> a record for each seed."""
    found: dict[str, dict[float, list[Record]]] = {}
    for (name, criterion, kept, _), record in of(records, "filters"):
        if name == net:
            found.setdefault(criterion, {}).setdefault(float(kept), []).append(record)
    return found


def criteria(records: Records) -> str:
    """A table for each net."""
    parts = []
    for (net,), original in of(records, "original"):
        found = runs(records, net)
        kepts = sorted({k for points in found.values() for k in points}, reverse=True)
        header = ["criterion"]
        said = []
        for kept in kepts:
            header += [f"{kept:g}, as cut", f"{kept:g}, refitted"]
            record = next(points[kept][0] for points in found.values() if kept in points)
            said.append(
                f"{record['params']:.0%} of the parameters and {record['macs']:.0%} of the MACs "
                f"at {kept:g}"
            )
        rows = [
            [
                name,
                *(_spread(points.get(k, ()), how) for k in kepts for how in ("as cut", "refitted")),
            ]
            for name, points in found.items()
        ]
        accuracy = (
            f"`{net}`, {100 * original['accuracy']:.1f} % before; left are {', '.join(said)}:"
        )
        parts.append(f"{accuracy}\n\n{table(header, rows, range(1, len(header)))}")
    return "\n".join(parts)


def _spread(found: Sequence[Record], how: str) -> str:
    """Mean accuracy in %, and the range over seeds where there is one."""
    values = [100 * r[how] for r in found]
    if not values:
        return ""
    middle, low, high = statistics.mean(values), min(values), max(values)
    return f"{middle:.1f}" if low == high else f"{middle:.1f} ({low:.1f} to {high:.1f})"


# -- layer by layer ---------------------------------------------------------------------------------


def at(record: Record, kept: float) -> dict[str, Record]:
    """Group -> its measurement nearest to a width, in the order of the net."""
    found: dict[str, Record] = {}
    for each in record["measurements"]:
        old = found.get(each["group"])
        if old is None or abs(each["kept"] - kept) < abs(old["kept"] - kept):
            found[each["group"]] = each
    return found


def sensitivity(records: Records) -> str:
    """A table for each net with a metric: groups from first to last, half of each cut."""
    parts = []
    for (net,), record in of(records, "layers"):
        if record["quality"] is None:
            continue
        rows = []
        for name, half in at(record, 0.5).items():
            facts = record["facts"][name]
            losses = [100 * (record["quality"] - half[q]) for q in ("quality", "quality_folded")]
            rows.append(
                [
                    *(name, facts["kind"], record["groups"][name]),
                    "yes" if facts["read smaller"] else "",
                    *(f"{half[how]:.3g}" for how in HOW),
                    *(f"{loss:.1f}" for loss in losses),
                ]
            )
        header = ["group", "kind", "units", "read smaller"]
        header += [
            *(f"damage, {h}" for h in HOW.values()),
            *(f"points lost, {h}" for h in HOW.values()),
        ]
        parts.append(f"`{net}`:\n\n{table(header, rows, (2, 4, 5, 6, 7))}")
    return "\n".join(parts)


def correlations(records: Records) -> str:
    """Spearman's rank correlation of damage at half with what might foretell it."""
    nets = [(net, record, at(record, 0.5)) for (net,), record in of(records, "layers")]
    rows = []
    for share in ("place in the net", "units", *SHARES):
        for how, words in HOW.items():
            row: list[object] = [share, words]
            for _, record, halves in nets:
                known = _foretold(record, share)
                names = [n for n in halves if halves[n][how] is not None]
                xs, ys = [known[n] for n in names], [halves[n][how] for n in names]
                if len(set(xs)) < 2 or len(xs) < 3:
                    row.append("the same everywhere")
                    continue
                row.append("{:+.2f} (p {:.2g})".format(*rank_correlation(xs, ys)))
            rows.append(row)
    header = ["what", "damage", *(f"{net}, {len(halves)} groups" for net, _, halves in nets)]
    return table(header, rows, range(2, len(header)))


def rank_correlation(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Spearman's, and how often 9,999 seeded permutations are as far from 0: the t distribution is
    too sure of itself for so few."""
    from scipy.stats import permutation_test, rankdata, spearmanr

    ranks, fixed = (rankdata(v) - (len(xs) + 1) / 2 for v in (xs, ys))
    found = permutation_test(
        (ranks,),
        lambda x, axis: (x * fixed).sum(axis),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=9999,
        rng=0,
    )
    return float(spearmanr(xs, ys).statistic), float(found.pvalue)


def _foretold(record: Record, share: str) -> dict[str, float]:
    if share == "place in the net":
        return {name: i for i, name in enumerate(at(record, 0.5))}
    if share == "units":
        return dict(record["groups"])
    return {name: facts[share] for name, facts in record["facts"].items()}


# -- pictures ---------------------------------------------------------------------------------------


def picture(path: Path, records: Records, draw: Callable[[Any, Records], None]) -> None:
    """Write one as SVG; the same records give the same bytes."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "graphprune", "svg.fonttype": "none"}):
        figure = Figure(figsize=(9, 3.8), layout="constrained")
        draw(figure, records)
        canvas: Any = FigureCanvasSVG(figure)
        write_atomically(path, lambda file: canvas.print_svg(file, metadata={"Date": None}))


def draw_criteria(figure: Any, records: Records) -> None:
    """Accuracy of each criterion as bars from lowest to highest seed, as cut and refitted."""
    nets = [net for (net,), _ in of(records, "original")]
    for axis, net in zip(figure.subplots(1, len(nets), squeeze=False)[0], nets, strict=True):
        found = runs(records, net)
        kept = min(k for points in found.values() for k in points)
        for shift, how in ((-0.2, "as cut"), (0.2, "refitted")):
            values = [[100 * r[how] for r in points.get(kept, ())] for points in found.values()]
            means = [statistics.mean(v) if v else 0 for v in values]
            spans = [
                [m - min(v, default=0), max(v, default=0) - m]
                for m, v in zip(means, values, strict=True)
            ]
            places = [i + shift for i in range(len(found))]
            axis.barh(places, means, 0.4, xerr=list(zip(*spans, strict=True)), label=how)
        axis.set_yticks(range(len(found)), list(found))
        axis.invert_yaxis()
        axis.set_xlabel("accuracy, %")
        axis.set_title(f"{net}, {kept:g} of each group's channels kept")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)


def draw_layers(figure: Any, records: Records) -> None:
    """Points of accuracy lost by each layer alone, first to last."""
    nets = [(net, r) for (net,), r in of(records, "layers") if r["quality"] is not None]
    for axis, (net, record) in zip(
        figure.subplots(1, len(nets), squeeze=False)[0], nets, strict=True
    ):
        for kept, style in ((0.5, "-"), (0.25, "--")):
            for quality, words, colour in (
                ("quality", "as cut", "C0"),
                ("quality_folded", "compensated", "C1"),
            ):
                found = at(record, kept)
                lost = [100 * (record["quality"] - each[quality]) for each in found.values()]
                axis.plot(
                    list(found),
                    lost,
                    style,
                    color=colour,
                    marker="o",
                    ms=3,
                    label=f"{kept:g} kept, {words}",
                )
        axis.set_ylabel("points of accuracy lost")
        axis.tick_params("x", rotation=70, labelsize=7)
        axis.grid(alpha=0.3)
        axis.set_title(net)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)


def draw_sparse(figure: Any, records: Records) -> None:
    """Damage of cutting half of a layer over how sparse its filters are; hollow: compensated."""
    for axis, share in zip(figure.subplots(1, len(SHARES), sharey=True), SHARES, strict=True):
        for number, ((net,), record) in enumerate(of(records, "layers")):
            known = _foretold(record, share)
            for how, words in HOW.items():
                points = [
                    (100 * known[name], max(each[how], 1e-6))
                    for name, each in at(record, 0.5).items()
                    if each[how] is not None
                ]
                fill = f"C{number}" if how == "damage" else "none"
                xs, ys = zip(*points, strict=True)
                axis.scatter(
                    xs, ys, 16, facecolors=fill, edgecolors=f"C{number}", label=f"{net}, {words}"
                )
        axis.set_yscale("log")
        axis.set_xlabel(f"{share}, %")
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("damage")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


PICTURES: dict[str, Callable[[Any, Records], None]] = {
    "criteria": draw_criteria,
    "layers": draw_layers,
    "sparse": draw_sparse,
}
