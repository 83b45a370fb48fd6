"""Comparing two arrays: how far apart, against what scale, and whether it proves anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_NEARLY_ZERO = 1e-12
_NEARLY_CONSTANT = 1e-6


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted error relative to the largest magnitude in the reference.

    Attributes:
        whole: After all the nodes before it, whose rounding differs.
        local: Of one node on equal inputs.
    """

    whole: float
    local: float


TOLERANCES = {
    "float64": Tolerance(1e-9, 1e-11),
    "float32": Tolerance(1e-4, 2e-5),
    "float16": Tolerance(2e-2, 5e-3),
    "bfloat16": Tolerance(1e-1, 2e-2),
}
COARSEST = Tolerance(2e-1, 1e-1)  # 8-bit floats and narrower


@dataclass(frozen=True)
class Deviation:
    """What the comparison of one tensor found.

    Attributes:
        max_abs: Largest absolute difference of finite entries; inf where they cannot be compared.
        scale: Largest finite magnitude of the reference.
        mean_abs: Mean absolute difference of finite entries.
        exact: The type has no rounding: integers, bools, strings.
        flaw: Why they cannot be compared at all (shape, dtype, NaN), else empty.
        lifeless: Why agreement proves nothing (`nearly zero`, `nearly constant`), else empty.
        not_finite: NaN or Inf stand at equal positions in both.
    """

    max_abs: float
    scale: float
    mean_abs: float = 0.0
    exact: bool = False
    flaw: str = ""
    lifeless: str = ""
    not_finite: bool = False

    @property
    def max_rel(self) -> float:
        """`max_abs` relative to `scale`."""
        if self.max_abs == 0.0:
            return 0.0
        return self.max_abs / self.scale if self.scale > 0.0 else float("inf")

    def within(self, limit: float) -> bool:
        """Whether the tensors agree up to `limit` of the scale."""
        if self.flaw:
            return False
        return self.max_abs == 0.0 if self.exact else self.max_rel <= limit


def deviation(want: Any, got: Any) -> Deviation:
    """Compare a value with its reference; sequences element by element.

    Args:
        want: The reference: an array, or a list of arrays.
        got: What is checked.
    """
    if isinstance(want, list) or isinstance(got, list):
        return _sequence(want, got)
    if want is None or got is None:
        same = want is got
        return Deviation(0.0, 0.0, flaw="" if same else "one is missing", lifeless="empty")
    want, got = np.asarray(want), np.asarray(got)
    if want.dtype != got.dtype:
        return Deviation(np.inf, 0.0, flaw=f"type {got.dtype} instead of {want.dtype}")
    if want.shape != got.shape:
        return Deviation(np.inf, 0.0, flaw=f"shape {list(got.shape)} instead of {list(want.shape)}")
    if want.size == 0:
        return Deviation(0.0, 0.0, lifeless="empty")
    if want.dtype.kind in "OSU":
        differs = not np.array_equal(want, got)
        return Deviation(float(differs), 1.0, exact=True, lifeless=_constancy(want, 1.0))
    if want.dtype.kind in "biu":
        return _integers(want, got)
    return _floats(want, got)


def _sequence(want: Any, got: Any) -> Deviation:
    if not isinstance(want, list) or not isinstance(got, list) or len(want) != len(got):
        return Deviation(np.inf, 0.0, flaw="a sequence of another length")
    parts = [deviation(w, g) for w, g in zip(want, got, strict=True)]
    flawed = next((p for p in parts if p.flaw), None)
    if flawed is not None:
        return flawed
    return max(parts, key=lambda p: p.max_rel, default=Deviation(0.0, 0.0, lifeless="empty"))


def _integers(want: Array, got: Array) -> Deviation:
    wide = np.float64 if want.dtype.itemsize < 8 else np.longdouble
    scale = float(np.abs(want.astype(wide)).max())
    if np.array_equal(want, got):
        return Deviation(0.0, scale, exact=True, lifeless=_constancy(want, max(scale, 1.0)))
    return Deviation(float(np.abs(want.astype(wide) - got.astype(wide)).max()), scale, exact=True)


def _floats(want: Array, got: Array) -> Deviation:
    if want.dtype.kind != "c" and want.dtype.itemsize < 4:
        want, got = want.astype(np.float32), got.astype(np.float32)
    finite = np.isfinite(want)
    whole = bool(finite.all())
    if not whole:
        odd, others = want[~finite], got[~finite]
        if not np.array_equal(odd, others, equal_nan=True):
            return Deviation(np.inf, 0.0, flaw="no NaN or Inf where the original has one")
        want, got = want[finite], got[finite]
        if want.size == 0:
            return Deviation(0.0, 0.0, lifeless="nowhere finite", not_finite=True)
    if not np.isfinite(got).all():
        return Deviation(np.inf, 0.0, flaw="NaN or Inf where the original has none")
    with np.errstate(over="ignore"):
        scale = float(np.abs(want).max())
        error = np.abs(want - got)
        largest, mean = float(error.max()), float(error.mean())
    return Deviation(largest, scale, mean, lifeless=_constancy(want, scale), not_finite=not whole)


def _constancy(want: Array, scale: float) -> str:
    if want.dtype.kind in "OSU":
        return "nearly constant" if want.size > 1 and (want == want.reshape(-1)[0]).all() else ""
    if scale <= _NEARLY_ZERO or not want.any():
        return "nearly zero"
    if want.size > 1 and want.dtype.kind != "c":
        spread = float(want.max()) - float(want.min())
        if spread <= _NEARLY_CONSTANT * scale:
            return "nearly constant"
    return ""
