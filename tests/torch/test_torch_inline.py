"""Regions under another gradient mode or without autocast are written out; results stay equal."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from graphprune.torch.capture import capture  # noqa: E402


class Gated(nn.Module):
    """A gate computed under `mode`."""

    def __init__(self, mode: object) -> None:
        super().__init__()
        self.mode, self.gate, self.layer = mode, nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        with self.mode():
            gate = torch.sigmoid(self.gate(x))
            with torch.enable_grad():
                scale = self.gate.weight.sum()
        return self.layer(x) * gate * scale


@pytest.mark.parametrize(
    "mode", [torch.no_grad, lambda: torch.autocast("cpu", enabled=False)], ids=["no_grad", "off"]
)
def test_regions_are_written_out(mode: object) -> None:
    module, x = Gated(mode), torch.randn(2, 3)
    captured = capture(module, x)
    kinds = {type(n.target).__name__ for n in captured.nodes if n.op == "call_function"}
    assert not any("Higher" in k or "Wrap" in k for k in kinds), kinds
    graph = captured.graph_module
    torch.testing.assert_close(graph(x), module(x))
    module(x).sum().backward()
    graph_gradients = torch.autograd.grad(graph(x).sum(), graph.layer.weight)
    torch.testing.assert_close(graph_gradients[0], module.layer.weight.grad)
    wanted = module.gate.weight.grad
    found = torch.autograd.grad(graph(x).sum(), graph.gate.weight)[0]
    torch.testing.assert_close(found, wanted)


def test_a_region_with_autocast_on_stays() -> None:
    module, x = Gated(lambda: torch.autocast("cpu", torch.bfloat16)), torch.randn(2, 3)
    graph = capture(module, x, training=False).graph_module
    assert any("autocast" in str(n.target) for n in graph.graph.nodes)
    torch.testing.assert_close(graph(x), module(x))
