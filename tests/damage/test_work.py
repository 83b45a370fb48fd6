"""Whose failure it is: the caller's, who scores, or a worker's."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from graphprune.damage import work
from graphprune.errors import UnsupportedModelError, UsageError


class Pool:
    """An executor that has done at once what it is given; `error` is what every job ends with."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def submit(self, function: Any, job: Any, scored: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result(scored)
        return future


def scored(error: Exception | None = None) -> Iterator[Any]:
    yield "first"
    if error is not None:
        raise error
    yield "second"


def test_what_workers_give() -> None:
    assert sorted(work._through(Pool(), "job", scored())) == ["first", "second"]


def test_what_fails_while_scoring_is_no_workers_failure() -> None:
    with pytest.raises(ZeroDivisionError):
        list(work._through(Pool(), "job", scored(ZeroDivisionError())))


def test_a_worker_that_dies_is_said_with_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"worker .*\(BrokenPipeError: gone\): run it again"):
        list(work._through(Pool(BrokenPipeError("gone")), "job", scored()))


def test_what_a_worker_says_of_the_model_is_passed_on() -> None:
    with pytest.raises(UnsupportedModelError, match="no kernel"):
        list(work._through(Pool(UnsupportedModelError("no kernel")), "job", scored()))
