"""A graph as result is a module like any other: copied, pickled, compiled, exported, trained."""

from __future__ import annotations

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
import onnxruntime as ort  # noqa: E402
from torch import nn  # noqa: E402
from torch_nets import alive, cnn, transformer  # noqa: E402

import graphprune.torch as gpt  # noqa: E402
from graphprune.torch.onnx_export import onnx_program  # noqa: E402


@pytest.fixture(scope="module", params=["cnn", "transformer"])
def case(request):
    module, args = {"cnn": cnn, "transformer": transformer}[request.param]()
    result = gpt.prune(module, args, channels=0.5, residual=True, align=1, own=False)
    with torch.no_grad():
        wanted = result.module.eval()(*args)
    assert float(wanted.std()) > 1e-2
    return result, args, wanted


def same(module: nn.Module, args, wanted) -> bool:
    with torch.no_grad():
        return torch.allclose(module(*args), wanted, atol=1e-5)


def test_state_dict_keys_are_the_modules(case) -> None:
    result, *_ = case
    names = set(result.captured.module.state_dict())
    assert set(result.module.state_dict()) == names


def test_copied_and_pickled(case) -> None:
    result, args, wanted = case
    assert same(copy.deepcopy(result.module), args, wanted)
    again = pickle.loads(pickle.dumps(result.module))
    assert same(again.eval(), args, wanted)
    again.train()
    again(*args)


def test_compiled(case) -> None:
    result, args, wanted = case
    assert same(torch.compile(result.module, backend="eager"), args, wanted)


def test_exported_again(case) -> None:
    result, args, wanted = case
    with torch.no_grad():
        program = torch.export.export(result.module, args)
    assert same(program.module(check_guards=False), args, wanted)


def test_exported_to_onnx(case) -> None:
    result, args, wanted = case
    model = onnx_program(result.module, args).model_proto
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {i.name: a.numpy() for i, a in zip(session.get_inputs(), args, strict=True)}
    found = session.run(None, feeds)[0]
    assert np.abs(found - wanted.numpy()).max() < 1e-4 * np.abs(found).max()


def test_pruned_again(case) -> None:
    """The graph is a module: it goes through `prune` itself."""
    result, args, _ = case
    before = sum(p.numel() for p in result.module.parameters())
    twice = gpt.prune(result.module, args, channels=0.5, residual=True, align=1)
    assert sum(p.numel() for p in twice.module.parameters()) < 0.6 * before


def test_symbolically_traced_graphs_are_taken() -> None:
    module = alive(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)))
    traced = torch.fx.symbolic_trace(module)
    result = gpt.prune(traced, torch.randn(3, 8), channels=0.5, align=1)
    assert sum(p.numel() for p in result.module.parameters()) == 8 * 8 + 8 + 8 * 4 + 4


def test_distributed_training_goes_on() -> None:
    module, args = cnn()
    result = gpt.prune(module, args, channels=0.5)
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(result.module.train())
        parallel(*args).square().mean().backward()
        assert all(p.grad is not None for p in result.module.parameters())
        del parallel  # behind the group, its reducer would join threads that wait for the GIL
    finally:
        torch.distributed.destroy_process_group()


def test_both_are_timed_when_asked() -> None:
    module, args = cnn()
    report = gpt.prune(module, args, channels=0.5, bench=True, verify=False).report
    assert report.latency is not None
    assert report.latency.provider == "torch"
    assert report.pruned.latency_ms > 0
    assert report.dumps()
