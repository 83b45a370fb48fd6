"""Training the pruned graph: closer, never worse, repeatable, resumable, and clear about misuse."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from distill_nets import Pruned, inputs, residual_net, weights_of
from workbench import drawn, from_text

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

from graphprune.certify.drift import compare_on  # noqa: E402
from graphprune.distill.matches import find_matches  # noqa: E402
from graphprune.distill.ops import OPS  # noqa: E402
from graphprune.distill.run import DISTILLED, FEW, distill, usual_rate  # noqa: E402
from graphprune.errors import (  # noqa: E402
    CertificateError,
    UnsupportedModelError,
    UsageError,
)


@pytest.fixture(scope="module")
def pruned() -> Pruned:
    return Pruned(residual_net(), inputs(480), 480)


def damage(pruned: Pruned, model: ir.Model) -> float:
    feeds = [b.feeds for b in pruned.calibration.judge]
    return compare_on(pruned.original, model, feeds)[0].relative


def test_the_student_comes_closer(pruned: Pruned) -> None:
    before = weights_of(pruned.model)
    model, report = distill(*pruned.all, steps=150, lr=3e-3)
    assert damage(pruned, model) < 0.5 * damage(pruned, pruned.model)
    assert report.best < 0.4 * report.start
    assert (report.steps, report.device) == (150, "cpu")
    assert report.samples + report.held_out == 480 - sum(
        b.samples for b in pruned.calibration.judge
    )
    assert 48 <= report.held_out < 60
    assert model.metadata_props[DISTILLED] == str(report.best_step)
    # The same graph with other numbers; the model that was given is as it was.
    assert [n.op_type for n in model.graph] == [n.op_type for n in pruned.model.graph]
    for name, array in weights_of(pruned.model).items():
        assert np.array_equal(array, before[name])
        assert weights_of(model)[name].shape == array.shape
    assert not np.array_equal(weights_of(model)["w1"], before["w1"])


def test_blocks_and_logits_are_matched(pruned: Pruned) -> None:
    matches = find_matches(pruned.original, pruned.model, pruned.plan)
    assert [m.name for m in matches if m.output] == ["z"]  # in front of the softmax
    inside = [m.name for m in matches if not m.output]
    assert inside[-1] == "s2"
    assert "s1" in inside
    cut = {m.name: m.cuts for m in matches}
    assert all(cut[n] == tuple(pruned.plan.tensors.get(n, ())) for n in cut)


def test_the_same_seed_gives_the_same_weights(pruned: Pruned) -> None:
    one, _ = distill(*pruned.all, steps=12, seed=3)
    two, _ = distill(*pruned.all, steps=12, seed=3)
    other, _ = distill(*pruned.all, steps=12, seed=4)
    assert all(np.array_equal(a, weights_of(two)[n]) for n, a in weights_of(one).items())
    assert any(not np.array_equal(a, weights_of(other)[n]) for n, a in weights_of(one).items())


def test_what_only_gets_worse_stays_as_it_was(pruned: Pruned) -> None:
    model, report = distill(*pruned.all, steps=40, lr=30.0)
    good, _ = distill(*pruned.all, steps=150, lr=3e-3)
    worse, second = distill(
        pruned.original, good, pruned.plan, pruned.calibration, steps=20, lr=30.0
    )
    assert report.best <= report.start
    assert second.best <= second.start
    assert damage(pruned, model) <= 1.05 * damage(pruned, pruned.model)
    if second.best_step == 0:
        assert any("the weights stay" in w for w in second.warnings)
        assert all(np.array_equal(a, weights_of(good)[n]) for n, a in weights_of(worse).items())


def test_an_interrupted_run_goes_on_to_the_same_result(pruned: Pruned, tmp_path: Path) -> None:
    whole, report = distill(*pruned.all, steps=60)

    def stop(share: float) -> None:
        if share > 0.55:
            raise KeyboardInterrupt

    folder = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        distill(*pruned.all, steps=60, checkpoint=folder, progress=stop)
    best = ir.load(folder / "best.onnx")
    assert damage(pruned, best) < damage(pruned, pruned.model)
    resumed, again = distill(*pruned.all, steps=60, checkpoint=folder)
    assert (again.steps, again.best) == (60, report.best)
    assert [(s, e) for s, _, e in again.history] == [(s, e) for s, _, e in report.history]
    for name, array in weights_of(whole).items():
        assert np.array_equal(array, weights_of(resumed)[name])
    # A finished run is not repeated.
    _, third = distill(*pruned.all, steps=60, checkpoint=folder)
    assert third.history == again.history


def test_a_budget_of_time_ends(pruned: Pruned) -> None:
    _, report = distill(*pruned.all, minutes=0.02)
    assert 1.0 < report.seconds < 30
    assert report.steps > 3


def test_few_inputs_are_learnt_from_slowly(pruned: Pruned) -> None:
    assert usual_rate(1e-3, FEW) == usual_rate(1e-3, 30 * FEW) == 1e-3
    assert usual_rate(1e-3, FEW // 2) == pytest.approx(5e-4)
    assert usual_rate(1e-3, 4) == usual_rate(1e-3, 40) == pytest.approx(2e-4)
    _, report = distill(*pruned.all, steps=1)
    assert report.lr < distill(*pruned.all, steps=1, lr=1e-3)[1].lr


def test_few_inputs_are_warned_about(pruned: Pruned) -> None:
    _, report = distill(*pruned.all, steps=2)
    assert any("under about 2,000 it overfits" in w for w in report.warnings)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({}, "needs a budget: minutes or steps"),
        ({"minutes": 0.0}, "budget above 0"),
        ({"minutes": float("nan")}, "budget above 0"),
        ({"steps": 0}, "budget above 0"),
    ],
)
def test_a_budget_is_needed(pruned: Pruned, budget: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        distill(*pruned.all, **budget)


def test_checkpoints_of_other_runs_and_damaged_ones(pruned: Pruned, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    distill(*pruned.all, steps=2, checkpoint=folder)
    with pytest.raises(UsageError, match=r"of another run .* give another folder or remove it"):
        distill(*pruned.all, steps=2, seed=1, checkpoint=folder)
    (folder / "distill.pt").write_bytes(b"nonsense")
    with pytest.raises(UsageError, match=r"distill.pt is damaged .* remove it to start anew"):
        distill(*pruned.all, steps=2, checkpoint=folder)
    with pytest.raises(UsageError, match="cannot make the checkpoint folder"):
        distill(*pruned.all, steps=2, checkpoint=tmp_path / "no" / "such")
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_nothing_to_judge_by(pruned: Pruned) -> None:
    original, model, plan, calibration = pruned.all
    with pytest.raises(UsageError, match="to learn from and to judge by"):
        distill(original, model, plan, replace(calibration, choose=()), steps=2)


def test_a_student_that_is_another_function_is_not_trained(
    pruned: Pruned, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(OPS["", "Relu"], run=lambda call: torch.sigmoid(call.x(0)))
    monkeypatch.setitem(OPS, ("", "Relu"), wrong)
    with pytest.raises(CertificateError, match=r"first at 'r1' \(node 'r1', Relu\)"):
        distill(*pruned.all, steps=2)


def test_an_op_without_a_gradient_is_named() -> None:
    proto = from_text(
        "h = MatMul (x, w) q, s, z = DynamicQuantizeLinear (h) f = DequantizeLinear (q, s, z)"
        " y = MatMul (f, v)",
        {"w": drawn(8, 16), "v": drawn(16, 4)},
        outputs="float[N, 4] y",
    )
    small = Pruned(proto, inputs(64), 64, verify=False)
    with pytest.raises(UnsupportedModelError, match=r"\(DynamicQuantizeLinear\) cannot be run"):
        distill(*small.all, steps=2)


def test_without_torch_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from graphprune.distill.run import distill\n"
        "from graphprune.distill.scores import gradient_scores\n"
        "for call in (lambda: distill(None, None, None, None, steps=1),\n"
        "             lambda: gradient_scores(None, None, [], None, [])):\n"
        "    try: call()\n"
        "    except Exception as error: print(type(error).__name__, error)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = found.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("UsageError")
        assert line.endswith("needs torch: pip install graphprune[torch]")
