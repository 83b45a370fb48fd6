"""A group at a width: as cut until there are statistics, then compensated too; the same wherever."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from damage_nets import data, mlp
from workbench import Bench as Workbench

from graphprune.damage import work
from graphprune.damage.bench import Bench, Collected, Job
from graphprune.damage.fold import reading_of, statistics_of
from graphprune.damage.probe import Point
from graphprune.options import Options


@pytest.fixture
def job() -> Job:
    bench = Workbench(mlp())
    first, second = (dict(s.binding) for s in bench.shapes)
    model = ir.to_proto(bench.model).SerializeToString()
    return Job(model, (first, second), Options(align=1), [{"x": data(32)}])


def collected(bench: Bench) -> Collected:
    model = bench._model
    return statistics_of(model, reading_of(model, bench.prober.groups), [{"x": data(256, seed=1)}])


def half(bench: Bench) -> tuple[Point, np.ndarray]:
    group = bench.prober.groups[0]
    point = next(p for p in bench.prober.points([0.5]) if p.group == group.name)
    return point, np.arange(group.size, dtype=float)


def test_as_cut_until_there_are_statistics(job: Job) -> None:
    bench = Bench(job)
    before = bench.measure(half(bench))
    assert before.damage is not None
    assert before.damage > 0.02
    assert before.folded is None
    bench.compensate(collected(bench))
    after = bench.measure(half(bench))
    assert after.damage == before.damage
    assert after.folded is not None
    assert after.folded < 0.7 * before.damage
    only = Bench(replace(job, both=False))
    only.compensate(collected(only))
    assert only.measure(half(only)).damage is None


def test_a_process_gets_ready_before_there_are_statistics(job: Job, tmp_path: Path) -> None:
    alone = Bench(job)
    known = collected(alone)
    alone.compensate(known)
    files = [tmp_path / "job", tmp_path / "known"]
    for file, given in zip(files, (job, known), strict=True):
        file.write_bytes(pickle.dumps(given))
    first, second = map(str, files)
    work.prepare(first)
    ready = work._ready[first]
    assert ready.folder is None
    assert work.measure(first, second, [half(alone)]) == [alone.measure(half(alone))]
    assert work._ready == {first: ready}, "it is the same one, and nothing of other jobs stays"
