"""Whose failure it is: the caller's, who scores, or a worker's."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from graphprune.damage import work
from graphprune.damage.probe import Point
from graphprune.errors import UnsupportedModelError, UsageError


class Pool:
    """An executor that has done at once what it is given; `error` is what every job ends with."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def submit(self, function: Any, job: Any, known: Any, part: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result([part])
        return future


def scored(groups: str = "aab", error: Exception | None = None) -> Iterator[Any]:
    """A point of each of the groups, with the scores of its units."""
    for i, name in enumerate(groups):
        if i and error is not None:
            raise error
        yield Point(name, (i,), 0.5), np.zeros(2)


def given(groups: str, workers: int) -> list[str]:
    """What is sent in one go, as names of groups."""
    parts = work._through(Pool(), workers, str, "job", scored(groups), len(groups), None)
    return sorted("".join(point.group for point, _ in part) for part in parts)


@pytest.mark.parametrize(
    ("groups", "workers", "parts"),
    [
        ("aaaabbbbcccc", 1, ["aaa", "a", "bbb", "b", "ccc", "c"]),
        ("a" * 8 + "b" * 8, 2, ["aa"] * 4 + ["bb"] * 4),
        ("abab", 1, ["a", "b", "a", "b"]),
        ("aaabb", 16, ["a", "a", "a", "b", "b"]),
        ("", 2, []),
    ],
    ids=["together", "turns of each", "order stays", "more workers than points", "none"],
)
def test_points_of_a_group_go_together(groups: str, workers: int, parts: list[str]) -> None:
    assert given(groups, workers) == sorted(parts)


def through(pool: Pool, error: Exception | None = None) -> list[Any]:
    return list(work._through(pool, 2, str, "job", scored(error=error), 3, None))


def test_what_fails_while_scoring_is_no_workers_failure() -> None:
    with pytest.raises(ZeroDivisionError):
        through(Pool(), ZeroDivisionError())


def test_a_worker_that_dies_is_said_with_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"worker .*\(BrokenPipeError: gone\): run it again"):
        through(Pool(BrokenPipeError("gone")))


def test_what_a_worker_says_of_the_model_is_passed_on() -> None:
    with pytest.raises(UnsupportedModelError, match="no kernel"):
        through(Pool(UnsupportedModelError("no kernel")))
