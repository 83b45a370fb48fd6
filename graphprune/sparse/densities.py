"""From which density on a format is no longer smaller than a dense tensor.

A format of `k (b + i)` bytes for k values of b bytes, i bytes of index for each, is smaller than
`n b` while k / n < b / (b + i): fp32 with two int32 coordinates up to 1/3, with one byte up to 4/5.
"""

from __future__ import annotations

from fractions import Fraction


def coordinates(itemsize: int, index_bytes: int) -> Fraction:
    """COO with `index_bytes` bytes of index for each value (all axes together)."""
    return Fraction(itemsize, itemsize + index_bytes)


def bitmap(itemsize: int) -> Fraction:
    """A bit for each element: n / 8 + k b < n b."""
    return 1 - Fraction(1, 8 * itemsize)


def rows(itemsize: int, index_bytes: int, count_bytes: int, columns: int) -> Fraction:
    """CSR: a count for each row of `columns` elements, an index for each value.

    r count + k (b + index) < r columns b. CSC is the same with rows for columns.
    """
    left = itemsize - Fraction(count_bytes, columns)
    return max(Fraction(0), left / (itemsize + index_bytes))
