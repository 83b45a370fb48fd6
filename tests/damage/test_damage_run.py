"""The whole analysis: where it runs does not matter, nor whether it was interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from architectures import NETWORKS
from damage_metric import agreement
from damage_nets import data, mlp
from workbench import drawn, from_text

import graphprune.pipeline as pipeline
from graphprune.cli import run
from graphprune.damage.result import Sensitivity
from graphprune.errors import NothingGainedError, UnsupportedModelError, UsageError

FRACTIONS = (0.25, 0.5, 0.75)
CALIB = data(64)


def analysed(model: Any = None, **settings: Any) -> Sensitivity:
    settings = {"align": 1, "calib": CALIB, "fractions": FRACTIONS, **settings}
    found, _ = pipeline.sensitivity(mlp() if model is None else model, **settings)
    return found


def test_every_group_at_every_width_and_compensation_helps() -> None:
    found = analysed()
    assert len(found.sizes) == 2
    assert len(found.measurements) == 6
    for each in found.measurements:
        assert each.kept in FRACTIONS
        assert each.folded is not None
        assert each.damage is not None
        assert 0 < each.folded < 1.5 * each.damage  # it was fitted to other inputs
    assert sum(m.folded < m.damage for m in found.measurements) >= 5
    for group in found.sizes:
        few, _, many = (m.folded for m in found.measurements if m.group == group)
        assert few > many
    assert found.settings["samples"] == 64


def test_mixtures_are_nearly_free_to_cut() -> None:
    """14 of the 24 units of the first layer are mixtures of the others, in front of the ReLU."""
    linear = from_text(
        "h = MatMul (x, w) k = MatMul (h, v) r = Relu (k) y = MatMul (r, u)",
        {"w": drawn(8, 24), "v": drawn(24, 12, seed=1), "u": drawn(12, 4, seed=2)},
        outputs="float[N, 4] y",
    )
    found = analysed(linear, fractions=(0.5,))
    first, second = found.measurements
    assert first.folded < 1e-4 < 0.05 < first.damage  # 12 units span what 8 inputs can say
    assert second.folded > 1e-3


def test_without_compensation_there_is_one_figure() -> None:
    found = analysed(compensate=False)
    assert all(m.folded is None and m.damage > 0 for m in found.measurements)
    assert found.settings["compensated"] is False


def test_with_a_metric_quality_stands_beside_damage() -> None:
    found = analysed(eval=agreement)
    assert found.quality == 1.0
    assert all(0 < m.quality <= 1 and 0 < m.quality_folded <= 1 for m in found.measurements)
    assert min(m.quality for m in found.measurements) < 0.9
    assert Sensitivity.loads(found.dumps()) == found


def test_two_processes_give_the_same_bytes_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    alone = analysed(eval="damage_metric:agreement", fractions=(0.5,))
    found = analysed(eval="damage_metric:agreement", fractions=(0.5,), jobs=2)
    assert found.dumps() == alone.dumps()
    with pytest.raises(UsageError, match="give it as 'module:callable'"):
        analysed(eval=lambda session: 1.0, jobs=2)


def test_what_is_there_is_not_measured_again(tmp_path: Path, monkeypatch: Any) -> None:
    file = tmp_path / "c.json"
    whole = analysed(checkpoint=file)
    half = json.loads(file.read_text())
    half["measurements"] = half["measurements"][1:4]
    file.write_text(json.dumps(half))
    from graphprune.damage.bench import Bench

    measured: list[Any] = []
    measure = Bench.measure
    monkeypatch.setattr(Bench, "measure", lambda b, p: measured.append(p) or measure(b, p))
    assert analysed(checkpoint=file).dumps() == whole.dumps()
    assert len(measured) == 3
    assert analysed(checkpoint=file).dumps() == whole.dumps()
    assert len(measured) == 3


@pytest.mark.parametrize(
    "changes",
    [{"calib": data(64, seed=1)}, {"criterion": "l1"}, {"eval": agreement}, {"compensate": False}],
    ids=["data", "criterion", "metric", "compensation"],
)
def test_a_checkpoint_of_something_else_is_not_used(changes: Any, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    analysed(checkpoint=file)
    assert analysed(checkpoint=file, **changes).dumps() == analysed(**changes).dumps()


COMMAND = ["sensitivity", "net.onnx", "--calib", "c.npy", "--align", "1", "-o", "s.json", "-q"]


def test_killed_in_the_middle_and_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for name in ("whole", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        onnx.save(NETWORKS["resnet"](), folder / "net.onnx")
    x = rng.normal(size=(16, 3, 32, 32)).astype(np.float32)
    for name in ("whole", "killed"):
        np.save(tmp_path / name / "c.npy", x)
    killed = tmp_path / "killed"
    partial = killed / ".s.json.partial"
    program = "from graphprune.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", program, *COMMAND], cwd=killed)
    end = time.monotonic() + 60
    while not partial.exists() and time.monotonic() < end:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = Sensitivity.load(partial).measurements
    assert 0 < len(done) < 35
    assert not (killed / "s.json").exists()
    for left in killed.glob(".s.json.partial.*"):  # being written when the process died
        left.unlink()
    for name in ("whole", "killed"):
        monkeypatch.chdir(tmp_path / name)
        assert run(COMMAND) == 0
    assert (killed / "s.json").read_bytes() == (tmp_path / "whole" / "s.json").read_bytes()
    assert sorted(p.name for p in killed.iterdir()) == ["c.npy", "net.onnx", "s.json"]


def test_on_a_cluster_that_loses_a_worker() -> None:
    distributed = pytest.importorskip("distributed")
    settings = {"fractions": tuple(i / 12 for i in range(1, 12))}
    alone = analysed(**settings).dumps()
    killed: list[int] = []
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True
    ) as cluster:
        pids = [worker.process.process.pid for worker in cluster.workers.values()]

        def progress(stage: str, share: float | None = None) -> None:
            if stage == "sensitivity" and share and not killed:
                os.kill(pids[0], signal.SIGKILL)
                killed.append(pids[0])

        address = cluster.scheduler_address
        found = analysed(scheduler=address, progress=progress, **settings)
        assert killed
        assert found.dumps() == alone
        other = {"fractions": (0.5,), "calib": data(64, seed=3)}
        again = analysed(scheduler=address, **other)
    assert again.dumps() == analysed(**other).dumps(), "workers keep nothing of other jobs"


def test_no_scheduler_is_one_line() -> None:
    pytest.importorskip("distributed")
    with pytest.raises(UsageError, match="no Dask scheduler answers at nowhere"):
        analysed(scheduler="nowhere://x")


def test_a_model_without_groups_has_nothing_to_measure() -> None:
    stuck = from_text("y = MatMul (x, w)", {"w": drawn(8, 4)})
    with pytest.raises(NothingGainedError, match="nothing to measure"):
        analysed(stuck)


def test_a_model_that_does_not_run_on_the_data() -> None:
    weights = {"w": drawn(8, 16), "v": drawn(16, 4)}
    text = "h = MatMul (x, w) r = Relu (h) s = MatMul (r, v) y = Add (s, z)"
    proto = from_text(text, weights, inputs="float[N, 8] x, float[M, 4] z", outputs="float[N, 4] y")

    def feeds() -> Any:
        for _ in range(10):
            yield {"x": data(6), "z": np.ones((5, 4), np.float32)}

    with pytest.raises((UsageError, UnsupportedModelError)):
        analysed(proto, calib=feeds)
