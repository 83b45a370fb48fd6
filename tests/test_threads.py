"""Threads: order and failures as with `map`, and linear algebra that is the same on any number of cores."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from graphprune import threads as own
from graphprune.threads import ahead, at_once, in_order, one_blas_thread


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


def test_a_library_that_was_not_there_yet_is_told_too() -> None:
    code = (
        "from graphprune.threads import one_blas_thread\n"
        "from threadpoolctl import threadpool_info\n"
        "with one_blas_thread():\n"
        "    import numpy, scipy.linalg\n"
        "    print({i['num_threads'] for i in threadpool_info() if i['user_api'] == 'blas'})\n"
    )
    free = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=free)
    assert done.stdout.strip() == "{1}", done.stderr


def test_one_ahead_and_no_more() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(6):
            made.append(i)
            yield i
        raise ValueError("after the last")

    with ahead(items()) as coming:
        assert next(coming) == 0
        time.sleep(0.1)
        assert made == [0, 1]
        assert [next(coming) for _ in range(5)] == [1, 2, 3, 4, 5]
        with pytest.raises(ValueError, match="after the last"):
            next(coming)
    with ahead([]) as none:
        assert list(none) == []


def test_nothing_is_taken_after_the_context_that_looks_ahead() -> None:
    made: list[int] = []
    with ahead(made.append(i) for i in range(100)) as coming:
        next(coming)
    taken = len(made)
    time.sleep(0.05)
    assert len(made) == taken <= 3


@pytest.mark.parametrize(
    ("cores", "threads", "expected"), [(1, 1, 1), (2, 1, 2), (2, 2, 1), (16, 1, 2), (16, 16, 1)]
)
def test_batches_at_once_leave_no_core_to_two(
    cores: int, threads: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "cores", lambda: cores)
    assert at_once(threads) == expected
