"""Options that commands share, and how their text becomes values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from graphprune.errors import UsageError

STAYS = "How much stays (every ratio is the fraction that remains, 0 < R <= 1)"
WHAT = "What is pruned, and by what"
OUTPUT = "Output"
RUN = "How it is run"


def option(names: str, metavar: str, text: str, panel: str | None) -> Any:
    """An option with a value."""
    return typer.Option(*names.split(), metavar=metavar, help=text, rich_help_panel=panel)


def flag(names: str, text: str, panel: str | None) -> Any:
    """An option without a value."""
    return option(names, "", text, panel)


def output(default: str, metavar: str = "OUT") -> Any:
    """`-o`, with what is written where it is not given."""
    return option("--output -o", metavar, f"The file to write; {default} if not given.", OUTPUT)


def only(things: str) -> Any:
    """`--only`, with what it takes the names of."""
    return option(
        "--only", "GLOB", f"Prune only {things} whose name matches; repeat for more.", WHAT
    )


def exclude(things: str) -> Any:
    """`--exclude`, with what it takes the names of."""
    return option("--exclude", "GLOB", f"Leave {things} whose name matches; repeat for more.", WHAT)


Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="An ONNX file, or zoo:NAME (see graphprune zoo).")
]
Criterion = Annotated[
    str,
    option(
        "--criterion",
        "NAME",
        "How units are ranked: l1, l2, l<P> (l0.5, l3), fpgm, bn-scale, random; with --calib also "
        "energy (what a refit cannot bring back), activation, wanda, flap, apoz, and by gradients "
        "taylor, fisher. auto is the best that was measured: l2, with --calib energy.",
        WHAT,
    ),
]
Residual = Annotated[
    bool,
    flag("--residual", "Prune also residual widths that run through LayerNorm or RMSNorm.", WHAT),
]
Only = Annotated[list[str] | None, only("groups")]
Exclude = Annotated[list[str] | None, exclude("groups")]
Dim = Annotated[
    list[str] | None,
    option(
        "--dim",
        "NAME=SIZE",
        "Size of a dynamic dimension while analysing, verifying and timing; repeat for more.",
        RUN,
    ),
]
Provider = Annotated[str, option("--provider", "NAME", "onnxruntime's execution provider.", RUN)]
Threads = Annotated[int, option("--threads", "N", "Threads inside an operator.", RUN)]
Seed = Annotated[int, option("--seed", "N", "Of the random inputs.", RUN)]
Quiet = Annotated[bool, flag("--quiet -q", "Print errors only.", OUTPUT)]
Json = Annotated[bool, flag("--json", "Print JSON on stdout, and only that.", OUTPUT)]
Output = Annotated[str | None, output("MODEL.pruned.onnx beside the input")]
ReportFile = Annotated[
    str | None, option("--report", "R.json", "Write the whole report as JSON.", OUTPUT)
]
Overwrite = Annotated[bool, flag("--overwrite", "Replace existing output files.", OUTPUT)]
NoBench = Annotated[bool, flag("--no-bench", "Do not time the two models.", RUN)]
NoVerify = Annotated[bool, flag("--no-verify", "Do not prove that the result is right.", RUN)]
CPU = "CPUExecutionProvider"


def ratio(value: float | None, option: str) -> float | None:
    """A fraction that remains. Raises UsageError outside (0, 1]."""
    if value is not None and not 0 < value <= 1:
        raise UsageError(
            f"{option} {value:g} is out of range: it is the fraction that remains, 0 < R <= 1"
        )
    return value


def layers(text: str | None) -> float | str | None:
    """A fraction that remains, or `auto`. Raises UsageError for anything else."""
    if text is None or text == "auto":
        return text
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"--layers {text!r} is neither a fraction nor 'auto'") from None
    return ratio(value, "--layers")


def at_least(value: int, least: int, option: str) -> int:
    """A count. Raises UsageError below `least`."""
    if value < least:
        raise UsageError(f"{option} {value} is out of range: at least {least}")
    return value


def align(text: str) -> int | str:
    """`auto` or a positive number."""
    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--align {text!r} is neither 'auto' nor a number of channels from 1 up")
    return int(text)


def dims(items: Sequence[str] | None) -> dict[str, int]:
    """NAME=SIZE pairs; the last `=` divides, because a dimension's name may hold one."""
    found: dict[str, int] = {}
    for item in items or ():
        name, equals, size = item.rpartition("=")
        if not equals or not name or not size.isdecimal() or int(size) < 1:
            raise UsageError(f"--dim {item!r} is not NAME=SIZE with a size from 1 up")
        if found.setdefault(name, int(size)) != int(size):
            raise UsageError(f"--dim gives {name!r} two sizes, {found[name]} and {size}")
    return found


def group_ratios(items: Sequence[str] | None) -> tuple[tuple[str, float], ...]:
    """GLOB=R pairs, in order."""
    found: list[tuple[str, float]] = []
    for item in items or ():
        glob, equals, text = item.rpartition("=")
        try:
            value = float(text)
        except ValueError:
            value = None
        if not equals or not glob or value is None:
            raise UsageError(f"--group-ratio {item!r} is not GLOB=R, for example 'layer4*=0.25'")
        if not 0 <= value <= 1:
            raise UsageError(
                f"--group-ratio {item} is out of range: it is the fraction that remains, "
                "0 <= R <= 1 (at 0 the whole group leaves)"
            )
        found.append((glob, value))
    return tuple(found)


def choice(value: str, allowed: Sequence[str], option: str) -> str:
    """One of a few words."""
    if value not in allowed:
        raise UsageError(f"{option} {value!r} is unknown: choose from {', '.join(allowed)}")
    return value
