"""How much stays after each step: pure functions of the step, fractions of the original.

With n steps and a target of r: `linear` 1 - (1 - r) t / n; `cubic` r + (1 - r) (1 - t / n)^3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from graphprune.errors import UsageError

Schedule = Callable[[int, int, float], float]
"""(step from 1, steps, what stays at the end) -> what stays after this step."""


def constant(step: int, steps: int, target: float) -> float:
    """All at once in the first step; the others train."""
    return target


def linear(step: int, steps: int, target: float) -> float:
    """The same number of units in every step."""
    return 1 + (target - 1) * step / steps


def cubic(step: int, steps: int, target: float) -> float:
    """Much at first, little at the end (Zhu and Gupta, 2017)."""
    return target + (1 - target) * (1 - step / steps) ** 3


def geometric(step: int, steps: int, target: float) -> float:
    """The same share of what is left in every step (Han et al., 2015)."""
    return float(target ** (step / steps))


SCHEDULES: Mapping[str, Schedule] = {
    "constant": constant,
    "linear": linear,
    "cubic": cubic,
    "geometric": geometric,
}


def schedule_of(schedule: str | Schedule) -> Schedule:
    """A schedule by its name, or as it is. Raises UsageError for an unknown name."""
    if callable(schedule):
        return schedule
    if schedule not in SCHEDULES:
        raise UsageError(f"unknown schedule '{schedule}': choose one of {', '.join(SCHEDULES)}")
    return SCHEDULES[schedule]
