"""What comparing says of two modules, and the inputs that both are run on."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch_nets import cnn  # noqa: E402

from graphprune.torch.capture import capture  # noqa: E402
from graphprune.torch.differences import (  # noqa: E402
    TOLERANCE,
    Difference,
    compared,
    examples,
    merged,
    ran,
)


def test_what_differs_is_said() -> None:
    a = torch.linspace(-2, 2, 5, dtype=torch.float64)
    close = compared([a], [a + TOLERANCE], TOLERANCE)
    assert not close.reason
    assert close.checked == 1
    assert (close.abs_error, close.rel_error) == pytest.approx((TOLERANCE, TOLERANCE / 2), rel=1e-3)
    assert "differs by" in compared([a], [a * 1.01], TOLERANCE).reason
    assert "shape (4,), not (5,)" in compared([a], [a[:4]], TOLERANCE).reason
    assert compared([a], [a, a], TOLERANCE).reason == "it gives 2 tensors, the original 1"
    index = torch.arange(3)
    assert compared([index], [index.flip(0)], TOLERANCE).reason == "output 0 differs"


def test_outputs_that_hardly_vary_prove_little() -> None:
    flat = torch.ones(4, dtype=torch.float64)
    assert compared([flat], [flat], TOLERANCE).weak


def test_of_two_the_worse_counts() -> None:
    both = merged(Difference(abs_error=1.0, checked=2), Difference("off", rel_error=2.0, checked=3))
    assert both == Difference("off", 1.0, 2.0, checked=5)


def test_inputs_are_doubles_of_two_batch_sizes_where_that_varies() -> None:
    module, args = cnn()
    captured = capture(module, args)
    found = [given[0][0] for given, _ in zip(examples(captured), range(3), strict=False)]
    assert [len(x) for x in found] == ([2, 3] if captured.dynamic else [len(args[0])])
    assert all(x.dtype == torch.float64 for x in found)


def test_gradients_are_of_all_parameters_and_are_left_unset() -> None:
    layer = torch.nn.Linear(3, 2)
    outputs, gradients = ran(lambda: layer(torch.ones(4, 3)), layer, True)
    assert outputs[0].shape == (4, 2)
    assert set(gradients) == {"weight", "bias"}
    assert all(float(g.abs().max()) > 0 for g in gradients.values())
    assert layer.weight.grad is None
