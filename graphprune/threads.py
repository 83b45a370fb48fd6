"""Threads of this process: those of linear algebra, and work that is handed to several in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

AT_ONCE = 2
"""Batches that are run at the same time, at most: each has its activations in memory."""


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def at_once(threads: int = 1) -> int:
    """Batches to run at the same time, each by so many threads of onnxruntime."""
    return max(1, min(cores() // max(threads, 1), AT_ONCE))


def one_blas_thread() -> AbstractContextManager[object]:
    """Linear algebra on one thread: the same bits on any number of cores, and no two in the way.

    Several processes or threads with as many BLAS threads each as there are cores wait for one another.
    """
    import scipy.linalg  # noqa: F401 (it and numpy have a library each, which must be there to be told)
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits


def in_order(make: Callable[[Item], Made], items: Iterable[Item], threads: int) -> Iterator[Made]:
    """`map` by several threads: what is made comes in the order of the items.

    Args:
        make: Called in any thread; it helps where it spends its time in numpy or onnxruntime.
        items: Taken from the calling thread, no more than `threads` ahead.
        threads: 1: everything is made when it is asked for, in the calling thread.
    """
    if threads <= 1:
        yield from map(make, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[Made]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(make, item))
                if len(ahead) > threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


@contextmanager
def ahead(items: Iterable[Item]) -> Iterator[Iterator[Item]]:
    """The same items, of which another thread makes the next one while one is used.

    Nothing is taken from them any more when the context is left.
    """
    made, end = iter(items), object()

    def each() -> Iterator[Item]:
        coming: Future[Any] = pool.submit(next, made, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, made, end)
            yield item

    pool = ThreadPoolExecutor(1)
    try:
        yield each()
    finally:
        pool.shutdown(cancel_futures=True)
