"""The torch side and the ONNX export of the same module agree, in plans and in results."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import onnx_ir as ir  # noqa: E402
import onnxruntime as ort  # noqa: E402
from torch_nets import cnn, transformer  # noqa: E402

import graphprune  # noqa: E402
import graphprune.torch as gpt  # noqa: E402
from graphprune.errors import UsageError  # noqa: E402
from graphprune.plan import Plan  # noqa: E402
from graphprune.torch.onnx_export import onnx_program  # noqa: E402

Case = tuple[torch.nn.Module, tuple[torch.Tensor, ...]]


def built(family: str, name: str) -> Callable[[], Case]:
    def make() -> Case:
        builder = importlib.import_module(f"models_zoo.builders.{family}_models")
        sample = builder.sample(name)
        return sample.module, tuple(sample.inputs.values())

    return make


CASES = {
    "cnn": cnn,
    "transformer": transformer,
    "mobilenet_v3_small": built("torchvision", "mobilenet_v3_small"),
    "bert": built("transformers", "bert"),
    "llama": built("transformers", "llama"),
}


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest) -> Any:
    if request.param in ("bert", "llama"):
        pytest.importorskip("transformers")
    module, args = CASES[request.param]()
    module.eval()
    plain = onnx_program(module, args, optimize=False).model_proto
    result = gpt.prune(module, args, channels=0.5, verify=False)
    return module, args, plain, result


def cut_parameters(plan: Plan) -> dict[tuple[str, int], list[int]]:
    """(parameter, axis) -> what stays, in the names and axes of the module."""
    found = {}
    for use in plan.initializers:
        name, order = plan.origins.get(use.initializer, (use.initializer, ()))
        for cut in use.cuts:
            axis = order[cut.axis] if order else cut.axis
            found[name, axis] = cut.kept.reshape(-1).tolist()
    return found


def run(model: Any, args: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [i.name for i in session.get_inputs()]
    return session.run(None, {n: a.numpy() for n, a in zip(names, args, strict=True)})


def close(a: np.ndarray, b: np.ndarray) -> bool:
    assert a.std() > 1e-3
    return bool(np.abs(a - b).max() <= 2e-5 * np.abs(a).max())


def test_both_sides_make_the_same_plan(case: Any) -> None:
    _, _, plain, result = case
    found = graphprune.compile(plain, channels=0.5, bench=False, verify=False)
    assert cut_parameters(result.plan)
    assert cut_parameters(found.plan) == cut_parameters(result.plan)


def test_prune_then_export_is_export_then_prune(case: Any) -> None:
    _, args, plain, result = case
    exported = onnx_program(result.module, args, optimize=False).model_proto
    pruned = graphprune.compile(plain, plan=result.plan, bench=False)
    assert pruned.report.certificate is not None
    for a, b in zip(run(exported, args), run(pruned.model, args), strict=True):
        assert close(a, b)


def test_a_plan_of_the_export_is_applied_in_torch(case: Any) -> None:
    """Of the optimised export too: names of folded weights lead back to the module's."""
    module, args, _, _ = case
    optimised = onnx_program(module, args, optimize=True).model_proto
    there = graphprune.compile(optimised, channels=0.5, bench=False, verify=False)
    here = gpt.prune(module, args, plan=there.plan, verify=False)
    with torch.no_grad():
        outputs = torch.utils._pytree.tree_leaves(here.module.eval()(*args))
    for a, b in zip(outputs, run(there.model, args), strict=True):
        assert close(a.numpy(), b)


def test_plans_of_other_models_are_refused() -> None:
    module, args = transformer()
    plan = gpt.prune(module, args, channels=0.5, verify=False).plan
    other, inputs = cnn()
    with pytest.raises(UsageError, match="another model"):
        gpt.prune(other, inputs, plan=plan)
    with pytest.raises(UsageError, match="another model"):
        graphprune.compile(onnx_program(other, inputs).model_proto, plan=plan, bench=False)


def test_export_in_one_call(tmp_path: Any) -> None:
    module, args = cnn()
    found = gpt.export(module, args, tmp_path / "small.onnx", channels=0.5, opset_version=18)
    model = ir.load(tmp_path / "small.onnx")
    assert model.opset_imports[""] == 18
    assert model.metadata_props["graphprune.plan_sha256"] == found.pruned.plan.sha256
    with torch.no_grad():
        wanted = found.pruned.module.eval()(*args)
    assert close(wanted.numpy(), run(model, args)[0])
    assert [f.name for f in tmp_path.iterdir()] == ["small.onnx"]
    with pytest.raises(UsageError):
        gpt.export(module, args, tmp_path / "none.onnx", channels=7)
    assert not (tmp_path / "none.onnx").exists()
