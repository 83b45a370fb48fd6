"""The masked original in torch, and what tells a wrong module from a right one."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from torch_nets import cnn, transformer  # noqa: E402

from graphprune.cut import Cut  # noqa: E402
from graphprune.decide import decide  # noqa: E402
from graphprune.options import Options  # noqa: E402
from graphprune.torch.capture import capture  # noqa: E402
from graphprune.torch.compare import Oracle  # noqa: E402
from graphprune.torch.rewrite import pruned_graph  # noqa: E402
from graphprune.torch.slicing import slice_tensor  # noqa: E402
from graphprune.torch.subject import TorchSubject  # noqa: E402
from graphprune.torch.twin import Twin, mask_of, put_back, stretched  # noqa: E402


@pytest.fixture(scope="module", params=["cnn", "transformer"])
def case(request):
    module, args = {"cnn": cnn, "transformer": transformer}[request.param]()
    captured = capture(module, args)
    plan, _ = decide(
        TorchSubject(captured), Options(channels=0.5, residual=True, align=1), lambda *_: None
    )
    made, _ = pruned_graph(captured, plan)
    return module, captured, plan, made, Oracle(captured, plan)


@pytest.mark.parametrize("train", [False, True])
def test_the_pruned_graph_is_the_masked_original(case, train: bool) -> None:
    _, _, _, made, oracle = case
    found = oracle.difference(made, train=train)
    assert found.reason == ""
    assert found.rel_error < 1e-12
    assert 0 < found.gradient_error < 1e-9
    assert not found.weak


def test_the_switchable_graph_is_the_module(case) -> None:
    module, captured, *_ = case
    for train in (False, True):
        a, b = copy.deepcopy(module).train(train), copy.deepcopy(captured.graph_module).train(train)
        torch.manual_seed(0)
        first = a(*captured.args)
        torch.manual_seed(0)
        assert torch.equal(first, b(*captured.args))
        for name, buffer in a.named_buffers():
            assert torch.equal(buffer, b.get_buffer(name))


def test_a_wrong_weight_is_found(case) -> None:
    _, _, _, made, oracle = case
    wrong = copy.deepcopy(made)
    parameter = next(p for p in wrong.parameters() if p.ndim > 1)
    with torch.no_grad():
        parameter[0] *= 1.001
    assert "differs" in oracle.difference(wrong).reason


def test_a_module_that_does_not_run_is_told(case) -> None:
    _, _, _, made, oracle = case
    wrong = copy.deepcopy(made)
    name, parameter = next((n, p) for n, p in wrong.named_parameters() if p.ndim > 1)
    owner, _, last = name.rpartition(".")
    wrong.get_submodule(owner)._parameters[last] = torch.nn.Parameter(parameter[:, :-1].clone())
    assert oracle.difference(wrong).reason.startswith("it does not run")


def test_the_twin_is_another_function_than_the_original(case) -> None:
    _, captured, plan, *_ = case
    with torch.no_grad():
        masked = Twin(captured, plan)(*captured.args)
        whole = copy.deepcopy(captured.graph_module)(*captured.args)
    assert float((masked - whole).abs().max()) > 0.1 * float(whole.abs().max())


def test_masks_and_putting_back_are_slicing_and_its_inverse() -> None:
    x = torch.randn(3, 4, 6)
    cuts = (
        Cut(1, 4, np.array([0, 2, 3])),
        Cut(2, 6, np.array([[0, 1], [2, 5], [3, 4]]), blocks=(1,)),
    )
    small = slice_tensor(x, cuts)
    assert small.shape == (3, 3, 2)
    masked = torch.where(mask_of(x, cuts), x, torch.zeros(()))
    assert torch.equal(put_back(small, cuts), masked)
    assert torch.equal(slice_tensor(masked, cuts), small)


def test_patterns_follow_a_dynamic_length() -> None:
    outer = np.array([True, False, True, True, False, True])
    assert stretched(outer, 9).tolist() == [True, False, True] * 3
    inner = np.repeat([True, False, True], 2)
    assert stretched(inner, 15).tolist() == np.repeat([True, False, True], 5).tolist()
    with pytest.raises(ValueError, match="cannot be followed"):
        stretched(np.array([True, False, False, True, True, False, True]), 8)


class _Path(torch.nn.Module):
    """Stochastic depth as image models write it: whole samples are dropped, the rest scaled up."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        keep = 1 - self.drop_prob
        return x * x.new_empty((x.shape[0], 1)).bernoulli_(keep).div_(keep)


def test_stochastic_depth_does_not_stand_in_the_way() -> None:
    """With its share of drops at 0, a class and the graph of it are the same in train mode."""
    from graphprune.torch import prune

    torch.manual_seed(0)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.path = (
                torch.nn.Linear(8, 16),
                torch.nn.Linear(16, 8),
                _Path(0.3),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.path(self.two(self.one(x).relu()))

    result = prune(Net(), torch.randn(4, 8), channels=0.5, align=1)
    assert result.kind == "module"
    assert result.module.one.out_features == 8
