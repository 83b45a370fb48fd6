"""The work of a sensitivity analysis, as something that other processes and machines can take on."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import onnx
import onnx_ir as ir

from graphprune.damage.fold import Folder, reading_of
from graphprune.damage.judge import Judge
from graphprune.damage.probe import Point, Prober
from graphprune.damage.result import Measurement
from graphprune.data.metric import load_metric
from graphprune.errors import GraphpruneError, UnsupportedModelError, UsageError
from graphprune.onnx.shapes import shape_pair
from graphprune.options import Options
from graphprune.scoring.statistics import Statistics
from graphprune.threads import one_blas_thread

Array = np.ndarray[Any, Any]
Feeds = Sequence[Mapping[str, Array]]
Scored = tuple[Point, Array]
"""What is measured, and the scores of the group's units."""


@dataclass(frozen=True, eq=False)
class Job:
    """All that is needed to measure one group at one width; it can be sent anywhere.

    Attributes:
        model: The canonical original, serialised.
        bindings: Two sizes of its dynamic dimensions.
        options: Which groups, at which alignment.
        judged: Inputs that damage is measured on.
        statistics: Of what the layers read that are folded; None: nothing is compensated.
        metric: The user's, where there is one: as text it is imported in every process.
        both: Measure as cut too, not only with compensation.
        key: Tells jobs apart within a process.
    """

    model: bytes
    bindings: tuple[Mapping[str, int], Mapping[str, int]]
    options: Options
    judged: Feeds
    statistics: Mapping[str, Statistics] | None = None
    metric: Any = None
    both: bool = True
    key: str = field(default_factory=lambda: uuid4().hex)


class Bench:
    """A job made ready in one process."""

    def __init__(self, job: Job) -> None:
        model = ir.from_proto(onnx.load_from_string(job.model))
        self.job = job
        threads = job.options.threads
        self._metric = None if job.metric is None else load_metric(job.metric, threads=threads)
        self.prober = Prober(model, shape_pair(model, *job.bindings), job.options)
        self._judge = Judge(model, job.judged, threads)
        self.folder: Folder | None = None
        if job.statistics is not None:
            self.folder = Folder(reading_of(model, self.prober.groups), job.statistics)

    def measure(self, scored: Scored) -> Measurement:
        """One group at one width, as cut and with compensation."""
        point, scores = scored
        found = Measurement(point.group, point.kept, point.counts)
        plan = self.prober.plan(point, scores)
        model = self.prober.model(plan)
        if model is None:
            return found
        if self.job.both or self.folder is None:
            damage, quality = self._judged(model)
            found = replace(found, damage=damage, quality=quality)
        if self.folder is not None:
            self.folder(model, plan)
            damage, quality = self._judged(model)
            found = replace(found, folded=damage, quality_folded=quality)
        return found

    def _judged(self, model: ir.Model) -> tuple[float | None, float | None]:
        try:
            damage = self._judge.damage(model)
        except UnsupportedModelError:  # an output that is compared went with the group
            return None, None
        return damage, None if self._metric is None else self._metric(model)


_ready: dict[str, Bench] = {}


def measure(job: Job | str, scored: Scored) -> Measurement:
    """Measure in this process, which keeps what the job, or the file that holds it, needs."""
    key = job if isinstance(job, str) else job.key
    with one_blas_thread():
        if key not in _ready:
            _ready.clear()
            given = pickle.loads(Path(job).read_bytes()) if isinstance(job, str) else job
            _ready[key] = Bench(given)
        return _ready[key].measure(scored)


Measured = Callable[[Iterable[Scored]], Iterator[Measurement]]


@contextmanager
def workers(jobs: int = 1, scheduler: str = "") -> Iterator[Callable[[Job], Measured]]:
    """Processes that get ready while a job is put together.

    Args:
        jobs: Processes; 1: this one.
        scheduler: Address of a Dask scheduler, in place of processes of this machine.

    Yields:
        A function that takes the job, and gives one from scored points to measurements, in the order
        in which they are ready.

    Raises:
        UsageError: No such scheduler, or a cluster without `dask.distributed`.
    """
    if scheduler:
        with _cluster(scheduler) as client:

            def send(job: Job) -> Measured:
                shared = client.submit(_identity, job, pure=False)  # a dead worker's is made anew
                return partial(_through, client.get_executor(retries=3, pure=False), shared)

            yield send
    elif jobs > 1:
        import multiprocessing

        spawn = multiprocessing.get_context("spawn")  # onnxruntime's threads do not survive a fork
        with (
            tempfile.TemporaryDirectory(prefix="graphprune-") as folder,
            ProcessPoolExecutor(jobs, spawn) as pool,
        ):
            for _ in range(jobs):
                pool.submit(_wake)

            def write(job: Job) -> Measured:
                file = Path(folder, job.key)
                file.write_bytes(pickle.dumps(job))
                return partial(_through, pool, str(file))

            yield write
    else:
        yield lambda job: partial(map, Bench(job).measure)


def _wake() -> None:
    """To be able to take this on, a process imports all that it needs."""
    import onnxruntime  # noqa: F401


def _identity(job: Job) -> Job:
    return job


def _through(executor: Executor, job: Any, scored: Iterable[Scored]) -> Iterator[Measurement]:
    """Send each on as soon as it is scored: the first are measured while others are."""
    waiting: list[Future[Measurement]] = []
    try:
        for each in scored:  # what fails here is not a worker's
            with _of_a_worker():
                waiting.append(executor.submit(measure, job, each))
        with _of_a_worker():
            for done in as_completed(waiting):
                yield done.result()
    finally:
        for future in waiting:
            future.cancel()


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
