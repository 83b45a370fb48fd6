"""The torch modules and the torch-free graphs are the same fifteen functions."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from models_zoo.builders import checks, micrographs

torch = pytest.importorskip("torch")

from models_zoo.builders import torch_micrographs  # noqa: E402
from models_zoo.builders.export import export  # noqa: E402


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, feeds)[0])


def take_weights(module: torch.nn.Module, model: onnx.ModelProto) -> None:
    """Load the initialisers of `model`: dense weights transposed, LSTM gates in torch's order."""
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    dense = {n.input[1] for n in model.graph.node if n.op_type == "MatMul"} & set(arrays)
    state = {k: v.T if k in dense else v for k, v in arrays.items()}
    if "lstm.bias" in state:
        i, o, f, c = range(4)

        def gates(rows: np.ndarray) -> np.ndarray:
            blocks = rows.reshape(4, -1, *rows.shape[1:])
            return blocks[[i, f, c, o]].reshape(rows.shape)

        halves = np.split(state.pop("lstm.bias")[0], 2)
        state["lstm.weight_ih_l0"] = gates(state.pop("lstm.weight_ih")[0])
        state["lstm.weight_hh_l0"] = gates(state.pop("lstm.weight_hh")[0])
        state["lstm.bias_ih_l0"], state["lstm.bias_hh_l0"] = gates(halves[0]), gates(halves[1])
    wanted = module.state_dict()
    loaded = {k: torch.from_numpy(np.array(v)) for k, v in state.items() if k in wanted}
    missing = set(wanted) - set(loaded) - {"norm.num_batches_tracked"}
    assert not missing
    module.load_state_dict(loaded, strict=False)


def test_the_names_are_the_same() -> None:
    assert torch_micrographs.NAMES == micrographs.NAMES


@pytest.mark.parametrize("name", micrographs.NAMES)
def test_with_the_same_weights_both_compute_the_same(name: str) -> None:
    model = micrographs.build(name)
    sample = torch_micrographs.sample(name)
    take_weights(sample.module, model)
    feeds = {k: v.numpy() for k, v in sample.inputs.items()}
    with torch.no_grad():
        expected = sample.module(**sample.inputs).numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(run(model, feeds), expected, atol=2e-5)


@pytest.mark.parametrize(("exporter", "opset"), [("dynamo", 18), ("legacy", 17)])
@pytest.mark.parametrize("name", micrographs.NAMES)
def test_both_exporters_translate_it(name: str, exporter: str, opset: int) -> None:
    sample = torch_micrographs.sample(name)
    # The legacy exporter refuses instance norm for an open batch.
    dynamic = (name, exporter) != ("instance_norm_stats", "legacy")
    model = export(
        sample.module,
        sample.inputs,
        exporter=exporter,  # type: ignore[arg-type]
        opset=opset,
        dynamic=dynamic,
        axes=sample.axes,
        output_names=sample.outputs,
    )
    assert [o.version for o in model.opset_import if o.domain == ""] == [opset]
    health = checks.examine(model)
    assert len(health.shapes) == (2 if dynamic else 1)
    assert health.spread > 0.1
    assert health.variation > 0.05
