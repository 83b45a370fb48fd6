"""The report as a person reads it in a terminal.

Plain text in a pipe, colour only on a terminal, never wider than it; no boxes, so that a copied
report stays readable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from graphprune.compensation.report import DriftReport
from graphprune.measure.latency import MARGIN, Latency
from graphprune.plan import LayerCut, Unpruned
from graphprune.report import numbers
from graphprune.report.layout import (
    bar,
    indented,
    plain_table,
    shorten,
    show,
    shows_bars,
    title,
    warning,
)
from graphprune.report.model import GroupReport, Metric, Report

MOST_GROUPS = 12
MOST_REASONS = 8


def print_report(console: Console, report: Report, next_steps: Sequence[str] = ()) -> None:
    """Print all of a report; `next_steps` are lines that say what to do with the result."""
    arrow = "->" if console.options.ascii_only else "→"
    parts: list[RenderableType] = [
        headline(report),
        Text(),
        indented(_costs(report, arrow, shows_bars(console))),
        Text(),
        indented(certificate_line(report.certificate)),
    ]
    if report.drift is not None:
        parts.append(indented(drift_lines(report.drift)))
    if report.search is not None:
        parts.append(indented(search_line(report.search)))
    if report.distillation is not None:
        parts.append(indented(distillation_line(report.distillation)))
    if report.layers:
        parts += [Text(), title("left out", numbers.plural(len(report.layers), "layer"))]
        parts.append(indented(layer_lines(report.layers)))
    if report.groups:
        parts += [Text(), title("pruned", numbers.plural(len(report.groups), "group"))]
        parts.append(indented(_groups(report.groups, arrow, console.width)))
    if report.unpruned:
        parts += [Text(), title("left as it was", numbers.plural(len(report.unpruned), "place"))]
        parts.append(indented(reasons(report.unpruned)))
    if report.warnings:
        parts.append(Text())
        parts += [warning(line) for line in report.warnings]
    show(console, *parts)
    if next_steps:
        show(console, Text())
    for line in next_steps:  # whole, so that a command can be copied
        console.print(Text(line), soft_wrap=True)


def headline(report: Report) -> Text:
    """One line: the model and what was gained, e.g. `net  2.31x faster, 74 % fewer parameters`."""
    gains = []
    latency = report.latency
    if latency is not None:
        if latency.verdict == "faster":
            factor = latency.speedup if latency.speedup is not None else latency.interval[0]
            more = "" if latency.speedup is not None else "at least "
            gains.append(f"{more}{numbers.times(factor)} faster")
        elif latency.verdict == "slower":
            gains.append(f"slower ({numbers.times(latency.ratio)})")
        else:
            gains.append("speed unchanged" if not latency.too_noisy else "speed: noise too high")
    before, after = report.original, report.pruned
    gains.append(_fewer(before.params, after.params, "parameters"))
    gains.append(_fewer(before.macs, after.macs, "MACs"))
    name = report.source.removeprefix("zoo:").rsplit("/", 1)[-1]
    return Text.assemble((name, "bold"), "  ", (", ".join(g for g in gains if g), "bold green"))


def certificate_line(certificate: Any) -> Text:
    """What the certificate says, in one sentence."""
    if certificate is None:
        return Text("Not verified: --no-verify was given.", style="yellow")
    status = certificate.get("status")
    error = certificate.get("max_abs_error")
    bindings = len(certificate.get("bindings") or ()) or 1
    nodes = certificate.get("statistics_nodes") or ()
    how = f"largest difference {error:.1e}" if error is not None else "structure only"
    how = f"({how}, {numbers.plural(bindings, 'set')} of input sizes)"
    if certificate.get("layers_max_rel_error") is not None:
        how = f"{how[:-1]}; layers left out: {certificate['layers_max_rel_error']:.1e})"
    if status == "exact":
        return Text.assemble(
            ("Certificate: exact. ", "bold green"),
            f"It computes what the masked original computes {how}.",
        )
    if status == "statistics":
        return Text.assemble(
            ("Certificate: exact but for statistics. ", "bold green"),
            "It computes what the masked original computes, where the statistics of "
            f"{numbers.plural(len(nodes), 'norm')} are taken over what stays {how}.",
        )
    reason = certificate.get("first_difference") or "it differs from the masked original"
    return Text.assemble(("Certificate: failed. ", "bold red"), f"{reason} {how}")


def drift_lines(drift: DriftReport) -> Text:
    """What compensation did, and the drift of each output on inputs that were held out."""
    held = numbers.plural(drift.held_out, "held-out sample")
    text = Text.assemble(
        ("Compensated: ", "bold"),
        f"{numbers.plural(drift.refitted, 'layer')} refitted on calibration inputs. The certificate "
        f"is of the model before that. Drift from the original on {held}:",
    )
    before = {o["name"]: o for o in drift.uncompensated}
    for output in drift.outputs:
        old = before[output["name"]]
        text.append(
            f"\n  {output['name']}: relative error {output['relative']:.3g} "
            f"(without: {old['relative']:.3g}), cosine {output['cosine']:.4f}"
        )
    return text


_GOALS = {
    "latency": "the original's time",
    "max_drop": "drop of the metric",
    "max_divergence": "relative error of the outputs",
}


def search_line(search: Mapping[str, Any]) -> Text:
    """How a goal was reached, e.g. `Searched: 0.51 of the original's time, 0.5 was asked for`."""
    goal = search["goal"]
    of = " of" if goal == "latency" else ""
    most = "" if goal == "latency" else "at most "
    return Text.assemble(
        ("Searched: ", "bold"),
        f"{search['reached']:.3g}{of} {_GOALS.get(goal, goal)}, {most}{search['target']:.3g} was asked "
        f"for ({_tries(len(search['tries']))}).",
    )


def _tries(count: int) -> str:
    return f"{count} {'try' if count == 1 else 'tries'}"


def distillation_line(done: Mapping[str, Any]) -> Text:
    """What training without labels did."""
    held = numbers.plural(done["held_out"], "held-out sample")
    inputs = numbers.plural(done["samples"], "unlabelled input")
    return Text.assemble(
        ("Distilled: ", "bold"),
        f"{numbers.plural(done['steps'], 'step')} on {inputs} in {done['seconds']:.0f} s ({done['device']}). "
        f"Squared error of the outputs on {held}, over their variance: {done['start']:.3g} before, "
        f"{done['best']:.3g} after.",
    )


def layer_lines(layers: Sequence[LayerCut]) -> Table:
    """Layers that left, and what stands in their place."""
    table = plain_table(header=False)
    table.add_column(overflow="fold")
    table.add_column(no_wrap=True)
    for cut in layers:
        score = "" if cut.score is None else f"score {cut.score:.3g}"
        notes = [score, "a linear map in its place" if cut.linear is not None else ""]
        table.add_row(Text(cut.name), Text(", ".join(n for n in notes if n), "dim"))
    return table


def reasons(unpruned: Iterable[Unpruned]) -> Table:
    """What was left, grouped by reason, the most frequent first."""
    grouped: dict[str, list[str]] = {}
    for item in unpruned:
        grouped.setdefault(item.reason, []).append(item.node)
    ordered = sorted(grouped.items(), key=lambda kv: -len(kv[1]))
    table = plain_table(header=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for reason, nodes in ordered[:MOST_REASONS]:
        distinct = list(dict.fromkeys(nodes))
        shown = ", ".join(shorten(node, 32) for node in distinct[:2])
        if len(distinct) > 2:
            shown += ", ..."
        table.add_row(str(len(nodes)), Text.assemble(reason, ("  " + shown, "dim")))
    rest = ordered[MOST_REASONS:]
    if rest:
        total = sum(len(nodes) for _, nodes in rest)
        table.add_row(str(total), Text(f"for {numbers.plural(len(rest), 'other reason')}"))
    return table


def _costs(report: Report, arrow: str, bars: bool) -> Table:
    table = plain_table(header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    before, after = report.original, report.pruned

    def row(name: str, old: float, new: float, shown: Any, note: str | None = None) -> None:
        change = numbers.change(old, new) if note is None else note
        left = bar(new / old if old else 1.0) if bars else Text()
        table.add_row(name, shown(old), arrow, Text(shown(new), "bold"), left, change)

    row("params", before.params, after.params, numbers.count)
    row("MACs", before.macs, after.macs, numbers.count)
    row("file", before.bytes, after.bytes, numbers.size)
    if before.peak_activation_bytes and after.peak_activation_bytes:
        row("memory", before.peak_activation_bytes, after.peak_activation_bytes, numbers.size)
    if before.latency_ms is not None and after.latency_ms is not None:
        note = None if report.latency is None else latency_note(report.latency)
        row("latency", before.latency_ms, after.latency_ms, numbers.duration, note)
    if report.metric is not None:
        _metric_row(table, report.metric, arrow)
    return table


def _metric_row(table: Table, metric: Metric, arrow: str) -> None:
    difference = metric.pruned - metric.original
    if "accuracy" in metric.name.lower():
        old, new = f"{metric.original * 100:.1f} %", f"{metric.pruned * 100:.1f} %"
        note = f"{difference * 100:+.1f} points"
    else:
        old, new, note = f"{metric.original:.3f}", f"{metric.pruned:.3f}", f"{difference:+.3f}"
    if metric.examples:
        note += f" on {metric.examples:,} examples"
    style = "yellow" if difference < -0.01 else ""
    table.add_row(Text(metric.name), old, arrow, Text(new, "bold"), "", Text(note, style))


def latency_note(latency: Latency) -> str:
    """`2.31x (2.29 to 2.33), 1 thread` or that noise was too high."""
    low, high = (numbers.times(x) for x in latency.interval)
    where = numbers.plural(latency.threads, "thread")
    if latency.provider != "CPUExecutionProvider":
        where += f", {latency.provider.removesuffix('ExecutionProvider')}"
    if latency.too_noisy:
        return f"noise too high for a number ({low} to {high}), {where}"
    if latency.verdict == "noise":
        return f"no measurable difference ({low} to {high}; up to {MARGIN:.0%} is noise), {where}"
    return f"{numbers.times(latency.ratio)} ({low} to {high}), {where}"


def _groups(groups: Sequence[GroupReport], arrow: str, width: int) -> Table:
    table = plain_table()
    table.add_column("group", no_wrap=True, overflow="ellipsis")
    table.add_column("kind", no_wrap=True)
    table.add_column("before", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("after", justify="left", no_wrap=True)
    table.add_column("weights saved", justify="right", no_wrap=True)
    shown = list(groups)
    if len(shown) > MOST_GROUPS + 3:
        largest = sorted(shown, key=lambda g: -g.params_saved)[:MOST_GROUPS]
        chosen = {id(g) for g in largest}
        shown = [g for g in groups if id(g) in chosen]
    room = max(12, width - 46)
    for group in shown:
        table.add_row(
            Text(shorten(group.name, room)),  # Text: brackets in a name are no markup
            Text(group.kind),
            f"{group.before:,}",
            arrow,
            f"{group.after:,}",
            numbers.count(group.params_saved),
        )
    rest = len(groups) - len(shown)
    if rest:
        saved = sum(g.params_saved for g in groups) - sum(g.params_saved for g in shown)
        table.add_row(
            Text(f"and {rest} smaller ones", "dim"),
            "",
            "",
            "",
            "",
            Text(numbers.count(saved), "dim"),
        )
    return table


def _fewer(before: int, after: int, noun: str) -> str:
    if not before or before == after:
        return ""
    percent = (before - after) / before * 100
    digits = f"{abs(percent):.0f}" if abs(percent) >= 9.95 else f"{abs(percent):.1f}"
    return f"{digits} % {'fewer' if percent > 0 else 'more'} {noun}"
