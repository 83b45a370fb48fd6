"""Samples in a step: as many as leave time for two thousand steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from distill_nets import Pruned, inputs, residual_net

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

from graphprune.data.padding import find_padding  # noqa: E402
from graphprune.distill import pace  # noqa: E402
from graphprune.distill.matches import find_matches  # noqa: E402
from graphprune.distill.module import OnnxModule  # noqa: E402
from graphprune.distill.pace import LEAST, STEPS, paced, seconds_of  # noqa: E402
from graphprune.distill.run import distill  # noqa: E402
from graphprune.distill.samples import make_steps  # noqa: E402
from graphprune.distill.teacher import Teacher  # noqa: E402


@pytest.fixture(scope="module")
def pruned() -> Pruned:
    return Pruned(residual_net(), inputs(480), 480)


@pytest.mark.parametrize(
    ("size", "seconds", "minutes", "steps", "samples"),
    [
        (64, 0.001, 10, None, 64),
        (64, 0.02, 10, None, 15),
        (64, 1.0, 10, None, LEAST),
        (64, 0.02, 10, 100, 64),
        (4, 1.0, 10, None, 4),
        (64, 0.0, 10, None, 64),
    ],
    ids=[
        "time for all",
        "a quarter of it",
        "next to none",
        "few steps wanted",
        "small",
        "no clock",
    ],
)
def test_samples_by_time(
    size: int, seconds: float, minutes: float, steps: int | None, samples: int
) -> None:
    assert paced(size, seconds, minutes, steps) == samples


def test_so_many_steps_fit_into_the_time() -> None:
    size = paced(64, 0.02, 10)
    assert STEPS <= 600 / (0.02 * size) < 1.1 * STEPS


def test_what_is_timed_changes_nothing(pruned: Pruned) -> None:
    student = OnnxModule(pruned.model)
    before = {n: p.detach().clone() for n, p in student.weights.items()}
    matches = find_matches(pruned.original, pruned.model, pruned.plan)
    padding = find_padding(pruned.original, [b.feeds for b in pruned.calibration.fit])
    steps = make_steps(pruned.original, list(pruned.calibration.fit), 32, padding)
    teacher = Teacher(pruned.original, matches, torch.device("cpu"), memory=1 << 20)
    try:
        assert 0 < seconds_of(student, teacher, matches, steps[:3]) < 1
        assert (teacher._room._places, teacher._room._left) == ({}, 1 << 20)
    finally:
        teacher.close()
    assert all(torch.equal(p, before[n]) for n, p in student.weights.items())
    assert all(p.grad is None for p in student.parameters())


def test_a_resumed_run_keeps_the_samples_of_its_steps(
    pruned: Pruned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "seconds_of", lambda *_: 1.0)
    monkeypatch.setattr(pace, "paced", lambda *_: 12)
    _, first = distill(*pruned.all, minutes=0.02, checkpoint=tmp_path / "state")
    monkeypatch.setattr(pace, "paced", lambda *_: 48)
    _, again = distill(*pruned.all, minutes=0.04, checkpoint=tmp_path / "state")
    assert (first.batch, again.batch) == (12, 12)
    assert again.steps > first.steps
