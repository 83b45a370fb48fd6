"""A small model, and what a compile of it could give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphprune.plan import GroupChoice, Plan
from graphprune.report.model import GroupReport, Report, Side

MLP = """<ir_version: 10, opset_import: ["" : 20]>
mlp (float[n, 6] x, float[6, 32] w1, float[32, 3] w2) => (float[n, 3] y) {
  [fc1] h = MatMul(x, w1)
  a = Relu(h)
  [fc2] y = MatMul(a, w2)
}"""


def mlp() -> ir.Model:
    """x[n, 6] -> 32 neurons -> y[n, 3], with live random weights."""
    rng = np.random.default_rng(0)
    model = ir.from_onnx_text(MLP)
    for value in list(model.graph.inputs)[1:]:
        model.graph.inputs.remove(value)
        shape = tuple(value.shape.numpy())
        array = rng.standard_normal(shape).astype(np.float32)
        value.const_value = ir.tensor(array, name=value.name)
        model.graph.register_initializer(value)
    return model


@dataclass
class Result:
    model: ir.Model
    plan: Plan
    report: Report


def result() -> Result:
    """What a compile of the small model could give."""
    plan = Plan("00", (GroupChoice("fc1", "neuron", 32, tuple(range(16))),), {}, ())
    report = Report(
        version="0.1.0",
        source="net.onnx",
        source_sha256="00",
        plan_sha256=plan.sha256,
        options={},
        original=Side(288, 288, 1500, 0.02, 0.001),
        pruned=Side(144, 144, 900, 0.01, 0.001),
        latency=None,
        certificate={"status": "exact", "max_abs_error": 1e-7, "bindings": [{"n": 2}]},
        groups=(GroupReport("fc1", "neuron", 32, 16, (), tuple(range(16)), 144),),
        unpruned=(),
        timings_s={"load": 0.01},
    )
    return Result(mlp(), plan, report)
