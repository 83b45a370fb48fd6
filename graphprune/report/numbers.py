"""Numbers as people read them: three digits and a unit."""

from __future__ import annotations


def count(value: float) -> str:
    """`272 k`, `1.82 G`, `64`."""
    return _scaled(value, ("", " k", " M", " G", " T", " P"))


def size(value: float) -> str:
    """Bytes in decimal units: `292 kB`, `1.10 MB`."""
    return _scaled(value, (" B", " kB", " MB", " GB", " TB", " PB"))


def duration(milliseconds: float) -> str:
    """`0.43 ms`, `12.3 ms`, `1.20 s`."""
    if milliseconds >= 999.5:
        return f"{_digits(milliseconds / 1000)} s"
    return f"{_digits(milliseconds)} ms"


def change(before: float, after: float) -> str:
    """`-74 %`; one decimal where the change is below 10 %."""
    if before == 0:
        return ""
    percent = (after - before) / before * 100
    if percent == 0:
        return "unchanged"
    return f"{percent:+.1f} %" if abs(percent) < 9.95 else f"{percent:+.0f} %"


def times(factor: float) -> str:
    """A speed-up: `2.31x`, `12.4x`."""
    return f"{_digits(factor)}x"


def plural(number: int, noun: str) -> str:
    """`1 group`, `12 groups`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    step = 0
    while abs(value) >= 999.5 and step + 1 < len(units):
        value /= 1000
        step += 1
    return f"{value:.0f}{units[0]}" if step == 0 else f"{_digits(value)}{units[step]}"


def _digits(value: float) -> str:
    """Three significant digits without an exponent, at most three decimals."""
    if value == 0:
        return "0"
    for limit, decimals in ((0.0995, 3), (9.995, 2), (99.95, 1)):
        if abs(value) < limit:
            return f"{value:.{decimals}f}"
    return f"{value:,.0f}"
