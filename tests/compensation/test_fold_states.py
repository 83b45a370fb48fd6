"""Recurrence weights take in the units that left: exact for twins, and closer for others."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from recurrent_nets import recurrent, sequences
from workbench import Bench

import graphprune
from graphprune.compensation.states import fold_states
from graphprune.cut import take
from graphprune.onnx.runtime import Session
from graphprune.onnx.states import with_states
from graphprune.plan import Plan

Array = np.ndarray[Any, Any]

KINDS = [
    ("LSTM", ""),
    ("GRU", ", linear_before_reset = 1"),
    ("GRU", ", linear_before_reset = 0"),
    ("RNN", ""),
]


def halved(proto: onnx.ModelProto) -> tuple[Bench, Plan, ir.Model]:
    """The last half of the units of each direction leaves."""
    bench = Bench(proto)
    removed = np.zeros(bench.graph.resolver.classes.count, bool)
    (group,) = bench.graph.groups
    for cell in group.cells:
        removed[group.units[cell[len(cell) // 2 :]]] = True
    plan = bench.plan(bench.graph, removed)
    return bench, plan, bench.pruned(plan)


def dims_of(bench: Bench) -> dict[str, tuple[int, ...]]:
    return {v.name: d for v, d in bench.shapes[0].dims.items() if v.name}


def layer(model: ir.Model) -> ir.Node:
    (found,) = [n for n in model.graph if n.op_type in ("LSTM", "GRU", "RNN")]
    return found


def states(model: ir.Model, feeds: list[dict[str, Array]]) -> Array:
    """`(time, directions, batch, units)`, of all feeds side by side."""
    copy = with_states(model)
    name = layer(copy).outputs[0].name or ""
    with Session(copy, outputs=[name]) as session:
        return np.concatenate([session.run(f)[name] for f in feeds], axis=2)


def error(bench: Bench, plan: Plan, pruned: ir.Model, feeds: list[dict[str, Array]]) -> float:
    """Of the states that stay, relative to their variance."""
    name = layer(bench.model).outputs[0].name or ""
    whole = states(bench.model, feeds)
    kept = take(whole, plan.tensors[name]) if name else whole[..., : whole.shape[-1] // 2]
    assert kept.std() > 0.1
    return float(((states(pruned, feeds) - kept) ** 2).mean() / kept.var())


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("op", "attributes"), KINDS)
def test_exact_for_twins(op: str, attributes: str, bias: bool, directions: int) -> None:
    proto = recurrent(op, directions=directions, bias=bias, twins=True, attributes=attributes)
    bench, plan, pruned = halved(proto)
    feeds = sequences()
    before = error(bench, plan, pruned, feeds)
    fold_states(pruned, plan, bench.model, dims_of(bench), feeds)
    assert before > 0.05
    assert error(bench, plan, pruned, feeds) < 1e-4 * before


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(("op", "attributes"), KINDS)
def test_closer_on_new_inputs(op: str, attributes: str, directions: int) -> None:
    proto = recurrent(op, units=48, directions=directions, attributes=attributes)
    bench, plan, pruned = halved(proto)
    feeds = sequences(40)
    before = error(bench, plan, pruned, feeds[32:])
    fold_states(pruned, plan, bench.model, dims_of(bench), feeds[:32])
    share = 0.7 if attributes.endswith("0") else 0.6
    assert error(bench, plan, pruned, feeds[32:]) < share * before


def test_a_constant_goes_into_the_bias_of_the_recurrence() -> None:
    """Units that never change: all of what they gave is a constant."""
    proto = recurrent("GRU", attributes=", linear_before_reset = 1")
    held = {t.name: t for t in proto.graph.initializer}
    arrays = {n: onnx.numpy_helper.to_array(held[n]).copy() for n in ("w", "r", "b")}
    parts = {n: a.reshape(1, -1, 12, *a.shape[2:]) for n, a in arrays.items()}
    parts["w"][:, :, 6:] = 0
    parts["r"][:, :, 6:] = 0
    parts["b"][:, 0, 6:] = -20  # the update gate lets everything through at once
    parts["b"][:, 2, 6:] = 1.5
    for name, array in arrays.items():
        held[name].CopyFrom(onnx.numpy_helper.from_array(array, name))
    bench, plan, pruned = halved(proto)
    of_inputs = layer(pruned).inputs[3].const_value.numpy()[0, :18].copy()
    feeds = sequences()
    before = error(bench, plan, pruned, feeds)
    fold_states(pruned, plan, bench.model, dims_of(bench), feeds)
    assert before > 0.05
    after = error(bench, plan, pruned, feeds)
    assert after < 0.05 * before  # but for the first step, whose state is zero
    np.testing.assert_array_equal(layer(pruned).inputs[3].const_value.numpy()[0, :18], of_inputs)


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_states_that_nothing_reads_are_looked_at_too(op: str) -> None:
    bench, plan, pruned = halved(recurrent(op, twins=True, last=True))
    assert not layer(bench.model).outputs[0].name
    feeds = sequences()
    before = error(bench, plan, pruned, feeds)
    fold_states(pruned, plan, bench.model, dims_of(bench), feeds)
    assert error(bench, plan, pruned, feeds) < 1e-4 * before
    assert not layer(bench.model).outputs[0].name
    assert not layer(pruned).outputs[0].name


def test_without_a_cut_state_nothing_runs() -> None:
    bench = Bench(recurrent("LSTM"))
    plan = bench.plan(bench.graph, np.zeros(bench.graph.resolver.classes.count, bool))
    copy = bench.model.clone()
    fold_states(copy, plan, bench.model, {}, [{"no": np.zeros(1)}])
    assert layer(copy).inputs[2].const_value is layer(bench.model).inputs[2].const_value


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_through_the_whole_line(op: str) -> None:
    """The outputs come much closer than the refit of what reads the states can bring them."""
    settings = {"channels": 0.5, "align": 1, "bench": False, "calib_samples": 64}
    feeds = sequences(64, batch=1)
    result = graphprune.compile(recurrent(op, units=24, twins=True), calib=feeds, **settings)
    assert result.report.certificate["status"] == "exact"
    drift = result.report.drift
    assert drift is not None
    (before,), (after,) = drift.uncompensated, drift.outputs
    assert before["relative"] > 0.1
    assert after["relative"] < 0.05 * before["relative"]
