"""Threads: order and failures as with `map`, and linear algebra that is the same on any number of cores."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from graphprune.threads import ahead, in_order, one_blas_thread


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_in_the_order_of_the_items(threads: int) -> None:
    def late(i: int) -> int:
        time.sleep(0.02 * (i % 3 == 0))  # some are overtaken
        return i * i

    assert list(in_order(late, range(12), threads)) == [i * i for i in range(12)]


def test_several_at_once_and_no_more_ahead_than_threads() -> None:
    both = threading.Barrier(2, timeout=5)
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(6):
            taken.append(i)
            yield i

    def together(i: int) -> int:
        both.wait()
        return i

    made = in_order(together, items(), 2)
    assert next(made) == 0
    assert len(taken) <= 3
    assert list(made) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("threads", [1, 2])
def test_what_fails_is_raised_in_its_turn(threads: int) -> None:
    made = in_order(lambda i: 1 / (2 - i), range(5), threads)
    assert [next(made), next(made)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(made)


def test_one_blas_thread_and_as_many_as_before_afterwards() -> None:
    np.ones((2, 2)) @ np.ones((2, 2))  # so that it is loaded

    def threads() -> list[int]:
        return [i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"]

    before = threads()
    assert before
    with one_blas_thread():
        assert set(threads()) == {1}
    assert threads() == before


def test_one_ahead_and_no_more() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(4):
            made.append(i)
            yield i
        raise ValueError("after the last")

    coming = ahead(items())
    assert next(coming) == 0
    time.sleep(0.1)
    assert made == [0, 1]
    assert [next(coming) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(ValueError, match="after the last"):
        next(coming)
    assert list(ahead([])) == []
