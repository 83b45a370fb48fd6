"""Who measures: this process, others of this machine, or those of a cluster."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import uuid4

from graphprune.damage.bench import Bench, Collected, Job, Scored
from graphprune.damage.result import Measurement
from graphprune.errors import GraphpruneError, UsageError
from graphprune.threads import one_blas_thread

_ready: dict[str, Bench] = {}


def prepare(job: Job | str) -> None:
    """Make a job ready in this process, for when it is measured."""
    _bench_of(job)


def measure(
    job: Job | str, known: Collected | str | None, scored: Sequence[Scored]
) -> list[Measurement]:
    """Measure in this process, with compensation where there are statistics, or a file of them."""
    bench = _bench_of(job)
    if known is not None and bench.folder is None:
        bench.compensate(_loaded(known) if isinstance(known, str) else known)
    with one_blas_thread():
        return [bench.measure(each) for each in scored]


def _bench_of(job: Job | str) -> Bench:
    """Of a job, or of the file that holds it; this process keeps it, and nothing of other jobs."""
    key = job if isinstance(job, str) else job.key
    if key not in _ready:
        _ready.clear()
        with one_blas_thread():
            _ready[key] = Bench(_loaded(job) if isinstance(job, str) else job)
    return _ready[key]


def _loaded(file: str) -> Any:
    with Path(file).open("rb") as stream:
        return pickle.load(stream)


def _written(given: object, file: Path) -> str:
    with file.open("wb") as stream:
        pickle.dump(given, stream, protocol=5)  # large arrays go straight to the file
    return str(file)


Measured = Callable[[Iterable[Scored], int, Collected | None], Iterator[Measurement]]
"""From scored points, how many they are, and statistics (None: nothing is compensated), to measurements
in the order in which they are ready."""

_TURNS = 4
"""Turns of each worker at least, so that none is left with nothing to do for long."""


@contextmanager
def workers(jobs: int = 1, scheduler: str = "") -> Iterator[Callable[[Job], Measured]]:
    """Processes that import what they need while a job is put together.

    Args:
        jobs: Processes; 1: this one.
        scheduler: Address of a Dask scheduler, in place of processes of this machine.

    Yields:
        A function that takes the job, which processes make ready at once, and gives what measures.

    Raises:
        UsageError: No such scheduler, or a cluster without `dask.distributed`.
    """
    if scheduler:
        with _cluster(scheduler) as client:
            executor = client.get_executor(retries=3, pure=False)
            count = sum(client.nthreads().values())

            def share(given: object) -> Any:  # a dead worker's is made anew
                return client.submit(_identity, given, pure=False)

            yield lambda job: partial(_through, executor, count, share, share(job))
    elif jobs > 1:
        import multiprocessing

        spawn = multiprocessing.get_context("spawn")  # onnxruntime's threads do not survive a fork
        with (
            tempfile.TemporaryDirectory(prefix="graphprune-") as folder,
            ProcessPoolExecutor(jobs, spawn) as pool,
        ):
            for _ in range(jobs):
                pool.submit(_wake)

            def write(given: object) -> str:
                return _written(given, Path(folder, uuid4().hex))

            def take_on(job: Job) -> Measured:
                file = write(job)
                for _ in range(jobs):
                    pool.submit(prepare, file)
                return partial(_through, pool, jobs, write, file)

            yield take_on
    else:
        yield _here


def _here(job: Job) -> Measured:
    bench = Bench(job)

    def measured(
        scored: Iterable[Scored], count: int, known: Collected | None
    ) -> Iterator[Measurement]:
        if known is not None:
            bench.compensate(known)
        return map(bench.measure, scored)

    return measured


def _wake() -> None:
    """To be able to take this on, a process imports all that it needs."""
    import onnxruntime  # noqa: F401


def _identity(given: Any) -> Any:
    return given


def _through(
    executor: Executor,
    workers: int,
    share: Callable[[object], Any],
    job: Any,
    scored: Iterable[Scored],
    count: int,
    known: Collected | None,
) -> Iterator[Measurement]:
    """Send parts on as soon as they are scored: the first are measured while others are."""
    waiting: list[Future[list[Measurement]]] = []
    with _of_a_worker():
        shared = None if known is None else share(known)
    try:
        for part in _parts(scored, count // (_TURNS * max(workers, 1))):
            with _of_a_worker():  # what fails in the line above is not a worker's
                waiting.append(executor.submit(measure, job, shared, part))
        with _of_a_worker():
            for done in as_completed(waiting):
                yield from done.result()
    finally:
        for future in waiting:
            future.cancel()


def _parts(scored: Iterable[Scored], most: int) -> Iterator[list[Scored]]:
    """Points of one group together, whose worker keeps what stands before it (`prefix.py`)."""
    for _, points in groupby(scored, key=lambda each: each[0].group):
        part: list[Scored] = []
        for each in points:
            part.append(each)
            if len(part) >= most:
                yield part
                part = []
        if part:
            yield part


@contextmanager
def _of_a_worker() -> Iterator[None]:
    try:
        yield
    except GraphpruneError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise UsageError(
            f"a worker of the analysis failed ({type(error).__name__}: {text}): run it again, it "
            "goes on where it stopped"
        ) from error


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError(
            "--scheduler needs dask.distributed: pip install 'graphprune[cluster]'"
        ) from error
    try:
        client = Client(address, timeout=10)  # type: ignore[no-untyped-call]
    except Exception as error:  # of many kinds: no such host, refused, a wrong scheme
        raise UsageError(
            f"no Dask scheduler answers at {address} ({type(error).__name__})"
        ) from error
    with client:
        yield client
