"""The micro-graphs are valid, run, are alive and keep their promises without torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from models_zoo.builders import micrographs


def run(model: onnx.ModelProto, batch: int) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    random = np.random.default_rng(0)
    sizes = {"batch": batch, "time": 7}
    feeds: dict[str, np.ndarray] = {}
    for value in session.get_inputs():
        shape = [sizes.get(d, d) for d in value.shape]
        if value.type == "tensor(int64)":
            feeds[value.name] = random.integers(0, 50, shape)
        else:
            feeds[value.name] = random.normal(size=shape).astype(np.float32)
    return np.asarray(session.run(None, feeds)[0])


def test_there_are_fifteen() -> None:
    assert len(micrographs.NAMES) == 15


@pytest.mark.parametrize("name", micrographs.NAMES)
@pytest.mark.parametrize("opset", [18, 23])
def test_it_runs_with_live_outputs_at_two_batch_sizes(name: str, opset: int) -> None:
    model = micrographs.build(name, opset=opset)
    for batch in (1, 3):
        y = run(model, batch)
        assert y.shape[0] == batch
        assert np.isfinite(y).all()
        assert y.std() > 0.1


@pytest.mark.parametrize("name", micrographs.NAMES)
def test_no_two_float_initializers_are_equal(name: str) -> None:
    model = micrographs.build(name)
    floats = [numpy_helper.to_array(i) for i in model.graph.initializer if i.data_type == 1]
    assert len({a.tobytes() for a in floats}) == len(floats)
    assert all(np.abs(a).min() > 0 for a in floats)


@pytest.mark.parametrize("name", micrographs.NAMES)
def test_every_call_gives_the_same_bytes(name: str) -> None:
    first, second = micrographs.build(name), micrographs.build(name)
    assert first.SerializeToString() == second.SerializeToString()


def test_torch_is_not_imported() -> None:
    code = "import sys; from models_zoo.builders import micrographs as m; m.build(m.NAMES[0]); "
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True)
